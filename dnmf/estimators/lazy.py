"""What a fitted model makes of lazy images: Dask arrays of one task per block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf.engine.executors import one_blas_thread
from dnmf.engine.tree_reduce import checked_block
from dnmf.estimators.inputs import as_dask, is_dask, mask_beside
from dnmf.numerics.block import Block, PixelRules
from dnmf.numerics.objective import Objective
from dnmf.numerics.statistics import Basis

if TYPE_CHECKING:
    import dask.array as da
from dnmf._typing import Array


def weights_of(
    X: Any, mask: Any, objective: Objective, basis: Basis, rules: PixelRules
) -> da.Array:
    """Solve for the weights of a corpus, Zarr or Dask array, (n, d), when they are computed."""
    d = len(basis.H)
    return _map(_project, X, mask, objective, basis, rules, width=d, dtype=basis.H.dtype)


def losses_of(X: Any, mask: Any, objective: Objective, basis: Basis, rules: PixelRules) -> da.Array:
    """Compute each image's divergence from its reconstruction, (n,), when it is computed."""
    dtype = np.dtype(np.float64)
    column = _map(_losses, X, mask, objective, basis, rules, width=1, dtype=dtype)
    losses: da.Array = column[:, 0]
    return losses


def product(W: da.Array, H: Array) -> da.Array:
    """Multiply lazy weights by H, (n, p)."""
    import dask.array as da

    lazy = W.rechunk({1: -1})
    images: da.Array = da.map_blocks(
        np.matmul,
        lazy,
        H,
        dtype=np.result_type(W.dtype, H.dtype),
        chunks=(lazy.chunks[0], (H.shape[1],)),
    )
    return images


def image_losses(objective: Objective, block: Block, basis: Basis) -> tuple[Array, Array]:
    """Compute D(x | w H) of a block: of each image and, over the images, of each pixel."""
    images, pixels = np.empty(len(block)), np.zeros(basis.H.shape[1])
    for rows, strip in block.strips(basis.H.dtype):
        W = objective.solve_W(strip, basis)
        images[rows], more = objective.divergence(strip, W, basis.H)
        pixels += more
    return images, pixels


def _map(
    task: Any,
    X: Any,
    mask: Any,
    objective: Objective,
    basis: Basis,
    rules: PixelRules,
    *,
    width: int,
    dtype: np.dtype[Any],
) -> da.Array:
    import dask.array as da

    lazy, mask = as_dask(X), mask_beside(X, mask)
    both = (lazy,) if mask is None else (lazy, _beside(lazy, mask))
    result: da.Array = da.map_blocks(
        _checked,
        *both,
        task=task,
        objective=objective,
        basis=basis,
        rules=rules,
        starts=np.cumsum([0, *lazy.chunks[0]]),
        dtype=dtype,
        chunks=(lazy.chunks[0], (width,)),
        meta=np.empty((0, 0), dtype),
    )
    return result


def _beside(X: da.Array, mask: Any) -> da.Array:
    import dask.array as da

    cut: da.Array = (
        mask.rechunk(X.chunks) if is_dask(mask) else da.from_array(mask, chunks=X.chunks)
    )
    return cut


def _checked(
    X: Array,
    mask: Array | None = None,
    *,
    task: Any,
    objective: Objective,
    basis: Basis,
    rules: PixelRules,
    starts: Array,
    block_id: tuple[int, ...] = (0, 0),
) -> Array:
    block = checked_block(X, int(starts[block_id[0]]), None, mask, rules)
    with one_blas_thread():
        result: Array = task(objective, block, basis)
    return result


def _project(objective: Objective, block: Block, basis: Basis) -> Array:
    return objective.solve_W_block(block, basis)


def _losses(objective: Objective, block: Block, basis: Basis) -> Array:
    return image_losses(objective, block, basis)[0][:, None]
