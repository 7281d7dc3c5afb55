"""What can be refused is refused before X is read: the source counts its reads."""

from __future__ import annotations

import os

import dask.array as da
import numpy as np
import pytest
import sklearn
from reference import Dataset, fit_of

import dnmf
from dnmf import NMF, MiniBatchNMF, rank_sweep

N, P = 60, 12


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((N, P))


@pytest.fixture(params=["dataset", "dask", "memory"])
def X(request, images):
    """A source, with its number of reads as `X.reads()`."""
    return SOURCES[request.param](images)


class Lazy:
    """A Dask array that counts how often one of its chunks is computed."""

    def __init__(self, images):
        self.count = 0

        def block(block_id):
            self.count += 1
            return images[20 * block_id[0] :][:20]

        self.array = da.map_blocks(
            block, chunks=((20,) * 3, images.shape[1:]), dtype=images.dtype, meta=np.empty((0, 0))
        )

    def reads(self):
        return self.count


class Read:
    """An array that is read by slices of rows."""

    def __init__(self, images):
        self.array = Dataset(images)

    def reads(self):
        return self.array.reads


class Memory:
    """An array with a pixel that is an error as soon as somebody looks at it."""

    def __init__(self, images):
        self.array = images.copy()
        self.array[0, 0] = -1

    def reads(self):
        return 0


SOURCES = {"dask": Lazy, "dataset": Read, "memory": Memory}

BAD_ARGUMENTS = {
    "mask of another shape": ({}, {"mask": np.zeros((N, 5), bool)}, r"mask.shape == \(60, 5\)"),
    "mask of numbers": ({}, {"mask": np.zeros((N, P))}, "mask has dtype float64"),
    "lazy mask of another shape": ({}, {"mask": Dataset(np.zeros((5, P), bool))}, "mask.shape"),
    "lazy mask of numbers": ({}, {"mask": da.zeros((N, P), chunks=20)}, "mask has dtype float64"),
    "too few weights": ({}, {"sample_weight": np.ones(5)}, r"sample_weight.shape == \(5,\)"),
    "too few lazy weights": ({}, {"sample_weight": da.ones(5, chunks=5)}, "sample_weight.shape"),
    "weights in two columns": ({}, {"sample_weight": Dataset(np.ones((N, 2)))}, "must be 1D"),
    "weights of letters": ({}, {"sample_weight": np.full(N, "a")}, "Sample weights must be 1D"),
    "lazy weights of letters": ({}, {"sample_weight": Dataset(np.full(N, "a"))}, "must be 1D"),
    "no weight": ({}, {"sample_weight": np.zeros(N)}, "all sample weights are zero"),
    "a negative weight": ({}, {"sample_weight": np.arange(N) - 1}, "image 0 has -1"),
    "an infinite weight": ({}, {"sample_weight": np.full(N, np.inf)}, "not finite: image 0"),
}
BAD_FITS = {
    **BAD_ARGUMENTS,
    "on_pass that is no function": ({"on_pass": 3}, {}, "on_pass is 3; it must be a callable"),
    "checkpoint that is no path": ({"checkpoint": 3}, {}, "checkpoint is 3; it must be a path"),
    "H of another shape": ({"init": "custom"}, {"H": np.ones((3, 5))}, "wrong second dimension"),
    "H of zeros": ({"init": "custom"}, {"H": np.zeros((3, P))}, "full of zeros"),
    "W of another shape": (
        {"init": "custom"},
        {"H": np.ones((3, P)), "W": np.ones((5, 3))},
        "Array with wrong first dimension passed",
    ),
    "no H": ({"init": "custom"}, {}, "init='custom' needs H"),
    "n_init with custom": ({"init": "custom", "n_init": 2}, {"H": np.ones((3, P))}, "n_init is 2"),
    "nndsvd of too many": ({"init": "nndsvd", "n_components": 50}, {}, "init = 'nndsvd' can only"),
    "cd for another loss": ({"solver": "cd", "beta_loss": 1}, {}, "solver 'cd' does not handle"),
    "resume from nothing": ({"resume_from": 3}, {}, "checkpoint is None"),
}


def refused(X, call, words, error=ValueError):
    """Check that a call raises, and that it has not read X before."""
    with pytest.raises(error, match=words):
        call(X.array)
    assert X.reads() == 0


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("method", ["fit", "fit_transform"])
@pytest.mark.parametrize("case", BAD_FITS)
def test_fits(X, case, method, checkpoint, tmp_path):
    options, arguments, words = BAD_FITS[case]
    if checkpoint and case != "resume from nothing":
        options = {"checkpoint": tmp_path / "model", **options}
    model = NMF(**{"n_components": 3, "random_state": 0, **options})
    refused(X, lambda X: getattr(model, method)(X, **arguments), words)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("case", sorted(BAD_FITS.keys() - {"checkpoint that is no path"}))
def test_streams(X, case):
    options, arguments, words = BAD_FITS[case]
    model = NMF(**{"n_components": 3, "random_state": 0, **options})
    refused(X, lambda X: model.partial_fit(X, **arguments), words)


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_fitted_models(X, images, case):
    _, arguments, words = BAD_ARGUMENTS[case]
    model = fit_of(images, 3)
    refused(X, lambda X: model.score(X, **arguments), words)
    if "mask" in arguments:
        refused(X, lambda X: model.transform(X, **arguments), words)
        refused(X, lambda X: model.reconstruct_error(X, **arguments), words)
        refused(X, lambda X: model.reconstruct_error(X, per="pixel", **arguments), words)


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_sweeps(X, case, tmp_path):
    _, arguments, words = BAD_ARGUMENTS[case]
    for checkpoint in (None, tmp_path / "sweep"):
        refused(X, lambda X, to=checkpoint: rank_sweep(X, [2], checkpoint=to, **arguments), words)
    refused(X, lambda X: rank_sweep(X, [2], on_pass=3), "on_pass is 3; it must be a callable")
    refused(X, lambda X: rank_sweep(X, [2], NMF(on_pass=3)), "on_pass is 3; it must be a callable")


@pytest.mark.parametrize("source", ["dask", "dataset"])
def test_frames_of_lazy_weights(images, source):
    model = fit_of(images, 3)
    with sklearn.config_context(transform_output="pandas"):
        for method in (NMF(3).fit_transform, MiniBatchNMF(3).fit_transform, model.transform):
            refused(SOURCES[source](images), method, "set_output asks for a frame")
    own = NMF(3).set_output(transform="pandas")
    refused(SOURCES[source](images), own.fit_transform, "set_output asks for a frame")


def test_frames_of_other_columns(images):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(images, columns=[f"p{i}" for i in range(P)])
    model = fit_of(frame, 3)
    for method in (model.transform, model.score, model.reconstruct_error, model.partial_fit):
        with pytest.raises(ValueError, match="feature names"):
            method(frame[frame.columns[::-1]])


def _file(folder):
    (folder / "m").write_text("kept")
    return folder / "m"


def _notes(folder):
    (folder / "m").mkdir()
    (folder / "m" / "notes.txt").write_text("kept")
    return folder / "m"


def _below_a_file(folder):
    return _file(folder) / "model"


@pytest.mark.parametrize("place", [_file, _notes, _below_a_file])
@pytest.mark.parametrize("source", SOURCES)
def test_checkpoints_at_other_things(images, place, source, tmp_path):
    path = place(tmp_path)
    for overwrite in (False, True):
        model = NMF(3, random_state=0, checkpoint=path)
        X = SOURCES[source](images)
        refused(X, lambda X, model=model, o=overwrite: model.fit(X, overwrite=o), ".", OSError)
        X = SOURCES[source](images)
        refused(
            X, lambda X, f=overwrite: rank_sweep(X, [2], checkpoint=path, force=f), ".", OSError
        )
    assert sorted(os.listdir(tmp_path)) == ["m"]


@pytest.mark.parametrize("source", ["dask", "dataset"])
def test_checkpoints_of_other_fits(images, source, tmp_path):
    path = tmp_path / "m"
    options = {"random_state": 0, "tol": 0.1, "checkpoint": path}
    NMF(3, **options).fit(SOURCES[source](images).array)
    for changed, words in (
        ({"n_components": 4}, "n_components was 3, is 4"),
        ({"random_state": 1}, "seed was 0, is 1"),
        ({"beta_loss": 1}, "beta_loss was frobenius"),
        ({"resume_from": 77}, "holds no pass 77"),
    ):
        model = NMF(**{"n_components": 3, **options, **changed})
        refused(SOURCES[source](images), model.fit, words, OSError)
    refused(SOURCES[source](images[:, :5]), NMF(3, **options).fit, "shape was", OSError)
    other = SOURCES[source](images + 1)  # known by its first block alone
    with pytest.raises(dnmf.errors.CheckpointError, match="fingerprint was"):
        NMF(3, **options).fit(other.array)
    assert other.reads() == 1


def test_uneven_chunks_are_refused_with_a_checkpoint_before_the_old_one_is_removed(
    images, tmp_path
):
    options = {"random_state": 0, "tol": 0.1, "checkpoint": tmp_path / "m"}
    NMF(3, **options).fit(images)
    uneven = Lazy(images)
    uneven.array = uneven.array[5:]
    with pytest.raises(ValueError, match="chunks of equal size"):
        NMF(3, **options).fit(uneven.array, overwrite=True)
    assert uneven.reads() == 0
    assert dnmf.load(tmp_path / "m").n_components_ == 3
