"""A pass over an array in memory, on threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dnmf._progress import part_counter
from dnmf._typing import Array
from dnmf.engine.blocks import BlockFunction, Finish, RawBlock, Result
from dnmf.engine.executors import map_on_threads
from dnmf.engine.threads import one_blas_thread, thread_count
from dnmf.engine.tree_reduce import (
    Item,
    Mapped,
    Outcome,
    add,
    choose_block_rows,
    even_ranges,
    groups_of,
    run_block,
    run_blocks,
    tree_reduce,
)
from dnmf.numerics.block import DEFAULT_RULES, PixelRules, image_number


@dataclass
class LocalBlocks:
    """Row slices of an array in memory; a `dnmf.engine.blocks.Blocks`.

    Attributes
    ----------
    array : ndarray or SciPy sparse matrix in rows, of shape (n, p)
    weights : ndarray of shape (n,), optional
    masks : ndarray of shape (n, p), bool, optional
    rules : PixelRules
    threads : int
        Number of threads that compute.
    """

    array: Array
    weights: Array | None = None
    masks: Array | None = None
    rules: PixelRules = DEFAULT_RULES
    threads: int = field(default_factory=thread_count)

    def __post_init__(self) -> None:
        n, p = self.array.shape
        self.shape = (n, p)
        self.dtype = self.array.dtype
        self.ranges = even_ranges(n, choose_block_rows(n, p * self.dtype.itemsize))

    @property
    def is_plain(self) -> bool:
        """Whether the array is dense, without a mask and without marks of missing pixels."""
        marked = self.rules.nan_is_missing and self.dtype.kind == "f"
        return isinstance(self.array, np.ndarray) and self.masks is None and not marked

    def map_sum(
        self,
        function: BlockFunction[Result],
        only: Sequence[int] | None = None,
        *,
        check: bool = True,
        group: int = 1,
        label: str = "",
    ) -> Result:
        """See `Blocks.map_sum`."""
        rules = replace(self.rules, check=check)
        numbers = range(len(self.ranges)) if only is None else only

        def run(numbers: Sequence[int]) -> Outcome[Result]:
            return run_blocks(map(self._read, numbers), rules, function)

        groups = groups_of(numbers, group)
        counted = part_counter(label, len(groups))

        def outcomes() -> Iterator[Outcome[Result]]:
            for outcome in self._map(run, groups):
                counted()
                yield outcome

        total: Outcome[Result] = tree_reduce(outcomes(), add)
        return total.result(image_number)

    def map_blocks(self, function: BlockFunction[Result], only: Sequence[int]) -> list[Result]:
        """See `Blocks.map_blocks`."""
        rules = replace(self.rules, check=False)
        outcomes = self._map(lambda number: run_block(self._read(number), rules, function), only)
        return [outcome.result(image_number) for outcome in outcomes]

    def map_finish(
        self,
        function: BlockFunction[Result],
        finishes: Sequence[Finish[Result]],
        *,
        group: int = 1,
        label: str = "",
    ) -> list[Any]:
        """See `Blocks.map_finish`."""
        total = self.map_sum(function, group=group, label=label)
        return list(self._map(lambda finish: finish(finish.select(total)), finishes))

    def _read(self, number: int) -> RawBlock:
        start, stop = self.ranges[number]
        X, weights, mask = (
            None if array is None else array[start:stop]
            for array in (self.array, self.weights, self.masks)
        )
        return RawBlock(_dense(X), start, weights, mask)

    def _map(self, function: Callable[[Item], Mapped], items: Sequence[Item]) -> Iterator[Mapped]:
        with one_blas_thread():
            yield from map_on_threads(function, items, self.threads)


def _dense(X: Any) -> Array:
    return X if isinstance(X, np.ndarray) else np.asarray(X.toarray())
