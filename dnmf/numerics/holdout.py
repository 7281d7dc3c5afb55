"""Cells of X that are hidden from a model for later evaluation, and bootstrap samples of images.

Both follow from hashes of row and pixel numbers, so nothing is stored, any block can be resampled
where it is read, and the same cells are hidden wherever and whenever that is.

Images and pixels fall into `GROUPS` groups each, and a cell is hidden where the sum of its two
groups, modulo their number, is small. So the same fraction of every image is hidden, to within one
pixel, and of every pixel, in expectation. Images of a group share a mask, so their weights need one
Gram matrix instead of one per image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.beta import divergences, floors_of_means
from dnmf.numerics.block import Block, compute_dtype
from dnmf.numerics.statistics import Basis

GROUPS = 20
"""Number of groups of images, and of pixels: the fraction of hidden cells is a multiple of its
inverse."""

BUCKETS = 64
"""Number of buckets of images. The spread of their errors gives the standard error of the mean."""

_IMAGES, _PIXELS, _DRAWS, _BUCKETS = range(4)
"""Streams of hashes with the same seed."""


@dataclass(frozen=True)
class Holdout:
    """Rule by which cells of a block are hidden and its images drawn with replacement.

    Attributes
    ----------
    seed : int
    share : float
        Fraction of the cells that is hidden, at least 1 / `GROUPS`.
    """

    seed: int
    share: float

    @cached_property
    def n_hidden_groups(self) -> int:
        """Number of groups of pixels that are hidden in an image."""
        return max(1, round(self.share * GROUPS))

    def hidden_pixels(self, n_pixels: int) -> Array:
        """Choose the pixels that are hidden in the images of each group.

        Returns
        -------
        ndarray of shape (GROUPS, p), bool
        """
        order = np.argsort(hash_numbers(self.seed, _PIXELS, np.arange(n_pixels)), kind="stable")
        groups = np.empty(n_pixels, np.int64)
        groups[order] = np.arange(n_pixels) * GROUPS // n_pixels
        shifted: Array = (np.arange(GROUPS)[:, None] + groups) % GROUPS
        return shifted < self.n_hidden_groups

    def __call__(self, block: Block) -> HeldOutBlock:
        """Hide cells of a block and weight its images; they are sorted by their groups."""
        block = block.with_row_numbers()  # sorting must not lose them
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
        """Draw how often each image is in the bootstrap sample, from the Poisson distribution.

        For many images it approximates drawing with replacement, and images are independent, so
        blocks are, too (Oza and Russell, Online bagging and boosting, AISTATS 2001).
        """
        uniform = hash_numbers(self.seed, _DRAWS, block.row_numbers) / 2.0**64
        counts: Array = np.searchsorted(_POISSON, uniform, side="right").astype(np.float64)
        return counts


_POISSON = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(20)])
"""Probability that an image is drawn at most k times, for each k."""


@dataclass(frozen=True)
class HeldOutBlock:
    """Block with hidden cells.

    Attributes
    ----------
    visible : Block
        Images with the hidden cells missing and with the weights of the bootstrap sample.
    whole : Block
        The same images without hidden cells and with their own weights.
    groups : ndarray of shape (b,), int64
        Group of each image, in ascending order.
    hidden_pixels : ndarray of shape (GROUPS, p), bool
        Whether a pixel is hidden in the images of a group.
    buckets : ndarray of shape (b,), int64
        Bucket of each image.
    """

    visible: Block
    whole: Block
    groups: Array
    hidden_pixels: Array
    buckets: Array

    def held_out_sums(self, W: Array, basis: Basis, beta: float) -> Array:
        """Sum the divergences of the hidden cells from their reconstructions.

        Reconstructions are clipped at the brightest visible pixel of their image. The weight of a
        component of which next to nothing is visible is arbitrary, and a few such weights would
        outweigh all other cells.

        Parameters
        ----------
        W : ndarray of shape (b, d)
            Weights that were solved from the visible cells.
        basis : Basis
        beta : float
            Parameter of the divergence.

        Returns
        -------
        ndarray of shape (BUCKETS, 2), float64
            Divergence and number of hidden cells of the images of each bucket, images with their
            own weights.
        """
        sums = np.zeros((BUCKETS, 2))
        for rows, pixels in self._hidden_cells():
            divergence, cells = self._image_errors(rows, pixels, W, basis, beta)
            weights = 1.0 if self.whole.weights is None else self.whole.weights[rows]
            for column, values in enumerate((divergence, cells)):
                sums[:, column] += np.bincount(self.buckets[rows], weights * values, BUCKETS)
        return sums

    def _hidden_cells(self) -> Iterator[tuple[slice, Array]]:
        """Yield the rows of the images of each group, and the pixels that are hidden in them."""
        edges = np.searchsorted(self.groups, np.arange(GROUPS + 1))
        for group in np.flatnonzero(np.diff(edges)):
            yield slice(edges[group], edges[group + 1]), np.flatnonzero(self.hidden_pixels[group])

    def _image_errors(
        self, rows: slice, pixels: Array, W: Array, basis: Basis, beta: float
    ) -> tuple[Array, Array]:
        """Compute the divergence and the number of the hidden cells of each image of a group."""
        dtype = compute_dtype(self.whole.X.dtype)
        X = self.whole.X[rows]
        means = X.mean(axis=1, dtype=np.float64)
        X = X[:, pixels].astype(dtype)
        brightest = self.visible.X[rows].max(axis=1, keepdims=True).astype(dtype)
        Y = np.minimum(W[rows] @ basis.H[:, pixels], brightest)
        cells = np.full(len(X), len(pixels))
        if self.whole.observed is not None:
            observed = self.whole.observed[rows][:, pixels]
            Y, cells = Y * observed, observed.sum(axis=1)
        return divergences(X, Y, floors_of_means(means), beta)[0], cells


def hash_numbers(seed: int, stream: int, numbers: Array) -> Array:
    """Hash integers to 64 bits by the mixing function of SplitMix64.

    See Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.

    Parameters
    ----------
    seed : int
    stream : int
        One of four independent hash functions per seed.
    numbers : ndarray of int
    """
    start = (4 * seed + stream + 1) * 0x9E3779B97F4A7C15 % 2**64
    x = _mix(np.asarray(numbers).astype(np.uint64) + np.uint64(start))
    return _mix(x ^ np.uint64(start))


def _mix(x: Array) -> Array:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _below(count: int, hashes: Array) -> Array:
    """Map hashes to integers below a count."""
    return np.asarray(hashes % np.uint64(count)).astype(np.int64)
