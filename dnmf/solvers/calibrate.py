"""A trial of about ten seconds, run where the fit would run, to predict how long the fit takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.threads import one_blas_thread
from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.numerics.block import Block, compute_dtype
from dnmf.numerics.objective import Objective
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import State, advance
from dnmf.solvers.loop import measure
from dnmf.solvers.sample import first_block, sample_rows
from dnmf.solvers.sketch import LOOK, MAX_STEPS, Sketch
from dnmf.solvers.warm_start import (
    is_one_batch,
    online_round,
    random_H,
    sketches,
    warm_up_updates,
)

SECONDS = 2.5
"""Seconds that the trial of the warm start runs. The trials of products, of reads and of passes
over a part of the blocks each run half as long, once their code is loaded."""

UPDATES = 20
"""Number of updates of H between two readings of the clock."""

SIDE = 1024
"""Number of rows and columns of the matrices whose product measures the speed of products."""


@dataclass(frozen=True)
class Trial:
    """Measured times of the parts of a fit.

    Attributes
    ----------
    gemm_rate : float
        Flops per second of large products in single precision, on all threads together.
    gemm_seconds : float
        Seconds that the products of a pass, ``4 n p d`` flops, would take at that rate.
    read_seconds : float
        Seconds that the reads of a pass take alone.
    pass_seconds, task_seconds : float
        Seconds of a pass, and of one of its tasks.
    start_seconds : tuple of float
        Lower and upper bound of the seconds before the first pass.
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
    """Run parts of a fit and measure their time.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    d : int
        Number of components.
    tol : float
        Tolerance of the fit.
    threads : int
        Number of threads of all workers.
    reads : float
        Reads of X before the first pass, in units of the whole of it.

    Returns
    -------
    Trial
    """
    (n, p), count, group = blocks.shape, len(blocks.ranges), blocks_per_task(blocks, d)
    with one_blas_thread():
        if is_one_batch(objective, d, n) or not sketches(objective, d, blocks):
            H, *bounds = _try_warm_up(blocks, objective, d, tol)
        else:
            H, *bounds = _try_sketch(blocks, objective, d)
        rate = threads * _gemm_rate(blocks, threads)
        order = np.random.default_rng(0).permutation(count).tolist()

        def read(chosen: list[int]) -> int:
            return blocks.map_sum(len, sorted(chosen), check=False, group=group)

        def run(chosen: list[int]) -> object:
            return measure(blocks, objective, H, only=sorted(chosen))

        read_seconds = _seconds_per_block(read, order, threads * group)
        pass_seconds = _seconds_per_block(run, order[::-1], threads * group)
    least, most = (count * reads * read_seconds + seconds for seconds in bounds)
    return Trial(
        rate,
        4.0 * n * p * d / rate,
        count * read_seconds,
        count * pass_seconds,
        pass_seconds * group * min(threads, -(-count // group)),
        (least, most),
    )


def _try_warm_up(
    blocks: Blocks, objective: Objective, d: int, tol: float
) -> tuple[Array, float, float]:
    """Warm up on the first block.

    Returns
    -------
    H : ndarray of shape (d, p), float64
        Components such as passes begin with.
    least, most : float
        Bounds of the seconds that the warm start of a fit takes.
    """
    _, sample = first_block(blocks)
    H, rng = random_H(sample, d, 0), np.random.default_rng(0)
    H, updates = online_round(objective, H, sample, rng, 1), 0  # compiles kernels, untimed
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS:
        H, updates = online_round(objective, H, sample, rng, UPDATES), updates + UPDATES
    least, most = warm_up_updates(objective, d, blocks, tol)
    return H, least * spent / updates, most * spent / updates


def _try_sketch(blocks: Blocks, objective: Objective, d: int) -> tuple[Array, float, float]:
    """Warm up on a sketch of the first block, its images repeated; as `_try_warm_up`."""
    assert isinstance(objective, Quadratic)
    _, sample = first_block(blocks)
    (n, p), dtype = blocks.shape, compute_dtype(blocks.dtype)
    Sketch.of_sample(sample.take(slice(2)), d, 0, dtype)  # compiles kernels, untimed
    began = time.perf_counter()
    sketch = Sketch.of_sample(sample, d, 0, dtype)
    rows = sample_rows(n, p, blocks.dtype.itemsize)
    making = (time.perf_counter() - began) * rows / len(sample)
    sketch, state = sketch.repeat(rows), State.at(random_H(sample, d, 0).astype(dtype))
    state = advance(objective, state, sketch.step(objective, state))  # compiles kernels, untimed
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS:
        state = advance(objective, state, sketch.step(objective, state))
    seconds = spent / (state.n_iter - 1)
    return state.H.astype(np.float64), making + 2 * LOOK * seconds, making + MAX_STEPS * seconds


def _gemm_rate(blocks: Blocks, threads: int) -> float:
    """Measure flops per second of one thread while all threads multiply."""
    tasks = [i % len(blocks.ranges) for i in range(threads)]
    return float(np.mean(blocks.map_blocks(partial(_multiply, seconds=SECONDS / 2), tasks)))


def _multiply(block: Block, *, seconds: float) -> float:
    A, products = np.ones((SIDE, SIDE), np.float32), 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        A @ A
        products += 1
    return products * 2 * SIDE**3 / spent


def _seconds_per_block(run: Callable[[list[int]], object], blocks: list[int], least: int) -> float:
    """Time runs over more and more blocks, different ones each time if there are enough."""
    run(blocks[:1])  # loads what is loaded once, untimed
    first, count = 1, min(least, len(blocks))
    while True:
        chosen = [blocks[(first + i) % len(blocks)] for i in range(count)]
        began = time.perf_counter()
        run(chosen)
        spent = time.perf_counter() - began
        if spent > SECONDS / 2 or count == len(blocks):
            return spent / count
        first, count = first + count, min(2 * count, len(blocks))
