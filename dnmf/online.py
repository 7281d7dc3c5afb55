"""Online updates: H improved after every small batch, from running sums that forget.

One pass of these does what dozens of full passes do not, but one after the other: in one place, on
images held in memory. They warm up a fit on a sample (`dnmf.initialization`) and are what
`partial_fit` does. Online matrix factorisation (Mairal, Bach, Ponce and Sapiro, JMLR 2010,
algorithm 1); for other divergences Lefevre, Bach and Fevotte (WASPAA 2011), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnmf.block import Block
from dnmf.kernels import compute_dtype
from dnmf.objective import Basis, Objective, Stats

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Running:
    """Where a stream of images has got to.

    Attributes
    ----------
    H : ndarray of shape (d, p), float64
    stats : Stats or None
        Running sums; None before the first batch.
    updates : int
        Batches so far.
    settled : bool
        Whether the first sums came from a good H, and need not be forgotten sooner than others.
    objective : Objective or None
        What the sums are of.
    """

    H: Array
    stats: Stats | None = None
    updates: int = 0
    settled: bool = False
    objective: Objective | None = None


def batches_of(rows: Array, size: int) -> list[Array]:
    """Split rows into batches of that size or a little more."""
    return np.array_split(rows, max(len(rows) // size, 1))


def follow(
    objective: Objective, running: Running, block: Block, batches: Iterable[tuple[Array, float]]
) -> Running:
    """Take a block's batches one after the other.

    Parameters
    ----------
    objective : Objective
    running : Running
    block : Block
    batches : iterable of (rows, keep)
        Rows of the block, and the share of the running sums that is kept when they are added.
    """
    dtype = compute_dtype(block.X.dtype)
    H, total, updates = running.H, running.stats, running.updates
    for rows, keep in batches:
        stats, _ = objective.measure(block.take(rows), Basis.of(H, dtype))
        if not stats.T.any():
            continue  # nothing but dark or missing pixels: nothing to learn
        total = stats if total is None else total.scaled(keep) + stats
        H = objective.alive(objective.improve(H, total, sweeps=1))
        updates += 1
    return replace(running, H=H, stats=total, updates=updates, objective=objective)


def follow_block(
    block: Block,
    *,
    objective: Objective,
    running: Running,
    forget: float,
    n_rows: int,
    batch_rows: int | None,
) -> Running:
    """Take all of a block, in its order; a task, so that the pixels stay where they are.

    Parameters
    ----------
    forget : float
        Share of the running sums that is left after `n_rows`. Unless they are settled, the first
        updates keep less, (t + 1) / (t + 3) after t of them: they come from a poor H.
    n_rows : int
        Images of the call that the block is part of.
    batch_rows : int or None
        Images per update at most.
    """
    batches = batches_of(np.arange(len(block)), objective.batch_rows(len(running.H), batch_rows))
    keep = forget ** (len(block) / n_rows / len(batches))
    first = running.updates if not running.settled else 10**9
    return follow(
        objective,
        running,
        block,
        ((rows, min(keep, (t + 1) / (t + 3))) for t, rows in enumerate(batches, first)),
    )
