"""Charts of a report, as SVG whose colours follow the style sheet of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnmf._typing import Array
from dnmf.model_selection.recommend import STABLE

if TYPE_CHECKING:
    from dnmf.model_selection.rank_sweep import RankSweep

COLORS = {"ink": "#010101", "rule": "#020202", "accent": "#030303", "second": "#040404"}
"""Colours that stand for variables of the style sheet, until the chart is in the page."""

SIZE = 4.4, 2.7
"""Width and height of a chart in inches; text stays legible on the width of a phone."""

MOST_POINTS = 400
"""Largest number of passes that a curve of losses has; of more, some at even distances."""

LOG_SCALE_RATIO = 10
"""Ratio of the largest to the smallest number of components above which their axis is
logarithmic."""


def loss_chart(
    ends: Array, errors: Array, start: float, quantity: str, name: str, label: str
) -> Markup:
    """Draw the error after each pass against what the passes took, with the start as a band.

    Parameters
    ----------
    ends : ndarray of shape (passes,)
        Reads or seconds at the end of each pass.
    errors : ndarray of shape (passes,)
    start : float
        Reads or seconds of the start.
    quantity, name, label : str
        Label of the horizontal axis, name of the chart, and that of the vertical axis.
    """
    figure, axes = _new_chart()
    shown = np.unique(np.linspace(0, len(ends) - 1, MOST_POINTS).astype(int))
    axes.axvspan(0, start, color=COLORS["second"], alpha=0.25, linewidth=0, label="start")
    marker = "o" if len(ends) <= 60 else None
    axes.plot(
        ends[shown],
        errors[shown],
        color=COLORS["accent"],
        marker=marker,
        markersize=3.5,
        label="after each pass",
    )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set(xlabel=quantity, ylabel=label, xlim=(0, 1.03 * float(ends[-1]) or 1.0))
    _set_range(axes, errors)
    _add_legend(axes)
    text = (
        f"The error falls from {errors[0]:.6g} after the first pass to {errors[-1]:.6g} after "
        f"{len(errors)}, over {ends[-1]:.3g} {quantity}, of which the start took {start:.3g}."
    )
    return _to_svg(figure, name, text)


def histogram(values: Array, bins: Array, name: str, labels: tuple[str, str], text: str) -> Markup:
    """Draw how many values lie in each of some bins."""
    figure, axes = _new_chart()
    counts, _ = np.histogram(values, bins)
    axes.stairs(counts, bins, fill=True, color=COLORS["accent"])
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(bins[0], bins[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=bins[-1] > 1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return _to_svg(figure, name, text)


def sweep_errors(sweep: RankSweep) -> Markup:
    """Draw the errors against the number of components, and mark the recommended one."""
    figure, axes = _new_chart()
    ranks, errors = _column(sweep, "n_components"), _column(sweep, "error_per_cell")
    held_out = _column(sweep, "held_out_error")
    axes.plot(ranks, errors, "s--", color=COLORS["ink"], markersize=3.5, label="all cells")
    if not np.isnan(held_out).all():
        bars = np.nan_to_num(_column(sweep, "standard_error"))
        style: dict[str, Any] = {"color": COLORS["accent"], "marker": "o", "markersize": 3.5}
        axes.errorbar(ranks, held_out, yerr=bars, capsize=3, label="held-out cells", **style)
    axes.set(ylabel="error per cell")
    _mark_best(axes, sweep)
    best = sweep.best_n_components_
    text = f"Error per cell for {_listed(ranks)} components; {best} are recommended."
    return _to_svg(figure, "sweep-errors", text)


def sweep_stability(sweep: RankSweep) -> Markup | None:
    """Draw the stability of the components against their number; None where it is not known."""
    mean, least = _column(sweep, "stability"), _column(sweep, "least_stable")
    if np.isnan(mean).all():
        return None
    figure, axes = _new_chart()
    ranks = _column(sweep, "n_components")
    axes.plot(ranks, mean, "o-", color=COLORS["accent"], markersize=3.5, label="mean")
    axes.plot(ranks, least, "v--", color=COLORS["ink"], markersize=3.5, label="least stable")
    axes.axhline(STABLE, color=COLORS["ink"], linestyle=":", label=f"stable from {STABLE}")
    axes.set(ylabel="stability", ylim=(min(0.0, float(np.nanmin(least))) - 0.05, 1.05))
    _mark_best(axes, sweep)
    text = f"Stability of the components of several starts, for {_listed(ranks)} components."
    return _to_svg(figure, "sweep-stability", text)


def _mark_best(axes: Axes, sweep: RankSweep) -> None:
    ranks = _column(sweep, "n_components")
    best = sweep.best_n_components_
    axes.axvline(best, color=COLORS["second"], linewidth=1.5, zorder=1, label=f"{best} recommended")
    if ranks[-1] > LOG_SCALE_RATIO * ranks[0]:
        axes.set_xscale("log")
    axes.set_xticks([], [], minor=True)
    shown = ranks if len(ranks) <= 8 else ranks[np.linspace(0, len(ranks) - 1, 8).astype(int)]
    axes.set_xticks(shown, [f"{rank:.0f}" for rank in shown])
    axes.set_xlabel("components")
    _add_legend(axes)


def _column(sweep: RankSweep, name: str) -> Array:
    return np.array([row[name] for row in sweep.table], float)


def _listed(numbers: Array) -> str:
    return f"{numbers[0]:.0f} to {numbers[-1]:.0f}" if len(numbers) > 1 else f"{numbers[0]:.0f}"


def _new_chart() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    axes.grid(color=COLORS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLORS["rule"])
    axes.tick_params(colors=COLORS["ink"], labelsize=9, length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=COLORS["ink"], fontsize=9.5)
    return figure, axes


def _set_range(axes: Axes, errors: Array) -> None:
    """Let the axis of errors span at least 2 % of the last: small changes look small."""
    low, high = float(errors.min()), float(errors.max())
    spare = max(0.06 * (high - low), (0.02 * high - (high - low)) / 2) or 0.5
    axes.set_ylim(max(0.0, low - spare), high + spare)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")


def _add_legend(axes: Axes) -> None:
    entries: Sequence[Any] = axes.get_legend_handles_labels()[0]
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(entries) if len(entries) < 4 else 2,
        fontsize=9,
        frameon=False,
        borderaxespad=0.2,
        labelcolor=COLORS["ink"],
        handlelength=1.4,
        columnspacing=1.2,
    )


def _to_svg(figure: Figure, name: str, text: str) -> Markup:
    """Return a chart as SVG with a text for those who do not see it."""
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(content, format="svg", metadata=nothing)
    _, _, svg = content.getvalue().partition("<svg")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # each chart has the same
    for variable, color in COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg.partition(">")[2]
    assert box is not None
    head = f'<svg {box[0]} role="img" aria-label="{escape(text)}" class="chart"'
    return Markup(f"{head}>{body}")
