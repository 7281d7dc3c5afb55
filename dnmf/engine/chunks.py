"""Chunks of Dask arrays: how a task makes the chunks of its block, and checks them.

A reader of image folders makes one chunk per image, with at least one task for each. `cut` divides
such a graph into a recipe for each block of images. The task for the block follows its recipe, so
the scheduler sees one task per block.

Dask does not check that chunks have the type, shape and dtype that their array says. `as_array`
checks this when a chunk is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import issparse

from dnmf._typing import Array
from dnmf.engine.tree_reduce import choose_block_rows
from dnmf.errors import DataError
from dnmf.numerics.block import PixelRules

if TYPE_CHECKING:
    import dask.array as da
    from dask.task_spec import GraphNode
    from dask.typing import Key

LEAST_BLOCKS = 16
"""Number of blocks below which chunks are not joined, so that a few workers have work."""

SEVERAL = -1
"""Owner of a task that several blocks need."""


class Chunk(NamedTuple):
    """What is known of a chunk: the key of its task, and its rows, number, shape and dtype."""

    key: Key
    number: int
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Chunks:
    """A Dask array that is cut along its rows only, into one or more chunks for each block.

    Attributes
    ----------
    array : dask.array.Array
    ranges : sequence of (start, stop)
        Rows of each block.
    name : str
        Name of the array in errors.
    """

    array: da.Array
    ranges: Sequence[tuple[int, int]]
    name: str = "X"

    def __iter__(self) -> Iterator[list[Chunk]]:
        """Yield the chunks of each block."""
        rest = self.array.shape[1:]
        zeros = (0,) * len(rest)
        starts = np.cumsum([0, *self.array.chunks[0]]).tolist()
        chunks = (
            Chunk((self.array.name, i, *zeros), i, start, (stop - start, *rest), self.array.dtype)
            for i, (start, stop) in enumerate(pairwise(starts))
        )
        for start, stop in self.ranges:
            block = []
            while start < stop:
                block.append(next(chunks))
                start += block[-1].shape[0]
            yield block


def join_ranges(rows: Sequence[int], image_bytes: int) -> list[tuple[int, int]]:
    """Join chunks into blocks of at most the usual size, but not into fewer than a few.

    Parameters
    ----------
    rows : sequence of int
        Number of rows of each chunk.
    image_bytes : int
        Bytes of an image.

    Returns
    -------
    list of (start, stop)
        Rows of each block. Chunks that are larger than the usual block are blocks of their own.
    """
    n = sum(rows)
    most = min(choose_block_rows(n, image_bytes), n // LEAST_BLOCKS)
    ranges, start, stop = [], 0, 0
    for count in rows:
        if count and start < stop and stop + count - start > most:
            ranges.append((start, stop))
            start = stop
        stop += count
    return [*ranges, (start, stop)]


@dataclass(frozen=True)
class Recipe:
    """How a task makes the chunks of a block.

    Attributes
    ----------
    nodes : dict
        Tasks that no other block needs, and their data.
    needs : tuple
        Keys of the results of other tasks that it takes.
    chunks : tuple of (name, list of Chunk), or None
        Chunks of X, of the weights and of the mask; None for what comes from elsewhere.
    """

    nodes: dict[Key, GraphNode]
    needs: tuple[Key, ...]
    chunks: tuple[tuple[str, list[Chunk]] | None, ...]

    def read(self, taken: Sequence[Any]) -> list[tuple[Array | None, Array | None]]:
        """Make the chunks and check them.

        Parameters
        ----------
        taken : sequence
            Results of the tasks that `needs` names.

        Returns
        -------
        list of (array, mask)
            Rows of X, of the weights and of the mask, and which of their entries are masked; None
            for what comes from elsewhere, or has no masked entries.
        """
        from dask.local import get_sync
        from dask.task_spec import DataNode

        given = {key: DataNode(key, value) for key, value in zip(self.needs, taken, strict=True)}
        keys: Any = [[chunk.key for chunk in each[1]] if each else [] for each in self.chunks]
        made = get_sync({**self.nodes, **given}, keys)
        return [
            join_chunks(values, *each) if each else (None, None)
            for values, each in zip(made, self.chunks, strict=True)
        ]


def cut(sources: Sequence[Chunks | None], n: int) -> tuple[list[Recipe], dict[Key, GraphNode]]:
    """Cut the graph of arrays into a recipe for each of n blocks.

    Returns
    -------
    recipes : list of Recipe
    shared : dict
        Tasks that several blocks need, with all that these need.
    """
    from dask.base import optimize

    nodes: dict[Key, GraphNode] = {}
    for array in optimize(*(each.array for each in sources if each)):
        nodes |= dict(array.__dask_graph__())
    nothing: list[None] = [None] * n
    rows = ([(each.name, some) for some in each] if each else nothing for each in sources)
    chunks = list(zip(*rows, strict=True))
    wanted = [[chunk.key for each in some if each for chunk in each[1]] for some in chunks]
    owners = _owners(nodes, wanted)
    own: list[dict[Key, GraphNode]] = [{} for _ in range(n)]
    shared: dict[Key, GraphNode] = {}
    for key, node in nodes.items():
        owner = owners.get(key, SEVERAL)
        (shared if owner == SEVERAL else own[owner])[key] = node
    recipes = []
    for some, keys, mine in zip(chunks, wanted, own, strict=True):
        all_needs = chain(keys, *(node.dependencies for node in mine.values()))
        needs = tuple(key for key in dict.fromkeys(all_needs) if key not in mine)
        recipes.append(Recipe(mine, needs, some))
    return recipes, shared


def _owners(nodes: dict[Key, GraphNode], wanted: Sequence[Sequence[Key]]) -> dict[Key, int]:
    """Return the number of the block that needs each task, or `SEVERAL`."""
    owners: dict[Key, int] = {}

    def claim(key: Key, number: int) -> None:
        owners[key] = number if owners.get(key, number) == number else SEVERAL

    for number, keys in enumerate(wanted):
        for key in keys:
            claim(key, number)
    order = TopologicalSorter({key: node.dependencies for key, node in nodes.items()})
    for key in reversed([*order.static_order()]):
        if key in nodes:  # others are results that a cluster has
            for needed in nodes[key].dependencies:
                claim(needed, owners.get(key, SEVERAL))
    return owners


def join_chunks(
    values: Sequence[Any], name: str, chunks: Sequence[Chunk]
) -> tuple[Array, Array | None]:
    """Check chunks that follow each other, and join them and their masks.

    Raises
    ------
    DataError
        A chunk is not what was promised.
    """
    parts = [as_array(value, chunk, name) for value, chunk in zip(values, chunks, strict=True)]
    if len(parts) == 1:
        return parts[0]
    arrays, masks = zip(*parts, strict=True)
    mask = None
    if any(each is not None for each in masks):
        mask = np.concatenate(
            [
                np.zeros(array.shape, bool) if each is None else each
                for array, each in zip(arrays, masks, strict=True)
            ]
        )
    return np.concatenate(arrays), mask


def as_array(value: Any, chunk: Chunk, name: str) -> tuple[Array, Array | None]:
    """Return what a chunk is as a NumPy array, and which of its entries are masked.

    Parameters
    ----------
    value : ndarray, masked array, SciPy or pydata sparse array
    chunk : Chunk
        What it is meant to be.
    name : str
        Name of the array in errors.

    Returns
    -------
    array : ndarray
    mask : ndarray of bool, or None
        True where an entry is masked; None if none is.

    Raises
    ------
    DataError
        The chunk is of another type, or not of the shape and dtype that was promised.
    """
    last = chunk.start + chunk.shape[0] - 1
    where = f"block {chunk.number} of {name} (images {chunk.start} to {last})"
    if not (sparse := _is_sparse(value)):
        mask = np.ma.getmask(value)
        value = _dense(value, where)
    if (value.shape, _native(value.dtype)) != (chunk.shape, _native(chunk.dtype)):
        raise DataError(
            f"{where} has shape {value.shape} and dtype {value.dtype}, but the Dask array promises "
            f"{chunk.shape} and {chunk.dtype}: correct the chunks, the dtype or the meta that it "
            "was made with (map_blocks, from_delayed)"
        )
    if sparse:
        dense = value.toarray() if issparse(value) else value.todense()
        return np.asarray(dense), None
    return np.asarray(value, chunk.dtype), mask if np.any(mask) else None


def _is_sparse(value: Any) -> bool:
    return bool(issparse(value)) or type(value).__module__.partition(".")[0] == "sparse"


def _dense(value: Any, where: str) -> Array:
    kind = type(value)
    try:
        if not hasattr(value, "__array__"):
            raise TypeError("it has no __array__")
        return np.asarray(value)
    except TypeError as error:  # CuPy's arrays, for example, never become NumPy's by themselves
        raise DataError(
            f"{where} is a {kind.__module__}.{kind.__qualname__} ({error}); chunks must be NumPy "
            "arrays, masked ones too, or sparse ones of SciPy or pydata: use map_blocks to convert"
        ) from error


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


def with_hidden(mask: Array | None, hidden: Array, start: int, rules: PixelRules) -> Array:
    """Return the mask of a block together with what its chunks mask.

    Raises
    ------
    DataError
        There is no mask, so that the fit has not been prepared for missing pixels.
    """
    if mask is None and not rules.nan_is_missing:
        raise DataError(
            f"images {start} to {start + len(hidden) - 1} of X come in masked arrays, which its "
            "meta does not say: make X with meta=np.ma.array(np.empty((0, 0), X.dtype)), or pass "
            "mask=da.ma.getmaskarray(X)"
        )
    return hidden if mask is None else hidden | mask
