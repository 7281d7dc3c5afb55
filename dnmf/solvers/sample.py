"""A random sample of the images, in memory: what a fit starts from, and rounds are made on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from dnmf.engine.blocks import Blocks
from dnmf.engine.local import LocalBlocks
from dnmf.engine.tree_reduce import groups_of
from dnmf.numerics.block import Block, find_invalid, valid_pixels

SAMPLE_BYTES = 2**27
"""Pixels, as stored, that the sample may hold."""

SAMPLE_ROWS = 100_000
"""Images that the sample may hold: enough for hundreds of components."""

SAMPLE_AT_ONCE = 8
"""Blocks whose share of the sample is under way to the driver at any time."""

SAMPLE_BLOCKS = 32
"""Blocks that a sample of part of a corpus is drawn from, so that an ordered corpus is not
represented by one corner of it."""


def take_sample(blocks: Blocks, seed: int) -> tuple[Block, float]:
    """Read a random sample of the images into memory.

    All images when they fit; else the same share of random images from each of some random blocks.

    Parameters
    ----------
    blocks : Blocks
    seed : int

    Returns
    -------
    sample : Block
        Without images of weight 0, and those whose weight or pixels cannot be factorised: the first
        full pass reports these.
    reads : float
        Share of X that was read.
    """
    n, p = blocks.shape
    wanted = sample_rows(n, p, blocks.dtype.itemsize)
    if wanted == n and isinstance(blocks, LocalBlocks) and blocks.is_plain:
        whole = Block(blocks.array, 0, None, blocks.weights).with_row_numbers()
        return _usable(whole, blocks.rules.positive), 1.0
    rng = np.random.default_rng([seed, 0])
    chosen = _choose_blocks(blocks.ranges, wanted, rng)
    available = _rows_of(blocks, chosen)
    share = min(1.0, wanted / available)
    pick = partial(_pick_rows, share=share, seed=seed, positive=blocks.rules.positive)
    groups = groups_of(chosen, SAMPLE_AT_ONCE)
    parts = (part for some in groups for part in blocks.map_blocks(pick, some))
    return _join(parts, wanted + len(chosen), p), available / n


def sample_rows(n: int, p: int, itemsize: int) -> int:
    """Choose the images of the sample."""
    return min(n, SAMPLE_ROWS, max(SAMPLE_BYTES // (p * itemsize), 1))


def sample_reads(blocks: Blocks) -> float:
    """Compute the share of X that a sample reads, with the blocks that seed 0 chooses."""
    wanted = sample_rows(*blocks.shape, blocks.dtype.itemsize)
    chosen = _choose_blocks(blocks.ranges, wanted, np.random.default_rng([0, 0]))
    return _rows_of(blocks, chosen) / blocks.shape[0]


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


def _rows_of(blocks: Blocks, chosen: Sequence[int]) -> int:
    return sum(stop - start for start, stop in (blocks.ranges[i] for i in chosen))


def _pick_rows(block: Block, *, share: float, seed: int, positive: bool) -> Block:
    """Draw a share of a block's rows; the draw depends on the seed and the block alone."""
    rng = np.random.default_rng([seed, 1, block.start])
    count = max(1, int(share * len(block)))
    rows = np.sort(rng.permutation(len(block))[:count])
    return _usable(block.with_row_numbers().take(rows), positive)


def _join(parts: Iterable[Block], most: int, p: int) -> Block:
    """Put parts together as they come, so that no two copies of them all are held."""
    X = observed = None
    weights, numbers, n = [], [], 0
    for part in parts:
        rows = slice(n, n + len(part))
        X = np.empty((most, p), part.X.dtype) if X is None else X
        X[rows], n = part.X, rows.stop
        if part.observed is not None:
            observed = np.ones((most, p), bool) if observed is None else observed
            observed[rows] = part.observed
        weights += [] if part.weights is None else [part.weights]
        numbers.append(part.row_numbers)
    assert X is not None  # there is no X without a block
    seen = None if observed is None else observed[:n]
    weighed = np.concatenate(weights) if weights else None
    return Block(X[:n], 0, seen, weighed, np.concatenate(numbers))


def _usable(block: Block, positive: bool) -> Block:
    if block.weights is not None:
        some = (block.weights > 0) & np.isfinite(block.weights)
        block = block if some.all() else block.take(some)
    if find_invalid(block.X, 0, block.observed, positive) is None:
        return block
    return block.take(valid_pixels(block.X, block.observed, positive).all(axis=1))


def first_block(blocks: Blocks) -> tuple[Blocks, Block]:
    """Read the first block of a stream, all that is known of it at its start."""
    pick = partial(_pick_rows, share=1.0, seed=0, positive=blocks.rules.positive)
    start, stop = blocks.ranges[0]
    sample = _join(blocks.map_blocks(pick, [0]), stop - start, blocks.shape[1])
    mask = None if sample.observed is None else ~sample.observed
    return LocalBlocks(sample.X, sample.weights, mask, blocks.rules), sample


def mean_of(sample: Block) -> float:
    """Average the observed pixels, images weighted."""
    if not sample.X.size:
        return 0.0
    if sample.observed is None and sample.weights is None:
        return float(sample.X.mean(dtype=np.float64))
    weights = np.ones(len(sample)) if sample.weights is None else sample.weights
    p = sample.X.shape[1]
    count = np.full(len(sample), p) if sample.observed is None else sample.observed.sum(axis=1)
    total = float(weights @ count)
    return float(weights @ sample.X.sum(axis=1, dtype=np.float64)) / total if total else 0.0
