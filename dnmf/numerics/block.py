"""Blocks of images with their masks and weights, and the checks of their pixels.

A `Block` is what a task gets: some rows of X in the stored dtype. `Block.strips` converts it to
floating point a few images at a time. `assemble` builds a block and sets masked pixels to 0, before
any arithmetic, so that their values have no influence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.numerics.compiled import compiled

ALL_WEIGHTS_ZERO = "all sample weights are zero; at least one image needs a positive weight"
"""Message of the error for sample weights that sum to zero."""

STRIP_PIXELS, STRIP_ROWS = 2**23, (128, 1024)
"""Pixels of a strip, and its smallest and largest number of images. A strip stays in cache, or in
32 MiB of float32, where a block would not."""


class InvalidPixel(NamedTuple):
    """Entry of X that cannot be factorised; entries sort in reading order."""

    row: int
    pixel: int
    value: float


class Strip(NamedTuple):
    """Some images of a block in floating point.

    Attributes
    ----------
    X : ndarray of shape (b, p)
        Images, 0 where not observed.
    observed : ndarray of shape (b, p), bool, or None
        Whether a pixel is observed; None if all are.
    weights : ndarray of shape (b,), float64, or None
        Weights of the images; None if all are 1.
    norms : ndarray of shape (b,), float64
        ``||x||^2`` of each image.
    pixel_norms : ndarray of shape (p,), float64
        Sum of x^2 over the images for each pixel, weighted.
    """

    X: Array
    observed: Array | None
    weights: Array | None
    norms: Array
    pixel_norms: Array

    @property
    def observed_mask(self) -> Array:
        """Whether a pixel is observed, also where all are, as an ndarray of shape (b, p)."""
        return np.ones(self.X.shape, bool) if self.observed is None else self.observed


@dataclass(frozen=True)
class Block:
    """Rows of X with their position, mask and weights.

    Attributes
    ----------
    X : ndarray of shape (b, p)
        Images in the stored dtype, 0 where not observed.
    start : int
        Row of ``X[0]`` in the whole of X.
    observed : ndarray of shape (b, p), bool, or None
        Whether a pixel is observed; None if all are.
    weights : ndarray of shape (b,), float64, or None
        Weights of the images; None if all are 1.
    rows : ndarray of shape (b,), int64, or None
        Row of each image in the whole of X; None if they are consecutive.
    """

    X: Array
    start: int = 0
    observed: Array | None = None
    weights: Array | None = None
    rows: Array | None = None

    def __len__(self) -> int:
        return int(self.X.shape[0])

    @property
    def total_weight(self) -> float:
        """Sum of the weights of the images."""
        return float(len(self.X) if self.weights is None else self.weights.sum())

    @property
    def row_numbers(self) -> Array:
        """Row of each image in the whole of X."""
        return self.start + np.arange(len(self)) if self.rows is None else self.rows

    def with_row_numbers(self) -> Block:
        """Set `rows`, so that `take` keeps track of where images come from."""
        return replace(self, rows=self.row_numbers)

    def take(self, rows: Any) -> Block:
        """Select images; without `with_row_numbers` their rows in the whole of X are lost."""
        optional = (self.observed, self.weights, self.rows)
        observed, weights, numbers = (None if part is None else part[rows] for part in optional)
        return Block(self.X[rows], self.start, observed, weights, numbers)

    def strips(self, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Strip]]:
        """Convert the block to a floating-point dtype in strips, which share one buffer.

        Parameters
        ----------
        dtype : dtype

        Yields
        ------
        rows : slice
            Rows of the block that make up the strip.
        strip : Strip
            Valid until the next one is requested.
        """
        step = max(min(strip_rows(self.X.shape[1]), len(self)), 1)
        buffer = None
        if self.X.dtype != dtype or not self.X.flags.c_contiguous:
            buffer = np.empty((step, self.X.shape[1]), dtype)
        for first in range(0, len(self), step):
            rows = slice(first, min(first + step, len(self)))
            part = self.take(rows)
            X = part.X
            if buffer is not None:
                X = buffer[: len(part)]
                np.copyto(X, part.X, casting="same_kind")
            weights = np.ones(len(X)) if part.weights is None else part.weights
            yield rows, Strip(X, part.observed, part.weights, *squared_norms(X, weights))


def strip_rows(n_pixels: int) -> int:
    """Choose the number of images of a strip; results depend on it, so only on the pixels."""
    return min(max(STRIP_PIXELS // n_pixels, STRIP_ROWS[0]), STRIP_ROWS[1])


def equal_mask_slices(observed: Array) -> list[slice]:
    """Cut images into runs of consecutive ones with equal masks.

    Parameters
    ----------
    observed : ndarray of shape (b, p), bool

    Returns
    -------
    list of slice
        Rows of each run.
    """
    changes = (observed[1:] != observed[:-1]).any(axis=1)
    edges = [0, *(1 + np.flatnonzero(changes)).tolist(), len(observed)]
    return [slice(*edge) for edge in pairwise(edges)]


@dataclass(frozen=True)
class PixelRules:
    """Which values pixels may have.

    Attributes
    ----------
    nan_is_missing : bool
        Whether NaN marks a missing pixel; otherwise it is invalid.
    positive : bool
        Whether 0 is invalid, too: divergences with beta <= 0 are infinite there.
    check : bool
        Whether pixels are checked.
    weight_unit : float
        Power of four that weights of images are divided by. It changes no bit of H, and keeps sums
        of very small and very large weights within the range of float32.
    """

    nan_is_missing: bool = False
    positive: bool = False
    check: bool = True
    weight_unit: float = 1.0


DEFAULT_RULES = PixelRules()
"""Rules for pixels that must be finite and non-negative."""


def assemble(
    X: Array, start: int, weights: Array | None, mask: Array | None, rules: PixelRules
) -> Block | InvalidPixel:
    """Build a block from its arrays, or return its first invalid pixel.

    Parameters
    ----------
    X : ndarray of shape (b, p)
    start : int
        Row of ``X[0]`` in the whole of X.
    weights : ndarray of shape (b,) or None
    mask : ndarray of shape (b, p) or None
        True where a pixel is to be ignored.
    rules : PixelRules

    Returns
    -------
    Block or InvalidPixel

    Raises
    ------
    DataError
        The mask has another shape than X, or weights are negative or not finite.
    """
    observed = None if mask is None else ~_boolean(mask, X.shape, start)
    if rules.nan_is_missing and X.dtype.kind == "f":
        known = ~np.isnan(X)
        observed = known if observed is None else observed & known
    if observed is not None:
        if observed.all():
            observed = None
        else:
            X = np.where(observed, X, X.dtype.type(0))
    if rules.check and (invalid := find_invalid(X, start, observed, rules.positive)):
        return invalid
    if weights is not None:
        weights = valid_weights(weights, start) / rules.weight_unit
    return Block(X, start, observed, weights)


def checked_block(
    X: Array, start: int, weights: Array | None, mask: Array | None, rules: PixelRules
) -> Block:
    """Build a block as `assemble` does, or raise DataError for its first invalid pixel."""
    block = assemble(X, start, weights, mask, rules)
    if isinstance(block, InvalidPixel):
        raise invalid_pixel_error(block, image_number)
    return block


def invalid_pixel_error(invalid: InvalidPixel, image_name: Callable[[int], str]) -> DataError:
    """Return the error for a pixel, in words that callers of scikit-learn look for.

    Parameters
    ----------
    invalid : InvalidPixel
    image_name : callable ``(row) -> str``
    """
    row, pixel, value = invalid
    where = f"the first is {value:g} at pixel {pixel} of {image_name(row)}"
    if value == 0:
        return DataError(
            "When beta_loss <= 0 and X contains zeros, the solver may diverge. Please add small "
            f"values to X, or use a positive beta_loss: {where}"
        )
    advice = "; missing='ignore' ignores NaN pixels" if np.isnan(value) else ""
    kind = "Input X contains infinity"
    if value < 0:
        kind = "Negative values in data passed to NMF"
    elif np.isnan(value):
        kind = "Input X contains NaN or infinity"
    return DataError(
        f"{kind}: {where}; pixels must be finite and non-negative: mend or leave out such "
        f"images{advice}"
    )


def image_number(row: int) -> str:
    """Return the name of an image that has no id."""
    return f"image {row}"


def _boolean(mask: Array, shape: tuple[int, ...], start: int) -> Array:
    if mask.shape != shape:
        raise DataError(
            f"the mask has {mask.shape} entries for {shape} pixels in the rows from {start}; it "
            "must have the shape of X"
        )
    return mask.astype(bool, copy=False)


def valid_weights(weights: Array, start: int = 0) -> Array:
    """Return weights of images in float64; raise DataError for one that is negative or not finite.

    Parameters
    ----------
    weights : ndarray of shape (b,)
    start : int
        Row of the first image in the whole of X, for the message.
    """
    weights = np.asarray(weights, np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        row = start + int(np.argmin(np.isfinite(weights) & (weights >= 0)))
        raise DataError(
            f"Negative values in data passed to `sample_weight`, or not finite: image {row} has "
            f"{weights[row - start]:g}; weights must be finite and >= 0"
        )
    return weights


def valid_pixels(X: Array, observed: Array | None, positive: bool) -> Array:
    """Check for each pixel whether it is valid or missing; returns an ndarray of X's shape."""
    valid: Array = (X > 0 if positive else X >= 0) & (np.inf > X)
    return valid if observed is None else valid | ~observed


def find_invalid(
    X: Array, first_row: int, observed: Array | None = None, positive: bool = False
) -> InvalidPixel | None:
    """Find the first negative, NaN or infinite entry in reading order.

    Parameters
    ----------
    X : ndarray of shape (b, p)
        Images, 0 where not observed.
    first_row : int
        Row of ``X[0]`` in the whole of X.
    observed : ndarray of shape (b, p), bool, optional
        Whether a pixel is observed; all are by default.
    positive : bool
        Whether observed zeros are invalid, too.

    Returns
    -------
    InvalidPixel or None
    """
    if X.size == 0 or (X.dtype.kind in "bu" and not positive):
        return None
    low = X.min(initial=1, where=True if observed is None else observed)
    if (low > 0 if positive else low >= 0) and X.max() < np.inf:  # False for NaN as well
        return None
    valid = valid_pixels(X, observed, positive)
    if valid.all():
        return None
    row, pixel = np.argwhere(~valid)[0]
    return InvalidPixel(first_row + int(row), int(pixel), float(X[row, pixel]))


@compiled(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def squared_norms(X, weights):  # type: ignore[no-untyped-def]
    """Compute the sums of x^2 of every image and of every pixel, in float64.

    The loss is a small difference of large sums, and a float32 sum of a thousand squares of one
    bright value is off by 1e-5 of it, always to the same side. Infinities and NaN are kept, so that
    an overflow shows.

    Parameters
    ----------
    X : ndarray of shape (b, p)
    weights : ndarray of shape (b,), float64
        Weights of the images in the sums of pixels.

    Returns
    -------
    images : ndarray of shape (b,), float64
        ``||x||^2`` of each image, without its weight.
    pixels : ndarray of shape (p,), float64
        Sum of x^2 over the images for each pixel, weighted.
    """
    images, pixels = np.zeros(X.shape[0]), np.zeros(X.shape[1])
    for i in range(X.shape[0]):
        weight, total = weights[i], 0.0
        for j in range(X.shape[1]):
            square = np.float64(X[i, j]) ** 2
            total += square
            pixels[j] += weight * square
        images[i] = total
    return images, pixels


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to compute in: float64 for float64 pixels, float32 for all others."""
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize >= 8 else np.float32)
