"""Online updates: H improved after every small batch, from running sums that forget.

One pass of these does what dozens of full passes do not, but one after the other: in one place, on
images held in memory. They warm up a fit on a sample (`dnmf.solvers.nndsvd`) and are what
`partial_fit` does. Online matrix factorisation (Mairal, Bach, Ponce and Sapiro, JMLR 2010,
algorithm 1); for other divergences Lefevre, Bach and Fevotte (WASPAA 2011), algorithm 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.block import Block, compute_dtype
from dnmf.numerics.objective import Objective
from dnmf.numerics.statistics import Basis, SufficientStats, compute_ridge_inverse, gram

REFRESH = 4
"""Updates after which components get their scale, and weights a new guess of where they start."""

PARTS, MIN_SPLIT_SIZE = 2, 2**16
"""Parts that a batch, and the pixels of H, are worked on in, and the entries of H from which it is
worth it. However many threads there are: sums over other parts have other bits."""


@dataclass(frozen=True)
class OnlineState:
    """Where a stream of images has got to.

    Attributes
    ----------
    H : ndarray of shape (d, p), float64
    stats : SufficientStats or None
        Running sums; None before the first batch.
    n_updates : int
        Batches so far.
    settled : bool
        Whether the first sums came from a good H, and need not be forgotten sooner than others.
    objective : Objective or None
        What the sums are of.
    """

    H: Array
    stats: SufficientStats | None = None
    n_updates: int = 0
    settled: bool = False
    objective: Objective | None = None


def split_batches(rows: Array, size: int) -> list[Array]:
    """Split rows into batches of that size or a little more."""
    return np.array_split(rows, max(len(rows) // size, 1))


def update_on_batches(
    objective: Objective,
    running: OnlineState,
    block: Block,
    batches: Iterable[tuple[Array, float]],
    threads: int = 1,
) -> OnlineState:
    """Take a block's batches one after the other.

    Parameters
    ----------
    objective : Objective
    running : OnlineState
        Sums are kept in the dtype of its H.
    block : Block
    batches : iterable of (rows, keep)
        Rows of the block, and the share of the running sums that is kept when they are added.
    threads : int
        How many may work on a batch; the bits do not depend on it.
    """
    dtype = compute_dtype(block.X.dtype)
    # Copies: arrays that came in a message may lie anywhere, and round otherwise, or be another's.
    H, total, updates = running.H.copy(order="C"), copy.deepcopy(running.stats), running.n_updates
    G: Array | None = None
    guess: Array | None = None
    parts = PARTS if H.size >= MIN_SPLIT_SIZE else 1
    pixels = [slice(*bounds) for bounds in _cut(H.shape[1], parts)]
    with ThreadPoolExecutor(1) as pool:
        each = partial(_both, pool) if parts > 1 and threads > 1 else _one_by_one
        for rows, keep in batches:
            if total is not None and updates % REFRESH == 0:
                H, G = objective.normalize_components(H, total), None
            basis = Basis.from_H(H, dtype) if G is None else Basis(H.astype(dtype, copy=False), G)
            if guess is None or updates % REFRESH == 0:
                guess = compute_ridge_inverse(basis.G)
            basis = replace(basis, ridge_inverse=guess)
            measure = partial(_sums, objective, block, basis, H.dtype)
            new = each(measure, [rows[a:b] for a, b in _cut(len(rows), parts)])
            if not any(part.T.any() for part in new):
                continue  # nothing but dark or missing pixels: nothing to learn
            if total is None:
                total, new, keep = new[0].scale_and_add(1, new[1:]), [], 1.0
            total = total.scale_and_add(keep, new, names=("S",))
            improve = partial(_improved, objective, H, total, new, keep, dtype)
            columns, grams = zip(*each(improve, pixels), strict=True)
            improved = np.concatenate(columns, axis=1)
            H = objective.raise_zeros(improved)
            G = sum(grams[1:], grams[0]) if H is improved else None
            updates += 1
    return replace(running, H=H, stats=total, n_updates=updates, objective=objective)


def _one_by_one(run: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    return [run(part) for part in parts]


def _both(pool: ThreadPoolExecutor, run: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    other = pool.submit(run, parts[1])
    return [run(parts[0]), other.result()]


def _cut(n: int, parts: int) -> list[tuple[int, int]]:
    edges = [n * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def _sums(
    objective: Objective, block: Block, basis: Basis, dtype: Any, rows: Array
) -> SufficientStats:
    return objective.block_stats(block.take(rows), basis, weights=False, dtype=dtype)[0]


def _improved(
    objective: Objective,
    H: Array,
    total: SufficientStats,
    new: Sequence[SufficientStats],
    keep: float,
    dtype: np.dtype[Any],
    pixels: slice,
) -> tuple[Array, Array]:
    """Bring the sums of some pixels up to date, and improve H there; give its Gram matrix, too."""
    part = objective.columns(total, pixels)
    part.scale_and_add(keep, [objective.columns(more, pixels) for more in new], names=("T", "xx"))
    improved = objective.update_H(H[:, pixels], part, sweeps=1)
    return improved, gram(np.ascontiguousarray(improved, dtype=dtype))


def update_on_block(
    block: Block,
    *,
    objective: Objective,
    running: OnlineState,
    forget: float,
    n_rows: int,
    batch_size: int | None,
) -> OnlineState:
    """Take all of a block, in its order; a task, so that the pixels stay where they are.

    Parameters
    ----------
    forget : float
        Share of the running sums that is left after `n_rows`. Unless they are settled, the first
        updates keep less, (t + 1) / (t + 3) after t of them: they come from a poor H.
    n_rows : int
        Images of the call that the block is part of.
    batch_size : int or None
        Images per update at most.
    """
    batches = split_batches(np.arange(len(block)), objective.batch_size(len(running.H), batch_size))
    keep = forget ** (len(block) / n_rows / len(batches))
    first = running.n_updates if not running.settled else 10**9
    return update_on_batches(
        objective,
        running,
        block,
        ((rows, min(keep, (t + 1) / (t + 3))) for t, rows in enumerate(batches, first)),
    )
