"""Online updates: H is improved after each small batch of images, from running sums that forget.

One epoch of them does what takes dozens of full passes, but batches are sequential, on images held
in memory. They warm up a fit on a sample (`dnmf.solvers.warm_start`) and make up `partial_fit`. See
Mairal, Bach, Ponce and Sapiro, Online learning for matrix factorization and sparse coding, JMLR
2010, algorithm 1; for other divergences Lefevre, Bach and Fevotte, WASPAA 2011, algorithm 1.
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
"""Number of updates between two normalisations of the components, and between two computations of
`Basis.ridge_inverse`."""

MAX_RATIO = 1e6
"""Greatest ratio of the squared lengths of two components that waits for the next normalisation:
the weights of a component that shrinks grow until they overflow."""

PARTS, MIN_SPLIT_SIZE = 2, 2**16
"""Number of parts into which a batch, and the pixels of H, are split for threads, and the number of
entries of H from which they are. They do not depend on the number of threads, as sums of other
parts have other bits."""

UNIT_SIDE, MAX_UNITS = 60, 8
"""Cube root of the multiplications of a product, divided by the number of units of work that
`dnmf.numerics.rounds` splits it into, and their largest number. More units are for more threads,
but slower on one, as their products are of smaller matrices."""


@dataclass(frozen=True)
class OnlineState:
    """State of online updates between two batches.

    Attributes
    ----------
    H : ndarray of shape (d, p), float32 or float64
        Components.
    stats : SufficientStats or None
        Running sums; None before the first batch.
    n_updates : int
        Number of updates so far.
    settled : bool
        Whether H was good from the beginning, so that the first sums are forgotten no faster than
        later ones.
    objective : Objective or None
        Objective that the running sums belong to; None before the first batch.
    """

    H: Array
    stats: SufficientStats | None = None
    n_updates: int = 0
    settled: bool = False
    objective: Objective | None = None


def count_units(size: int, d: int, p: int) -> int:
    """Return the number of units of work of an update with a batch of some size, a power of 2."""
    side = int(np.cbrt(float(size) * d * p)) // UNIT_SIDE
    return min(1 << max(side.bit_length() - 1, 0), MAX_UNITS, size, p)


def split_batches(rows: Array, size: int) -> list[Array]:
    """Split rows into batches of a size or slightly more."""
    return np.array_split(rows, max(len(rows) // size, 1))


def update_on_batches(
    objective: Objective,
    state: OnlineState,
    block: Block,
    batches: Iterable[tuple[Array, float]],
    threads: int = 1,
    dtype: np.dtype[Any] | None = None,
) -> OnlineState:
    """Update H and the running sums with the batches of a block, one after the other.

    Parameters
    ----------
    objective : Objective
    state : OnlineState
        State before the block. Running sums have the dtype of its H.
    block : Block
    batches : iterable of (rows, keep)
        Rows of the block, and the factor for the running sums when those of the batch are added.
    threads : int
        Largest number of threads for a batch; the result does not depend on it.
    dtype : dtype, optional
        Dtype to compute in; by default that for the pixels of the block.

    Returns
    -------
    OnlineState
        State after the block; its arrays are new.
    """
    dtype = compute_dtype(block.X.dtype) if dtype is None else dtype
    # Copies: arrays that came in a message may be unaligned, which rounds differently, or shared.
    H, total, n_updates = state.H.copy(order="C"), copy.deepcopy(state.stats), state.n_updates
    G: Array | None = None
    ridge_inverse: Array | None = None
    parts = PARTS if H.size >= MIN_SPLIT_SIZE else 1
    pixels = [slice(*bounds) for bounds in _even_bounds(H.shape[1], parts)]
    with ThreadPoolExecutor(1) as pool, np.errstate(all="ignore"):  # the loss is checked later
        run_all = partial(_run_on_two_threads, pool) if parts > 1 and threads > 1 else _run_in_turn
        for rows, keep in batches:
            refresh = n_updates % REFRESH == 0 or (G is not None and not _is_even(G))
            if total is not None and refresh:
                H, G = objective.normalize_components(H, total), None
            basis = Basis.from_H(H, dtype) if G is None else Basis(H.astype(dtype, copy=False), G)
            if ridge_inverse is None or refresh:
                ridge_inverse = compute_ridge_inverse(basis.G)
            basis = replace(basis, ridge_inverse=ridge_inverse)
            task = partial(_batch_stats, objective, block, basis, H.dtype)
            new = run_all(task, [rows[a:b] for a, b in _even_bounds(len(rows), parts)])
            if not any(part.xx.any() for part in new):
                continue  # all pixels are dark or missing
            if total is None:
                total, new, keep = new[0].scale_and_add(1, new[1:]), [], 1.0
            total = total.scale_and_add(keep, new, names=("S",))
            update = partial(_update_pixels, objective, H, total, new, keep, dtype)
            columns, grams = zip(*run_all(update, pixels), strict=True)
            updated = np.concatenate(columns, axis=1)
            H = objective.raise_zeros(updated)
            G = sum(grams[1:], grams[0]) if H is updated else None
            n_updates += 1
    return replace(state, H=H, stats=total, n_updates=n_updates, objective=objective)


def _is_even(G: Array) -> bool:
    """Check whether the components are of similar lengths, or zero, given their Gram matrix."""
    squares = G.diagonal()
    squares = squares[squares > 0]
    return bool(squares.max(initial=0) <= MAX_RATIO * squares.min(initial=np.inf))


def _run_in_turn(task: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
    return [task(part) for part in parts]


def _run_on_two_threads(
    pool: ThreadPoolExecutor, task: Callable[[Any], Any], parts: Sequence[Any]
) -> list[Any]:
    second = pool.submit(task, parts[1])
    return [task(parts[0]), second.result()]


def _even_bounds(n: int, parts: int) -> list[tuple[int, int]]:
    edges = [n * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def _batch_stats(
    objective: Objective, block: Block, basis: Basis, dtype: Any, rows: Array
) -> SufficientStats:
    return objective.block_stats(block.take(rows), basis, weights=False, dtype=dtype)[0]


def _update_pixels(
    objective: Objective,
    H: Array,
    total: SufficientStats,
    new: Sequence[SufficientStats],
    keep: float,
    dtype: np.dtype[Any],
    pixels: slice,
) -> tuple[Array, Array]:
    """Update the running sums and H for some pixels; ``total.S`` is up to date already.

    Returns
    -------
    H : ndarray of shape (d, pixels)
    G : ndarray of shape (d, d)
        Gram matrix of that part of H.
    """
    part = objective.columns(total, pixels)
    part.scale_and_add(keep, [objective.columns(stats, pixels) for stats in new], names=("T", "xx"))
    updated = objective.update_H(H[:, pixels], part, sweeps=1)
    return updated, gram(np.ascontiguousarray(updated, dtype=dtype))


def update_on_block(
    block: Block,
    *,
    objective: Objective,
    state: OnlineState,
    forget_factor: float,
    n_rows: int,
    batch_size: int | None,
) -> OnlineState:
    """Update H and the running sums with all images of a block, in their order.

    It runs as a task, so that the pixels stay where they are.

    Parameters
    ----------
    block : Block
    objective : Objective
    state : OnlineState
        State before the block.
    forget_factor : float
        Factor by which the running sums shrink in `n_rows` images. Unless the state is settled, the
        first updates keep less, (t + 1) / (t + 3) after t updates, as they come from a poor H.
    n_rows : int
        Number of images of the call of `partial_fit` that the block is part of.
    batch_size : int or None
        Largest number of images per update.
    """
    batches = split_batches(np.arange(len(block)), objective.batch_size(len(state.H), batch_size))
    keep = forget_factor ** (len(block) / n_rows / len(batches))
    first = state.n_updates if not state.settled else 10**9
    return update_on_batches(
        objective,
        state,
        block,
        ((rows, min(keep, (t + 1) / (t + 3))) for t, rows in enumerate(batches, first)),
    )
