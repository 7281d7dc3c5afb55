"""Memory that a fit needs, and space on disk for its checkpoint, computed before it starts.

The large parts are the pixels of a block, the sums of a pass (each as large as H in float64) and
the sample that a fit starts from. The memory of interpreter and libraries is measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import psutil

from dnmf._format import format_bytes
from dnmf.engine.blocks import Blocks
from dnmf.engine.client import workers_of
from dnmf.engine.executors import active_client
from dnmf.engine.local import LocalBlocks
from dnmf.engine.retry import wait_for_workers
from dnmf.engine.threads import thread_count
from dnmf.engine.tree_reduce import FAN_IN, blocks_per_task
from dnmf.errors import CapacityError
from dnmf.numerics.block import compute_dtype, strip_rows
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import Objective
from dnmf.numerics.online import count_units
from dnmf.numerics.quadratic import Quadratic
from dnmf.solvers.loop import ModelRun
from dnmf.solvers.sample import SAMPLE_AT_ONCE, SAMPLE_BLOCKS, sample_rows
from dnmf.solvers.sketch import PARTS, chunk_rows, is_sketched, sketch_width
from dnmf.solvers.warm_start import PROBE_ROWS

log = logging.getLogger("dnmf")

UNLOADED_BYTES = 85e6
"""Bytes that a process loads after its memory was measured: compiled kernels."""

SMALL_FIT_BYTES = 2**30
"""Bytes that every machine has: for a smaller fit of an array in memory nothing is measured."""

KEPT_BYTES = 2**26
"""Bytes that BLAS and the allocator keep of a sketch, besides its arrays."""

ALLOCATOR_FACTOR = 1.1
"""Factor for memory that has been freed and that allocators keep."""


@dataclass(frozen=True)
class FitMemory:
    """Memory of the fit of one model, computed from sizes; all properties are in bytes.

    Attributes
    ----------
    n, p, d : int
        Numbers of images, pixels and components.
    block_rows : int
        Number of images of the largest block.
    pixel_bytes, float_bytes : int
        Bytes of a pixel as it is stored, and as a floating point number that is computed with.
    task_blocks : int
        Number of blocks per task.
    n_tasks : int
        Number of tasks of a pass, without those that add up sums.
    solve_arrays : int
        Number of arrays of the size of a strip that its solve holds besides the strip.
    stats_arrays : int
        Number of arrays of the size of H among the sums of a pass.
    batch_rows, probe_rows : int
        Numbers of images in a batch of the warm start, and of those that its loss is computed on.
    sketch_width : int
        Number of directions of the sketch that the warm start runs on; 0 if it runs on pixels.
    copies : int
        Number of times that a task holds its block in the stored dtype.
    masked : bool
        Whether pixels may be missing.
    in_memory : bool
        Whether X is in memory.
    """

    n: int
    p: int
    d: int
    block_rows: int
    pixel_bytes: int
    float_bytes: int
    task_blocks: int
    n_tasks: int
    solve_arrays: int
    stats_arrays: int
    batch_rows: int
    probe_rows: int
    sketch_width: int
    copies: int
    masked: bool
    in_memory: bool

    @classmethod
    def from_blocks(cls, blocks: Blocks, objective: Objective, n_components: int) -> FitMemory:
        """Return the memory of a fit of an objective to blocks."""
        n, p = blocks.shape
        plain = isinstance(objective, Quadratic) and not isinstance(objective, MaskedQuadratic)
        task_blocks = blocks_per_task(blocks, n_components)
        sampled = sample_rows(n, p, blocks.dtype.itemsize)
        sketched = is_sketched(objective, n_components, sampled, p)
        return cls(
            n,
            p,
            n_components,
            max(stop - start for start, stop in blocks.ranges),
            blocks.dtype.itemsize,
            compute_dtype(blocks.dtype).itemsize,
            task_blocks,
            -(-len(blocks.ranges) // task_blocks),
            0 if plain else 3 if objective.beta in (1, 2) else 6,
            1 if isinstance(objective, Quadratic) else 2,
            objective.warm_up_batch_size(n_components),
            PROBE_ROWS if isinstance(objective, Quadratic) else 0,
            sketch_width(n_components, sampled, p) if sketched else 0,
            _copies(blocks),
            blocks.masks is not None or blocks.rules.nan_is_missing,
            isinstance(blocks, LocalBlocks),
        )

    @property
    def n_blocks(self) -> int:
        """Number of blocks, if all are as large as the largest."""
        return -(-self.n // self.block_rows)

    @property
    def stats(self) -> int:
        """Bytes of the sums of a pass."""
        return 8 * (self.stats_arrays * self.d * self.p + self.d**2 + self.p)

    @property
    def basis(self) -> int:
        """Bytes of what every worker receives: H, its Gram matrix, the first guess of W."""
        return self.float_bytes * (self.d * self.p + 2 * self.d**2)

    def strip(self, rows: int) -> int:
        """Return the bytes of the largest strip of these images, its solve included."""
        rows = min(strip_rows(self.p), rows)
        return self.float_bytes * rows * self.p * (1 + self.solve_arrays)

    @property
    def blocks(self) -> int:
        """Bytes of the blocks of a task, with mask and a copy without what it hides."""
        pixel = self.copies * self.pixel_bytes + (self.pixel_bytes + 3) * self.masked
        return self.block_rows * self.p * pixel

    @property
    def task(self) -> int:
        """Bytes of a running task: blocks, a strip and its weights, sums."""
        weights = self.float_bytes * self.d * (6 * strip_rows(self.p) + 2 * self.block_rows)
        # The sums so far and those of the current block.
        stats = 2 * self.stats + self.float_bytes * self.d * self.p
        return self.blocks + self.strip(self.block_rows) + weights + stats

    def worker(self, resident: float, n_threads: int = 1) -> int:
        """Return the peak of a worker: its tasks, H, and sums that wait to be added up.

        Parameters
        ----------
        resident : float
            Bytes that the worker holds before the fit.
        n_threads : int
            Number of its threads.
        """
        waiting = (FAN_IN + 3) * self.stats  # one level of the tree, and the beginning of others
        used = min(n_threads, self.n_tasks) * self.task + self.basis + waiting
        return int(resident + UNLOADED_BYTES + ALLOCATOR_FACTOR * used)

    @property
    def sample_rows(self) -> int:
        """Number of images of the sample."""
        return sample_rows(self.n, self.p, self.pixel_bytes)

    @property
    def sample(self) -> int:
        """Bytes of the sample; 0 where it is a view of X."""
        if self.copies == 0 and self.sample_rows == self.n and not self.masked:
            return 0
        return self.sample_rows * self.p * (self.pixel_bytes + self.masked)

    def sampling(self, n_threads: int) -> int:
        """Return the bytes of the driver while it takes the sample.

        Parameters
        ----------
        n_threads : int
            Number of its threads that read blocks; 0 if workers read them.
        """
        if not self.sample:
            return 0
        parts = max(-(-self.sample_rows // self.block_rows), min(SAMPLE_BLOCKS, self.n_blocks))
        image = self.p * (self.pixel_bytes + self.masked)
        at_once = min(SAMPLE_AT_ONCE, parts)
        arriving = (
            _copies_of_arrivals(n_threads) * at_once * (self.sample_rows // parts + 1) * image
        )
        reading = min(n_threads, at_once) * self.blocks
        if parts <= SAMPLE_AT_ONCE:  # all are read before the sample is put together
            return arriving + max(reading, self.sample)
        return arriving + reading + self.sample

    @property
    def warm_up(self) -> int:
        """Bytes of the warm start, besides the sample."""
        return self.sketch if self.sketch_width else self.online

    @property
    def sketch(self) -> int:
        """Bytes of a warm start on a sketch: directions while they are made, the images, steps."""
        number, at_once = self.float_bytes, min(thread_count(), PARTS)
        directions = (8 + 5 * number) * self.p * self.sketch_width
        images = 3 * number * self.sample_rows * self.sketch_width
        steps = (8 * number + 32) * self.d * self.p + number * self.p * self.sketch_width
        chunk = number * min(chunk_rows(self.p), self.sample_rows) * self.p
        return max(directions, steps) + images + at_once * chunk + KEPT_BYTES

    @property
    def online(self) -> int:
        """Bytes of a warm start by online updates."""
        image = self.p * (self.pixel_bytes + self.masked)
        updates = (12 * self.float_bytes + 16) * self.d * self.p
        updates += 2 * self.batch_rows * image + self.strip(self.batch_rows)
        updates += 2 * count_units(self.batch_rows, self.d, self.p) * self.float_bytes * self.d**2
        probe = min(self.sample_rows, self.probe_rows)
        return probe * image + self.strip(probe) + updates

    def start(self, n_threads: int) -> int:
        """Return the bytes of the driver before the first pass."""
        return max(self.sampling(n_threads), self.sample + self.warm_up)

    def passes(self, n_threads: int) -> int:
        """Return the bytes of the driver during passes, without tasks.

        These are the last, this and the next H, and the sums.
        """
        arriving = _copies_of_arrivals(n_threads) * (self.stats + self.basis)
        return 12 * 8 * self.d * self.p + arriving

    def driver(self, resident: float, n_threads: int = 0) -> int:
        """Return the peak of the driver.

        Parameters
        ----------
        resident : float
            Bytes that it holds before the fit.
        n_threads : int
            Number of its threads that run tasks; 0 if workers run them.
        """
        tasks = min(n_threads, self.n_tasks) * self.task + bool(n_threads) * FAN_IN * self.stats
        used = max(self.start(n_threads), self.passes(n_threads) + tasks)
        return int(resident + UNLOADED_BYTES + ALLOCATOR_FACTOR * used)


def _copies(blocks: Blocks) -> int:
    """Return the number of times that a task holds its block in the stored dtype."""
    if not isinstance(blocks, LocalBlocks):
        return 3  # in use, as read and as decoded, or what a Dask array computes it from
    return 0 if isinstance(blocks.array, np.ndarray) else 1  # sparse rows are made dense


def _copies_of_arrivals(n_threads: int) -> int:
    """Return the number of copies of what arrives at the driver.

    From a cluster: message and array, and both again on a scheduler in the same process.
    """
    return 1 if n_threads else 4


@dataclass(frozen=True)
class JointFitMemory:
    """Memory of the fit of several models in the same passes; all properties are in bytes.

    Attributes
    ----------
    models : tuple of FitMemory
        Memory of the fit of each model alone.
    has_holdout : bool
        Whether cells are hidden from at least one model.
    """

    models: tuple[FitMemory, ...]
    has_holdout: bool

    @property
    def holdout_per_pixel(self) -> int:
        """Bytes per pixel of images with held-out cells: sorted, without these cells, and masks."""
        return (2 * self.models[0].pixel_bytes + 2) * self.has_holdout

    @property
    def task(self) -> int:
        """Bytes of a running task: that of the largest model, and the sums of the others."""
        largest = max(self.models, key=lambda model: model.d)
        others = 2 * (sum(model.stats for model in self.models) - largest.stats)
        holdout = largest.block_rows * largest.p * self.holdout_per_pixel
        return largest.task + others + holdout

    def worker(self, resident: float, n_threads: int = 1) -> int:
        """Return the peak of a worker; see `FitMemory.worker`."""
        waiting = (FAN_IN + 3) * sum(model.stats for model in self.models)
        basis = sum(model.basis for model in self.models)
        used = min(n_threads, self.models[0].n_blocks) * self.task + basis + waiting
        return int(resident + UNLOADED_BYTES + ALLOCATOR_FACTOR * used)

    def driver(self, resident: float, n_threads: int = 0) -> int:
        """Return the peak of the driver; see `FitMemory.driver`."""
        first = self.models[0]
        holdout = first.sample_rows * first.p * self.holdout_per_pixel
        at_once = min(thread_count(), len(self.models))
        each = (
            max(model.warm_up, model.online * self.has_holdout)  # hidden cells are not sketched
            for model in self.models
        )
        warm_up = holdout + at_once * max(each)
        start = max(first.sampling(n_threads), first.sample + warm_up)
        passes = sum(model.passes(n_threads) for model in self.models)
        stats = sum(model.stats for model in self.models)
        tasks = min(n_threads, first.n_blocks) * self.task + bool(n_threads) * FAN_IN * stats
        used = max(start, passes + tasks)
        return int(resident + UNLOADED_BYTES + ALLOCATOR_FACTOR * used)


@dataclass(frozen=True)
class AvailableMemory:
    """Memory of the processes in which a fit would run.

    Attributes
    ----------
    n_workers : int
        Number of worker processes; 0 if the fit runs in this process.
    n_threads : int
        Number of threads of all of them together.
    worker_threads : int
        Number of threads of the worker with the least memory per thread.
    worker_resident : float
        Bytes that this worker holds once dnmf is imported.
    worker_limit : float
        Bytes that it may hold before Dask sends it no more tasks; infinite without a limit.
    driver_resident, driver_limit : float
        Bytes that this process holds, and that it may hold.
    """

    n_workers: int
    n_threads: int
    worker_threads: int
    worker_resident: float
    worker_limit: float
    driver_resident: float
    driver_limit: float

    @classmethod
    def detect(cls, blocks: Blocks) -> AvailableMemory:
        """Measure the memory of the active cluster and of this machine."""
        from distributed.system import MEMORY_LIMIT  # respects the limit of a container

        resident = resident_bytes()
        driver_limit = min(resident + psutil.virtual_memory().available, MEMORY_LIMIT)
        client = None if isinstance(blocks, LocalBlocks) else active_client()
        if client is None:
            count = getattr(blocks, "threads", thread_count())
            return cls(0, count, count, 0.0, math.inf, resident, driver_limit)
        wait_for_workers(client)
        workers = workers_of(client)
        if not workers:  # they have just gone
            return cls(0, 0, 0, 0.0, math.inf, resident, driver_limit)
        threads, limit, address = min(workers, key=lambda worker: worker[1] / worker[0])
        worker_resident = _worker_resident_bytes(client, address)
        n_threads = sum(threads for threads, *_ in workers)
        return cls(len(workers), n_threads, threads, worker_resident, limit, resident, driver_limit)

    def worker_bytes(self, memory: FitMemory | JointFitMemory) -> int:
        """Return the bytes that a fit needs on a worker; 0 without workers."""
        if not self.n_workers:
            return 0
        return memory.worker(self.worker_resident, self.worker_threads)

    def driver_bytes(self, memory: FitMemory | JointFitMemory) -> int:
        """Return the bytes that a fit needs in this process."""
        return memory.driver(self.driver_resident, 0 if self.n_workers else self.n_threads)

    def describe(self, memory: FitMemory | JointFitMemory) -> str:
        """Describe for a message what a fit needs."""
        worker = ""
        if self.n_workers:
            worker = f"{format_bytes(self.worker_bytes(memory))} on a worker, "
        return f"{worker}{format_bytes(self.driver_bytes(memory))} in this process"

    def shortage(self, memory: FitMemory | JointFitMemory) -> str | None:
        """Describe for a message the memory that a fit lacks; None if there is enough."""
        needed = self.worker_bytes(memory)
        if needed > self.worker_limit:
            return (
                f"{format_bytes(needed)} on a worker of {self.worker_threads} "
                f"thread{'s' * (self.worker_threads > 1)}, which may take "
                f"{format_bytes(self.worker_limit)} before Dask stops giving it work"
            )
        needed = self.driver_bytes(memory)
        if needed > self.driver_limit:
            limit = format_bytes(self.driver_limit)
            return f"{format_bytes(needed)} in this process, and there are {limit} for it"
        return None


def resident_bytes() -> float:
    """Return the resident memory of this process, once it has imported what tasks need."""
    import numba  # noqa: F401
    import zarr  # noqa: F401

    import dnmf.engine.dask_graph
    import dnmf.solvers.loop
    import dnmf.storage.checkpoint.weights
    import dnmf.storage.corpus  # noqa: F401

    return float(psutil.Process().memory_info().rss)


def _worker_resident_bytes(client: Any, address: str) -> float:
    """Measure a worker's memory; if the worker has died, that of this process stands for it."""
    answers = client.run(resident_bytes, workers=[address], on_error="ignore")
    return float(answers.get(address) or resident_bytes())


def require_memory(blocks: Blocks, objective: Objective, n_components: int) -> None:
    """Raise CapacityError if a fit needs more memory than this machine or the workers have."""

    def shortage(d: int) -> str | None:
        return available.shortage(FitMemory.from_blocks(blocks, objective, d))

    if isinstance(blocks, LocalBlocks):
        memory = FitMemory.from_blocks(blocks, objective, n_components)
        if memory.driver(0, thread_count()) < SMALL_FIT_BYTES:
            return
    available = AvailableMemory.detect(blocks)
    if (lacking := shortage(n_components)) is None:
        return
    most = largest_fitting(lambda d: shortage(d) is None, n_components)
    fewer = f"at most {most:,} components, " if most else ""
    many_threads = available.worker_threads > 1 and available.n_workers
    threads = "workers of fewer threads, " if many_threads else ""
    raise CapacityError(
        f"a fit of {n_components:,} components needs about {lacking}: take {fewer}blocks of fewer "
        f"images, {threads}or more memory"
    )


def checkpoint_bytes(blocks: Blocks, n_components: int, keep: int, max_iter: int) -> int:
    """Compute an upper bound of the bytes of a checkpoint on a disk while a fit runs.

    Counts passes, and one set of weights for each pass that is kept and for that being written.
    """
    d, page = n_components, 4096
    rows, count = blocks.ranges[0][1], len(blocks.ranges)
    chunk = rows * d * compute_dtype(blocks.dtype).itemsize + 64 + page
    weights = count * (chunk + 64) + 2 * page
    return passes_bytes(blocks, n_components, keep, max_iter) + (keep + 1) * weights


def passes_bytes(blocks: Blocks, n_components: int, keep: int, max_iter: int) -> int:
    """Compute an upper bound of the bytes of a checkpoint without weights.

    Counts the passes that are kept, the newest with weights, and the one being written. Each file
    takes whole pages of 4 KiB.
    """
    page = 4096
    arrays = 3 * 8 * n_components * blocks.shape[1] + 8 * len(blocks.ranges)
    record = 40 * max_iter + 32 * n_components + 24 * page
    return (keep + 2) * (arrays + record) + 4 * page


def groups_that_fit(blocks: Blocks, runs: Sequence[ModelRun]) -> list[slice]:
    """Divide models that are to be fitted together into groups that memory suffices for.

    Parameters
    ----------
    blocks : Blocks
    runs : sequence of ModelRun

    Returns
    -------
    list of slice
        The groups, as few as possible, in the order of the models.

    Raises
    ------
    CapacityError
        There is not enough memory for one of the models alone.
    """
    models = [FitMemory.from_blocks(blocks, run.objective, run.spec.n_components) for run in runs]

    def joint_memory(group: slice) -> JointFitMemory:
        has_holdout = any(run.holdout is not None for run in runs[group])
        return JointFitMemory(tuple(models[group]), has_holdout)

    everything = slice(0, len(runs))
    in_memory = isinstance(blocks, LocalBlocks)
    if in_memory and joint_memory(everything).driver(0, thread_count()) < SMALL_FIT_BYTES:
        return [everything]
    available, groups, first = AvailableMemory.detect(blocks), [], 0

    def fits(first: int, count: int) -> bool:
        return available.shortage(joint_memory(slice(first, first + count))) is None

    while (rest := len(runs) - first) > 0:
        count = rest if fits(first, rest) else largest_fitting(partial(fits, first), rest)
        if not count:  # not even one fits: this raises, unless the joint estimate was too high
            require_memory(blocks, runs[first].objective, runs[first].spec.n_components)
        groups.append(slice(first, first + max(count, 1)))
        first = groups[-1].stop
    longest = max(groups, key=lambda group: group.stop - group.start)
    _log_groups(groups, available.describe(joint_memory(longest)), runs)
    return groups


def _log_groups(groups: Sequence[slice], memory: str, runs: Sequence[ModelRun]) -> None:
    if len(groups) == 1:
        log.info("%d models together take about %s", len(runs), memory)
        return
    log.warning(
        "there is no memory for %d models together: they run in groups of %s, which each read X on "
        "their own and take about %s",
        len(runs),
        ", ".join(str(len(runs[group])) for group in groups),
        memory,
    )


def largest_fitting(fits: Callable[[int], bool], too_large: int) -> int:
    """Return the largest number below a too large one that fits, by bisection; 0 if none does."""
    low, high = 0, too_large
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
