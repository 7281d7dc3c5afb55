"""Lazy results for lazy images: Dask arrays of one task per block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._typing import Array
from dnmf.engine.executors import one_blas_thread
from dnmf.estimators.inputs import as_dask, check_mask, is_dask
from dnmf.estimators.rows import Rows
from dnmf.numerics.block import Block, checked_block
from dnmf.numerics.objective import Projection

if TYPE_CHECKING:
    import dask.array as da


def lazy_weights(X: Any, mask: Any, projection: Projection) -> da.Array:
    """Return the weights of a corpus, Zarr or Dask array as a lazy Dask array of shape (n, d)."""
    width, dtype = len(projection.basis.H), projection.basis.H.dtype
    return _map_rows(Projection.weights, X, mask, projection, width, dtype)


def lazy_losses(X: Any, mask: Any, projection: Projection) -> da.Array:
    """Return each image's divergence from its reconstruction as a lazy Dask array, (n,)."""
    column = _map_rows(_loss_column, X, mask, projection, 1, np.dtype(np.float64))
    losses: da.Array = column[:, 0]
    return losses


def _loss_column(projection: Projection, block: Block) -> Array:
    return projection.losses(block)[0][:, None]


def lazy_product(W: da.Array, H: Array) -> da.Array:
    """Return the product of lazy weights and H as a lazy Dask array of shape (n, p)."""
    import dask.array as da

    rows = W.rechunk({1: -1})
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
    """Apply a function to each block of X; it returns a row of this width for each image."""
    import dask.array as da

    images, mask = as_dask(X), check_mask(X, mask)
    arrays = (images,) if mask is None else (images, _chunked_like(images, mask))
    rows: da.Array = da.map_blocks(
        _apply,
        *arrays,
        function=function,
        projection=projection,
        starts=np.cumsum([0, *images.chunks[0]]),
        dtype=dtype,
        chunks=(images.chunks[0], (width,)),
        meta=np.empty((0, 0), dtype),
    )
    return rows


def _chunked_like(X: da.Array, mask: Any) -> da.Array:
    import dask.array as da

    if is_dask(mask):
        chunked: da.Array = mask.rechunk(X.chunks)
    else:
        make = mask.to_dask if isinstance(mask, Rows) else partial(da.from_array, mask)
        chunked = make(chunks=X.chunks)
    return chunked


def _apply(
    X: Array,
    mask: Array | None = None,
    *,
    function: Callable[[Projection, Block], Array],
    projection: Projection,
    starts: Array,
    block_id: tuple[int, ...] = (0, 0),
) -> Array:
    block = checked_block(X, int(starts[block_id[0]]), None, mask, projection.rules)
    with one_blas_thread():
        return function(projection, block)
