"""Where H starts: a random draw, then online updates on a sample of images held in memory.

A full pass updates H once; online updates do it hundreds of times on the same pixels, and after a
read or less H is where forty full passes from a random start do not bring it
(`docs/how-it-works.md` has the figures). They need few images and one place to run in, so they
cost a cluster next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dnmf.blockwise import Blocks, LocalBlocks
from dnmf.kernels import Basis, Stats, block_stats, compute_dtype, find_invalid, update_H

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLE_BYTES = 2**28
"""Pixels, as stored, that the sample may hold."""

SAMPLE_ROWS = 100_000
"""Images that the sample may hold: enough for hundreds of components."""

SAMPLE_BLOCKS = 32
"""Blocks that a sample of part of a corpus is drawn from, so that an ordered corpus is not
represented by one corner of it."""

BATCH_ROWS = 128
"""Images per update, or half the number of components where that is more: fewer leave the running
sums without rank, and H without bounds."""

UPDATES = 512
"""H updates at least: their number matters more than the images behind each."""

EPOCHS = 2
"""Times at least that each sampled image is used."""

FORGET = (0.5, 0.95)
"""Forgetting factor of the running sums at the first and the last update: the first sums come from
a poor H and should fade fast, the last should average over more images than a batch."""


@dataclass(frozen=True)
class Sample:
    """Some rows of X, in ascending order; adds up to more rows."""

    rows: tuple[Array, ...]

    def __add__(self, other: Sample) -> Sample:
        return Sample(self.rows + other.rows)


def take_sample(blocks: Blocks, seed: int) -> tuple[Array, float]:
    """Read a random sample of the images into memory.

    All images when they fit; else the same share of random images from each of some random blocks.

    Parameters
    ----------
    blocks : Blocks
    seed : int

    Returns
    -------
    sample : ndarray of shape (m, p)
        In the stored dtype, without images that hold negative, NaN or infinite pixels: the first
        full pass reports those.
    reads : float
        Share of X that was read.
    """
    n, p = blocks.shape
    wanted = min(n, SAMPLE_ROWS, max(SAMPLE_BYTES // (p * blocks.dtype.itemsize), 1))
    if isinstance(blocks, LocalBlocks) and wanted == n:
        return _usable(blocks.array), 1.0
    rng = np.random.default_rng([seed, 0])
    chosen = _choose_blocks(blocks.ranges, wanted, rng)
    available = sum(blocks.ranges[i][1] - blocks.ranges[i][0] for i in chosen)
    share = min(1.0, wanted / available)
    sample = blocks.map_sum(partial(_pick_rows, share=share, seed=seed), only=chosen)
    return np.concatenate(sample.rows), available / n


def _choose_blocks(
    ranges: Sequence[tuple[int, int]], wanted: int, rng: np.random.Generator
) -> list[int]:
    """Choose blocks that hold at least `wanted` rows, `SAMPLE_BLOCKS` of them where there are."""
    chosen: list[int] = []
    rows = 0
    for block in rng.permutation(len(ranges)).tolist():
        if rows >= wanted and len(chosen) >= SAMPLE_BLOCKS:
            break
        chosen.append(block)
        rows += ranges[block][1] - ranges[block][0]
    return sorted(chosen)


def _pick_rows(X: Array, start: int, *, share: float, seed: int) -> Sample:
    """Draw a share of a block's rows; the draw depends on the seed and the block alone."""
    rng = np.random.default_rng([seed, 1, start])
    count = max(1, int(share * len(X)))
    return Sample((_usable(X[np.sort(rng.permutation(len(X))[:count])]),))


def _usable(X: Array) -> Array:
    if find_invalid(X, 0) is None:
        return X
    return X[np.all((X >= 0) & (np.inf > X), axis=1)]


def random_H(sample: Array, n_components: int, seed: int) -> Array:
    """Draw H as scikit-learn's ``init="random"`` does for the same seed and mean.

    ``|N(0, 1)| sqrt(mean(X) / d)``, drawn by the legacy generator, H before W.

    Returns
    -------
    H : ndarray of shape (n_components, p), float64
    """
    mean = sample.mean(dtype=np.float64) if sample.size else 0.0
    scale = np.sqrt(mean / n_components)
    rng = np.random.RandomState(seed)
    draw = rng.standard_normal(size=(n_components, sample.shape[1]))
    return np.asarray(np.abs(scale * draw))


def online_updates(H: Array, sample: Array, seed: int) -> Array:
    """Improve H by small batches with a running, forgetting sum of S and T.

    Online matrix factorisation (Mairal, Bach, Ponce and Sapiro, JMLR 2010, algorithm 1) with a
    growing forgetting factor and one sweep over H per batch.

    Parameters
    ----------
    H : ndarray of shape (d, p), float64
    sample : ndarray of shape (m, p)
    seed : int

    Returns
    -------
    H : ndarray of shape (d, p), float64
    """
    d, p = H.shape
    dtype = compute_dtype(sample.dtype)
    rng = np.random.default_rng([seed, 2])
    batches = max(len(sample) // max(BATCH_ROWS, d // 2), 1)
    epochs = max(EPOCHS, -(-UPDATES // batches))
    running = Stats(np.zeros((d, d)), np.zeros((d, p)), np.zeros(p))
    for update, rows in enumerate(
        rows
        for _ in range(epochs)
        for rows in np.array_split(rng.permutation(len(sample)), batches)
    ):
        stats, _ = block_stats(sample[rows], Basis.of(H, dtype))
        running = running.scaled(np.interp(update / (epochs * batches), (0, 1), FORGET)) + stats
        H = update_H(H, running, sweeps=1)
    return H
