"""Figures of a model: its components, originals over their reconstructions, and its loss.

Each function returns a `matplotlib.figure.Figure` and leaves pyplot's global state alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnmf._typing import Array
from dnmf.errors import ParameterError
from dnmf.plot.images import drawable_shape, example_images, image_rows, relative_error
from dnmf.plot.style import BLUE, set_title, style_axes, write_figures

if TYPE_CHECKING:
    from dnmf.estimators.nmf import NMF
    from dnmf.storage.corpus import Corpus

COMPONENTS_CMAP = "magma"
"""Colour map of components: sequential, perceptually uniform, and black at zero."""

MAX_COMPONENTS = 100
"""Largest number of components that are drawn."""

LABEL_HEIGHT = 0.14
"""Height of a label under an image, in inches."""


def components(model: NMF, *, columns: int | None = None) -> Figure:
    """Draw the components as images, each on a scale from zero to its own maximum.

    Components are sorted by their shares of the reconstruction, in descending order, with the share
    of each under its image. Without shares, after `partial_fit` alone, they keep their order.

    Parameters
    ----------
    model : NMF
        Fitted model, of which at most 100 components are drawn.
    columns : int, optional
        Number of columns of the grid; by default the grid is square.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shown = min(model.n_components_, MAX_COMPONENTS)
    columns = columns or math.ceil(math.sqrt(shown))
    rows = math.ceil(shown / columns)
    shape = drawable_shape(model.image_shape_)
    order, shares = _order_by_share(model)
    width = max(0.9, 3.6 / columns)  # of an image, in inches
    label_height = 0.0 if shares is None else LABEL_HEIGHT
    height = rows * (width * shape[0] / shape[1] + label_height) + label_height + 0.4
    figure = Figure(figsize=(columns * width, height))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for axes, j in zip(grid, order[:shown], strict=False):
        image = model.components_[j].reshape(shape)
        top = float(image.max()) or 1.0
        axes.imshow(
            image / top if image.ndim == 3 else image, cmap=COMPONENTS_CMAP, vmin=0, vmax=top
        )
        if shares is not None:
            axes.set_xlabel(_format_share(shares[j]), fontsize=7, labelpad=2)
    if shares is not None:
        whole = "reconstruction's energy" if is_squared_error(model) else "reconstruction"
        figure.supxlabel(f"sorted by share of the {whole}", fontsize=8)
    note = f" (first {shown})" if shown < model.n_components_ else ""
    set_title(figure, f"{model.n_components_} components{note}")
    return figure


def reconstructions(model: NMF, images: Array, *, labels: Sequence[str] | None = None) -> Figure:
    """Draw originals over their reconstructions on one grey scale, with zero black.

    Parameters
    ----------
    model : NMF
        Fitted model.
    images : ndarray of shape (m, ...)
        Original images, flat or in the model's image shape.
    labels : sequence of str, optional
        Labels under the columns.

    Returns
    -------
    matplotlib.figure.Figure
    """
    flat = np.asarray(images).reshape(len(images), -1)
    reconstructed = model.inverse_transform(model.transform(flat))
    rows = {"original": flat, "reconstruction": reconstructed}
    figure = image_rows(rows, model.image_shape_, labels)
    error = relative_error(flat, reconstructed)
    set_title(
        figure,
        f"{model.n_components_} components, relative error of these images {100 * error:.1f} %",
    )
    return figure


def loss_curve(model: NMF) -> Figure:
    """Draw the error after each pass: the square root of twice the loss, penalties included.

    Parameters
    ----------
    model : NMF
        Fitted model.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ParameterError
        The model is from `partial_fit` alone, which records no losses.
    """
    if not hasattr(model, "loss_history_"):
        raise ParameterError("a model from partial_fit has no losses of passes to draw")
    errors = np.sqrt(2 * model.loss_history_)
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.plot(np.arange(1, len(errors) + 1), errors, marker="o", markersize=3.5, color=BLUE)
    axes.set(xlabel="pass over the corpus", ylabel=_error_label(model))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = axes.get_ylim()
    decimals = max(0, math.ceil(1 - math.log10(high - low)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.{decimals}f}")
    style_axes(axes)
    ends = {"converged": "converged", "max_iter": "stopped at max_iter"}
    set_title(
        figure,
        f"{model.n_components_} components: {errors[-1]:,.8g} after {model.n_iter_} passes "
        f"({model.n_reads_:.3g} reads), {ends.get(model.stop_reason_, 'unfinished')}",
        size=10,
    )
    return figure


def write_plots(
    model: NMF, folder: str | os.PathLike[str], corpus: Corpus | None = None, *, n_images: int = 12
) -> list[Path]:
    """Write all figures of a model as PNG files, replacing those that dnmf wrote before.

    Parameters
    ----------
    model : NMF
        Fitted model.
    folder : str or path
        Folder for the files, created where it is missing.
    corpus : Corpus, optional
        Source of the images that are drawn over their reconstructions. Without it that figure is
        left out.
    n_images : int, default 12
        Number of images to draw, at even distances in the corpus.

    Returns
    -------
    list of Path
        Paths of ``components.png``, ``loss.png``, unless the model is from `partial_fit` alone, and
        ``reconstructions.png``.

    Raises
    ------
    OutputExistsError
        One of the files exists, and dnmf did not write it.
    DataError (a ValueError)
        The corpus has images of another number of pixels, or the images cannot be drawn.
    """
    if corpus is not None:
        model._require_pixels_of(corpus)

    figures: dict[str, Callable[[], Figure]] = {"components": partial(components, model)}
    if hasattr(model, "loss_history_"):
        figures["loss"] = partial(loss_curve, model)
    if corpus is not None:
        images, labels = example_images(corpus, n_images)
        figures["reconstructions"] = partial(reconstructions, model, images, labels=labels)
    return write_figures(figures, folder)


def _order_by_share(model: NMF) -> tuple[Array, Array | None]:
    """Return the order in which components are drawn, and their shares or None."""
    shares = getattr(model, "energy_shares_", None)
    if shares is None or len(shares) != len(model.components_):  # a user has set components_
        return np.arange(model.n_components_), None
    return np.argsort(-shares, kind="stable"), shares


def _format_share(share: float) -> str:
    """Write a share as a percentage with two digits; zero only for an empty component."""
    percent = 100 * share
    if percent == 0 or percent >= 9.95:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"


def is_squared_error(model: NMF) -> bool:
    """Check whether the loss of a model is the squared error."""
    return model.beta_loss in ("frobenius", 2)


def _error_label(model: NMF) -> str:
    """Name the square root of twice the loss."""
    if model.alpha_W or model.alpha_H not in ("same", 0):
        return f"√(2 ({model.beta_loss} loss + penalties))"
    return "error  ‖X − WH‖" if is_squared_error(model) else f"error  √(2 D), {model.beta_loss}"
