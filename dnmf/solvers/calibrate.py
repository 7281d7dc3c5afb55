"""Ten seconds of a fit, where it would run: how long it will take, and how long its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.executors import one_blas_thread
from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.numerics.block import Block
from dnmf.numerics.objective import Objective
from dnmf.solvers.loop import measure
from dnmf.solvers.sample import first_block
from dnmf.solvers.warm_start import online_round, random_H, updates_between

SECONDS = 2.5
"""Of the trial of the start; half as long each for products, for reads and for passes over some of
the blocks, once they are warm."""

UPDATES = 20
"""Of H in one step of the trial."""

SIDE = 1024
"""Of the square matrices whose product measures the speed of products."""


@dataclass(frozen=True)
class Trial:
    """What was measured, in seconds and flops per second.

    Attributes
    ----------
    gemm_rate : float
        Of large products in single precision, all threads together.
    gemm_seconds : float
        What the products of a pass, ``4 n p d`` flops, would take at that rate.
    read_seconds : float
        What the reads of a pass take without anything else.
    pass_seconds : float
    task_seconds : float
        Of a task of a pass.
    start_seconds : tuple of float
        Least and most before the first pass.
    """

    gemm_rate: float
    gemm_seconds: float
    read_seconds: float
    pass_seconds: float
    task_seconds: float
    start_seconds: tuple[float, float]


def try_fit(
    blocks: Blocks, objective: Objective, d: int, tol: float, threads: int, reads: float
) -> Trial:
    """Run parts of a fit.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    d : int
        Components.
    tol : float
    threads : int
        Of all workers.
    reads : float
        Of X before the first pass.
    """
    (n, p), count, group = blocks.shape, len(blocks.ranges), blocks_per_task(blocks, d)
    with one_blas_thread():
        H, update = _try_start(blocks, objective, d)
        rate = threads * _gemm_rate(blocks, threads)
        order = np.random.default_rng(0).permutation(count).tolist()

        def read(some: list[int]) -> int:
            return blocks.map_sum(len, sorted(some), check=False, group=group)

        def run(some: list[int]) -> object:
            return measure(blocks, objective, H, only=sorted(some))

        reading = _per_block(read, order, threads * group)
        passing = _per_block(run, order[::-1], threads * group)
    updates = updates_between(objective, d, blocks, tol)
    least, most = (count * reads * reading + each * update for each in updates)
    return Trial(
        rate,
        4.0 * n * p * d / rate,
        count * reading,
        count * passing,
        passing * group * min(threads, -(-count // group)),
        (least, most),
    )


def _try_start(blocks: Blocks, objective: Objective, d: int) -> tuple[Array, float]:
    """Warm up on the first block for a while: an H as a pass meets it, and seconds per update."""
    _, sample = first_block(blocks)
    H, rng = random_H(sample, d, 0), np.random.default_rng(0)
    H, updates = online_round(objective, H, sample, rng, 1), 0  # what is compiled is compiled now
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS:
        H, updates = online_round(objective, H, sample, rng, UPDATES), updates + UPDATES
    return H, spent / updates


def _gemm_rate(blocks: Blocks, threads: int) -> float:
    """Measure flops per second of a thread while as many others are as busy."""
    some = [i % len(blocks.ranges) for i in range(threads)]
    return float(np.mean(blocks.map_blocks(partial(_multiply, seconds=SECONDS / 2), some)))


def _multiply(block: Block, *, seconds: float) -> float:
    A, done = np.ones((SIDE, SIDE), np.float32), 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        A @ A
        done += 1
    return done * 2 * SIDE**3 / spent


def _per_block(run: Callable[[list[int]], object], blocks: list[int], least: int) -> float:
    """Time a run over more and more blocks, others each time if there are enough."""
    run(blocks[:1])  # not timed: what is loaded once
    first, count = 1, min(least, len(blocks))
    while True:
        some = [blocks[(first + i) % len(blocks)] for i in range(count)]
        began = time.perf_counter()
        run(some)
        spent = time.perf_counter() - began
        if spent > SECONDS / 2 or count == len(blocks):
            return spent / count
        first, count = first + count, min(2 * count, len(blocks))
