"""A pass over X: a function of each block, and the sum of its results in a fixed order.

Two engines with one face (`Blocks`): `LocalBlocks` runs over slices of a NumPy array on threads;
`dask_blocks.DaskBlocks` runs tasks of some blocks each on whatever scheduler is active. Both sum in
the same tree, which depends on the number of blocks and on nothing else, so the bits do not depend
on the engine, the workers or the order in which blocks finish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from dnmf.block import PLAIN, Rules
from dnmf.layout import choose_block_rows
from dnmf.outcomes import (
    Aside,
    Outcome,
    Task,
    add_up,
    image_number,
    run_blocks,
    run_task,
    value_of,
)
from dnmf.threads import CPU_COUNT, one_blas_thread

Array = np.ndarray[Any, np.dtype[Any]]
Result = TypeVar("Result")

TASK_FLOPS = 2e10
"""Work of a task that is worth its scheduling many times over: half a second or less of a core."""

PIXELS_PER_SUM = 4
"""Bytes of pixels a task should read for each byte of the sums that it sends on."""

LEAST_TASKS, MOST_TASKS = 16, 100_000
"""Tasks of a pass: work for a few workers where there are as many blocks, and no more than one
scheduler hands out in two minutes."""


class Finish(Protocol[Result]):
    """What is made of a sum; picklable."""

    def cut(self, result: Result, /) -> Result:
        """Take what is needed of a result, or of a sum of results: the one or the other first."""
        ...

    def __call__(self, total: Result, /) -> Any:
        """Make something of the sum."""
        ...


class Blocks(Protocol):
    """X, cut into blocks of whole rows.

    Attributes
    ----------
    shape : tuple of int
        (n images, p pixels).
    dtype : numpy.dtype
        Of the pixels as stored.
    ranges : sequence of (start, stop)
        Rows of each block.
    weights, masks
        What lies beside X, in the engine's form; None without any.
    """

    weights: Any
    masks: Any
    rules: Rules

    @property
    def shape(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    @property
    def ranges(self) -> Sequence[tuple[int, int]]: ...  # noqa: D102

    def map_sum(
        self,
        task: Task[Result],
        only: Sequence[int] | None = None,
        *,
        check: bool = True,
        group: int = 1,
    ) -> Result:
        """Read every block once, check it, apply `task` and add up what it returns.

        Parameters
        ----------
        task : callable ``(Block) -> result``
        only : sequence of int, optional
            Blocks to read, in ascending order; all by default.
        check : bool
            Whether to look for pixels that cannot be factorised.
        group : int
            Blocks that are read and added up by one task, the next while one is computed with.

        Raises
        ------
        DataError
            A pixel is negative, infinite, or NaN where that is no mark of a missing one.
        """
        ...

    def map_parts(self, task: Task[Result], only: Sequence[int]) -> list[Result]:
        """Apply `task` to some blocks, unchecked, and bring home what it returns, not added up."""
        ...

    def map_finish(
        self, task: Task[Result], finish: Sequence[Finish[Result]], *, group: int = 1
    ) -> list[Any]:
        """Do as `map_sum`, and bring home what each of some functions makes of the sum.

        Results are cut where they come to be, for each function what it needs; each cut is added
        up on its own, and finished where it lies.
        """
        ...


def blocks_per_task(blocks: Blocks, *components: int) -> int:
    """Choose how many blocks one task of a pass takes, from sizes alone: the bits depend on it.

    Enough for a task to be worth its scheduling, and for its pixels to outweigh its sums, which
    are those of one model or of several.
    """
    p, (start, stop) = blocks.shape[1], blocks.ranges[0]
    pixels = (stop - start) * p
    work = TASK_FLOPS / (4 * pixels * sum(components))
    sums = sum(8 * d * (d + p) for d in components)
    weight = PIXELS_PER_SUM * sums / (pixels * blocks.dtype.itemsize)
    n = len(blocks.ranges)
    return max(1, min(round(max(work, weight)), n // LEAST_TASKS), -(-n // MOST_TASKS))


def groups_of(blocks: Sequence[int], size: int) -> list[Sequence[int]]:
    """Cut a list of blocks into groups."""
    return [blocks[i : i + size] for i in range(0, len(blocks), size)]


@dataclass
class LocalBlocks:
    """Rows of an array in memory, NumPy's or SciPy's sparse rows; see `Blocks`."""

    array: Array
    weights: Array | None = None
    masks: Array | None = None
    rules: Rules = PLAIN
    threads: int = CPU_COUNT

    def __post_init__(self) -> None:
        n, p = self.array.shape
        self.shape = (n, p)
        self.dtype = self.array.dtype
        self.ranges = even_ranges(n, choose_block_rows(n, p * self.dtype.itemsize))

    @property
    def is_plain(self) -> bool:
        """Whether every pixel of the array counts, as far as the rules can tell."""
        marked = self.rules.nan_is_missing and self.dtype.kind == "f"
        return isinstance(self.array, np.ndarray) and self.masks is None and not marked

    def map_sum(
        self,
        task: Task[Result],
        only: Sequence[int] | None = None,
        *,
        check: bool = True,
        group: int = 1,
    ) -> Result:
        """Apply a task to every block on threads; see `Blocks.map_sum`."""
        rules = replace(self.rules, check=check)
        wanted = range(len(self.ranges)) if only is None else only

        def run(blocks: Sequence[int]) -> Outcome[Result]:
            return run_blocks(map(self._part, blocks), rules, task)

        total: Outcome[Result] = add_up(self._each(run, groups_of(wanted, group)))
        return value_of(total, image_number)

    def map_parts(self, task: Task[Result], only: Sequence[int]) -> list[Result]:
        """Apply a task to some blocks on threads; see `Blocks.map_parts`."""
        rules = replace(self.rules, check=False)
        outcomes = self._each(lambda block: run_task(*self._part(block), rules, task), only)
        return [value_of(outcome, image_number) for outcome in outcomes]

    def map_finish(
        self, task: Task[Result], finish: Sequence[Finish[Result]], *, group: int = 1
    ) -> list[Any]:
        """Apply a task to every block, and functions to the sum; see `Blocks.map_finish`."""
        total = self.map_sum(task, group=group)
        return list(self._each(lambda end: end(end.cut(total)), finish))

    def _part(self, block: int) -> tuple[Array, int, Aside]:
        start, stop = self.ranges[block]
        rows = slice(start, stop)
        aside = (_rows_of(self.weights, rows), _rows_of(self.masks, rows))
        return dense(self.array[rows]), start, aside

    def _each(self, run: Callable[[Any], Any], things: Sequence[Any]) -> Iterator[Any]:
        with one_blas_thread(), ThreadPoolExecutor(self.threads) as pool:
            yield from _in_order(pool, run, things, self.threads)


def _rows_of(aligned: Array | None, rows: slice) -> Array | None:
    return None if aligned is None else aligned[rows]


def dense(X: Any) -> Array:
    """Give SciPy's sparse rows as an array, and an array as it is."""
    return X if isinstance(X, np.ndarray) else np.asarray(X.toarray())


def _in_order(
    pool: ThreadPoolExecutor, run: Callable[[Any], Result], things: Sequence[Any], threads: int
) -> Iterator[Result]:
    """Yield results in the order of things, with few of them waiting at any time."""
    waiting: deque[Future[Result]] = deque()
    for thing in things:
        waiting.append(pool.submit(run, thing))
        if len(waiting) > 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def even_ranges(n: int, rows: int) -> list[tuple[int, int]]:
    """Cut n rows into ranges of so many rows, the last one short."""
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]
