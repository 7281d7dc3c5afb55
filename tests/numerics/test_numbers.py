"""Images of any scale and of unusual kinds give finite results, no warning and no rising loss."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import zarr

import dnmf
from dnmf.errors import DataError
from dnmf.storage.corpus_writer import Layout, commit_corpus, create_corpus
from dnmf.storage.table_writer import write_block

SCALES = [1e-12, 1e-6, 1.0, 1e6, 1e12]
LOSSES = {
    "frobenius": {},
    "kullback-leibler": {"solver": "mu", "beta_loss": "kullback-leibler"},
}
BY_LOSS = pytest.mark.parametrize("loss", LOSSES)
RNG = np.random.default_rng(0)
IMAGES = (RNG.random((120, 6)) @ RNG.random((6, 48)) + 0.4 * RNG.random((120, 48))).astype("f4")


def fit(X, d=6, loss="frobenius", max_iter=30, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Maximum number of iterations")
        return dnmf.NMF(d, random_state=0, max_iter=max_iter, **LOSSES[loss], **more).fit(X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@BY_LOSS
def test_the_scale_of_images_does_not_matter(loss, dtype):
    found = []
    for scale in SCALES:
        X = (IMAGES * scale).astype(dtype)
        model = fit(X, loss=loss, tol=0, max_iter=12)
        W = model.transform(X)
        errors = model.reconstruct_error(X)
        assert np.isfinite(model.components_).all()
        assert np.isfinite(W).all()
        assert np.isfinite(errors).all()
        norm = np.linalg.norm(X.astype(float)) ** 2 if loss == "frobenius" else X.sum(dtype=float)
        again = np.linalg.norm(model.inverse_transform(W) / scale - IMAGES)
        found.append((model.reconstruction_err_**2 / norm, errors.sum() / norm, again))
    # float32 resolves the loss to 1e-7 of the squared norm, of which the loss is 0.7 % here.
    np.testing.assert_allclose(found, [found[2]] * 5, rtol=1e-4 if dtype == "float32" else 1e-6)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-22, 1e30])
@BY_LOSS
def test_squares_beyond_float32_raise_an_error(loss, scale):
    X = (IMAGES * scale).astype(np.float32)
    with pytest.raises(DataError, match="convert it to float64"):
        fit(X, loss=loss)
    assert np.isfinite(fit(X.astype(float), loss=loss).components_).all()


def test_the_mean_square_decides_whether_float32_has_digits_for_images():
    with pytest.raises(DataError, match="convert it to float64"):
        fit(np.full((9, 30), 0.8e-19, np.float32), d=1)
    assert fit(np.full((9, 30), 4e-19, np.float32), d=1).components_.any()


@pytest.mark.parametrize("scale", [1e18, 1e20])
def test_squared_errors_beyond_float32_are_computed_in_float64(scale):
    X = (IMAGES * scale).astype(np.float32)
    found, exact = fit(X).reconstruction_err_, fit(X.astype(float)).reconstruction_err_
    assert found == pytest.approx(exact, rel=1e-3)


def odd_images():
    """Return images of unusual kinds, each with a number of components."""
    X = IMAGES.copy()
    blank_rows, blank_columns, outlier, pixel = (X.copy() for _ in range(4))
    blank_rows[::3] = 0
    blank_columns[:, ::4] = 0
    outlier[7] *= 1e6
    pixel[7, 7] = 1e6 * X.max()
    return {
        "zero images": (blank_rows, 6),
        "zero pixels": (blank_columns, 6),
        "zero images and pixels": (np.where(blank_columns, blank_rows, 0).astype("f4"), 6),
        "one image a million times brighter": (outlier, 6),
        "one pixel a million times brighter": (pixel, 6),
        "constant images": (np.full((50, 20), 0.7, np.float32), 3),
        "all zero": (np.zeros((50, 20), np.float32), 3),
        "one image": (X[:1], 1),
        "one pixel": (X[:, :1], 1),
        "rank 2, 9 components": (X[:, :2] @ X[:2], 9),
        "more components than images": (X[:5], 12),
        "more components than pixels": (X[:, :5].copy(), 12),
        "equal images": (np.repeat(X[:1], 50, axis=0), 4),
        "black and white": ((X.mean() < X).astype(np.uint8), 6),
        "uint16 at the top": ((X / X.max() * 65535).astype(np.uint16), 6),
    }


@pytest.mark.parametrize("images", odd_images())
@BY_LOSS
def test_odd_images_are_factorised_without_a_warning(loss, images):
    X, d = odd_images()[images]
    model = fit(X, d, loss)
    W = model.transform(X)
    errors = model.reconstruct_error(X)
    assert np.isfinite(model.components_).all()
    assert (model.components_ >= 0).all()
    assert np.isfinite(W).all()
    assert (W >= 0).all()
    assert np.isfinite(errors).all()
    losses = np.array(model.loss_history_)
    scale = max(losses[0], 1e-6 * float((X.astype(float) ** 2).sum()), 1e-300)
    assert (np.diff(losses) <= 1e-6 * scale).all()
    dark = ~X.any(axis=1)
    assert (W[dark] == 0).all()
    assert (model.components_[:, ~X.any(axis=0)] == 0).all()
    assert model.components_.any(axis=1).all() or not X.any()


@BY_LOSS
def test_empty_components_are_counted(loss, tmp_path):
    """A penalty empties components for good, and `dnmf info` counts them."""
    from dnmf.cli.describe import describe

    model = fit(IMAGES, 6, loss, alpha_W=0.2 if loss == "frobenius" else 0.05, l1_ratio=1.0)
    model.save(tmp_path / "m")
    empty = int((~model.components_.any(axis=1)).sum())
    assert describe(tmp_path / "m")["empty_components"] == empty
    assert 0 < empty < 6
    assert not model.transform(IMAGES)[:, ~model.components_.any(axis=1)].any()


@pytest.fixture(scope="module")
def fitted():
    return fit(IMAGES)


BAD = {"negative": (-1.0, "Negative values"), "NaN": (np.nan, "NaN"), "infinite": (np.inf, "inf")}


@pytest.mark.parametrize("on_cluster", [False, True], ids=["threads", "cluster"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", ["NumPy", "Dask", "Zarr", "corpus"])
def test_a_bad_pixel_is_named_with_its_image(kind, bad, request, fitted, tmp_path, on_cluster):
    if on_cluster:
        request.getfixturevalue("client")
    value, words = BAD[bad]
    X = IMAGES.copy()
    X[77, 13] = value
    X[90, 1] = value
    if kind == "Dask":
        X = da.from_array(X, chunks=(50, 48))
    elif kind == "Zarr":
        X = zarr.create_array(tmp_path / "x", data=X, chunks=(50, 48))
    elif kind == "corpus":  # not made by ingest, which would have found the pixel
        path, layout = str(tmp_path / "x"), Layout(120, (48,), "float32", 50, "lz4")
        create_corpus(path, layout)
        ids = [f"{i}" for i in range(120)]
        cuts = [slice(start, min(start + 50, 120)) for start in (0, 50, 100)]
        lines = [write_block(path, i, X[cut], ids[cut]) for i, cut in enumerate(cuts)]
        commit_corpus(path, layout, lines)
        X = dnmf.open_corpus(path)
    for call in (fit, lambda X: fitted.reconstruct_error(X, per="pixel")):
        with pytest.raises(DataError, match=rf"{words}.*pixel 13 of image 77"):
            call(X)
