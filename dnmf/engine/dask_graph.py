"""A pass as a Dask graph: tasks of some blocks each, and the tree that adds up what they return.

What all tasks need (the function, H, how a block is read) goes to every worker once, before them. A
task says no more than which blocks it is for, so a scheduler holds a hundred thousand of them
easily, and needs no access to the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import DataNode, GraphNode, List, Task, TaskRef
from dask.typing import Key

from dnmf._typing import Array
from dnmf.engine.blocks import Aside, BlockFunction, Finish
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
from dnmf.numerics.block import DEFAULT_RULES, PixelRules

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
    rules: PixelRules = DEFAULT_RULES

    def map_sum(
        self,
        task: BlockFunction[Result],
        only: Sequence[int] | None = None,
        *,
        check: bool = True,
        group: int = 1,
    ) -> Result:
        """Apply a task to every block on the active Dask scheduler; see `Blocks.map_sum`."""
        wanted = range(len(self.ranges)) if only is None else only

        def ends(graph: Graph, work: TaskRef) -> list[TaskRef]:
            return [_tree(graph, self._leaves(graph, work, wanted, group))]

        work = self._work(task, replace(self.rules, check=check))
        total: Outcome[Result] = _compute(work, ends)[0]
        return value_of(total, self.image)

    def map_parts(self, task: BlockFunction[Result], only: Sequence[int]) -> list[Result]:
        """Apply a task to some blocks on the active scheduler; see `Blocks.map_parts`."""
        work = self._work(task, replace(self.rules, check=False))
        outcomes = _compute(work, lambda graph, work: self._leaves(graph, work, only, 1))
        return [value_of(outcome, self.image) for outcome in outcomes]

    def map_finish(
        self, task: BlockFunction[Result], finish: Sequence[Finish[Result]], *, group: int = 1
    ) -> list[Any]:
        """Apply a task to every block and functions to the sum; see `Blocks.map_finish`."""

        def ends(graph: Graph, work: TaskRef, *finish: TaskRef) -> list[TaskRef]:
            leaves = self._leaves(graph, work, range(len(self.ranges)), group)
            return [
                graph.add(
                    _finished, _tree(graph, [graph.add(_cut, leaf, end) for leaf in leaves]), end
                )
                for end in finish
            ]

        outcomes = _compute(self._work(task, self.rules), ends, finish)
        return [value_of(outcome, self.image) for outcome in outcomes]

    def _work(self, task: BlockFunction[Result], rules: PixelRules) -> Work:
        read = (part if callable(part) else None for part in (self.load, self.weights, self.masks))
        return Work(task, rules, tuple(read))

    def _leaves(
        self, graph: Graph, work: TaskRef, wanted: Sequence[int], group: int
    ) -> list[TaskRef]:
        # Blocks that are results of other tasks must all be there before a task can start.
        together = group if callable(self.load) else 1
        leaves = []
        for some in groups_of(wanted, together):
            starts = [self.ranges[i][0] for i in some]
            leaves.append(graph.add(_run_group, work, some, starts, *self._given(graph, some)))
        if together < group:
            leaves = [graph.add(add, *some) for some in groups_of(leaves, group)]
        return leaves

    def _given(self, graph: Graph, some: Sequence[int]) -> list[List | None]:
        return [
            None if part is None or callable(part) else List(*(graph.use(part[i]) for i in some))
            for part in (self.load, self.weights, self.masks)
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

    task: BlockFunction[Any]
    rules: PixelRules
    read: tuple[Callable[[int], Array] | None, ...]


@dataclass
class Graph:
    """Tasks of one computation.

    Attributes
    ----------
    name : str
        Unique; the part of the keys before it is what dashboards and statistics show.
    nodes : dict
        Tasks and values by their keys.
    inputs : list of Delayed
        Results of other graphs that tasks of this one use.
    """

    name: str = field(default_factory=lambda: uuid4().hex)
    nodes: dict[Key, GraphNode] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)

    def add(self, function: Callable[..., Any], *arguments: Any) -> TaskRef:
        """Add a task; references among the arguments stand for results."""
        key = self._next_key()
        self.nodes[key] = Task(key, function, *arguments)
        return TaskRef(key)

    def put(self, value: Any) -> TaskRef:
        """Add a value."""
        key = self._next_key()
        self.nodes[key] = DataNode(key, value)
        return TaskRef(key)

    def use(self, value: Any) -> Any:
        """Return a reference to a ``Delayed``, and any other value as it is."""
        if not is_dask_collection(value):
            return value
        self.inputs.append(value)
        return TaskRef(value.key)

    def describe(self, key: Any) -> str:
        """Name a task, for errors, by the blocks it is for."""
        task = self.nodes.get(key)
        if not isinstance(task, Task) or task.func is not _run_group:
            return f"task {key}"
        _, some, starts, *_ = task.args
        blocks = f"block {some[0]}" if len(some) == 1 else f"blocks {some[0]} to {some[-1]}"
        return f"the task for {blocks} (images from {starts[0]:,} on)"

    def delayed(self, ends: Sequence[TaskRef]) -> list[Any]:
        """Return the results of tasks as Dask's lazy values."""
        from dask.delayed import Delayed
        from dask.highlevelgraph import HighLevelGraph

        whole = HighLevelGraph.from_collections(self.name, self.nodes, dependencies=self.inputs)
        return [Delayed(end.key, whole, layer=self.name) for end in ends]

    def _next_key(self) -> Key:
        return (GROUP, self.name, len(self.nodes))


def _compute(work: Work, ends: Callable[..., list[TaskRef]], apart: Sequence[Any] = ()) -> Any:
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


def _tree(graph: Graph, leaves: Sequence[TaskRef]) -> TaskRef:
    while len(leaves) > 1:
        leaves = [graph.add(add, *some) for some in groups_of(leaves, FAN_IN)]
    return leaves[0]


def _cut(outcome: Outcome[Any], end: Finish[Any]) -> Outcome[Any]:
    return outcome if outcome.invalid is not None else Outcome(end.cut(outcome.value))


def _finished(outcome: Outcome[Any], end: Finish[Any]) -> Outcome[Any]:
    return outcome if outcome.invalid is not None else Outcome(end(outcome.value))


def _run_group(
    work: Work, some: Sequence[int], starts: Sequence[int], *given: Sequence[Any] | None
) -> Outcome[Any]:
    with one_blas_thread():
        return run_blocks(_read_ahead(work, some, starts, given), work.rules, work.task)


def _read_ahead(
    work: Work, some: Sequence[int], starts: Sequence[int], given: Sequence[Sequence[Any] | None]
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
