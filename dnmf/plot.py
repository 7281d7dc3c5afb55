"""Pictures: the components, originals over reconstructions, the loss.

Each function returns a `matplotlib.figure.Figure` and touches no global state of pyplot's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnmf.errors import DataError, ParameterError
from dnmf.validation import require_same_pixels

if TYPE_CHECKING:
    from dnmf.corpus import Corpus
    from dnmf.estimator import NMF

Array = np.ndarray[Any, np.dtype[Any]]

COMPONENTS_CMAP = "magma"
"""Sequential, perceptually even, black at zero: where a component has nothing, nothing shows."""

MAX_COMPONENTS = 100


def components(model: NMF, *, columns: int | None = None) -> Figure:
    """Draw the components as images, each scaled from zero to its own maximum.

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
    shape = _drawable(model.image_shape_)
    cell = max(0.9, 3.6 / columns)  # inches
    figure = Figure(figsize=(columns * cell, rows * cell * shape[0] / shape[1] + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for j, axis in enumerate(axes):
        axis.set_axis_off()
        if j < shown:
            image = model.components_[j].reshape(shape)
            top = float(image.max()) or 1.0
            axis.imshow(
                image / top if image.ndim == 3 else image, cmap=COMPONENTS_CMAP, vmin=0, vmax=top
            )
    more = f" (first {shown})" if shown < model.n_components_ else ""
    _title(figure, f"{model.n_components_} components{more}")
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
    shape = _drawable(model.image_shape_)
    again = model.inverse_transform(model.transform(flat))
    top = float(flat.max()) or 1.0
    figure = Figure(figsize=(0.9 * len(flat) + 1.1, 1.8 * shape[0] / shape[1] + 0.7))
    axes = figure.subplots(2, len(flat), squeeze=False)
    for row, (name, pictures) in enumerate((("original", flat), ("reconstruction", again))):
        for column, picture in enumerate(pictures):
            axis = axes[row, column]
            axis.set(xticks=[], yticks=[], frame_on=False)
            axis.imshow(np.clip(picture / top, 0, 1).reshape(shape), cmap="gray", vmin=0, vmax=1)
            if labels is not None and row == 1:
                axis.set_xlabel(labels[column], fontsize=7)
        axes[row, 0].set_ylabel(
            name, rotation=0, horizontalalignment="right", verticalalignment="center", fontsize=10
        )
    error = np.linalg.norm(flat - again) / (np.linalg.norm(flat) or 1.0)
    _title(figure, f"{model.n_components_} components, relative error of these images {error:.1%}")
    return figure


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
    axis.plot(np.arange(1, len(errors) + 1), errors, marker="o", markersize=3.5, color="#31688e")
    axis.set(xlabel="pass over the corpus", ylabel=_what_is_lowered(model))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = axis.get_ylim()
    decimals = max(0, math.ceil(1 - math.log10(high - low)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.{decimals}f}")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    reason = {"converged": "converged", "max_iter": "stopped at max_iter"}
    _title(
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
        require_same_pixels(model, corpus)
        rows = np.linspace(0, len(corpus) - 1, min(n_images, len(corpus))).astype(int)
        labels = [str(row) for row in rows]
        figures["reconstructions"] = reconstructions(model, corpus.images(rows), labels=labels)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        written.append(target / f"{name}.png")
        figure.savefig(written[-1], dpi=150)
    return written


def _what_is_lowered(model: NMF) -> str:
    """Name the square root of twice the objective."""
    if model.alpha_W or model.alpha_H not in ("same", 0):
        return f"√(2 ({model.beta_loss} loss + penalties))"
    if model.beta_loss in ("frobenius", 2):
        return "error  ‖X − WH‖"
    return f"error  √(2 D), {model.beta_loss}"


def _drawable(image_shape: tuple[int, ...]) -> tuple[int, ...]:
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


def _title(figure: Figure, text: str, size: int = 11) -> None:
    figure.suptitle(text, fontsize=size)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)
