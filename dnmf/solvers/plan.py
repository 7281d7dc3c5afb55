"""What a fit will take, said before it starts: memory from sizes, time from a short trial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dnmf._format import format_bytes, format_duration
from dnmf.engine.blocks import Blocks
from dnmf.numerics.objective import Objective
from dnmf.solvers.calibrate import Trial, try_fit
from dnmf.solvers.memory_model import Room, Sizes
from dnmf.solvers.sample import sample_reads

READS = 8
"""After so many a fit has as good as converged."""


@dataclass(frozen=True)
class Plan:
    """What a fit will take, in bytes, seconds and flops.

    Attributes
    ----------
    images, pixels, components : int
    blocks, block_bytes : int
        Blocks, and the pixels of the largest.
    tasks, blocks_per_task : int
        Of a pass, sums not counted.
    reads : float
        Of X before the first pass, in units of the whole of it.
    bytes_per_pass, flops_per_pass : int
        Pixels as they are in memory; of the two products, ``4 n p d``.
    workers, threads : int
        Worker processes, 0 where the fit runs in this one; threads of all together.
    task_memory, worker_memory, driver_memory : int
        Peaks; of a worker and of the driver with interpreter and libraries.
    worker_limit, driver_limit : float
        What these may take; infinite without a limit.
    checkpoint_bytes : int
        Most that a checkpoint takes of a disk while the fit runs.
    lack : str or None
        What is needed and is not there.
    trial : dnmf.solvers.calibrate.Trial or None
        Times.
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
        """Give all as JSON has it: None for what has no limit."""
        facts = asdict(self)
        return {name: None if value == math.inf else value for name, value in facts.items()}

    def __str__(self) -> str:
        return "\n".join(f"{name:8}{text}" for name, text in _lines(self))


def plan_fit(
    blocks: Blocks,
    objective: Objective,
    n_components: int,
    tol: float,
    checkpoint_bytes: int,
    *,
    trial: bool = True,
) -> Plan:
    """Say what a fit will take.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    n_components : int
    tol : float
    checkpoint_bytes : int
        As in `Plan`.
    trial : bool
        Whether to run parts of the fit for about ten seconds, to predict its time.
    """
    sizes, room = Sizes.of(blocks, objective, n_components), Room.here(blocks)
    (n, p), reads, lack = blocks.shape, sample_reads(blocks), room.lacks(sizes)
    timed = None
    if trial and lack is None:
        timed = try_fit(blocks, objective, n_components, tol, max(room.threads, 1), reads)
    return Plan(
        images=n,
        pixels=p,
        components=n_components,
        blocks=len(blocks.ranges),
        block_bytes=sizes.rows * p * sizes.pixel,
        tasks=sizes.tasks,
        blocks_per_task=sizes.group,
        reads=reads,
        bytes_per_pass=n * p * sizes.pixel,
        flops_per_pass=4 * n * p * n_components,
        workers=room.workers,
        threads=room.threads,
        task_memory=sizes.task,
        worker_memory=room.worker_bytes(sizes),
        driver_memory=room.driver_bytes(sizes),
        worker_limit=room.worker,
        driver_limit=room.driver,
        checkpoint_bytes=checkpoint_bytes,
        lack=lack,
        trial=timed,
    )


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    where = f"{plan.workers} workers" if plan.workers else "this process"
    yield (
        "fit",
        f"{plan.images:,} images of {plan.pixels:,} pixels, {format_bytes(plan.bytes_per_pass)}, "
        f"to {plan.components:,} components on {plan.threads} threads of {where}",
    )
    yield (
        "pass",
        f"{plan.blocks:,} blocks of {format_bytes(plan.block_bytes)} in {plan.tasks:,} tasks; "
        f"{plan.flops_per_pass:.2g} flops",
    )
    task = f"a task {format_bytes(plan.task_memory)}"
    if plan.workers:
        yield "worker", f"{format_bytes(plan.worker_memory)}{_of(plan.worker_limit)}; {task}"
        task = "H and the sums"
    yield "driver", f"{format_bytes(plan.driver_memory)}{_of(plan.driver_limit)}; {task}"
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


def _of(limit: float) -> str:
    return f" of {format_bytes(limit)}" if limit < math.inf else ""
