"""The memory of a fit, and the disk of its checkpoint, known from sizes before it starts.

What is large are the pixels of a block, the sums of a pass, which are as large as H in float64, and
the sample that a fit starts from. What interpreter and libraries hold, a process says itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil

from dnmf._format import format_bytes
from dnmf.engine.blocks import Blocks
from dnmf.engine.client import workers_of
from dnmf.engine.executors import CPU_COUNT, active_client
from dnmf.engine.local import LocalBlocks
from dnmf.engine.tree_reduce import FAN_IN, blocks_per_task
from dnmf.errors import CapacityError
from dnmf.numerics.block import compute_dtype, strip_rows
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import Objective, Quadratic
from dnmf.solvers.loop import ModelRun
from dnmf.solvers.sample import SAMPLE_AT_ONCE, SAMPLE_BLOCKS, sample_rows
from dnmf.solvers.warm_start import PROBE_ROWS

log = logging.getLogger("dnmf")
LOADED = 85e6
"""Bytes of what a process has yet to load when it is asked what it holds: compiled kernels."""

SMALL = 2**30
"""What any machine has."""

SLACK = 1.1
"""What allocators keep of memory that was given back."""


@dataclass(frozen=True)
class Sizes:
    """What the memory of a fit depends on.

    Attributes
    ----------
    n, p, d : int
        Images, pixels, components.
    rows : int
        Images of the largest block.
    pixel, number : int
        Bytes of a pixel as stored, and as computed with.
    group : int
        Blocks of a task.
    tasks : int
        Of a pass, before sums.
    planes : int
        Arrays of the size of a strip that its solve holds, besides the strip.
    sums : int
        Arrays of the size of H among the sums of a pass.
    batch, probe : int
        Images of an update in the warm-up, and of those that its rounds are judged by.
    masked, here : bool
        Whether pixels may be missing; whether X is in memory.
    """

    n: int
    p: int
    d: int
    rows: int
    pixel: int
    number: int
    group: int
    tasks: int
    planes: int
    sums: int
    batch: int
    probe: int
    masked: bool
    here: bool

    @classmethod
    def of(cls, blocks: Blocks, objective: Objective, n_components: int) -> Sizes:
        """Take them from blocks and what is minimised."""
        n, p = blocks.shape
        plain = isinstance(objective, Quadratic) and not isinstance(objective, MaskedQuadratic)
        group = blocks_per_task(blocks, n_components)
        return cls(
            n,
            p,
            n_components,
            max(stop - start for start, stop in blocks.ranges),
            blocks.dtype.itemsize,
            compute_dtype(blocks.dtype).itemsize,
            group,
            -(-len(blocks.ranges) // group),
            0 if plain else 3 if objective.beta in (1, 2) else 6,
            1 if isinstance(objective, Quadratic) else 2,
            objective.warm_up_batch_size(n_components),
            PROBE_ROWS if isinstance(objective, Quadratic) else 0,
            blocks.masks is not None or blocks.rules.nan_is_missing,
            isinstance(blocks, LocalBlocks),
        )

    @property
    def copies(self) -> int:
        """Of what comes to the driver: message and array, and as many on a scheduler within it."""
        return 1 if self.here else 4

    @property
    def result(self) -> int:
        """Bytes of the sums of a pass."""
        return 8 * (self.sums * self.d * self.p + self.d**2 + self.p)

    @property
    def basis(self) -> int:
        """Bytes of what every worker gets: H, its Gram matrix, the guess."""
        return self.number * (self.d * self.p + 2 * self.d**2)

    def strip(self, rows: int) -> int:
        """Bytes of some images in floating point, and what their solve holds of that size."""
        return self.number * min(strip_rows(self.p), rows) * self.p * (1 + self.planes)

    @property
    def task(self) -> int:
        """Bytes of a task at work: blocks, a strip and its weights, sums."""
        # At work, being read, being decoded; of an array in memory a block is a view.
        blocks = self.rows * self.p * ((0 if self.here else 3 * self.pixel) + 4 * self.masked)
        weights = self.number * self.d * (6 * strip_rows(self.p) + 2 * self.rows)
        sums = 2 * self.result + self.number * self.d * self.p  # so far, and of this block
        return blocks + self.strip(self.rows) + weights + sums

    def worker(self, held: float, threads: int = 1) -> int:
        """Bytes of a worker that holds some: its tasks, H, and results that wait to be added up."""
        waiting = (FAN_IN + 3) * self.result  # one level of the tree, and the beginning of others
        return int(held + LOADED + SLACK * (threads * self.task + self.basis + waiting))

    @property
    def sample_rows(self) -> int:
        """Images of the sample."""
        return sample_rows(self.n, self.p, self.pixel)

    @property
    def sample(self) -> int:
        """Bytes of the sample, if it is a copy."""
        if self.here and self.sample_rows == self.n and not self.masked:
            return 0
        return self.sample_rows * self.p * (self.pixel + self.masked)

    @property
    def coming(self) -> int:
        """Bytes under way to the sample."""
        rows = self.sample_rows
        parts = max(-(-rows // self.rows), min(SAMPLE_BLOCKS, -(-self.n // self.rows)))
        each = self.p * (self.pixel + self.masked)
        return self.copies * SAMPLE_AT_ONCE * (rows // parts + 1) * each if self.sample else 0

    @property
    def learning(self) -> int:
        """Bytes of what learns from the sample."""
        each = self.p * (self.pixel + self.masked)
        updates = (12 * self.number + 16) * self.d * self.p
        updates += 2 * self.batch * each + self.strip(self.batch)
        probe = min(self.sample_rows, self.probe)
        return probe * each + self.strip(probe) + updates

    @property
    def start(self) -> int:
        """Bytes of the driver at the start: the sample, and what comes for it or learns from it."""
        return self.sample + max(self.coming, self.learning)

    @property
    def passes(self) -> int:
        """Bytes of the driver during passes: H as it was, is and will be, and the sums."""
        return 12 * 8 * self.d * self.p + self.copies * (self.result + self.basis)

    def driver(self, held: float, threads: int = 0) -> int:
        """Bytes of the driver, which holds some already; with threads, it runs the tasks too."""
        tasks = threads * self.task + (FAN_IN if threads else 0) * self.result
        return int(held + LOADED + SLACK * max(self.start, self.passes + tasks))


@dataclass(frozen=True)
class Together:
    """What the memory of several models depends on that a pass evaluates together.

    Attributes
    ----------
    each : tuple of Sizes
    resampled : bool
        Whether cells are hidden from some.
    """

    each: tuple[Sizes, ...]
    resampled: bool

    @property
    def shown(self) -> int:
        """Bytes per pixel of images that cells are hidden from: sorted, with holes, and masks."""
        return (2 * self.each[0].pixel + 2) * self.resampled

    @property
    def task(self) -> int:
        """Bytes of a task at work: the largest of all, and the sums of the others."""
        largest = max(self.each, key=lambda sizes: sizes.d)
        others = 2 * (sum(sizes.result for sizes in self.each) - largest.result)
        return largest.task + others + largest.rows * largest.p * self.shown

    def worker(self, held: float, threads: int = 1) -> int:
        """Bytes of a worker; see `Sizes.worker`."""
        waiting = (FAN_IN + 3) * sum(sizes.result for sizes in self.each)
        basis = sum(sizes.basis for sizes in self.each)
        return int(held + LOADED + SLACK * (threads * self.task + basis + waiting))

    def driver(self, held: float, threads: int = 0) -> int:
        """Bytes of the driver; see `Sizes.driver`."""
        first = self.each[0]
        shown = first.sample_rows * first.p * self.shown
        at_once = min(CPU_COUNT, len(self.each))
        learning = shown + at_once * max(sizes.learning for sizes in self.each)
        start = first.sample + max(first.coming, learning)
        passes = sum(sizes.passes for sizes in self.each)
        results = sum(sizes.result for sizes in self.each)
        tasks = threads * self.task + (FAN_IN if threads else 0) * results
        return int(held + LOADED + SLACK * (max(start, passes + tasks)))


@dataclass(frozen=True)
class Room:
    """The memory of where a fit would run.

    Attributes
    ----------
    workers, threads : int
        Worker processes, none where the fit runs in this one; threads of all together.
    threads_each : int
        Of the worker with least memory for its threads.
    worker_held, worker : float
        Bytes that this worker has, with dnmf imported, and may take before Dask stops giving it
        work; the latter may be infinite.
    held, driver : float
        Bytes that this process has, and may have.
    """

    workers: int
    threads: int
    threads_each: int
    worker_held: float
    worker: float
    held: float
    driver: float

    @classmethod
    def here(cls, blocks: Blocks) -> Room:
        """Look at the active cluster and at this machine."""
        from distributed.system import MEMORY_LIMIT  # knows what a container may have

        held = resident()
        driver = min(held + psutil.virtual_memory().available, MEMORY_LIMIT)
        client = None if isinstance(blocks, LocalBlocks) else active_client()
        known = [] if client is None else workers_of(client)
        if not known:  # threads of this process, or a cluster whose workers are yet to come
            count = getattr(blocks, "threads", CPU_COUNT) if client is None else 0
            return cls(0, count, count, 0.0, math.inf, held, driver)
        threads, limit, address = min(known, key=lambda worker: worker[1] / worker[0])
        there = _resident_of(client, address)
        total = sum(each for each, *_ in known)
        return cls(len(known), total, threads, there, limit, held, driver)

    def worker_bytes(self, sizes: Sizes | Together) -> int:
        """Bytes that a fit takes of a worker."""
        return sizes.worker(self.worker_held, self.threads_each) if self.workers else 0

    def driver_bytes(self, sizes: Sizes | Together) -> int:
        """Bytes that it takes of this process."""
        return sizes.driver(self.held, 0 if self.workers else self.threads)

    def words(self, sizes: Sizes | Together) -> str:
        """Say what it takes, in words."""
        worker = f"{format_bytes(self.worker_bytes(sizes))} on a worker, " if self.workers else ""
        return f"{worker}{format_bytes(self.driver_bytes(sizes))} in this process"

    def lacks(self, sizes: Sizes | Together) -> str | None:
        """Say what a fit needs and there is not; None if it fits."""
        needed = self.worker_bytes(sizes)
        if needed > self.worker:
            return (
                f"{format_bytes(needed)} on a worker of {self.threads_each} "
                f"thread{'s' * (self.threads_each > 1)}, which may take "
                f"{format_bytes(self.worker)} before Dask stops giving it work"
            )
        needed = self.driver_bytes(sizes)
        if needed > self.driver:
            available = format_bytes(self.driver)
            return f"{format_bytes(needed)} in this process, and there are {available} for it"
        return None


def resident() -> float:
    """Bytes of this process, once it has imported what tasks need."""
    import dnmf.solvers.loop
    import dnmf.storage.corpus  # noqa: F401

    return float(psutil.Process().memory_info().rss)


def _resident_of(client: Any, address: str) -> float:
    """Ask a worker; of one that dies meanwhile, as much as of this process."""
    answers = client.run(resident, workers=[address], on_error="ignore")
    return float(answers.get(address) or resident())


def require_memory(blocks: Blocks, objective: Objective, n_components: int) -> None:
    """Raise CapacityError for a fit that is too large for where it would run."""

    def lacks(d: int) -> str | None:
        return room.lacks(Sizes.of(blocks, objective, d))

    here = isinstance(blocks, LocalBlocks)
    if here and Sizes.of(blocks, objective, n_components).driver(0, CPU_COUNT) < SMALL:
        return
    room = Room.here(blocks)
    if (lack := lacks(n_components)) is None:
        return
    most = largest(lambda d: lacks(d) is None, n_components)
    fewer = f"at most {most:,} components, " if most else ""
    threads = "workers of fewer threads, " if room.threads_each > 1 and room.workers else ""
    raise CapacityError(
        f"a fit of {n_components:,} components needs about {lack}: take {fewer}blocks of fewer "
        f"images, {threads}or more memory"
    )


def checkpoint_bytes(blocks: Blocks, n_components: int, keep: int, max_iter: int) -> int:
    """Bound the bytes of a checkpoint on a disk, while a fit runs.

    Passes, and weights: one set for each pass that is kept and the one being written.
    """
    d, page = n_components, 4096
    rows, count = blocks.ranges[0][1], len(blocks.ranges)
    chunk = rows * d * compute_dtype(blocks.dtype).itemsize + 64 + page
    weights = count * (chunk + 64) + 2 * page
    return passes_bytes(blocks, n_components, keep, max_iter) + (keep + 1) * weights


def passes_bytes(blocks: Blocks, n_components: int, keep: int, max_iter: int) -> int:
    """Bound the bytes of a checkpoint without weights.

    The passes that are kept, the newest with weights, the one being written. Of a file the last
    4 KiB may be empty.
    """
    page = 4096
    arrays = 3 * 8 * n_components * blocks.shape[1] + 8 * len(blocks.ranges)
    record = 40 * max_iter + 32 * n_components + 24 * page
    return (keep + 2) * (arrays + record) + 4 * page


def groups_that_fit(blocks: Blocks, runs: Sequence[ModelRun]) -> list[slice]:
    """Cut models that are to be fitted together into groups for which there is memory.

    Parameters
    ----------
    blocks : Blocks
    runs : sequence of ModelRun

    Raises
    ------
    CapacityError
        There is not enough memory for one of them alone.
    """
    sizes = [Sizes.of(blocks, run.objective, run.spec.n_components) for run in runs]

    def together(chosen: slice) -> Together:
        hidden = any(run.holdout is not None for run in runs[chosen])
        return Together(tuple(sizes[chosen]), hidden)

    everything = slice(0, len(runs))
    in_memory = isinstance(blocks, LocalBlocks)
    if in_memory and together(everything).driver(0, CPU_COUNT) < SMALL:
        return [everything]
    room, groups, first = Room.here(blocks), [], 0

    def fits(first: int, count: int) -> bool:
        return room.lacks(together(slice(first, first + count))) is None

    while (rest := len(runs) - first) > 0:
        count = rest if fits(first, rest) else largest(partial(fits, first), rest)
        if not count:  # not even for one alone: either that raises, or the sum was too careful
            require_memory(blocks, runs[first].objective, runs[first].spec.n_components)
        groups.append(slice(first, first + max(count, 1)))
        first = groups[-1].stop
    _log_groups(
        groups, room.words(together(max(groups, key=lambda group: group.stop - group.start))), runs
    )
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


def largest(fits: Callable[[int], bool], too_large: int) -> int:
    """Find the largest number that fits, below one that does not; 0 if none does."""
    low, high = 0, too_large
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
