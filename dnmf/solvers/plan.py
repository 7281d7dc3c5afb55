"""Prediction of the memory of a fit, from sizes, and of its time, from a short trial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dnmf._format import format_bytes, format_duration
from dnmf._html import format_html, format_html_bar
from dnmf.engine.blocks import Blocks
from dnmf.numerics.objective import Objective
from dnmf.solvers.calibrate import Trial, try_fit
from dnmf.solvers.memory_model import AvailableMemory, FitMemory
from dnmf.solvers.sample import sample_reads

READS = 8
"""Number of reads of X after which most fits have nearly converged: the total time is for these."""


@dataclass(frozen=True, repr=False)
class Plan:
    """Memory, time and work that a fit takes, as `NMF.plan` predicts them.

    Attributes
    ----------
    images, pixels, components : int
        Shape of the problem.
    blocks, block_bytes : int
        Number of blocks, and bytes of the pixels of the largest block.
    tasks, blocks_per_task : int
        Number of tasks of a pass that read blocks, and number of blocks of each.
    reads : float
        Number of reads of the whole X before the first pass.
    bytes_per_pass : int
        Bytes of all pixels, as they are in memory.
    flops_per_pass : int
        Floating point operations of the two products of a pass, ``4 n p d``.
    workers, threads : int
        Number of worker processes (0 if the fit runs in this process), and of all threads.
    task_memory, worker_memory, driver_memory : int
        Peak memory in bytes. That of a worker and of the driver includes interpreter and libraries.
    worker_limit, driver_limit : float
        Largest number of bytes that a worker and the driver may hold; infinite without a limit.
    checkpoint_bytes : int
        Upper bound of the bytes of a checkpoint on disk while the fit runs.
    lack : str or None
        Description of the memory that the fit lacks; None if there is enough.
    trial : dnmf.solvers.calibrate.Trial or None
        Measured times; None without a trial.
    """

    images: int
    pixels: int
    components: int
    blocks: int
    block_bytes: int
    tasks: int
    blocks_per_task: int
    reads: float
    bytes_per_pass: int
    flops_per_pass: int
    workers: int
    threads: int
    task_memory: int
    worker_memory: int
    driver_memory: int
    worker_limit: float
    driver_limit: float
    checkpoint_bytes: int
    lack: str | None
    trial: Trial | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes in JSON types, with None for an infinite limit."""
        attributes = asdict(self)
        return {name: None if value == math.inf else value for name, value in attributes.items()}

    def __repr__(self) -> str:
        return "\n".join(f"{name:8}{text}" for name, text in _lines(self))

    def _repr_html_(self) -> str:
        bars = [("driver", self.driver_memory, self.driver_limit)]
        if self.workers:
            bars.insert(0, ("worker", self.worker_memory, self.worker_limit))
        return format_html(dict(_lines(self))) + "".join(
            format_html_bar(
                used / limit,
                f"{name}: {format_bytes(used)}{_of_limit(limit)}, {used / limit:.0%}",
            )
            for name, used, limit in bars
            if limit < math.inf
        )


def plan_fit(
    blocks: Blocks,
    objective: Objective,
    n_components: int,
    tol: float,
    checkpoint_bytes: int,
    *,
    trial: bool = True,
) -> Plan:
    """Predict what a fit takes.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    n_components : int
    tol : float
        Tolerance of the fit.
    checkpoint_bytes : int
        As in `Plan`.
    trial : bool
        Whether to run parts of the fit for about ten seconds, to predict its time.

    Returns
    -------
    Plan
    """
    memory = FitMemory.from_blocks(blocks, objective, n_components)
    available = AvailableMemory.detect(blocks)
    (n, p), reads, lack = blocks.shape, sample_reads(blocks), available.shortage(memory)
    timed = None
    if trial and lack is None:
        timed = try_fit(blocks, objective, n_components, tol, max(available.n_threads, 1), reads)
    return Plan(
        images=n,
        pixels=p,
        components=n_components,
        blocks=len(blocks.ranges),
        block_bytes=memory.block_rows * p * memory.pixel_bytes,
        tasks=memory.n_tasks,
        blocks_per_task=memory.task_blocks,
        reads=reads,
        bytes_per_pass=n * p * memory.pixel_bytes,
        flops_per_pass=4 * n * p * n_components,
        workers=available.n_workers,
        threads=available.n_threads,
        task_memory=memory.task,
        worker_memory=available.worker_bytes(memory),
        driver_memory=available.driver_bytes(memory),
        worker_limit=available.worker_limit,
        driver_limit=available.driver_limit,
        checkpoint_bytes=checkpoint_bytes,
        lack=lack,
        trial=timed,
    )


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    where = "this process"
    if plan.workers:
        where = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
    threads = "1 thread" if plan.threads == 1 else f"{plan.threads} threads"
    yield (
        "fit",
        f"{plan.images:,} images of {plan.pixels:,} pixels, {format_bytes(plan.bytes_per_pass)}, "
        f"to {plan.components:,} components on {threads} of {where}",
    )
    yield (
        "pass",
        f"{plan.blocks:,} blocks of {format_bytes(plan.block_bytes)} in {plan.tasks:,} tasks; "
        f"{plan.flops_per_pass:.2g} flops",
    )
    task = f"a task {format_bytes(plan.task_memory)}"
    if plan.workers:
        yield "worker", f"{format_bytes(plan.worker_memory)}{_of_limit(plan.worker_limit)}; {task}"
        task = "H and the sums"
    yield "driver", f"{format_bytes(plan.driver_memory)}{_of_limit(plan.driver_limit)}; {task}"
    yield "disk", f"{format_bytes(plan.checkpoint_bytes)} at most, for a checkpoint"
    if plan.lack is not None:
        yield "lacking", f"this fit needs {plan.lack}"
    if plan.trial is not None:
        yield from _times(plan, plan.trial)


def _times(plan: Plan, trial: Trial) -> Iterator[tuple[str, str]]:
    least, most = map(format_duration, trial.start_seconds)
    passes = (READS - plan.reads) * trial.pass_seconds
    total = format_duration(trial.start_seconds[1] + passes)
    a_pass, a_task, reads, products = map(
        format_duration,
        (trial.pass_seconds, trial.task_seconds, trial.read_seconds, trial.gemm_seconds),
    )
    yield (
        "time",
        f"{a_pass} a pass, {plan.images / trial.pass_seconds:,.0f} images/s, {a_task} a task; "
        f"reads alone {reads}, products alone {products} at {trial.gemm_rate / 1e9:,.0f} GFLOP/s",
    )
    yield (
        "start",
        f"{plan.reads:.2g} reads, {least} to {most}; with passes up to {READS} reads at most "
        f"{total}",
    )


def _of_limit(limit: float) -> str:
    return f" of {format_bytes(limit)}" if limit < math.inf else ""
