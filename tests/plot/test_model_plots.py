"""Figures of models: panels, scales, labels and files."""

from __future__ import annotations

import copy

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr
from PIL import Image

import dnmf
from dnmf import plot
from dnmf.errors import DataError, ParameterError


@pytest.fixture(scope="module")
def model(corpus):
    return dnmf.NMF(10, random_state=0).fit(corpus)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def test_components(model):
    figure = plot.components(model)
    drawn = panels(figure)
    assert len(drawn) == 10
    assert drawn[3].images[0].get_array().shape == (28, 28)
    for axis, j in zip(drawn, np.argsort(-model.energy_shares_), strict=True):
        assert (axis.images[0].get_array() == model.components_[j].reshape(28, 28)).all()
    assert {axis.images[0].norm.vmin for axis in drawn} == {0}
    assert figure.get_suptitle() == "10 components"
    assert " ".join(figure.get_supxlabel().split()) == (
        "number j of each component, as in W[:, j]; sorted by share of the reconstruction's energy"
    )


def test_shares_are_under_the_components(model):
    model = copy.copy(model)
    model.energy_shares_ = np.array([0.0421, 0.31, 0, 0.0004, 0.3, 0.3, 0.0996, 0.003, 0.002, 1e-9])
    drawn = panels(plot.components(model))
    assert [axis.get_xlabel() for axis in drawn] == [
        *("1 · 31 %", "4 · 30 %", "5 · 30 %", "6 · 10 %", "0 · 4.2 %"),
        *("7 · 0.3 %", "8 · 0.2 %", "3 · < 0.1 %", "9 · < 0.1 %", "2 · 0 %"),
    ]
    equal = [axis.images[0].get_array().ravel() for axis in drawn[1:3]]
    assert (equal == model.components_[4:6]).all()


def test_components_without_shares_keep_their_order(digits):
    model = dnmf.NMF(4, random_state=0).partial_fit(digits)
    figure = plot.components(model)
    for j, (axis, H) in enumerate(zip(panels(figure), model.components_, strict=True)):
        assert (axis.images[0].get_array().ravel() == H).all()
        assert axis.get_xlabel() == str(j)
    assert figure.get_supxlabel() == "number j of each component, as in W[:, j]"


def test_shares_of_other_losses_are_not_called_energy(digits):
    model = dnmf.NMF(2, solver="mu", beta_loss="kullback-leibler", max_iter=1, tol=0).fit(digits)
    words = " ".join(plot.components(model).get_supxlabel().split())
    assert words.endswith("sorted by share of the reconstruction")


def test_titles_fit_their_figures(model, corpus):
    figure = plot.reconstructions(model, corpus.images(slice(0, 1)))
    lines = figure.get_suptitle().splitlines()
    assert " ".join(lines).startswith("10 components, relative error of these images ")
    assert max(map(len, lines)) <= 22


def test_at_most_100_components_are_drawn(digits):
    model = dnmf.NMF(130, tol=0.5).fit(digits)
    figure = plot.components(model, columns=20)
    assert len(panels(figure)) == 100
    assert figure.get_suptitle() == "130 components (first 100)"


def test_reconstructions(model, corpus):
    figure = plot.reconstructions(model, corpus.images(slice(0, 5)), labels=list("abcde"))
    drawn = panels(figure)
    assert len(drawn) == 15
    flat = corpus.images(slice(0, 5)).reshape(5, -1)
    again = model.inverse_transform(model.transform(flat))
    errors = np.linalg.norm(flat - again, axis=1) / np.linalg.norm(flat, axis=1)
    for i, axis in enumerate(drawn[:10]):
        image = [flat, again][i // 5][i % 5] / flat[i % 5].max()
        assert np.allclose(axis.images[0].get_array().ravel(), image.clip(0, 1), atol=1e-6)
    assert {axis.images[0].norm.vmax for axis in drawn[:10]} == {1}
    labels = [f"{name}\n{100 * error:.1f} %" for name, error in zip("abcde", errors, strict=True)]
    assert [axis.get_xlabel() for axis in drawn[10:]] == labels
    assert "relative error" in figure.get_suptitle()


def test_residuals_are_signed_and_on_a_scale_that_is_named(model, corpus):
    drawn = panels(plot.reconstructions(model, corpus, rows=[3, 8]))
    flat = corpus.images([3, 8]).reshape(2, -1)
    residuals = flat - model.inverse_transform(model.transform(flat))
    shares = residuals / flat.max(axis=1, keepdims=True)
    for axis, share in zip(drawn[4:], shares, strict=True):
        assert np.allclose(axis.images[0].get_array().ravel(), share, atol=1e-6)
        assert axis.images[0].norm.vmax == -axis.images[0].norm.vmin >= np.abs(shares).max()
    name, scale = drawn[4].get_ylabel().splitlines()
    assert name == "residual"
    assert scale == f"±{100 * drawn[4].images[0].norm.vmax:.3g} %"


def test_one_scale_for_all_images(model, corpus):
    X = corpus.images(slice(0, 3)).reshape(3, -1) // np.array([[1], [2], [5]], np.uint8)
    common, own = (
        [axis.images[0].get_array().max() for axis in panels(figure)[:3]]
        for figure in (plot.reconstructions(model, X, scale=s) for s in ("common", "image"))
    )
    assert np.allclose(common, X.max(axis=1) / X.max())
    assert np.allclose(own, 1)
    with pytest.raises(ParameterError, match="scale is 'each'"):
        plot.reconstructions(model, X, scale="each")


@pytest.mark.parametrize("kind", ["array", "images", "dask", "zarr", "sparse", "frame", "list"])
def test_images_of_every_kind(model, corpus, tmp_path, kind):
    X = corpus.images(slice(0, 30))
    flat = X.reshape(30, -1)
    wrap = {
        "array": lambda: flat,
        "images": lambda: X,
        "dask": lambda: da.from_array(flat, chunks=(7, -1)),
        "zarr": lambda: zarr.create_array(
            tmp_path / "x", data=flat, chunks=(7, 784), overwrite=True
        ),
        "sparse": lambda: scipy.sparse.csr_array(flat),
        "frame": lambda: pd.DataFrame(flat),
        "list": lambda: list(X),
    }
    for rows, numbers in ((None, np.linspace(0, 29, 12).astype(int)), (slice(2, 4), [2, 3])):
        drawn = panels(plot.reconstructions(model, wrap[kind](), rows=rows))
        assert len(drawn) == 3 * len(numbers)
        labels = [axis.get_xlabel().splitlines()[0] for axis in drawn[-len(numbers) :]]
        assert labels == list(map(str, numbers))
        assert (drawn[1].images[0].get_array() == X[numbers[1]] / X[numbers[1]].max()).all()


def test_a_corpus_is_drawn_with_the_names_of_its_images(model, corpus):
    drawn = panels(plot.reconstructions(model, corpus))
    assert len(drawn) == 36
    row, name, _ = drawn[-1].get_xlabel().splitlines()
    assert row == "699"
    assert name == corpus.id_of(699)[-13:] or (name[0], name[1:]) == ("…", corpus.id_of(699)[-12:])
    drawn = panels(plot.reconstructions(model, corpus, rows=[5, -1]))
    assert [axis.get_xlabel().splitlines()[0] for axis in drawn[4:]] == ["5", "699"]


@pytest.mark.parametrize("rows", [[700], slice(900, 910), slice(0, 500), []])
def test_rows_that_are_not_there(model, corpus, rows):
    with pytest.raises(ParameterError, match="rows"):
        plot.reconstructions(model, corpus, rows=rows)


def test_missing_pixels_are_left_out(digits):
    X = digits[:50].astype(np.float32)
    X[:, 400] = np.nan
    model = dnmf.NMF(3, missing="ignore", max_iter=2, tol=0, random_state=0).fit(X)
    figure = plot.reconstructions(model, X[:4])
    reconstructed = model.inverse_transform(model.transform(X[:4]))
    seen = ~np.isnan(X[:4])
    error = np.linalg.norm((X[:4] - reconstructed)[seen]) / np.linalg.norm(X[:4][seen])
    assert figure.get_suptitle().endswith(f"{100 * error:.1f} %")
    drawn = panels(figure)[0].images[0].get_array()
    assert np.isnan(drawn.data).sum() == 1
    assert np.nanmax(drawn.data) == X[0][seen[0]].max() / X[:4][seen].max()


def test_loss_curve(model):
    figure = plot.loss_curve(model)
    (line,) = figure.axes[0].lines
    assert line.get_ydata()[-1] == pytest.approx(model.reconstruction_err_)
    assert len(line.get_xdata()) == model.n_iter_
    assert line.get_xdata()[-1] == pytest.approx(model.n_reads_)
    assert "converged" in figure.get_suptitle()


def test_the_warm_start_is_in_the_loss_curve(model):
    axes = plot.loss_curve(model).axes[0]
    band = next(patch for patch in axes.patches if patch.get_label().startswith("warm start"))
    assert (band.get_x(), band.get_width()) == pytest.approx((0, model.n_reads_ - model.n_iter_))
    assert axes.get_xlim()[0] == 0


@pytest.mark.parametrize(
    ("errors", "least", "most"),
    [([100, 99.9999], 0.019, 0.021), ([100, 50, 40], 0.5, 0.7), ([5.0], 0.019, 0.021)],
)
def test_small_changes_look_small(model, errors, least, most):
    model = copy.copy(model)
    model.loss_history_ = np.square(errors) / 2
    low, high = plot.loss_curve(model).axes[0].get_ylim()
    assert low < min(errors) <= max(errors) < high
    assert least < (high - low) / max(errors) < most


def test_a_model_without_losses(digits):
    with pytest.raises(ParameterError, match="no losses"):
        plot.loss_curve(dnmf.NMF(2, random_state=0).partial_fit(digits))


def test_colour_images(tmp_path):
    X = np.random.default_rng(0).integers(0, 255, (20, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", X)
    corpus = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c")
    model = dnmf.NMF(3, random_state=0).fit(corpus)
    for path in plot.write_plots(model, tmp_path / "out", corpus):
        assert read(path).ndim == 3
    assert panels(plot.components(model))[0].images[0].get_array().shape == (6, 5, 3)


def test_write_plots(model, corpus, tmp_path):
    written = plot.write_plots(model, tmp_path / "out", corpus)
    assert [path.name for path in written] == ["components.png", "loss.png", "reconstructions.png"]
    assert len(plot.write_plots(model, tmp_path / "out")) == 2
    for path in written:
        assert read(path).std() > 10


def test_flat_images_are_square_or_raise_an_error(digits):
    square = dnmf.NMF(2, max_iter=1, tol=0).fit(digits)
    assert panels(plot.components(square))[0].images[0].get_array().shape == (28, 28)
    flat = dnmf.NMF(2, max_iter=1, tol=0).fit(digits[:, 100:300])
    with pytest.raises(DataError, match="image_shape_"):
        plot.components(flat)
    flat.image_shape_ = (10, 20)
    assert panels(plot.components(flat))[0].images[0].get_array().shape == (10, 20)


def test_black_images(tmp_path):
    model = dnmf.NMF(2, random_state=0).fit(np.zeros((5, 4)))
    plot.components(model).savefig(tmp_path / "a.png")
    plot.reconstructions(model, np.zeros((2, 4))).savefig(tmp_path / "b.png")
    plot.loss_curve(model).savefig(tmp_path / "c.png")
