"""What X, masks and weights may be: lists, frames, images, and arrays that are read in parts."""

from __future__ import annotations

import pickle
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr
from PIL import Image
from reference import Dataset, fit_of

import dnmf
from dnmf.estimators.rows import Rows

N, SHAPE = 300, (3, 4)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    parts = rng.random((N, 4)) @ rng.random((4, 12))
    return (80 * parts / parts.max() + 10 * rng.random((N, 12))).astype(np.uint8)


@pytest.fixture(scope="module")
def mask(images):
    return np.random.default_rng(1).random(images.shape) < 0.1


@pytest.fixture(scope="module")
def expected(images):
    return fit_of(images, 3)


HEAVY = ["dask", "distributed", "zarr", "fsspec", "numcodecs", "matplotlib", "tqdm", "numba"]


def test_only_what_is_used_is_imported():
    """An array in memory needs no library for others, and numba waits for the first fit."""
    script = (
        "import sys, numpy, scipy.sparse, dnmf\n"
        f"def show(): print([name for name in {HEAVY} if name in sys.modules])\n"
        "model = dnmf.NMF(2, max_iter=1)\n"
        "show()\n"
        "X = numpy.random.default_rng(0).random((300, 12))\n"
        "for images in (X, X.tolist(), scipy.sparse.csr_array(X)):\n"
        "    W = model.fit_transform(images, sample_weight=numpy.ones(300), mask=X > 2)\n"
        "    model.inverse_transform(W), model.score(X), model.reconstruct_error(X)\n"
        "show()"
    )
    line = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['numba']"]


KINDS = {
    "list of PIL images": lambda X: [Image.fromarray(x.reshape(SHAPE)) for x in X],
    "tuple of 2-D arrays": lambda X: tuple(x.reshape(SHAPE) for x in X),
    "PIL image": Image.fromarray,
    "frame": pd.DataFrame,
    "memory": memoryview,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_memory_is_taken(images, expected, kind):
    X = KINDS[kind](images)
    model = fit_of(X, 3)
    assert (model.components_ == expected.components_).all()
    assert (model.transform(X) == expected.transform(images)).all()
    assert model.score(X) == expected.score(images)
    assert model.image_shape_ == (
        SHAPE if kind in ("list of PIL images", "tuple of 2-D arrays") else (12,)
    )


@pytest.mark.parametrize("dtype", ["UInt8", "Float32", "uint8[pyarrow]"])
def test_frames_with_types_of_pandas(images, expected, dtype):
    frame = pd.DataFrame(images).astype(dtype)
    assert fit_of(frame, 3).reconstruction_err_ == pytest.approx(
        expected.reconstruction_err_, rel=1e-3
    )
    frame.iloc[0, 0] = pd.NA
    with pytest.raises(ValueError, match="Input X contains NaN"):
        fit_of(frame, 3)
    assert fit_of(frame, 3, missing="ignore").components_.shape == (3, 12)


MASKS = {
    "list": np.ndarray.tolist,
    "frame": pd.DataFrame,
    "boolean frame": lambda mask: pd.DataFrame(mask).astype("boolean"),
    "Arrow frame": lambda mask: pd.DataFrame(mask).astype("bool[pyarrow]"),
    "sparse": scipy.sparse.csr_array,
    "dataset": Dataset,
    "dask": lambda mask: da.from_array(mask, chunks=(70, -1)),
}
WEIGHTS = {
    "list": np.ndarray.tolist,
    "series": pd.Series,
    "Float64 series": lambda weights: pd.Series(weights).astype("Float64"),
    "Arrow series": lambda weights: pd.Series(weights).astype("double[pyarrow]"),
    "dataset": Dataset,
    "dask": lambda weights: da.from_array(weights, chunks=70),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", MASKS)
def test_masks(images, mask, kind, lazy):
    X = Dataset(images) if lazy else images
    if kind == "dataset" and lazy:
        X._busy = None  # a file of its own, which its reader may not share
    model = dnmf.NMF(3, random_state=0, tol=1e-2)
    right = model.fit(X, mask=mask).components_
    assert (model.fit(X, mask=MASKS[kind](mask)).components_ == right).all()
    losses = model.reconstruct_error(X, mask=MASKS[kind](mask))
    assert (np.asarray(losses) == np.asarray(model.reconstruct_error(X, mask=mask))).all()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights(images, kind, lazy):
    X = Dataset(images) if lazy else images
    weights = np.random.default_rng(2).random(N) + 1
    model = dnmf.NMF(3, random_state=0, tol=1e-2)
    right = model.fit(X, sample_weight=weights).components_
    assert (model.fit(X, sample_weight=WEIGHTS[kind](weights)).components_ == right).all()


def test_masks_and_weights_with_missing_values_are_refused(images, mask):
    unknown = pd.DataFrame(mask).astype("boolean")
    unknown.iloc[0, 0] = pd.NA
    with pytest.raises(ValueError, match="mask has dtype object; it must be boolean"):
        dnmf.NMF(3).fit(images, mask=unknown)
    for name, array in (("mask", mask), ("sample_weight", np.ones(N))):
        hidden = np.ma.masked_array(
            array, mask=np.arange(N * (array.size // N)).reshape(array.shape) < 5
        )
        with pytest.raises(ValueError, match=f"{name} is a NumPy masked array"):
            dnmf.NMF(3).fit(images, **{name: hidden})


def test_lists_of_images_that_are_no_matrix(images):
    pictures = [Image.fromarray(x.reshape(SHAPE)) for x in images]
    with pytest.raises(ValueError, match=r"image 0 is of shape \(3, 4\) and image 300 of \(4, 3\)"):
        dnmf.NMF(3).fit([*pictures, pictures[0].rotate(90, expand=True)])
    with pytest.raises(ValueError, match=r"image 1 is a PIL image of mode 'P'.*convert\('L'\)"):
        dnmf.NMF(3).fit([pictures[0], pictures[1].convert("P")])
    colours = fit_of([picture.convert("RGB") for picture in pictures], 2)
    assert colours.image_shape_ == (3, 4, 3)
    assert colours.inverse_transform(np.ones((1, 2))).shape == (1, 36)


@pytest.mark.parametrize("wrap", [np.asarray, Dataset, lambda X: da.from_array(X, chunks=10)])
def test_arrays_of_images_are_asked_to_be_reshaped(images, wrap):
    with pytest.raises(ValueError, match=r"Found array with dim 3, .*X.reshape\(len\(X\), -1\)"):
        dnmf.NMF(3).fit(wrap(images.reshape(N, *SHAPE)))


@pytest.mark.parametrize("chunk_rows", [10, 64, None])
def test_arrays_outside_memory_are_read_in_parts(images, chunk_rows):
    X = Dataset(np.tile(images, (1000, 1)), chunk_rows)
    model = dnmf.NMF(3, random_state=0, max_iter=2, tol=0).fit(X)
    W = model.transform(X)
    assert isinstance(W, da.Array)
    assert W.shape == (len(X), 3)
    np.testing.assert_allclose(W[:N].compute(), model.transform(images), rtol=1e-4, atol=1e-4)
    assert model.score(X) == pytest.approx(model.score(images))
    assert model.reconstruct_error(X).shape == (len(X),)
    model.partial_fit(X)
    assert isinstance(model.inverse_transform(Dataset(np.ones((50, 3)))), da.Array)
    assert 0 < X.most_rows < len(X) / 2


def test_the_numbers_do_not_depend_on_where_they_are(images, tmp_path):
    stored = zarr.create_array(tmp_path / "x.zarr", data=images, chunks=(10, 12))
    models = [fit_of(X, 3) for X in (stored, Dataset(images), Dataset(images, None))]
    for model in models:
        assert (model.components_ == models[0].components_).all()


def test_arrays_of_one_file_are_never_read_at_once(images, mask):
    X, hidden = Dataset(np.tile(images, (300, 1))), Dataset(np.tile(mask, (300, 1)))
    hidden._busy = X._busy  # as of one HDF5 file
    with dask.config.set(scheduler="threads", num_workers=8):
        model = dnmf.NMF(3, random_state=0, max_iter=1, tol=0).fit(X, mask=hidden)
        model.transform(X, mask=hidden).compute()


def test_rows_may_be_sent_to_workers(images):
    rows = pickle.loads(pickle.dumps(Rows(Dataset(images))))
    assert (rows[10:20, 3:] == images[10:20, 3:]).all()


class Bound(Dataset):
    """Belongs to this process, as an open file does."""

    def __reduce__(self):
        raise TypeError("a file cannot be pickled")


@pytest.mark.parametrize("name", ["X", "mask", "sample_weight"])
def test_what_cannot_be_sent_to_workers_is_refused_before_it_is_read(images, mask, name, client):
    arrays = {"X": images, "mask": mask, "sample_weight": np.ones(N)}
    given = {key: Dataset(array) for key, array in arrays.items()}
    given[name] = Bound(arrays[name])
    with pytest.raises(ValueError, match=f"{name} cannot be sent to workers"):
        dnmf.NMF(3).fit(**given)
    assert not any(array.reads for array in given.values())


def test_on_a_cluster(images, client):
    model = dnmf.NMF(3, random_state=0, tol=1e-2)
    here = model.fit(Dataset(np.tile(images, (50, 1)), 100)).components_
    assert (here == model.fit(da.from_array(np.tile(images, (50, 1)), chunks=-1)).components_).all()


class Changed(Dataset):
    """Does not give what it promises."""

    change = staticmethod(lambda part: part)

    def __getitem__(self, rows):
        return self.change(super().__getitem__(rows))


@pytest.mark.parametrize(
    "change",
    [lambda rows: rows[:-1], lambda rows: rows[:, 1:], np.ravel, lambda rows: rows.astype(float)],
)
def test_rows_that_are_not_what_was_promised_are_refused(images, change):
    X = Changed(images)
    assert (fit_of(X, 3).components_ == fit_of(Dataset(images), 3).components_).all()
    X.change = change
    model = fit_of(images, 3)
    for method in (dnmf.NMF(3).fit, lambda X: model.transform(X).compute(), model.score):
        with pytest.raises(ValueError, match="rows 0 to 299 of a Changed have shape"):
            method(X)


class Netcdf(Dataset):
    """Gives masked arrays, as netCDF4 does."""

    hidden = False

    def __getitem__(self, rows):
        part = super().__getitem__(rows)
        return np.ma.masked_array(part, mask=(part > 70) & self.hidden)


def test_rows_with_masked_values_are_refused(images):
    X = Netcdf(images)
    assert (fit_of(X, 3).components_ == fit_of(Dataset(images), 3).components_).all()
    X.hidden = True
    with pytest.raises(ValueError, match="masked values"):
        fit_of(X, 3)


def test_xarray(images, expected, tmp_path):
    xarray = pytest.importorskip("xarray")
    memory = xarray.DataArray(images, dims=("n", "p"), name="x")
    assert (fit_of(memory, 3).components_ == expected.components_).all()
    assert isinstance(expected.transform(memory), np.ndarray)
    memory.to_dataset().to_zarr(tmp_path / "x.zarr", consolidated=False)
    stored = xarray.open_dataset(
        tmp_path / "x.zarr", engine="zarr", chunks=None, consolidated=False
    )
    for lazy in (memory.chunk({"n": 100}), stored["x"]):
        assert isinstance(expected.transform(lazy), da.Array)
        assert fit_of(lazy, 3).components_.shape == (3, 12)


def test_hdf5(images, expected, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, options in (("contiguous", {}), ("chunked", {"chunks": (30, 5)})):
            X = file.create_dataset(name, data=images, **options)
            assert isinstance(expected.transform(X), da.Array)
            np.testing.assert_array_equal(expected.transform(X), expected.transform(images))
            rows = pickle.loads(pickle.dumps(Rows(X)))  # opens the file again
            assert (rows[10:20] == images[10:20]).all()
            assert fit_of(X, 3).components_.shape == (3, 12)
