"""Figures of models: panels, scales, labels and files."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image

import dnmf
from dnmf import plot
from dnmf.errors import DataError


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
    assert figure.get_supxlabel() == "sorted by share of the reconstruction's energy"


def test_shares_are_under_the_components(model):
    model = copy.copy(model)
    model.energy_shares_ = np.array([0.0421, 0.31, 0, 0.0004, 0.3, 0.3, 0.0996, 0.003, 0.002, 1e-9])
    drawn = panels(plot.components(model))
    assert [axis.get_xlabel() for axis in drawn] == [
        *("31 %", "30 %", "30 %", "10 %", "4.2 %", "0.3 %", "0.2 %", "< 0.1 %", "< 0.1 %", "0 %")
    ]
    equal = [axis.images[0].get_array().ravel() for axis in drawn[1:3]]
    assert (equal == model.components_[4:6]).all()


def test_components_without_shares_keep_their_order(digits):
    model = dnmf.NMF(4, random_state=0).partial_fit(digits)
    figure = plot.components(model)
    for axis, H in zip(panels(figure), model.components_, strict=True):
        assert (axis.images[0].get_array().ravel() == H).all()
        assert axis.get_xlabel() == ""
    assert figure.get_supxlabel() == ""


def test_shares_of_other_losses_are_not_called_energy(digits):
    model = dnmf.NMF(2, solver="mu", beta_loss="kullback-leibler", max_iter=1, tol=0).fit(digits)
    assert plot.components(model).get_supxlabel() == "sorted by share of the reconstruction"


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
    assert len(drawn) == 10
    top = drawn[0].images[0].get_array()
    assert np.allclose(top, corpus.images(0) / corpus.images(slice(0, 5)).max())
    assert {axis.images[0].norm.vmax for axis in drawn} == {1}
    assert [axis.get_xlabel() for axis in drawn[5:]] == list("abcde")
    assert "relative error" in figure.get_suptitle()


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
    assert "converged" in figure.get_suptitle()


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
