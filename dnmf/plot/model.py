"""Pictures: the components, originals over reconstructions, the loss.

Each function returns a `matplotlib.figure.Figure` and touches no global state of pyplot's.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnmf.errors import DataError, ParameterError

if TYPE_CHECKING:
    from dnmf.estimators.nmf import NMF
    from dnmf.storage.corpus import Corpus
from dnmf._typing import Array

COMPONENTS_CMAP = "magma"
"""Sequential, perceptually even, black at zero: where a component has nothing, nothing shows."""

MAX_COMPONENTS = 100
BLUE = "#31688e"
"""Of a curve; from the middle of viridis, told from black and from orange by everyone."""

SMALL_TEXT = 0.14
"""Height of a line of small text under an image, in inches."""

LINE = 120
"""Characters in a line of an inch at a font size of one point, rather fewer than more."""


def components(model: NMF, *, columns: int | None = None) -> Figure:
    """Draw the components as images, each scaled from zero to its own maximum.

    They are sorted by their shares of the reconstruction, the largest first, with each share under
    its image. A model from `partial_fit` alone knows no shares, and keeps its order.

    Parameters
    ----------
    model : NMF
        Fitted. The first 100 components are drawn.
    columns : int, optional
        Of the sheet; square by default.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = min(model.n_components_, MAX_COMPONENTS)
    columns = columns or math.ceil(math.sqrt(shown))
    rows = math.ceil(shown / columns)
    shape = drawable(model.image_shape_)
    order, shares = _by_share(model)
    cell = max(0.9, 3.6 / columns)  # inches
    line = 0.0 if shares is None else SMALL_TEXT
    height = rows * (cell * shape[0] / shape[1] + line) + line + 0.4
    figure = Figure(figsize=(columns * cell, height))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, j in zip(axes, order[:shown], strict=False):
        image = model.components_[j].reshape(shape)
        top = float(image.max()) or 1.0
        axis.imshow(
            image / top if image.ndim == 3 else image, cmap=COMPONENTS_CMAP, vmin=0, vmax=top
        )
        if shares is not None:
            axis.set_xlabel(_percent(shares[j]), fontsize=7, labelpad=2)
    if shares is not None:
        squared = model.beta_loss in ("frobenius", 2)
        what = "reconstruction's energy" if squared else "reconstruction"
        figure.supxlabel(f"sorted by share of the {what}", fontsize=8)
    more = f" (first {shown})" if shown < model.n_components_ else ""
    set_title(figure, f"{model.n_components_} components{more}")
    return figure


def reconstructions(model: NMF, images: Array, *, labels: Sequence[str] | None = None) -> Figure:
    """Draw originals over their reconstructions, on one scale from black at zero.

    Parameters
    ----------
    model : NMF
    images : ndarray of shape (m, ...)
        A few images, flat or in the model's image shape.
    labels : sequence of str, optional
        Under the columns.

    Returns
    -------
    matplotlib.figure.Figure
    """
    flat = np.asarray(images).reshape(len(images), -1)
    again = model.inverse_transform(model.transform(flat))
    figure = sheet({"original": flat, "reconstruction": again}, model.image_shape_, labels)
    error = relative_error(flat, again)
    set_title(
        figure,
        f"{model.n_components_} components, relative error of these images {100 * error:.1f} %",
    )
    return figure


def sheet(
    rows: Mapping[str, Array], image_shape: tuple[int, ...], labels: Sequence[str] | None
) -> Figure:
    """Draw rows of images, each with its name, on one scale: from zero to the first row's maximum.

    Missing pixels of grey images stay white.

    Parameters
    ----------
    rows : dict of str to ndarray of shape (m, p)
    image_shape : tuple of int
    labels : sequence of str, optional
        Under the columns.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes are those of the first row, then those of the second, and so on.
    """
    first = next(iter(rows.values()))
    shape = drawable(image_shape)
    top = float(np.nan_to_num(first).max()) or 1.0
    figure = Figure(figsize=(0.9 * len(first) + 1.1, 0.9 * len(rows) * shape[0] / shape[1] + 0.7))
    axes = figure.subplots(len(rows), len(first), squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.set(xticks=[], yticks=[], frame_on=False)
            axis.imshow(np.clip(picture / top, 0, 1).reshape(shape), cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(
            name, rotation=0, horizontalalignment="right", verticalalignment="center", fontsize=10
        )
    for axis, label in zip(axes[-1], labels or [], strict=False):
        axis.set_xlabel(label, fontsize=7)
    return figure


def relative_error(images: Array, again: Array) -> float:
    """Give the norm of what is left of the images, over theirs; missing pixels do not count."""
    left = np.linalg.norm(np.nan_to_num(images - again))
    return float(left / (np.linalg.norm(np.nan_to_num(images)) or 1.0))


def loss_curve(model: NMF) -> Figure:
    """Draw the error after each pass; with penalties, of all that is minimised.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ParameterError
        The model comes from `partial_fit` alone, which keeps no losses.
    """
    if not hasattr(model, "loss_history_"):
        raise ParameterError("a model from partial_fit has no losses of passes to draw")
    errors = np.sqrt(2 * model.loss_history_)
    figure = Figure(figsize=(6, 3.6))
    axis = figure.subplots()
    axis.plot(np.arange(1, len(errors) + 1), errors, marker="o", markersize=3.5, color=BLUE)
    axis.set(xlabel="pass over the corpus", ylabel=_what_is_lowered(model))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = axis.get_ylim()
    decimals = max(0, math.ceil(1 - math.log10(high - low)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.{decimals}f}")
    set_frame(axis)
    reason = {"converged": "converged", "max_iter": "stopped at max_iter"}
    set_title(
        figure,
        f"{model.n_components_} components: {errors[-1]:,.8g} after {model.n_iter_} passes "
        f"({model.n_reads_:.3g} reads), {reason.get(model.stop_reason_, 'unfinished')}",
        size=10,
    )
    return figure


def write_plots(
    model: NMF, folder: str | os.PathLike[str], corpus: Corpus | None = None, *, n_images: int = 12
) -> list[Path]:
    """Write all pictures as PNG files, replacing those of before.

    Parameters
    ----------
    model : NMF
    folder : str or path
    corpus : Corpus, optional
        Where the originals over reconstructions come from; without it there are none.
    n_images : int, default 12
        Originals to draw, evenly spaced over the corpus.

    Returns
    -------
    list of Path
    """
    figures = {"components": components(model)}
    if hasattr(model, "loss_history_"):
        figures["loss"] = loss_curve(model)
    if corpus is not None:
        model._require_pixels_of(corpus)
        images, labels = examples_of(corpus, n_images)
        figures["reconstructions"] = reconstructions(model, images, labels=labels)
    return write_figures(figures.items(), folder)


def examples_of(corpus: Corpus, n_images: int) -> tuple[Array, list[str]]:
    """Read images evenly spaced over the corpus, and name them by their rows."""
    rows = np.linspace(0, len(corpus) - 1, min(n_images, len(corpus))).astype(int)
    return corpus.images(rows), [str(row) for row in rows]


def write_figures(
    figures: Iterable[tuple[str, Figure]], folder: str | os.PathLike[str]
) -> list[Path]:
    """Write figures, each with its name, as PNG files; makes the folder."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures:
        written.append(target / f"{name}.png")
        figure.savefig(written[-1], dpi=150)
    return written


def set_frame(axis: Axes) -> None:
    """Give a diagram a faint grid, and axes on the left and below alone."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def wrapped(figure: Figure, text: str, size: int) -> str:
    """Break text into lines that fit a figure's width; size is that of the font, in points."""
    return textwrap.fill(text, int(figure.get_figwidth() * LINE / size))


def set_title(figure: Figure, text: str, size: int = 11) -> None:
    """Title a figure and lay it out, last of all."""
    figure.suptitle(wrapped(figure, text, size), fontsize=size)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)


def _by_share(model: NMF) -> tuple[Array, Array | None]:
    """Give the order of the components on a sheet, and their shares where they are known."""
    shares = getattr(model, "energy_shares_", None)
    if shares is None:
        return np.arange(model.n_components_), None
    return np.argsort(-shares, kind="stable"), shares


def _percent(share: float) -> str:
    """Write a share with two digits, and none for a component that is empty."""
    value = 100 * share
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 0.05 else "< 0.1 %"


def _what_is_lowered(model: NMF) -> str:
    """Name the square root of twice the objective."""
    if model.alpha_W or model.alpha_H not in ("same", 0):
        return f"√(2 ({model.beta_loss} loss + penalties))"
    if model.beta_loss in ("frobenius", 2):
        return "error  ‖X − WH‖"
    return f"error  √(2 D), {model.beta_loss}"


def drawable(image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape to draw an image in; a flat one of a square number of pixels is square."""
    if len(image_shape) == 2:
        return image_shape
    if len(image_shape) == 3 and image_shape[2] in (1, 3):
        return image_shape if image_shape[2] == 3 else image_shape[:2]
    side = math.isqrt(image_shape[0])
    if len(image_shape) == 1 and side * side == image_shape[0]:
        return side, side
    raise DataError(
        f"images of shape {image_shape} cannot be drawn; allowed are (h, w), (h, w, 3) and a "
        "square number of pixels: set model.image_shape_ = (h, w)"
    )
