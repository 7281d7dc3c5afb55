"""A random sample of the images, held in memory, on which the warm start runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from dnmf.engine.blocks import Blocks
from dnmf.engine.local import LocalBlocks
from dnmf.engine.tree_reduce import groups_of
from dnmf.numerics.block import Block, find_invalid, valid_pixels

SAMPLE_BYTES = 2**27
"""Upper bound of the bytes of the sample's pixels, as stored; every machine has 128 MiB."""

SAMPLE_ROWS = 100_000
"""Upper bound of the number of images of the sample: enough for hundreds of components."""

SAMPLE_AT_ONCE = 8
"""Number of blocks whose rows are sent to the driver at a time, to bound its memory."""

SAMPLE_BLOCKS = 32
"""Smallest number of blocks that a sample is drawn from. If images are in some order, few blocks
would not represent them."""


def take_sample(blocks: Blocks, seed: int) -> tuple[Block, float]:
    """Read a random sample of the images into memory.

    The sample holds all images if there is space, else the same share of random images from each
    of several random blocks.

    Parameters
    ----------
    blocks : Blocks
    seed : int

    Returns
    -------
    sample : Block
        Without images of weight 0, and without images whose weight or pixels cannot be factorised;
        the first full pass reports these.
    reads : float
        Reads of X that this took, in units of the whole of it.
    """
    n, p = blocks.shape
    wanted = sample_rows(n, p, blocks.dtype.itemsize)
    if wanted == n and isinstance(blocks, LocalBlocks) and blocks.is_plain:
        return _usable(whole(blocks).with_row_numbers(), blocks.rules.positive), 1.0
    rng = np.random.default_rng([seed, 0])
    chosen = _choose_blocks(blocks.ranges, wanted, rng)
    available = _count_rows(blocks, chosen)
    share = min(1.0, wanted / available)
    pick = partial(_pick_rows, share=share, seed=seed, positive=blocks.rules.positive)
    groups = groups_of(chosen, SAMPLE_AT_ONCE)
    parts = (part for group in groups for part in blocks.map_blocks(pick, group))
    return _join(parts, wanted + len(chosen), p), available / n


def whole(blocks: LocalBlocks) -> Block:
    """Return an array in memory, which has no mask, as one block; it is sparse if the array is."""
    weights = None if blocks.weights is None else blocks.weights / blocks.rules.weight_unit
    return Block(blocks.array, 0, None, weights)


def sample_rows(n: int, p: int, itemsize: int) -> int:
    """Return the number of images of the sample."""
    return min(n, SAMPLE_ROWS, max(SAMPLE_BYTES // (p * itemsize), 1))


def sample_reads(blocks: Blocks) -> float:
    """Compute the reads of X for a sample, in units of the whole of it, for seed 0."""
    wanted = sample_rows(*blocks.shape, blocks.dtype.itemsize)
    chosen = _choose_blocks(blocks.ranges, wanted, np.random.default_rng([0, 0]))
    return _count_rows(blocks, chosen) / blocks.shape[0]


def _choose_blocks(
    ranges: Sequence[tuple[int, int]], wanted: int, rng: np.random.Generator
) -> list[int]:
    """Choose random blocks: at least `SAMPLE_BLOCKS` with `wanted` rows, or all of them."""
    chosen: list[int] = []
    rows = 0
    for block in rng.permutation(len(ranges)).tolist():
        if rows >= wanted and len(chosen) >= SAMPLE_BLOCKS:
            break
        chosen.append(block)
        rows += ranges[block][1] - ranges[block][0]
    return sorted(chosen)


def _count_rows(blocks: Blocks, chosen: Sequence[int]) -> int:
    return sum(stop - start for start, stop in (blocks.ranges[i] for i in chosen))


def _pick_rows(block: Block, *, share: float, seed: int, positive: bool) -> Block:
    """Draw a share of the rows of a block; the draw depends only on the seed and the block."""
    rng = np.random.default_rng([seed, 1, block.start])
    count = max(1, int(share * len(block)))
    rows = np.sort(rng.permutation(len(block))[:count])
    return _usable(block.with_row_numbers().take(rows), positive)


def _join(parts: Iterable[Block], max_rows: int, p: int) -> Block:
    """Join parts as they arrive, so that memory never holds all of them twice."""
    X = observed = None
    weights, numbers, n = [], [], 0
    for part in parts:
        rows = slice(n, n + len(part))
        X = np.empty((max_rows, p), part.X.dtype) if X is None else X
        X[rows], n = part.X, rows.stop
        if part.observed is not None:
            observed = np.ones((max_rows, p), bool) if observed is None else observed
            observed[rows] = part.observed
        weights += [] if part.weights is None else [part.weights]
        numbers.append(part.row_numbers)
    assert X is not None  # every X has a block
    observed = None if observed is None else observed[:n]
    joined_weights = np.concatenate(weights) if weights else None
    return Block(X[:n], 0, observed, joined_weights, np.concatenate(numbers))


def _usable(block: Block, positive: bool) -> Block:
    """Return the images of a block that can be factorised and have a weight above 0."""
    if block.weights is not None:
        valid = (block.weights > 0) & np.isfinite(block.weights)
        block = block if valid.all() else block.take(valid)
    if find_invalid(block.X, 0, block.observed, positive) is None:
        return block
    return block.take(valid_pixels(block.X, block.observed, positive).all(axis=1))


def first_block(blocks: Blocks) -> tuple[Blocks, Block]:
    """Read the first block of a stream; return it as blocks of their own and as a sample."""
    pick = partial(_pick_rows, share=1.0, seed=0, positive=blocks.rules.positive)
    start, stop = blocks.ranges[0]
    sample = _join(blocks.map_blocks(pick, [0]), stop - start, blocks.shape[1])
    mask = None if sample.observed is None else ~sample.observed
    rules = replace(blocks.rules, weight_unit=1.0)  # of the sample, whose weights are divided
    return LocalBlocks(sample.X, sample.weights, mask, rules), sample


def mean_of(sample: Block) -> float:
    """Compute the mean of the observed pixels, weighted by the weights of the images."""
    if not sample.X.size:  # of a sparse array, the number of entries that are stored
        return 0.0
    if sample.observed is None and sample.weights is None:
        return float(sample.X.mean(dtype=np.float64))
    weights = np.ones(len(sample)) if sample.weights is None else sample.weights
    p = sample.X.shape[1]
    count = np.full(len(sample), p) if sample.observed is None else sample.observed.sum(axis=1)
    total = float(weights @ count)
    sums = np.asarray(sample.X.sum(axis=1, dtype=np.float64)).reshape(-1)
    return float(weights @ sums) / total if total else 0.0
