"""A pass as a Dask graph: tasks of some blocks each, and the tree that adds up what they return.

What all tasks need (the function, H, how a block is read) goes to every worker once, before them. A
task says no more than which blocks it is for, so a scheduler holds a hundred thousand of them
easily, and needs no access to the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from dnmf._typing import Array
from dnmf.engine.blocks import Aside, Finish, Task
from dnmf.engine.executors import active_client, one_blas_thread
from dnmf.engine.retry import GROUP, compute_with
from dnmf.engine.tree_reduce import (
    FAN_IN,
    Outcome,
    add,
    groups_of,
    image_number,
    run_blocks,
    value_of,
)
from dnmf.numerics.block import PLAIN, PixelRules

Result = TypeVar("Result")
Part = Callable[[int], Array] | Sequence[Any] | None
"""A matrix, mask or vector in blocks: a picklable function that reads one by its number, or for
each an array or a Dask ``Delayed`` of one."""


@dataclass
class DaskBlocks:
    """Blocks that tasks read or are given; see `dnmf.engine.blocks.Blocks`.

    Attributes
    ----------
    shape, dtype, ranges
        As in `Blocks`.
    load, weights, masks
        X and what lies beside it.
    image : callable
        Names the image of a row, for errors.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ranges: Sequence[tuple[int, int]]
    load: Part
    image: Callable[[int], str] = image_number
    weights: Part = None
    masks: Part = None
    rules: PixelRules = PLAIN

    def map_sum(
        self,
        task: Task[Result],
        only: Sequence[int] | None = None,
        *,
        check: bool = True,
        group: int = 1,
    ) -> Result:
        """Apply a task to every block on the active Dask scheduler; see `Blocks.map_sum`."""
        wanted = range(len(self.ranges)) if only is None else only

        def ends(graph: Graph, work: Any) -> list[Any]:
            return [_tree(graph, self._leaves(graph, work, wanted, group))]

        work = self._work(task, replace(self.rules, check=check))
        total: Outcome[Result] = _compute(work, ends)[0]
        return value_of(total, self.image)

    def map_parts(self, task: Task[Result], only: Sequence[int]) -> list[Result]:
        """Apply a task to some blocks on the active scheduler; see `Blocks.map_parts`."""
        work = self._work(task, replace(self.rules, check=False))
        outcomes = _compute(work, lambda graph, work: self._leaves(graph, work, only, 1))
        return [value_of(outcome, self.image) for outcome in outcomes]

    def map_finish(
        self, task: Task[Result], finish: Sequence[Finish[Result]], *, group: int = 1
    ) -> list[Any]:
        """Apply a task to every block and functions to the sum; see `Blocks.map_finish`."""

        def ends(graph: Graph, work: Any, *finish: Any) -> list[Any]:
            leaves = self._leaves(graph, work, range(len(self.ranges)), group)
            return [
                graph.add(
                    _finished, _tree(graph, [graph.add(_cut, leaf, end) for leaf in leaves]), end
                )
                for end in finish
            ]

        outcomes = _compute(self._work(task, self.rules), ends, finish)
        return [value_of(outcome, self.image) for outcome in outcomes]

    def _work(self, task: Task[Result], rules: PixelRules) -> Work:
        read = (part if callable(part) else None for part in (self.load, self.weights, self.masks))
        return Work(task, rules, tuple(read))

    def _leaves(self, graph: Graph, work: Any, wanted: Sequence[int], group: int) -> list[Any]:
        # Blocks that are results of other tasks must all be there before a task can start.
        together = group if callable(self.load) else 1
        leaves = []
        for some in groups_of(wanted, together):
            run = partial(_run_group, some, [self.ranges[i][0] for i in some])
            leaves.append(graph.add(run, work, self._given(graph, some)))
        if together < group:
            leaves = [graph.add(add, some) for some in groups_of(leaves, group)]
        return leaves

    def _given(self, graph: Graph, some: Sequence[int]) -> list[Any]:
        parts = (self.load, self.weights, self.masks)
        return [
            None if part is None or callable(part) else [graph.key_of(part[i]) for i in some]
            for part in parts
        ]


@dataclass(frozen=True)
class Work:
    """What every task of a computation needs.

    Attributes
    ----------
    task : callable
    rules : PixelRules
    read : tuple of callable or None
        Read a block of X, its weights, its mask; None for what a task is given, or there is none.
    """

    task: Task[Any]
    rules: PixelRules
    read: tuple[Callable[[int], Array] | None, ...]


@dataclass
class Graph:
    """A Dask graph that grows.

    Attributes
    ----------
    name : str
        Its own; the part of its keys before it is what dashboards and statistics show.
    tasks : dict
    others : list of Delayed
        Computed elsewhere, and used here.
    """

    name: str = field(default_factory=lambda: uuid4().hex)
    tasks: dict[Any, Any] = field(default_factory=dict)
    others: list[Any] = field(default_factory=list)

    def add(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Add a task and return its key; keys among the arguments stand for results."""
        return self.put((function, *arguments))

    def put(self, value: Any) -> Any:
        """Add a value and return its key."""
        key = (GROUP, self.name, len(self.tasks))
        self.tasks[key] = value
        return key

    def key_of(self, value: Any) -> Any:
        """Give what stands for a value that may be a ``Delayed``."""
        if not hasattr(value, "__dask_graph__"):
            return value
        self.others.append(value)
        return value.key

    def describe(self, key: Any) -> str:
        """Name a task, for errors, by the blocks it is for."""
        run = self.tasks.get(key, (None,))[0]
        if not isinstance(run, partial):
            return f"task {key}"
        some, starts = run.args
        blocks = f"block {some[0]}" if len(some) == 1 else f"blocks {some[0]} to {some[-1]}"
        return f"the task for {blocks} (images from {starts[0]:,} on)"

    def delayed(self, keys: Sequence[Any]) -> list[Any]:
        """Give the results of keys as Dask's lazy values."""
        from dask.delayed import Delayed
        from dask.highlevelgraph import HighLevelGraph

        whole = HighLevelGraph.from_collections(self.name, self.tasks, dependencies=self.others)
        return [Delayed(key, whole, layer=self.name) for key in keys]


def _compute(work: Work, ends: Callable[..., list[Any]], apart: Sequence[Any] = ()) -> Any:
    """Compute the ends of a graph, around one copy of the work per worker."""
    from dask.base import compute

    graph = Graph()

    def lazy(*shared: Any) -> list[Any]:
        nonlocal graph
        graph = Graph()
        return graph.delayed(ends(graph, *shared))

    client = active_client()
    if client is not None:
        return compute_with(client, work, lazy, apart, lambda key: graph.describe(key))
    return compute(*graph.delayed(ends(graph, *map(graph.put, (work, *apart)))))


def _tree(graph: Graph, keys: list[Any]) -> Any:
    while len(keys) > 1:
        keys = [graph.add(add, some) for some in groups_of(keys, FAN_IN)]
    return keys[0]


def _cut(outcome: Outcome[Any], end: Finish[Any]) -> Outcome[Any]:
    return outcome if outcome.invalid is not None else Outcome(end.cut(outcome.value))


def _finished(outcome: Outcome[Any], end: Finish[Any]) -> Outcome[Any]:
    return outcome if outcome.invalid is not None else Outcome(end(outcome.value))


def _run_group(
    some: Sequence[int], starts: Sequence[int], work: Work, given: Sequence[Any]
) -> Outcome[Any]:
    with one_blas_thread():
        return run_blocks(_read_ahead(some, starts, work, given), work.rules, work.task)


def _read_ahead(
    some: Sequence[int], starts: Sequence[int], work: Work, given: Sequence[Any]
) -> Iterator[tuple[Array, int, Aside]]:
    """Read blocks, the next one while the caller computes with one."""

    def read(at: int) -> list[Any]:
        return [
            reader(some[at]) if reader is not None else here and here[at]
            for reader, here in zip(work.read, given, strict=True)
        ]

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, 0)
        for at, start in enumerate(starts):
            X, weights, mask = ahead.result()
            if at + 1 < len(some):
                ahead = reader.submit(read, at + 1)
            yield np.asarray(X), start, (weights, mask)
