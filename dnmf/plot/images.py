"""Rows of images side by side, such as originals over their reconstructions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnmf._typing import Array
from dnmf.errors import DataError, ParameterError
from dnmf.plot.style import LABEL_HEIGHT
from dnmf.storage.corpus import Corpus

N_EXAMPLES = 12
"""Number of images that are drawn of many."""

MOST_IMAGES = 24
"""Largest array, in images, of which all images are drawn."""

MOST_COLUMNS = 100
"""Largest number of images side by side."""

ID_CHARACTERS = 13
"""Characters of an id that fit under an image."""


def image_rows(
    rows: Mapping[str, Array],
    image_shape: tuple[int, ...],
    labels: Sequence[str],
    *,
    scale: str = "image",
    residual: bool = False,
) -> Figure:
    """Draw rows of images in grey or in their colours, with zero black.

    Missing pixels of grey images stay white.

    Parameters
    ----------
    rows : dict of str to ndarray of shape (m, p)
        Images of each row under the name of the row; the first row has the originals.
    image_shape : tuple of int
    labels : sequence of str
        Labels under the columns; fewer than there are columns, or none, are allowed.
    scale : "image" or "common", default "image"
        Whether white is the maximum of the original in each column, or of all originals.
    residual : bool, default False
        Whether to draw a last row with the first row minus the second.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes are those of the first row, then those of the second, and so on.

    Raises
    ------
    ParameterError
        If `scale` is something else.
    """
    if scale not in ("image", "common"):
        raise ParameterError(f"scale is {scale!r}; it must be 'image' or 'common'")
    first, shape = next(iter(rows.values())), drawable_shape(image_shape)
    tops = np.nan_to_num(first).max(axis=1, keepdims=True)
    tops = np.where(tops > 0, tops, 1.0) if scale == "image" else float(tops.max()) or 1.0
    n_rows, n_columns = len(rows) + residual, len(first)
    lines = max((label.count("\n") + 1 for label in labels), default=0)
    height = 0.9 * n_rows * shape[0] / shape[1] + 0.7 + LABEL_HEIGHT * max(0, lines - 1)
    figure = Figure(figsize=(0.9 * n_columns + 1.1, height))
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for row, (name, images) in zip(grid, rows.items(), strict=False):
        _draw_row(row, name, np.clip(images / tops, 0, 1).reshape(-1, *shape))
    if residual:
        original, reconstructed = list(rows.values())[:2]
        _draw_residuals(grid[-1], ((original - reconstructed) / tops).reshape(-1, *shape))
    for axes, label in zip(grid[-1], labels, strict=False):
        axes.set_xlabel(label, fontsize=7)
    return figure


def _draw_row(
    row: Sequence[Axes],
    name: str,
    images: Array,
    cmap: str = "gray",
    limits: tuple[float, float] = (0, 1),
) -> None:
    for axes, image in zip(row, images, strict=True):
        axes.set(xticks=[], yticks=[], frame_on=False)
        axes.imshow(image, cmap=cmap, vmin=limits[0], vmax=limits[1])
    row[0].set_ylabel(
        name, rotation=0, horizontalalignment="right", verticalalignment="center", fontsize=10
    )


def _draw_residuals(row: Sequence[Axes], residuals: Array) -> None:
    """Draw signed residuals, given as shares of the maximum of their originals.

    Red means that the reconstruction is too dark, blue that it is too bright; the label of the row
    says the scale. Residuals of colour images are drawn around grey.
    """
    most = _round_up(float(np.abs(np.nan_to_num(residuals)).max()))
    name = f"residual\n±{100 * most:.3g} %"
    if residuals.ndim == 4:
        _draw_row(row, name, np.clip(0.5 + residuals / (2 * most), 0, 1))
    else:
        _draw_row(row, name, residuals, "RdBu_r", (-most, most))


def _round_up(share: float) -> float:
    """Return the next of 1, 2 and 5 times a power of ten that is not below a share."""
    if share <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(share))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= share * (1 - 1e-9))


def drawable_shape(image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape to draw images in: (h, w) or (h, w, 3).

    Flat images are square if they have a square number of pixels.

    Raises
    ------
    DataError
        Images of that shape cannot be drawn.
    """
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


def relative_error(images: Array, reconstructed: Array) -> float:
    """Compute ``||X - X'|| / ||X||`` over the pixels that are not NaN."""
    residual = np.linalg.norm(np.nan_to_num(images - reconstructed))
    return float(residual / (np.linalg.norm(np.nan_to_num(images)) or 1.0))


def relative_errors(images: Array, reconstructed: Array) -> list[float]:
    """Compute the relative error of each image."""
    return [relative_error(*pair) for pair in zip(images, reconstructed, strict=True)]


def choose_images(
    images: Any, rows: slice | Sequence[int] | None, n_images: int = N_EXAMPLES
) -> tuple[Array, list[str]]:
    """Read the images that are to be drawn, and name them.

    Parameters
    ----------
    images : Corpus or array-like of shape (n, ...)
        Also a sparse matrix, and an array outside memory, of which only these rows are read.
    rows : slice or sequence of int, optional
        Which images; by default all of an array of up to `MOST_IMAGES`, else `n_images` of them, at
        even distances.
    n_images : int

    Returns
    -------
    images : ndarray of shape (m, p)
    labels : list of str
        Row of each, and of a corpus its id, or the end of it.

    Raises
    ------
    ParameterError
        If no image is chosen, or one that does not exist.
    """
    images = images.to_numpy() if hasattr(images, "iloc") else images
    n = images.shape[0] if hasattr(images, "shape") else len(images)
    if rows is None:
        all_of_it = n <= MOST_IMAGES and not isinstance(images, Corpus)
        numbers = np.linspace(0, n - 1, n if all_of_it else min(n_images, n)).astype(int)
    else:
        numbers = np.atleast_1d(_numbers(rows, n))
    if not 0 < len(numbers) <= MOST_COLUMNS:
        raise ParameterError(
            f"rows {rows} select {len(numbers)} of {n} images; from 1 to {MOST_COLUMNS} can be "
            "drawn side by side"
        )
    if isinstance(images, Corpus):
        labels = [f"{row}\n{_end_of(images.id_of(int(row)))}" for row in numbers]
        return images.images(numbers).reshape(len(numbers), -1), labels
    return np.stack([_dense(images[int(row)]).ravel() for row in numbers]), list(map(str, numbers))


def _numbers(rows: slice | Sequence[int], n: int) -> Array:
    try:
        return np.arange(n)[rows]
    except IndexError as error:
        raise ParameterError(f"rows {rows} are not all there: there are {n} images") from error


def _dense(image: Any) -> Array:
    return np.asarray(image.toarray() if hasattr(image, "toarray") else image)


def _end_of(name: str) -> str:
    return name if len(name) <= ID_CHARACTERS else f"…{name[1 - ID_CHARACTERS :]}"
