"""Pictures of a sweep over numbers of components: what speaks for each, and what each looks like.

Each function returns a `matplotlib.figure.Figure`, as in `dnmf.plot`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnmf.model_selection.recommend import STABLE
from dnmf.plot.model import (
    BLUE,
    components,
    examples_of,
    relative_error,
    set_frame,
    set_title,
    sheet,
    wrapped,
    write_figures,
)

if TYPE_CHECKING:
    from dnmf.model_selection.rank_sweep import RankSweep
    from dnmf.storage.corpus import Corpus
from dnmf._typing import Array

ORANGE = "#d55e00"
"""Of what is recommended; told from blue and grey with every colour vision (Okabe and Ito)."""

GREY = "#767676"
"""Of what decides nothing."""

LEADING: dict[str, Any] = {"color": BLUE, "markersize": 3.5}
LESSER: dict[str, Any] = {"color": GREY, "markersize": 3.5, "linestyle": "--"}
"""Of the curve that decides, and of the one beside it."""

WIDTH = 6.5
"""Of `selection`, in inches."""

DIGIT = 0.016
"""Width of a digit under the axis, as a share of the axis."""

LOG_FROM = 10
"""Largest over smallest number of components from which the axis is logarithmic."""


def selection(sweep: RankSweep) -> Figure:
    """Draw errors and stability against the number of components, with the recommended one marked.

    Above, the error per cell of the best fit to all cells, and of cells that were hidden, each with
    the standard error of its difference to the lowest: a bar that reaches the dotted line is
    within one standard error. Below, how stable components are over all fits. What the sweep has
    not asked about is left out.

    Parameters
    ----------
    sweep : RankSweep

    Returns
    -------
    matplotlib.figure.Figure
    """
    best = sweep.best_n_components_
    heights = [3.0]
    if not np.isnan(_column(sweep, "stability")).all():
        heights.append(1.9)
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.5))
    axes = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    ).ravel()
    _draw_errors(axes[0], sweep)
    for axis in axes[1:]:
        _draw_stability(axis, sweep)
    for axis in axes:
        label = f"recommended: {best}" if axis is axes[0] else None
        axis.axvline(best, color=ORANGE, linewidth=1, zorder=1, label=label)
        set_frame(axis)
        _set_legend(axis)
    _set_ranks(axes[-1], _ranks(sweep), best)
    axes[-1].set_xlabel("number of components")
    figure.supxlabel(
        wrapped(figure, sweep.reason_, 8), fontsize=8, x=0.02, horizontalalignment="left"
    )
    doubt = "" if sweep.clear_ else " (no clear answer)"
    set_title(figure, f"recommended: {best} component{'s' * (best != 1)}{doubt}")
    return figure


def reconstruction_sheet(
    sweep: RankSweep, images: Array, labels: Sequence[str] | None = None
) -> Figure:
    """Draw originals over their reconstructions from each number of components, on one scale.

    Parameters
    ----------
    sweep : RankSweep
    images : ndarray of shape (m, ...)
        A few images, flat or in the models' image shape.
    labels : sequence of str, optional
        Under the columns.

    Returns
    -------
    matplotlib.figure.Figure
        With the relative error of these images in each row, and the recommended row in bold.
    """
    flat = np.asarray(images).reshape(len(images), -1)
    rows, bold = {"original": flat}, 0
    for d, model in sweep.models_.items():
        again = model.inverse_transform(model.transform(flat))
        bold = len(rows) if d == sweep.best_n_components_ else bold
        rows[f"d = {d}\n{100 * relative_error(flat, again):.1f} %"] = again
    figure = sheet(rows, sweep.best_model_.image_shape_, labels)
    figure.axes[bold * len(flat)].yaxis.label.set_fontweight("bold")
    set_title(
        figure, "reconstructions from d components, with their relative error; recommended in bold"
    )
    return figure


def write_sweep_plots(
    sweep: RankSweep,
    folder: str | os.PathLike[str],
    corpus: Corpus | None = None,
    *,
    n_images: int = 12,
) -> list[Path]:
    """Write all pictures of a sweep as PNG files, replacing those of before.

    Parameters
    ----------
    sweep : RankSweep
    folder : str or path
    corpus : Corpus, optional
        Where the originals over reconstructions come from; without it there are none.
    n_images : int, default 12
        Originals to draw, evenly spaced over the corpus.

    Returns
    -------
    list of Path
        Of ``selection.png``, ``components-0009.png`` and so on, and ``reconstructions.png``.

    Raises
    ------
    DataError (a ValueError)
        The corpus has images of another number of pixels, or the images cannot be drawn.
    """
    if corpus is not None:
        sweep.best_model_._require_pixels_of(corpus)

    def figures() -> Iterator[tuple[str, Figure]]:  # one in memory at a time
        yield "selection", selection(sweep)
        for d, model in sweep.models_.items():
            yield f"components-{d:04}", components(model)
        if corpus is not None:
            yield "reconstructions", reconstruction_sheet(sweep, *examples_of(corpus, n_images))

    return write_figures(figures(), folder)


def _column(sweep: RankSweep, name: str) -> Array:
    """Give a column of the table; NaN where it has none."""
    return np.array([row[name] for row in sweep.table], float)


def _ranks(sweep: RankSweep) -> Array:
    return _column(sweep, "n_components")


def _draw_errors(axis: Axes, sweep: RankSweep) -> None:
    if sweep.choice_.lowest is not None:
        _draw_held_out(axis, sweep, sweep.choice_.lowest)
    errors = _column(sweep, "error_per_cell")
    axis.plot(_ranks(sweep), errors, **LESSER, marker="s", label="all cells (always falls)")
    squared = sweep.best_model_.beta_loss in ("frobenius", 2)
    what = "root mean square" if squared else f"√(2 D / cells), {sweep.best_model_.beta_loss}"
    axis.set_ylabel(f"error per cell\n({what})")
    axis.ticklabel_format(axis="y", useOffset=False)


def _draw_held_out(axis: Axes, sweep: RankSweep, lowest: int) -> None:
    ranks, errors = _ranks(sweep), _column(sweep, "held_out_error")
    label = "held-out cells, ± standard error to the lowest"
    axis.plot(ranks, errors, **LEADING, marker="o", label=label)
    axis.errorbar(
        ranks, errors, yerr=_column(sweep, "standard_error"), fmt="none", ecolor=BLUE, capsize=3
    )
    at, best = dict(zip(ranks, errors, strict=True)), sweep.best_n_components_
    axis.axhline(at[lowest], color=BLUE, linewidth=0.8, linestyle=":")
    axis.plot([best], [at[best]], color=ORANGE, marker="o", markersize=6, zorder=4)
    ring: dict[str, Any] = {
        "color": BLUE,
        "linestyle": "none",
        "fillstyle": "none",
        "markersize": 10,
    }
    axis.plot([lowest], [at[lowest]], **ring, marker="o", label=f"lowest: {lowest}")


def _draw_stability(axis: Axes, sweep: RankSweep) -> None:
    ranks, least = _ranks(sweep), _column(sweep, "least_stable")
    mean = _column(sweep, "stability")
    axis.plot(ranks, mean, **LEADING, marker="o", label="mean of the components")
    axis.plot(ranks, least, **LESSER, marker="v", label="least stable")
    axis.axhline(STABLE, color="black", linewidth=0.8, linestyle=":", label=f"stable from {STABLE}")
    axis.set(ylabel="stability\n(silhouette)", ylim=(min(0.0, np.nanmin(least)) - 0.05, 1.05))


def _set_legend(axis: Axes) -> None:
    """Put the legend above the axis, where it hides nothing."""
    entries = len(axis.get_legend_handles_labels()[0])
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2 if entries == 4 else entries,
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
    )


def _set_ranks(axis: Axes, ranks: Array, best: int) -> None:
    """Put ticks at the numbers that were tried, with as many labels as there is room for."""
    if ranks[-1] > LOG_FROM * ranks[0]:
        axis.set_xscale("log")
    labelled = _labelled(ranks, axis.get_xscale() == "log", best)
    axis.set_xticks(labelled, [f"{rank:.0f}" for rank in labelled], fontsize=9)
    others = np.setdiff1d(ranks, labelled)
    axis.set_xticks(others, [""] * len(others), minor=True)


def _labelled(ranks: Array, is_log: bool, best: int) -> Array:
    """Choose ranks whose labels do not collide: the recommended one, the ends, then upwards."""
    at = np.log(ranks) if is_log else ranks
    at = (at - at[0]) / (at[-1] - at[0] or 1.0)
    chosen: list[int] = []
    for i in [int(np.flatnonzero(ranks == best)[0]), 0, len(ranks) - 1, *range(len(ranks))]:
        room = DIGIT * (len(str(int(ranks[i]))) + 1)
        if all(abs(at[i] - at[j]) > room for j in chosen):
            chosen.append(i)
    return ranks[sorted(chosen)]
