"""Lazy results for images outside memory: Dask arrays with one task per block."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize
from dask.task_spec import DataNode, List, Task, TaskRef

from dnmf._typing import Array
from dnmf.engine.chunks import Recipe, cut, with_hidden
from dnmf.engine.threads import one_blas_thread
from dnmf.estimators.inputs import check_mask, checked, chunks_of, split_chunks
from dnmf.numerics.block import Block, checked_block
from dnmf.numerics.objective import Projection

if TYPE_CHECKING:
    import dask.array as da


def lazy_weights(X: Any, mask: Any, projection: Projection) -> da.Array:
    """Return the weights of a corpus, Zarr or Dask array as a lazy Dask array of shape (n, d)."""
    width, dtype = len(projection.basis.H), projection.basis.H.dtype
    return _map_rows(Projection.weights, X, mask, projection, width, dtype)


def lazy_losses(X: Any, mask: Any, projection: Projection) -> da.Array:
    """Return the divergence of each image from its reconstruction as a lazy array of shape (n,)."""
    column = _map_rows(_loss_column, X, mask, projection, 1, np.dtype(np.float64))
    losses: da.Array = column[:, 0]
    return losses


def _loss_column(projection: Projection, block: Block) -> Array:
    return projection.losses(block)[0][:, None]


def lazy_product(W: da.Array, H: Array) -> da.Array:
    """Return the product of lazy weights and H as a lazy Dask array of shape (n, p)."""
    import dask.array as da

    rows = checked("W", W).rechunk({1: -1})
    images: da.Array = da.map_blocks(
        np.matmul,
        rows,
        H,
        dtype=np.result_type(W.dtype, H.dtype),
        chunks=(rows.chunks[0], (H.shape[1],)),
    )
    return images


def _map_rows(
    function: Callable[[Projection, Block], Array],
    X: Any,
    mask: Any,
    projection: Projection,
    width: int,
    dtype: np.dtype[Any],
) -> da.Array:
    """Apply a function that returns a row of `width` numbers per image to each block of X."""
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    images, mask = chunks_of(X), check_mask(X, mask)
    masks = None if mask is None else split_chunks("mask", mask, images.ranges)
    arrays: Any = [each.array for each in (images, masks) if each is not None]
    recipes, tasks = cut((images, masks), len(images.ranges))
    token = tokenize(function, projection, *(each.name for each in arrays))
    name, common = f"rows-{token}", f"projection-{token}"
    tasks[common] = DataNode(common, (function, projection))
    for i, ((start, _), recipe) in enumerate(zip(images.ranges, recipes, strict=True)):
        needs = List(*map(TaskRef, recipe.needs))
        tasks[name, i, 0] = Task((name, i, 0), _apply, TaskRef(common), start, recipe, needs)
    # The tasks hold all that they need. With dependencies, Dask would keep those layers and read
    # every block twice.
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=())
    rows = tuple(stop - start for start, stop in images.ranges)
    return da.Array(graph, name, (rows, (width,)), meta=np.empty((0, 0), dtype))


def _apply(
    common: tuple[Callable[[Projection, Block], Array], Projection],
    start: int,
    recipe: Recipe,
    taken: list[Any],
) -> Array:
    """Apply a function to a block.

    Parameters
    ----------
    common : tuple
        The function and its first argument.
    start : int
        First row of the block.
    recipe : Recipe
        How to make the chunks of X and of the mask.
    taken : list
        Results of other tasks that the recipe needs.
    """
    function, projection = common
    (X, hidden), (mask, _) = recipe.read(taken)
    assert X is not None
    if hidden is not None:
        mask = with_hidden(mask, hidden, start, projection.rules)
    block = checked_block(X, start, None, mask, projection.rules)
    with one_blas_thread():
        return function(projection, block)
