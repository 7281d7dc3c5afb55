"""A pass over X as a Dask graph.

    blocks 0 to 3       blocks 4 to 7   ...   `_run_group`: read each X_b, solve X_b H^T for W_b,
          |                   |               add up W_b^T W_b and W_b^T X_b over the group
          +---- `add` --------+         ...   sum of up to eight results, see `tree_reduce`
                  |
              `_finish`                       H from the sums, where these are

The objects that all tasks need (the function with its H, and how to read a block) are scattered
once per pass. A task holds only the numbers of its blocks, so a scheduler can hold a hundred
thousand tasks, and needs no access to the images. Blocks of Dask arrays are made in the task, too
(see `chunks`). Data in their graphs are scattered once for all passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from dask import config
from dask.base import compute
from dask.callbacks import Callback
from dask.sizeof import sizeof
from dask.task_spec import DataNode, GraphNode, List, Task, TaskRef
from dask.typing import Key
from dask.utils import funcname

from dnmf._progress import part_counter
from dnmf._typing import Array
from dnmf.engine.blocks import BlockFunction, Finish, RawBlock, Result
from dnmf.engine.chunks import Chunks, Recipe, cut, with_hidden
from dnmf.engine.executors import active_client, map_on_threads
from dnmf.engine.retry import Kept, compute_with
from dnmf.engine.threads import one_blas_thread, thread_count
from dnmf.engine.tree_reduce import Outcome, add, groups_of, run_blocks, tree_reduce
from dnmf.errors import ClusterError
from dnmf.numerics.block import DEFAULT_RULES, PixelRules, image_number

if TYPE_CHECKING:
    from dask.delayed import Delayed

BlockSource = Callable[[int], Array] | Chunks | None
"""A matrix, mask or vector in blocks: a picklable function that reads a block by its number, or a
Dask array."""

SCATTER_BYTES = 10_000
"""Size of a recipe from which it is scattered, and not sent with the graph of each pass."""


@dataclass
class DaskBlocks:
    """Blocks that tasks read, or get from other tasks; a `dnmf.engine.blocks.Blocks`.

    Attributes
    ----------
    shape, dtype, ranges, rules
        As in `Blocks`.
    pixels, weights, masks : BlockSource
        X, the weights of its rows and the mask of its pixels.
    image_name : callable ``(int) -> str``
        Names the image of a row in errors.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ranges: Sequence[tuple[int, int]]
    pixels: BlockSource
    image_name: Callable[[int], str] = image_number
    weights: BlockSource = None
    masks: BlockSource = None
    rules: PixelRules = DEFAULT_RULES

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
        numbers = range(len(self.ranges)) if only is None else only

        def build(graph: Graph, shared: TaskRef) -> list[TaskRef]:
            return [graph.sum(self._add_leaves(graph, shared, numbers, group))]

        shared = self._shared(function, replace(self.rules, check=check))
        total: Outcome[Result] = self._compute(build, shared, label=label)[0]
        return total.result(self.image_name)

    def map_blocks(self, function: BlockFunction[Result], only: Sequence[int]) -> list[Result]:
        """See `Blocks.map_blocks`."""

        def build(graph: Graph, shared: TaskRef) -> list[TaskRef]:
            return self._add_leaves(graph, shared, only, 1)

        shared = self._shared(function, replace(self.rules, check=False))
        outcomes = self._compute(build, shared)
        return [outcome.result(self.image_name) for outcome in outcomes]

    def map_finish(
        self,
        function: BlockFunction[Result],
        finishes: Sequence[Finish[Result]],
        *,
        group: int = 1,
        label: str = "",
    ) -> list[Any]:
        """See `Blocks.map_finish`."""

        def build(graph: Graph, shared: TaskRef, *finishes: TaskRef) -> list[TaskRef]:
            leaves = self._add_leaves(graph, shared, range(len(self.ranges)), group)
            ends = []
            for finish in finishes:
                parts = [graph.add("select-columns", _select, leaf, finish) for leaf in leaves]
                ends.append(graph.add("h-step", _finish, graph.sum(parts), finish))
            return ends

        shared = self._shared(function, self.rules)
        outcomes = self._compute(build, shared, *finishes, label=label)
        return [outcome.result(self.image_name) for outcome in outcomes]

    @property
    def _sources(self) -> tuple[BlockSource, ...]:
        return (self.pixels, self.weights, self.masks)

    def _shared(self, function: BlockFunction[Result], rules: PixelRules) -> Shared:
        readers = tuple(None if isinstance(each, Chunks) else each for each in self._sources)
        return Shared(function, rules, readers)

    @cached_property
    def _recipes(self) -> tuple[list[Recipe], dict[Key, GraphNode]]:
        """Recipe for each block, none without Dask arrays, and the tasks that several need."""
        arrays = [each if isinstance(each, Chunks) else None for each in self._sources]
        return cut(arrays, len(self.ranges)) if any(arrays) else ([], {})

    @cached_property
    def _kept(self) -> Kept:
        """Recipes that hold data, by the number of their block."""
        recipes = enumerate(self._recipes[0])
        sizes = (
            (number, recipe, sum(map(sizeof, recipe.nodes.values()))) for number, recipe in recipes
        )
        return Kept({number: recipe for number, recipe, size in sizes if size > SCATTER_BYTES})

    def _add_leaves(
        self, graph: Graph, shared: TaskRef, numbers: Sequence[int], group: int
    ) -> list[TaskRef]:
        """Add a task for each group of blocks, and return references to their results."""
        recipes, nodes = self._recipes
        graph.nodes.update(nodes)
        # What blocks need of other tasks must all be there before a task can start.
        together = 1 if any(recipe.needs for recipe in recipes) else group
        leaves = []
        for some in groups_of(numbers, together):
            starts = [self.ranges[number][0] for number in some]
            given: tuple[List, ...] = ()
            if recipes:
                needs = (List(*map(TaskRef, recipes[number].needs)) for number in some)
                kept = (graph.kept.get(number, recipes[number]) for number in some)
                given = (List(*kept), List(*needs))
            leaves.append(graph.add(graph.name, _run_group, shared, some, starts, *given))
        if together == group:
            return leaves
        return [graph.add("tree-sum", add, *some) for some in groups_of(leaves, group)]

    def _compute(
        self,
        build: Callable[..., list[TaskRef]],
        shared: Shared,
        *objects: Any,
        label: str = "",
    ) -> Sequence[Any]:
        """Compute a graph on the active scheduler.

        Parameters
        ----------
        build : callable
            Adds tasks to a graph, from references to the objects, and returns references to the
            results that are wanted.
        shared : Shared
        *objects : object
        label : str
            See `Blocks.map_sum`.
        """
        name, objects = shared.task_name, (shared, *objects)
        client = active_client()
        if client is not None:

            def graph_of(kept: Mapping[int, TaskRef], *references: TaskRef) -> Graph:
                graph = Graph(name, label, kept=kept)
                graph.ends = build(graph, *references)
                return graph

            return compute_with(client, objects, graph_of, self._kept, name)
        graph = Graph(name, label)
        graph.ends = build(graph, *map(graph.put, objects))
        graph.require_all_nodes()
        chosen = config.get("num_workers", None) or config.get("pool", None)
        threads = {} if chosen else {"num_workers": thread_count()}
        with graph.counted():
            results: Sequence[Any] = compute(*graph.results(), **threads)
        return results


@dataclass(frozen=True)
class Shared:
    """What all tasks of a pass need.

    Attributes
    ----------
    function : callable
        See `BlockFunction`.
    rules : PixelRules
    readers : tuple of callable or None
        Functions that read a block of X, its weights and its mask; None for what does not exist
        or has recipes.
    """

    function: BlockFunction[Any]
    rules: PixelRules
    readers: tuple[Callable[[int], Array] | None, ...]

    @property
    def task_name(self) -> str:
        """What a task does: it reads blocks and applies the function, by the name of that."""
        return "-".join(["read", *filter(None, funcname(self.function).split("_"))])


def _run_group(
    shared: Shared,
    numbers: Sequence[int],
    starts: Sequence[int],
    recipes: Sequence[Recipe] = (),
    taken: Sequence[Sequence[Any]] = (),
) -> Outcome[Any]:
    """Apply the function of a pass to a group of blocks, and read the next one meanwhile.

    Parameters
    ----------
    shared : Shared
    numbers, starts : sequence of int
        Numbers and first rows of the blocks.
    recipes : sequence of Recipe
        Recipes of the blocks, where they come from Dask arrays.
    taken : sequence
        What each recipe needs of other tasks.
    """

    def read(at: int) -> RawBlock:
        made = recipes[at].read(taken[at]) if recipes else [(None, None)] * 3
        X, weights, mask = (
            reader(numbers[at]) if reader else array
            for reader, (array, _) in zip(shared.readers, made, strict=True)
        )
        hidden = made[0][1]
        if hidden is not None:
            mask = with_hidden(mask, hidden, starts[at], shared.rules)
        return RawBlock(np.asarray(X), starts[at], weights, mask)

    with one_blas_thread():
        raw_blocks = map_on_threads(read, range(len(numbers)), threads=1, ahead=1)
        return run_blocks(raw_blocks, shared.rules, shared.function)


def _select(outcome: Outcome[Any], finish: Finish[Any]) -> Outcome[Any]:
    return outcome.map(finish.select)


def _finish(outcome: Outcome[Any], finish: Finish[Any]) -> Outcome[Any]:
    return outcome.map(finish)


@dataclass
class Graph:
    """A Dask graph under construction.

    A key has three parts: the name of what the task does, such as ``tree-sum``, which Dask's
    dashboard shows; the name of the pass, such as ``pass-12``, with a unique number; and the place
    in the graph. The first is the same in all graphs, because scheduler and workers keep a record
    of each name.

    Attributes
    ----------
    name : str
        What the tasks that read blocks do.
    label : str
        What the graph is part of.
    nodes : dict
        Tasks and values by key.
    ends : list of TaskRef
        Tasks whose results are wanted.
    kept : mapping
        References to the recipes that workers have, by number of the block.
    """

    name: str
    label: str = ""
    nodes: dict[Key, GraphNode] = field(default_factory=dict)
    ends: list[TaskRef] = field(default_factory=list)
    kept: Mapping[int, TaskRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._id = f"{self.label}-{uuid4().hex}".strip("-")

    def add(self, task: str, function: Callable[..., Any], *arguments: Any) -> TaskRef:
        """Add a task, whose name is `task`, and return a reference to its result."""
        key = self._next_key(task)
        self.nodes[key] = Task(key, function, *arguments)
        return TaskRef(key)

    def put(self, value: Any) -> TaskRef:
        """Add a value and return a reference to it."""
        key = self._next_key(self.name)
        self.nodes[key] = DataNode(key, value)
        return TaskRef(key)

    def sum(self, results: Sequence[TaskRef]) -> TaskRef:
        """Add the tasks that add up results in the fixed tree."""
        return tree_reduce(results, partial(self.add, "tree-sum", add))

    def results(self) -> list[Delayed]:
        """Return what the graph computes as Dask's lazy values."""
        from dask.delayed import Delayed
        from dask.highlevelgraph import HighLevelGraph

        graph = HighLevelGraph.from_collections(self._id, self.nodes)
        return [Delayed(end.key, graph, layer=self._id) for end in self.ends]

    def counted(self) -> Callback:
        """Return the context of a computation on threads, in which tasks that read are counted."""
        count = part_counter(self.label, sum(map(self._reads, self.nodes)))
        return Callback(posttask=lambda key, *_: count() if self._reads(key) else None)

    def require_all_nodes(self) -> None:
        """Raise ClusterError where tasks need results of a cluster."""
        for node in self.nodes.values():
            if not node.dependencies <= self.nodes.keys():
                raise ClusterError(
                    "X, its mask or weights are on a cluster (persisted there, or Futures), which "
                    "is not the active one: connect a distributed.Client to it"
                )

    def describe(self, key: Key) -> str:
        """Return the name of a task for errors, the same in every graph of a pass."""
        task = self.nodes.get(key)
        if not isinstance(task, Task):
            return f"task {key}"
        if task.func is not _run_group:
            return f"task {list(self.nodes).index(key)} of the pass"
        _, numbers, starts, *_ = task.args
        first, last = numbers[0], numbers[-1]
        blocks = f"block {first}" if first == last else f"blocks {first} to {last}"
        return f"the task for {blocks} (images from {starts[0]:,} on)"

    def _reads(self, key: Key) -> bool:
        """Check whether a task reads blocks."""
        node = self.nodes.get(key)
        return isinstance(node, Task) and node.func is _run_group

    def _next_key(self, task: str) -> Key:
        return (task, self._id, len(self.nodes))


def read_rows(array: Any, ranges: Sequence[tuple[int, int]], number: int) -> Array:
    """Read the rows of a block from an array that is sliced where the task runs."""
    return np.asarray(array[slice(*ranges[number])])
