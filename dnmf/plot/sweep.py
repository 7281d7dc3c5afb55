"""Figures of a sweep over numbers of components: the scores of each number, and reconstructions.

Each function returns a `matplotlib.figure.Figure`, as in `dnmf.plot.model`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnmf._access import StorageOptions, remember_options
from dnmf._html import ORANGE
from dnmf._typing import Array
from dnmf.model_selection.recommend import STABLE
from dnmf.plot.images import N_EXAMPLES, choose_images, image_rows, relative_error
from dnmf.plot.model import components, is_squared_error
from dnmf.plot.style import (
    BLUE,
    GREY,
    count_components,
    set_title,
    style_axes,
    wrap,
    write_figures,
)

if TYPE_CHECKING:
    from dnmf.model_selection.rank_sweep import RankSweep
    from dnmf.storage.corpus import Corpus

MAIN_CURVE: dict[str, Any] = {"color": BLUE, "markersize": 3.5}
SECOND_CURVE: dict[str, Any] = {"color": GREY, "markersize": 3.5, "linestyle": "--"}
"""Styles of the curve that decides the recommendation, and of the other curve."""

WIDTH = 6.5
"""Width of the figure of `selection`, in inches."""

DIGIT_WIDTH = 0.016
"""Width of a digit of a tick label, as a fraction of the axis."""

LOG_SCALE_RATIO = 10
"""Ratio of the largest to the smallest number of components above which the axis is logarithmic."""


def selection(sweep: RankSweep) -> Figure:
    """Draw errors and stability against the number of components, and mark the recommended one.

    The upper diagram shows the error per cell of the best fit to all cells, and the error on
    held-out cells. Its bars are the standard error of the difference to the lowest: a bar that
    reaches the dotted line is within one standard error. The lower diagram shows the stability of
    the components over all fits. A curve is left out if the sweep has no scores for it.

    Parameters
    ----------
    sweep : RankSweep
        Result of `dnmf.rank_sweep`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    best = sweep.best_n_components_
    heights = [3.0]
    if not np.isnan(_column(sweep, "stability")).all():
        heights.append(1.9)
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.5))
    diagrams = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    ).ravel()
    _draw_errors(diagrams[0], sweep)
    for axes in diagrams[1:]:
        _draw_stability(axes, sweep)
    for axes in diagrams:
        label = f"recommended: {best}" if axes is diagrams[0] else None
        axes.axvline(best, color=ORANGE, linewidth=1, zorder=1, label=label)
        style_axes(axes)
        _set_legend(axes)
    _set_ticks(diagrams[-1], _ranks(sweep), best)
    diagrams[-1].set_xlabel("number of components")
    figure.supxlabel(wrap(figure, sweep.reason_, 8), fontsize=8, x=0.02, horizontalalignment="left")
    doubt = "" if sweep.clear_ else "no clear answer; "
    set_title(figure, f"{doubt}recommended: {count_components(best)}")
    return figure


def reconstruction_sheet(
    sweep: RankSweep,
    images: Any,
    labels: Sequence[str] | None = None,
    *,
    rows: slice | Sequence[int] | None = None,
    scale: str = "image",
) -> Figure:
    """Draw originals over their reconstructions for each number of components.

    Each row is labelled with the relative error of these images. The label of the recommended
    number is bold.

    Parameters
    ----------
    sweep : RankSweep
        Result of `dnmf.rank_sweep`.
    images, labels, rows, scale
        As in `dnmf.plot.reconstructions`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    flat, names = choose_images(images, rows)
    drawn, bold = {"original": flat}, 0
    for d, model in sweep.models_.items():
        reconstructed = model.inverse_transform(model.transform(flat))
        bold = len(drawn) if d == sweep.best_n_components_ else bold
        drawn[f"d = {d}\n{100 * relative_error(flat, reconstructed):.1f} %"] = reconstructed
    captions = names if labels is None else labels
    figure = image_rows(drawn, sweep.best_model_.image_shape_, captions, scale=scale)
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
    n_images: int = N_EXAMPLES,
    rows: slice | Sequence[int] | None = None,
    storage_options: StorageOptions = None,
) -> list[Path | str]:
    """Write all figures of a sweep as PNG files, replacing those that dnmf wrote before.

    Parameters
    ----------
    sweep : RankSweep
        Result of `dnmf.rank_sweep`.
    folder, corpus, n_images, rows, storage_options
        As in `dnmf.plot.write_plots`, whose errors are raised, too.

    Returns
    -------
    list of Path, or of str for URLs
        Paths of ``selection.png``, ``components-0009.png`` and so on, and ``reconstructions.png``.
    """
    remember_options(storage_options, folder)
    if corpus is not None:
        sweep.best_model_._require_pixels_of(corpus)

    figures: dict[str, Callable[[], Figure]] = {"selection": partial(selection, sweep)}
    for d, model in sweep.models_.items():
        figures[f"components-{d:04}"] = partial(components, model)
    if corpus is not None:
        examples = choose_images(corpus, rows, n_images)
        figures["reconstructions"] = partial(
            reconstruction_sheet, sweep, *examples, rows=slice(None)
        )
    return write_figures(figures, folder)


def _column(sweep: RankSweep, name: str) -> Array:
    """Return a column of the table, with NaN where it has no value."""
    return np.array([row[name] for row in sweep.table], float)


def _ranks(sweep: RankSweep) -> Array:
    return _column(sweep, "n_components")


def _draw_errors(axes: Axes, sweep: RankSweep) -> None:
    if sweep.choice_.lowest is not None:
        _draw_held_out(axes, sweep, sweep.choice_.lowest)
    errors = _column(sweep, "error_per_cell")
    axes.plot(_ranks(sweep), errors, **SECOND_CURVE, marker="s", label="all cells (always falls)")
    model = sweep.best_model_
    squared = is_squared_error(model)
    unit = "root mean square" if squared else f"√(2 D / cells), {model.beta_loss}"
    axes.set_ylabel(f"error per cell\n({unit})")
    axes.ticklabel_format(axis="y", useOffset=False)


def _draw_held_out(axes: Axes, sweep: RankSweep, lowest: int) -> None:
    ranks, errors = _ranks(sweep), _column(sweep, "held_out_error")
    label = "held-out cells, ± standard error to the lowest"
    axes.plot(ranks, errors, **MAIN_CURVE, marker="o", label=label)
    axes.errorbar(
        ranks, errors, yerr=_column(sweep, "standard_error"), fmt="none", ecolor=BLUE, capsize=3
    )
    error_at, best = dict(zip(ranks, errors, strict=True)), sweep.best_n_components_
    axes.axhline(error_at[lowest], color=BLUE, linewidth=0.8, linestyle=":")
    axes.plot([best], [error_at[best]], color=ORANGE, marker="o", markersize=6, zorder=4)
    ring: dict[str, Any] = {
        "color": BLUE,
        "linestyle": "none",
        "fillstyle": "none",
        "markersize": 10,
    }
    axes.plot([lowest], [error_at[lowest]], **ring, marker="o", label=f"lowest: {lowest}")


def _draw_stability(axes: Axes, sweep: RankSweep) -> None:
    ranks, least = _ranks(sweep), _column(sweep, "least_stable")
    mean = _column(sweep, "stability")
    axes.plot(ranks, mean, **MAIN_CURVE, marker="o", label="mean of the components")
    axes.plot(ranks, least, **SECOND_CURVE, marker="v", label="least stable")
    axes.axhline(STABLE, color="black", linewidth=0.8, linestyle=":", label=f"stable from {STABLE}")
    axes.set(ylabel="stability\n(silhouette)", ylim=(min(0.0, np.nanmin(least)) - 0.05, 1.05))


def _set_legend(axes: Axes) -> None:
    """Draw the legend above the axes, where it hides nothing."""
    entries = len(axes.get_legend_handles_labels()[0])
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2 if entries == 4 else entries,
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
    )


def _set_ticks(axes: Axes, ranks: Array, best: int) -> None:
    """Set ticks at the numbers of the sweep, with as many labels as there is room for."""
    if ranks[-1] > LOG_SCALE_RATIO * ranks[0]:
        axes.set_xscale("log")
    labelled = _labelled_ranks(ranks, axes.get_xscale() == "log", best)
    axes.set_xticks(labelled, [f"{rank:.0f}" for rank in labelled], fontsize=9)
    others = np.setdiff1d(ranks, labelled)
    axes.set_xticks(others, [""] * len(others), minor=True)


def _labelled_ranks(ranks: Array, is_log: bool, best: int) -> Array:
    """Choose ranks whose labels do not overlap: the best, the first, the last, then in order."""
    positions = np.log(ranks) if is_log else ranks
    positions = (positions - positions[0]) / (positions[-1] - positions[0] or 1.0)
    chosen: list[int] = []
    for i in [int(np.flatnonzero(ranks == best)[0]), 0, len(ranks) - 1, *range(len(ranks))]:
        width = DIGIT_WIDTH * (len(str(int(ranks[i]))) + 1)
        if all(abs(positions[i] - positions[j]) > width for j in chosen):
            chosen.append(i)
    return ranks[sorted(chosen)]
