"""A pass over an array in memory, on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.engine.blocks import Aside, BlockFunction, Finish, Result
from dnmf.engine.executors import CPU_COUNT, one_blas_thread
from dnmf.engine.tree_reduce import (
    Outcome,
    add_up,
    choose_block_rows,
    even_ranges,
    groups_of,
    image_number,
    run_blocks,
    run_task,
    value_of,
)
from dnmf.numerics.block import DEFAULT_RULES, PixelRules


@dataclass
class LocalBlocks:
    """Rows of an array in memory, NumPy's or SciPy's sparse rows; see `Blocks`."""

    array: Array
    weights: Array | None = None
    masks: Array | None = None
    rules: PixelRules = DEFAULT_RULES
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
        task: BlockFunction[Result],
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

    def map_parts(self, task: BlockFunction[Result], only: Sequence[int]) -> list[Result]:
        """Apply a task to some blocks on threads; see `Blocks.map_parts`."""
        rules = replace(self.rules, check=False)
        outcomes = self._each(lambda block: run_task(*self._part(block), rules, task), only)
        return [value_of(outcome, image_number) for outcome in outcomes]

    def map_finish(
        self, task: BlockFunction[Result], finish: Sequence[Finish[Result]], *, group: int = 1
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
