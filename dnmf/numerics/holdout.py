"""Cells of X that are hidden from a model, to ask it about them later, and images drawn again.

Both are hashes of row and pixel numbers, so nothing is stored, any block can be resampled where it
is read, and the same cells are hidden wherever and whenever that is.

Images fall into `GROUPS` groups, and so do pixels; a cell is hidden where the sum of both groups,
modulo their number, is small. So the same share is hidden of every image, to one pixel, and of
every pixel, to chance; and the images of a group share their mask: it costs one Gram matrix, not
one per image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.beta import FLOOR, divergences
from dnmf.numerics.block import Block, compute_dtype
from dnmf.numerics.statistics import Basis

GROUPS = 20
"""Of images, and of pixels: shares of hidden cells are multiples of one in so many."""

BUCKETS = 64
"""Of images, by whose errors the error of their mean is known."""

_IMAGES, _PIXELS, _DRAWS, _BUCKETS = range(4)


@dataclass(frozen=True)
class Holdout:
    """Hides cells of a block and weighs its images as a bootstrap sample does.

    Attributes
    ----------
    seed : int
    share : float
        Of the cells, hidden; from 1 / `GROUPS` up.
    """

    seed: int
    share: float

    @cached_property
    def n_hidden_groups(self) -> int:
        """Of the groups of pixels, how many are hidden from an image."""
        return max(1, round(self.share * GROUPS))

    def hidden_pixels(self, n_pixels: int) -> Array:
        """Tell which pixels are hidden from the images of each group, (GROUPS, p), bool."""
        order = np.argsort(hash_numbers(self.seed, _PIXELS, np.arange(n_pixels)), kind="stable")
        groups = np.empty(n_pixels, np.int64)
        groups[order] = np.arange(n_pixels) * GROUPS // n_pixels
        shifted: Array = (np.arange(GROUPS)[:, None] + groups) % GROUPS
        return shifted < self.n_hidden_groups

    def __call__(self, block: Block) -> HeldOutBlock:
        """Resample a block; its images are put in the order of their groups."""
        block = block.with_row_numbers()  # before it is sorted
        groups = self._groups(block)
        order = np.argsort(groups, kind="stable")
        whole, groups = block.take(order), groups[order]
        hidden_pixels = self.hidden_pixels(block.X.shape[1])
        visible = ~hidden_pixels[groups]
        observed = visible if whole.observed is None else whole.observed & visible
        draws = self._draws(whole)
        shown = replace(
            whole,
            X=np.where(observed, whole.X, whole.X.dtype.type(0)),
            observed=observed,
            weights=draws if whole.weights is None else draws * whole.weights,
        )
        return HeldOutBlock(shown, whole, groups, hidden_pixels, self._buckets(whole))

    def _groups(self, block: Block) -> Array:
        return _below(GROUPS, hash_numbers(self.seed, _IMAGES, block.row_numbers))

    def _buckets(self, block: Block) -> Array:
        return _below(BUCKETS, hash_numbers(0, _BUCKETS, block.row_numbers))

    def _draws(self, block: Block) -> Array:
        """Draw how often an image is in the bootstrap sample: of many images, Poisson's law.

        Each image for itself, so no block needs to know of the others (Oza and Russell, Online
        bagging and boosting, AISTATS 2001).
        """
        uniform = hash_numbers(self.seed, _DRAWS, block.row_numbers) / 2.0**64
        counts: Array = np.searchsorted(_POISSON, uniform, side="right").astype(np.float64)
        return counts


_POISSON = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(20)])
"""Chances of at most k draws of an image."""


@dataclass(frozen=True)
class HeldOutBlock:
    """A block of which some cells are hidden.

    Attributes
    ----------
    visible : Block
        With the hidden cells missing, and images weighed.
    whole : Block
        The same images, as they were.
    groups, buckets : ndarray of shape (b,), int64
        Of the images; groups ascend.
    hidden_pixels : ndarray of shape (GROUPS, p), bool
        Pixels hidden from each group.
    """

    visible: Block
    whole: Block
    groups: Array
    hidden_pixels: Array
    buckets: Array

    def held_out_sums(self, W: Array, basis: Basis, beta: float) -> Array:
        """Sum up how far the hidden cells are from what the model says they are.

        It is taken at its word up to the brightest pixel that it was shown of an image: where
        next to nothing is visible of a component, its weight is anybody's guess, and a few such
        guesses would outweigh all other cells.

        Parameters
        ----------
        W : ndarray of shape (b, d)
            From the cells that the model was shown.
        basis : Basis
        beta : float
            Of the divergence.

        Returns
        -------
        ndarray of shape (BUCKETS, 2), float64
            Divergence and number of hidden cells of the images of each bucket, images weighed as
            they are in X.
        """
        sums = np.zeros((BUCKETS, 2))
        for rows, pixels in self._parts():
            images, cells = self._errors(rows, pixels, W, basis, beta)
            weights = 1.0 if self.whole.weights is None else self.whole.weights[rows]
            for column, values in enumerate((images, cells)):
                sums[:, column] += np.bincount(self.buckets[rows], weights * values, BUCKETS)
        return sums

    def _parts(self) -> Iterator[tuple[slice, Array]]:
        """Give the images that share their hidden pixels, and these."""
        edges = np.searchsorted(self.groups, np.arange(GROUPS + 1))
        for group in np.flatnonzero(np.diff(edges)):
            yield slice(edges[group], edges[group + 1]), np.flatnonzero(self.hidden_pixels[group])

    def _errors(
        self, rows: slice, pixels: Array, W: Array, basis: Basis, beta: float
    ) -> tuple[Array, Array]:
        dtype = compute_dtype(self.whole.X.dtype)
        X = self.whole.X[rows]
        means = X.mean(axis=1, dtype=np.float64)
        X = X[:, pixels].astype(dtype)
        top = self.visible.X[rows].max(axis=1, keepdims=True).astype(dtype)
        Y = np.minimum(W[rows] @ basis.H[:, pixels], top)
        cells = np.full(len(X), len(pixels))
        if self.whole.observed is not None:
            seen = self.whole.observed[rows][:, pixels]
            Y, cells = Y * seen, seen.sum(axis=1)
        return divergences(X, Y, np.where(means > 0, FLOOR * means, 1.0), beta)[0], cells


def hash_numbers(seed: int, stream: int, numbers: Array) -> Array:
    """Hash numbers to 64 bits by the mixing of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    start = (4 * seed + stream + 1) * 0x9E3779B97F4A7C15 % 2**64
    x = _mix(np.asarray(numbers).astype(np.uint64) + np.uint64(start))
    return _mix(x ^ np.uint64(start))


def _mix(x: Array) -> Array:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _below(count: int, hashes: Array) -> Array:
    """Map hashes to numbers below a count."""
    return np.asarray(hashes % np.uint64(count)).astype(np.int64)
