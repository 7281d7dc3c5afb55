"""Resize images by averaging over areas, in their own depth and in linear time."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._typing import Array
from dnmf.io.sources.choices import Size

if TYPE_CHECKING:
    import scipy.sparse

PIXELS_AT_ONCE = 2**18
"""Pixels of a stack that are averaged at a time, so that their sums stay in the cache."""


def resize(images: Array, size: Size) -> Array:
    """Resize images; each new pixel is the average of the area that it covers.

    The new pixels divide the old image into equal areas. An old pixel on the border of two areas
    counts in both, with its share in each. Images can therefore also become larger.

    Parameters
    ----------
    images : ndarray of shape (n, h, w) or (n, h, w, channels)
        Integers or floats. NaN has no part in an average, and an area of nothing else is NaN.
    size : (h, w)
        New height and width.

    Returns
    -------
    ndarray
        Of the same dtype. Averages of integers are rounded once, halves upward.
    """
    if images.shape[1:3] == size:
        return images
    out = np.empty((len(images), *size, *images.shape[3:]), images.dtype)
    step = max(1, PIXELS_AT_ONCE // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        out[start : start + step] = _average(images[start : start + step], size)
    return out


def to_integers(numbers: Array, dtype: np.dtype[Any]) -> Array:
    """Round floats, halves upward, to integers of a dtype that can hold them."""
    largest = np.iinfo(dtype).max
    rounded = np.floor(numbers + numbers.dtype.type(0.5))
    with np.errstate(invalid="ignore"):  # the float next to the largest integer may be above it
        whole: Array = rounded.astype(dtype)
    if dtype.itemsize >= 4:
        whole[rounded >= largest] = largest
    return whole


def _average(images: Array, size: Size) -> Array:
    """Return the averages of a few images."""
    dtype = images.dtype
    sums = _sum_dtype(dtype, images.shape[1:3], size)
    total = _overlaps(images.shape[1], size[0], sums).sum(axis=1)[0]
    total *= _overlaps(images.shape[2], size[1], sums).sum(axis=1)[0]
    numbers = images.astype(sums)
    missing = np.isnan(numbers) if dtype.kind == "f" else np.False_
    if missing.any():
        weights = _add_areas((~missing).astype(sums), size)
        averages = _add_areas(np.where(missing, 0, numbers), size)
        averages = np.divide(
            averages, weights, out=np.full_like(weights, np.nan), where=weights > 0
        )
    else:
        averages = _add_areas(numbers, size) / total
    return averages.astype(dtype) if dtype.kind == "f" else to_integers(averages, dtype)


def _sum_dtype(dtype: np.dtype[Any], old: tuple[int, ...], new: Size) -> np.dtype[Any]:
    """Return float32 where it holds the sums over areas, without rounding if they are integers."""
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    pixels = math.prod(a // math.gcd(a, b) for a, b in zip(old, new, strict=True))
    return np.dtype(np.float32 if np.iinfo(dtype).max * pixels < 2**24 else np.float64)


def _add_areas(images: Array, size: Size) -> Array:
    """Add up the pixels of each area, by rows of pixels and then by columns."""
    n, h, w, *channels = images.shape
    by_row = np.moveaxis(images, 1, 0).reshape(h, -1)
    rows: Array = _overlaps(h, size[0], images.dtype) @ by_row
    by_column = np.moveaxis(rows.reshape(size[0], n, w, *channels), 2, 0).reshape(w, -1)
    sums: Array = _overlaps(w, size[1], images.dtype) @ by_column
    return np.moveaxis(sums.reshape(*size[::-1], n, *channels), 2, 0).swapaxes(1, 2)


@lru_cache(maxsize=64)
def _overlaps(old: int, new: int, dtype: np.dtype[Any]) -> scipy.sparse.csr_array:
    """Return the lengths that new pixels share with old ones, along an axis.

    Returns
    -------
    csr_array of shape (new, old)
        Whole numbers: the axis has the least length at which both kinds of pixels have whole ones.
    """
    from scipy.sparse import csr_array

    shared = math.gcd(old, new)
    of_old, of_new = new // shared, old // shared  # lengths of a pixel
    edges = np.union1d(np.arange(old + 1) * of_old, np.arange(new + 1) * of_new)
    starts = edges[:-1]
    return csr_array(
        (np.diff(edges).astype(dtype), (starts // of_new, starts // of_old)), shape=(new, old)
    )
