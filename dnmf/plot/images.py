"""Rows of images side by side, such as originals over their reconstructions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from dnmf._typing import Array
from dnmf.errors import DataError

if TYPE_CHECKING:
    from dnmf.storage.corpus import Corpus


def image_rows(
    rows: Mapping[str, Array], image_shape: tuple[int, ...], labels: Sequence[str] | None
) -> Figure:
    """Draw rows of images on one grey scale, from zero to the maximum of the first row.

    Missing pixels of grey images stay white.

    Parameters
    ----------
    rows : dict of str to ndarray of shape (m, p)
        Images of each row under the name of the row.
    image_shape : tuple of int
    labels : sequence of str or None
        Labels under the columns.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes are those of the first row, then those of the second, and so on.
    """
    first = next(iter(rows.values()))
    shape = drawable_shape(image_shape)
    top = float(np.nan_to_num(first).max()) or 1.0
    figure = Figure(figsize=(0.9 * len(first) + 1.1, 0.9 * len(rows) * shape[0] / shape[1] + 0.7))
    grid = figure.subplots(len(rows), len(first), squeeze=False)
    for row, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.set(xticks=[], yticks=[], frame_on=False)
            axes.imshow(np.clip(image / top, 0, 1).reshape(shape), cmap="gray", vmin=0, vmax=1)
        row[0].set_ylabel(
            name, rotation=0, horizontalalignment="right", verticalalignment="center", fontsize=10
        )
    for axes, label in zip(grid[-1], labels or [], strict=False):
        axes.set_xlabel(label, fontsize=7)
    return figure


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


def example_images(corpus: Corpus, n_images: int) -> tuple[Array, list[str]]:
    """Read images at even distances in a corpus; return them and their rows as labels."""
    rows = np.linspace(0, len(corpus) - 1, min(n_images, len(corpus))).astype(int)
    return corpus.images(rows), [str(row) for row in rows]
