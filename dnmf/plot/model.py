"""Figures of a model: its components, originals over their reconstructions, and its loss.

Each function returns a `matplotlib.figure.Figure` and leaves pyplot's global state alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnmf._access import StorageOptions, remember_options
from dnmf._format import format_share
from dnmf._typing import Array
from dnmf.errors import ParameterError
from dnmf.plot.images import (
    N_EXAMPLES,
    choose_images,
    drawable_shape,
    image_rows,
    relative_error,
    relative_errors,
)
from dnmf.plot.style import (
    BLUE,
    GREY,
    LABEL_HEIGHT,
    count_components,
    set_title,
    style_axes,
    wrap,
    write_figures,
)

if TYPE_CHECKING:
    from dnmf.estimators.nmf import NMF
    from dnmf.storage.corpus import Corpus

COMPONENTS_CMAP = "magma"
"""Colour map of components: sequential, perceptually uniform, and black at zero."""

MAX_COMPONENTS = 100
"""Largest number of components that are drawn."""

LEAST_RANGE = 0.02
"""Smallest range of a loss curve, as a share of its end, so that small changes look small."""


def components(model: NMF, *, columns: int | None = None) -> Figure:
    """Draw the components as images, each on a scale from zero to its own maximum.

    Images are sorted by their share of the reconstruction, the largest first. Below each are its
    number j (its weights are column j of W) and its share. After `partial_fit` alone there are no
    shares, and the images keep their order.

    Parameters
    ----------
    model : NMF
        Fitted model. At most 100 components are drawn.
    columns : int, optional
        Number of columns of the grid; by default the grid is square.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    shown = min(model.n_components_, MAX_COMPONENTS)
    columns = columns or math.ceil(math.sqrt(shown))
    rows = math.ceil(shown / columns)
    shape = drawable_shape(model.image_shape_)
    order, shares = order_by_share(model)
    width = max(0.9, 3.6 / columns)  # of an image, in inches
    height = rows * (width * shape[0] / shape[1] + LABEL_HEIGHT) + 3 * LABEL_HEIGHT + 0.4
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
        label = f"{j}" if shares is None else f"{j} · {format_share(shares[j])}"
        axes.set_xlabel(label, fontsize=7, labelpad=2)
    note = "number j of each component, as in W[:, j]"
    if shares is not None:
        whole = "reconstruction's energy" if is_squared_error(model) else "reconstruction"
        note = f"{note}; sorted by share of the {whole}"
    figure.supxlabel(wrap(figure, note, 8), fontsize=8)
    note = f" (first {shown})" if shown < model.n_components_ else ""
    set_title(figure, f"{count_components(model.n_components_)}{note}")
    return figure


def reconstructions(
    model: NMF,
    images: Any,
    *,
    rows: slice | Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    scale: str = "image",
) -> Figure:
    """Draw originals over their reconstructions, and the difference of the two.

    Parameters
    ----------
    model : NMF
        Fitted model.
    images : Corpus or array-like of shape (m, ...)
        Images, flat or in the image shape of the model.
    rows : slice or sequence of int, optional
        Numbers of the images to draw. By default all of an array of up to 24 images, else 12 at
        even distances.
    labels : sequence of str, optional
        Labels under the columns. By default the numbers of the images and the ids of a corpus. The
        relative error of each image is added.
    scale : "image" or "common", default "image"
        Whether white is the maximum of each original, or the maximum of all originals.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ParameterError
        If `rows` or `scale` is out of its range.
    DataError (a ValueError)
        If the images have another number of pixels than the model, or cannot be drawn.
    """
    flat, names = choose_images(images, rows)
    reconstructed = model.inverse_transform(model.transform(flat))
    errors = relative_errors(flat, reconstructed)
    captions = names if labels is None else labels
    figure = image_rows(
        {"original": flat, "reconstruction": reconstructed},
        model.image_shape_,
        [f"{name}\n{100 * e:.1f} %" for name, e in zip(captions, errors, strict=False)],
        scale=scale,
        residual=True,
    )
    error = relative_error(flat, reconstructed)
    counted = count_components(model.n_components_)
    set_title(figure, f"{counted}, relative error of these images {100 * error:.1f} %")
    return figure


def loss_curve(model: NMF) -> Figure:
    """Draw the error after each pass: the square root of twice the loss, penalties included.

    The horizontal axis counts reads of X. A band shows the reads of the warm start, whose error is
    not known. The axis of errors spans at least 2 % of the last error.

    Parameters
    ----------
    model : NMF
        Fitted model.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ParameterError
        If the model has no losses, because it is from `partial_fit` alone or its components were
        edited.
    """
    if not hasattr(model, "loss_history_"):
        raise ParameterError(
            "the model has no losses of passes to draw: it is from partial_fit, or was saved with "
            "components that were not those of its fit"
        )
    errors = np.sqrt(2 * model.loss_history_)
    start = max(0.0, model.n_reads_ - model.n_iter_)
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.axvspan(0, start, color=GREY, alpha=0.25, linewidth=0, label="warm start, on a sample")
    reads = start + np.arange(1, len(errors) + 1)
    axes.plot(reads, errors, marker="o", markersize=3.5, color=BLUE, label="after each pass")
    axes.set(xlabel="reads of the corpus", ylabel=error_label(model), xlim=(0, reads[-1] + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _set_error_range(axes, errors)
    axes.legend(fontsize=8, frameon=False)
    style_axes(axes)
    ends = {"converged": "converged", "max_iter": "stopped at max_iter"}
    set_title(
        figure,
        f"{count_components(model.n_components_)}: {errors[-1]:,.8g} after {model.n_iter_} passes "
        f"({model.n_reads_:.3g} reads), {ends.get(model.stop_reason_, 'unfinished')}",
        size=10,
    )
    return figure


def _set_error_range(axes: Axes, errors: Array) -> None:
    """Set the range of the axis of errors, and as many decimals as its ticks need."""
    low, high = float(errors.min()), float(errors.max())
    spare = max(0.05 * (high - low), (LEAST_RANGE * high - (high - low)) / 2) or 0.5
    axes.set_ylim(max(0.0, low - spare), high + spare)
    low, high = axes.get_ylim()
    decimals = max(0, math.ceil(1 - math.log10(high - low)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.{decimals}f}")


def write_plots(
    model: NMF,
    folder: str | os.PathLike[str],
    corpus: Corpus | None = None,
    *,
    n_images: int = N_EXAMPLES,
    rows: slice | Sequence[int] | None = None,
    storage_options: StorageOptions = None,
) -> list[Path | str]:
    """Write all figures of a model as PNG files, replacing those that dnmf wrote before.

    Parameters
    ----------
    model : NMF
        Fitted model.
    folder : str or path
        Folder or URL for the files; it is created if it is missing.
    corpus : Corpus, optional
        Source of the images that are drawn over their reconstructions. Without it there is no such
        figure.
    n_images : int, default 12
        Number of images to draw, at even distances in the corpus.
    rows : slice or sequence of int, optional
        Rows of the images to draw instead.
    storage_options : dict, optional
        Options of the file system behind a URL, as in `dnmf.open_corpus`.

    Returns
    -------
    list of Path, or of str for URLs
        Paths of ``components.png``, ``loss.png`` (unless the model is from `partial_fit` alone) and
        ``reconstructions.png`` (with a corpus).

    Raises
    ------
    OutputExistsError
        If one of the files exists, and dnmf did not write it.
    DataError (a ValueError)
        If the corpus has images of another number of pixels, or the images cannot be drawn.
    """
    remember_options(storage_options, folder)
    if corpus is not None:
        model._require_pixels_of(corpus)

    figures: dict[str, Callable[[], Figure]] = {"components": partial(components, model)}
    if hasattr(model, "loss_history_"):
        figures["loss"] = partial(loss_curve, model)
    if corpus is not None:
        images, labels = choose_images(corpus, rows, n_images)
        figures["reconstructions"] = partial(
            reconstructions, model, images, rows=slice(None), labels=labels
        )
    return write_figures(figures, folder)


def order_by_share(model: NMF) -> tuple[Array, Array | None]:
    """Return the order in which components are drawn, and their shares or None."""
    shares = getattr(model, "energy_shares_", None)
    if shares is None or len(shares) != len(model.components_):  # a user has set components_
        return np.arange(model.n_components_), None
    return np.argsort(-shares, kind="stable"), shares


def is_squared_error(model: NMF) -> bool:
    """Check whether the loss of a model is the squared error."""
    return model.beta_loss in ("frobenius", 2)


def error_label(model: NMF) -> str:
    """Name the square root of twice the loss."""
    if model.alpha_W or model.alpha_H not in ("same", 0):
        return f"√(2 ({model.beta_loss} loss + penalties))"
    return "error  ‖X − WH‖" if is_squared_error(model) else f"error  √(2 D), {model.beta_loss}"
