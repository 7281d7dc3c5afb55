"""Figures of a sweep: its scores, the marks of the recommended number, and files."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_hex

import dnmf
from dnmf.errors import DataError
from dnmf.model_selection.recommend import STABLE
from dnmf.plot import sweep as sweep_plots

RANKS = [2, 3, 4, 5]
HELD_OUT = "held-out cells, ± standard error to the lowest"
ALL_CELLS = "all cells (always falls)"


def blobs(n=300):
    """Draw noisy images of 12 x 12 pixels with three round spots of random brightness."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12]
    spots = np.array(
        [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 4) for a, b in ((3, 3), (3, 8), (8, 5))]
    )
    clean = rng.gamma(1, 40, size=(n, 3)) @ spots.reshape(3, 144)
    return (clean + rng.normal(0, 1, clean.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blobs")
    np.save(folder / "blobs.npy", blobs().reshape(-1, 12, 12))
    return dnmf.ingest(folder / "blobs.npy", folder / "blobs.zarr")


@pytest.fixture(scope="module")
def sweep(corpus):
    return dnmf.rank_sweep(corpus, RANKS, dnmf.NMF(random_state=0, tol=1e-3), n_init=2)


@pytest.fixture(scope="module")
def sweep_of_all_cells(corpus):
    return dnmf.rank_sweep(
        corpus, [2, 3, 4], dnmf.NMF(random_state=0, tol=1e-3), n_init=2, holdout=0
    )


def column(sweep, name):
    return [row[name] for row in sweep.table]


def curves(axis):
    return {line.get_label(): line for line in axis.lines if line.get_label()[0] != "_"}


def entries(axis):
    return [text.get_text() for text in axis.get_legend().texts]


def marks(axis):
    """Return position and colour of curves with a single point."""
    return [
        (line.get_xdata()[0], line.get_ydata()[0], to_hex(line.get_color()))
        for line in axis.lines
        if len(line.get_xdata()) == 1
    ]


def labels(axis):
    return [text.get_text() for text in axis.get_xticklabels()]


def altered(sweep, ranks, **values):
    """Return a sweep over other numbers, the first recommended, with other values in its table."""
    row = {**sweep.table[0], **values}
    return replace(
        sweep,
        models_=dict.fromkeys(ranks, sweep.best_model_),
        table=[{**row, "n_components": rank} for rank in ranks],
        choice_=replace(sweep.choice_, n_components=ranks[0], lowest=ranks[-1]),
    )


class TestSelection:
    def test_errors_are_those_of_the_table(self, sweep):
        axis = sweep_plots.selection(sweep).axes[0]
        drawn = curves(axis)
        for label, name in ((ALL_CELLS, "error_per_cell"), (HELD_OUT, "held_out_error")):
            assert list(drawn[label].get_xdata()) == RANKS
            assert list(drawn[label].get_ydata()) == column(sweep, name)
        (bars,) = axis.collections
        halves = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
        assert np.allclose(halves, column(sweep, "standard_error"))
        assert axis.get_ylabel() == "error per cell\n(root mean square)"

    def test_stability_is_that_of_the_table(self, sweep):
        axis = sweep_plots.selection(sweep).axes[1]
        drawn = curves(axis)
        assert list(drawn["mean of the components"].get_ydata()) == column(sweep, "stability")
        assert list(drawn["least stable"].get_ydata()) == column(sweep, "least_stable")
        assert set(drawn[f"stable from {STABLE}"].get_ydata()) == {STABLE}
        low, high = axis.get_ylim()
        assert low < min(0, *column(sweep, "least_stable"))
        assert high > 1

    def test_the_recommended_and_the_lowest_are_marked(self, sweep):
        sweep = replace(sweep, choice_=replace(sweep.choice_, n_components=3, lowest=4))
        figure = sweep_plots.selection(sweep)
        for axis in figure.axes:
            upright = [line for line in axis.lines if list(line.get_xdata()) == [3, 3]]
            assert [to_hex(line.get_color()) for line in upright] == [sweep_plots.ORANGE]
        axis, errors = figure.axes[0], column(sweep, "held_out_error")
        assert marks(axis) == [
            (3, errors[1], sweep_plots.ORANGE),
            (4, errors[2], sweep_plots.BLUE),
        ]
        assert entries(axis) == [HELD_OUT, "lowest: 4", ALL_CELLS, "recommended: 3"]

    def test_title_and_reason(self, sweep):
        assert sweep.best_n_components_ == 3
        assert sweep.clear_
        figure = sweep_plots.selection(sweep)
        assert figure.get_suptitle() == "recommended: 3 components"
        assert figure.get_supxlabel().replace("\n", " ") == sweep.reason_

    def test_an_unclear_choice_is_in_the_title(self, sweep):
        choice = replace(sweep.choice_, n_components=2, clear=False, reason="No clear answer.")
        figure = sweep_plots.selection(replace(sweep, choice_=choice))
        assert figure.get_suptitle() == "no clear answer; recommended: 2 components"

    def test_without_held_out_cells(self, sweep_of_all_cells):
        figure = sweep_plots.selection(sweep_of_all_cells)
        above, below = figure.axes
        best = sweep_of_all_cells.best_n_components_
        assert list(curves(above)) == [ALL_CELLS, f"recommended: {best}"]
        assert not marks(above)
        assert "mean of the components" in curves(below)

    def test_without_stability(self, sweep):
        figure = sweep_plots.selection(altered(sweep, RANKS, stability=None, least_stable=None))
        (axis,) = figure.axes
        assert axis.get_xlabel() == "number of components"
        assert labels(axis) == ["2", "3", "4", "5"]

    def test_a_single_number(self, sweep, tmp_path):
        figure = sweep_plots.selection(altered(sweep, [1]))
        assert figure.get_suptitle().startswith("recommended: 1 component")
        assert "components" not in figure.get_suptitle()
        assert labels(figure.axes[-1]) == ["1"]
        figure.savefig(tmp_path / "a.png")

    def test_other_losses_are_named(self, sweep):
        model = dnmf.NMF(2, solver="mu", beta_loss="kullback-leibler", max_iter=1, tol=0)
        sweep = replace(sweep, models_=dict.fromkeys(RANKS, model.fit(blobs(20))))
        axis = sweep_plots.selection(sweep).axes[0]
        assert axis.get_ylabel() == "error per cell\n(√(2 D / cells), kullback-leibler)"


class TestTicks:
    def test_at_the_numbers_tried(self, sweep):
        axis = sweep_plots.selection(sweep).axes[-1]
        assert axis.get_xscale() == "linear"
        assert list(axis.get_xticks()) == RANKS
        assert labels(axis) == ["2", "3", "4", "5"]

    def test_logarithmic_over_more_than_a_factor_of_ten(self, sweep):
        ranks = [4, 9, 16, 25, 49, 100, 225]
        axis = sweep_plots.selection(altered(sweep, ranks)).axes[-1]
        assert axis.get_xscale() == "log"
        assert labels(axis) == [str(rank) for rank in ranks]
        axis = sweep_plots.selection(altered(sweep, [2, 20])).axes[-1]
        assert axis.get_xscale() == "linear"

    @pytest.mark.parametrize("ranks", [range(2, 15), range(2, 100), range(100, 990, 10)], ids=str)
    def test_labels_do_not_collide(self, sweep, ranks):
        figure = sweep_plots.selection(altered(sweep, [*ranks]))
        figure.draw_without_rendering()
        axis = figure.axes[-1]
        boxes = [text.get_window_extent() for text in axis.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        assert {str(ranks[0]), str(ranks[-1])} <= set(labels(axis))
        drawn = {*axis.get_xticks(), *axis.get_xticks(minor=True)}
        assert drawn == set(ranks)

    def test_the_recommended_is_labelled_before_its_neighbours(self, sweep):
        sweep = altered(sweep, [*range(2, 100)])
        sweep = replace(sweep, choice_=replace(sweep.choice_, n_components=97))
        assert "97" in labels(sweep_plots.selection(sweep).axes[-1])

    def test_everything_is_inside_the_figure(self, sweep):
        figure = sweep_plots.selection(sweep)
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        for axis in figure.axes:
            for box in (axis.get_tightbbox(), axis.get_legend().get_window_extent()):
                assert box.x0 >= 0
                assert box.y0 >= 0
                assert box.x1 <= width
                assert box.y1 <= height
            assert axis.get_window_extent().width > 0.8 * width


class TestReconstructionSheet:
    def test_rows(self, sweep, corpus):
        images = corpus.images([0, 7, 20])
        figure = sweep_plots.reconstruction_sheet(sweep, images, labels=list("abc"), scale="common")
        rows = np.array([axis.images[0].get_array() for axis in figure.axes]).reshape(5, 3, 12, 12)
        top = images.max()
        assert np.allclose(rows[0], images / top)
        flat = images.reshape(3, -1)
        for row, model, first in zip(
            rows[1:], sweep.models_.values(), figure.axes[3::3], strict=True
        ):
            reconstructed = model.inverse_transform(model.transform(flat))
            assert np.allclose(row.reshape(3, -1), np.clip(reconstructed / top, 0, 1))
            error = np.linalg.norm(flat - reconstructed) / np.linalg.norm(flat)
            assert first.get_ylabel() == f"d = {model.n_components_}\n{100 * error:.1f} %"
        assert {axis.images[0].norm.vmax for axis in figure.axes} == {1}
        assert {axis.images[0].get_cmap().name for axis in figure.axes} == {"gray"}
        assert [axis.get_xlabel() for axis in figure.axes] == [""] * 12 + list("abc")
        assert "relative error" in figure.get_suptitle()

    def test_the_recommended_is_in_bold(self, sweep, corpus):
        figure = sweep_plots.reconstruction_sheet(sweep, corpus.images(slice(0, 2)))
        names = [axis.yaxis.label for axis in figure.axes[::2]]
        bold = [name.get_text() for name in names if name.get_fontweight() == "bold"]
        assert [name.split("\n")[0] for name in bold] == ["d = 3"]
        assert names[0].get_text() == "original"


class TestWriteSweepPlots:
    def test_files(self, sweep, corpus, tmp_path):
        written = sweep_plots.write_sweep_plots(sweep, tmp_path / "out", corpus)
        assert [path.name for path in written] == [
            "selection.png",
            *(f"components-000{d}.png" for d in RANKS),
            "reconstructions.png",
        ]
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
        assert len(sweep_plots.write_sweep_plots(sweep, tmp_path / "out")) == 5

    def test_images_are_at_even_distances_in_the_corpus(self, sweep, corpus, tmp_path, monkeypatch):
        calls = []
        real = sweep_plots.reconstruction_sheet
        monkeypatch.setattr(
            sweep_plots,
            "reconstruction_sheet",
            lambda *args, **rows: calls.append(args) or real(*args, **rows),
        )
        sweep_plots.write_sweep_plots(sweep, tmp_path, corpus, n_images=3)
        ((_, images, names),) = calls
        assert names == ["0\nblobs.npy:0", "149\nblobs.npy:149", "299\nblobs.npy:299"]
        assert (images == corpus.images([0, 149, 299]).reshape(3, -1)).all()
        sweep_plots.write_sweep_plots(sweep, tmp_path, corpus, rows=slice(4, 6))
        assert calls[1][2] == ["4\nblobs.npy:4", "5\nblobs.npy:5"]

    def test_a_corpus_of_other_images_raises_an_error(self, sweep, tmp_path):
        np.save(tmp_path / "x.npy", np.ones((5, 6, 6), np.uint8))
        other = dnmf.ingest(tmp_path / "x.npy", tmp_path / "x.zarr")
        with pytest.raises(DataError, match=r"36 pixels.*fitted on 144"):
            sweep_plots.write_sweep_plots(sweep, tmp_path / "out", other)
        assert not (tmp_path / "out").exists()

    def test_colour_images(self, tmp_path):
        X = np.random.default_rng(0).integers(0, 255, (60, 6, 5, 3), dtype=np.uint8)
        np.save(tmp_path / "x.npy", X)
        corpus = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c")
        sweep = dnmf.rank_sweep(corpus, [1, 2], dnmf.NMF(random_state=0, tol=1e-2), n_init=2)
        assert len(sweep_plots.write_sweep_plots(sweep, tmp_path / "out", corpus)) == 4
        figure = sweep_plots.reconstruction_sheet(sweep, corpus.images([0, 1]))
        assert figure.axes[2].images[0].get_array().shape == (6, 5, 3)
