"""The scale of `sample_weight`, which may be any; sums are computed with weights of about 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError

LARGEST_WEIGHTS, LAZY_WEIGHTS = (1e-200, 1e200), (1e-15, 1e15)
"""Allowed range of the largest weight of an image, and of every weight that is not 0 and is read in
blocks, where the largest is not known in time."""


def weight_unit(weights: Any) -> float:
    """Return the power of four just below the largest weight; 1 if X is lazy or has no weights.

    It is a power of four because sums take square roots of weights: the root of another power of
    two would change bits.

    Raises
    ------
    DataError
        If losses would not be numbers that float64 holds.
    """
    if not (isinstance(weights, np.ndarray) and weights.size):
        return 1.0
    largest = float(weights.max())
    require_range("the largest", largest, LARGEST_WEIGHTS)
    return float(4.0 ** ((int(np.frexp(largest)[1]) - 1) // 2))


def require_range(which: str, weight: float, allowed: tuple[float, float]) -> None:
    """Raise DataError if a weight is out of a range."""
    low, high = allowed
    if not low <= weight <= high:
        raise DataError(
            f"sample_weight: {which} is {weight:g}, outside {low:g} to {high:g}; multiply all "
            "weights by one number, which changes only the scale of the loss"
        )


def in_range(weights: Array, start: int) -> Array:
    """Return weights from outside memory; raise DataError if float32 cannot add one up."""
    low, high = LAZY_WEIGHTS
    outside = np.flatnonzero((weights > 0) & ((weights < low) | (weights > high)))
    if outside.size:
        require_range(f"that of image {start + outside[0]}", weights[outside[0]], LAZY_WEIGHTS)
    return weights
