"""What X, weights and masks may be, how they are checked, and how each becomes blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import validate_data

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.chunks import Chunk, Chunks, as_array, join_ranges
from dnmf.engine.local import LocalBlocks
from dnmf.engine.tree_reduce import choose_block_rows, even_ranges
from dnmf.errors import DataError
from dnmf.estimators.images import flatten_images, require_flat
from dnmf.estimators.rows import Rows, is_of_zarr, is_outside_memory
from dnmf.estimators.weights import in_range, weight_unit
from dnmf.numerics.block import (
    ALL_WEIGHTS_ZERO,
    DEFAULT_RULES,
    Block,
    PixelRules,
    valid_weights,
)
from dnmf.storage.corpus import Corpus
from dnmf.storage.paths import for_zarr, normalize_path
from dnmf.storage.store import crc32c

if TYPE_CHECKING:
    import dask.array as da
    import zarr

    from dnmf.engine.dask_graph import BlockSource, DaskBlocks
    from dnmf.estimators.parameters import NMFParameters


def blocks_of(
    X: Any, weights: Any = None, mask: Any = None, rules: PixelRules = DEFAULT_RULES
) -> Blocks:
    """Divide X into blocks.

    Parameters
    ----------
    X : Corpus, Dask, Zarr or NumPy array or SciPy sparse matrix, of shape (n, p)
        It may also be any other array outside memory from which rows can be read.
    weights : array of shape (n,), optional
        Weights of the images, of any kind that X may be.
    mask : array of shape (n, p), bool, optional
        True where a pixel is to be ignored, of any kind that X may be.
    rules : PixelRules
        Rules that pixels must follow.

    Returns
    -------
    Blocks
        `LocalBlocks` for arrays in memory, else `DaskBlocks`.

    Raises
    ------
    DataError
        If X is not a matrix of real numbers, is a Dask array chunked along its pixels, or does not
        match the shape of its mask or weights.
    """
    X = unwrap(X)
    if not isinstance(X, Corpus):
        check_matrix(X)
    if is_dask(X):
        X = _check_dask(X)
    weights, mask = check_weights(X, weights), check_mask(X, mask)
    if in_memory(X):
        weights = check_weights(X, as_numpy("sample_weight", weights))
        mask = as_numpy("mask", mask)
    rules = replace(rules, weight_unit=weight_unit(weights))
    if in_memory(X):
        return LocalBlocks(X, weights, mask, rules)
    for name, array in (("X", X), ("sample_weight", weights), ("mask", mask)):
        if isinstance(array, Rows):
            array.require_sendable(name)
    if isinstance(X, Corpus):
        blocks = _blocks_of_corpus(X)
    else:
        blocks = _blocks_of_dask(X) if is_dask(X) else _blocks_of_rows(X)
    blocks.weights = _split_rows("sample_weight", weights, blocks.ranges)
    blocks.masks = _split_rows("mask", mask, blocks.ranges)
    blocks.rules = rules
    return blocks


def open_mask(path: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """Open a mask of the pixels of a corpus.

    Parameters
    ----------
    path : str
        Path or URL of a Zarr array of booleans.
    shape : tuple of int
        Shape of the corpus, (n, p).

    Raises
    ------
    DataError
        If there is no Zarr array, or it has another shape or dtype.
    """
    import zarr
    import zarr.errors

    try:
        mask = zarr.open_array(for_zarr(normalize_path(path)), mode="r")
    except (OSError, ValueError, KeyError, zarr.errors.NodeNotFoundError) as error:
        raise DataError(
            f"{path} is no mask: it must be a Zarr array of booleans of shape {shape}"
        ) from error
    if mask.dtype != bool or mask.shape != shape:
        raise DataError(
            f"{path} holds {mask.dtype} of shape {mask.shape}; a mask of this corpus is bool of "
            f"shape {shape}: one row per image, one column per pixel"
        )
    return mask


def _as_array(name: str, aligned: Any) -> Any:
    """Return a mask or weights as an array; lazy arrays stay lazy, and None stays None."""
    aligned = unwrap(aligned)
    if aligned is None or is_dask(aligned) or isinstance(aligned, Rows):
        return aligned
    if np.ma.is_masked(aligned):
        raise DataError(f"{name} is a NumPy masked array, whose mask would be lost: fill it first")
    return aligned.toarray() if issparse(aligned) else np.asarray(aligned)


def as_numpy(name: str, aligned: Any) -> Any:
    """Load a mask or weights; None stays None."""
    if aligned is None:
        return None
    return np.asarray(checked(name, aligned) if is_dask(aligned) else aligned[:])


def check_mask(X: Any, mask: Any) -> Any:
    """Return the mask of X as an array, lazy if it is lazy; raise DataError if it is not valid."""
    mask = _as_array("mask", mask)
    if mask is None:
        return None
    if mask.dtype == object and all(isinstance(value, (bool, np.bool_)) for value in mask.flat):
        mask = mask.astype(bool)  # pandas' nullable booleans become objects
    if mask.dtype != bool:
        raise DataError(
            f"mask has dtype {mask.dtype}; it must be boolean, True where a pixel is to be "
            "ignored: pass, say, `weights == 0` or `np.isnan(X)`, as a dense array"
        )
    _require_shape("mask", mask, X.shape)
    return mask


def check_weights(X: Any, weights: Any) -> Any:
    """Return the weights of the images of X as an array, lazy if they are lazy.

    Raises
    ------
    DataError
        If they are not one number per image, or all are zero.
    """
    weights = _as_array("sample_weight", weights)
    if weights is None:
        return None
    if weights.dtype.kind not in "buif" or len(weights.shape) > 1:
        raise DataError(
            f"Sample weights must be 1D array or scalar: one number per image; got shape "
            f"{weights.shape}, {weights.dtype}"
        )
    if isinstance(weights, np.ndarray):
        weights = np.array(np.broadcast_to(weights, X.shape[:1]) if weights.ndim == 0 else weights)
        weights = valid_weights(weights)
        if weights.size and not weights.any():
            raise DataError(ALL_WEIGHTS_ZERO)
    _require_shape("sample_weight", weights, X.shape[:1])
    return weights


def _read_weights(weights: Rows, ranges: Sequence[tuple[int, int]], number: int) -> Array:
    from dnmf.engine.dask_graph import read_rows

    return in_range(read_rows(weights, ranges, number), ranges[number][0])


def _checked_weights(chunk: Array, block_info: Any = None) -> Array:
    return in_range(chunk, block_info[0]["array-location"][0][0])


def _require_shape(name: str, aligned: Any, shape: Any) -> None:
    if tuple(aligned.shape) != tuple(shape):
        raise DataError(
            f"{name}.shape == {tuple(aligned.shape)}, expected {tuple(shape)}, as X has"
        )


def _split_rows(name: str, aligned: Any, ranges: Sequence[tuple[int, int]]) -> BlockSource:
    """Split an array that has a row for each image into the same blocks as X."""
    if aligned is None:
        return None
    if isinstance(aligned, Rows):
        from dnmf.engine.dask_graph import read_rows

        read = _read_weights if name == "sample_weight" else read_rows
        return partial(read, aligned, ranges)
    if is_dask(aligned) and name == "sample_weight":
        import dask.array as da

        meta = np.empty(0, aligned.dtype)
        aligned = da.map_blocks(
            _checked_weights, checked(name, aligned), dtype=meta.dtype, meta=meta
        )
    return split_chunks(name, aligned, ranges)


def split_chunks(name: str, aligned: Any, ranges: Sequence[tuple[int, int]]) -> Chunks:
    """Return a mask or weights as a Dask array with a chunk for each range of rows."""
    import dask.array as da
    from dask.task_spec import DataNode

    rows = tuple(stop - start for start, stop in ranges)
    chunks = (rows, *((width,) for width in aligned.shape[1:]))
    if is_dask(aligned):
        return Chunks(checked(name, aligned).rechunk(chunks), ranges, name)
    if isinstance(aligned, Rows):
        return Chunks(aligned.to_dask(chunks), ranges, name)
    array_name, rest = f"{name}-{uuid4().hex}", (0,) * (aligned.ndim - 1)
    keys = [(array_name, i, *rest) for i in range(len(ranges))]
    parts = (DataNode(key, aligned[slice(*each)]) for key, each in zip(keys, ranges, strict=True))
    array = da.Array(dict(zip(keys, parts, strict=True)), array_name, chunks, dtype=aligned.dtype)
    return Chunks(array, ranges, name)


def checked(name: str, array: da.Array) -> da.Array:
    """Return a Dask array of NumPy arrays whose chunks are checked when they are computed."""
    import dask.array as da

    check = partial(_check_chunk, name=name, dtype=array.dtype)
    meta = np.empty((0,) * array.ndim, array.dtype)
    plain: da.Array = da.map_blocks(check, array, dtype=array.dtype, meta=meta)
    return plain


def _check_chunk(value: Any, block_info: Any = None, *, name: str, dtype: np.dtype[Any]) -> Array:
    where = block_info[0]
    shape = tuple(stop - start for start, stop in where["array-location"])
    start = where["array-location"][0][0]
    chunk = Chunk("", where["chunk-location"][0], start, shape, dtype)
    array, hidden = as_array(value, chunk, name)
    if hidden is not None:
        raise DataError(f"{name} has masked arrays as chunks, whose mask would be lost: fill them")
    return array


def in_memory(X: Any) -> bool:
    """Check whether X is a NumPy array or a SciPy sparse matrix."""
    return isinstance(X, np.ndarray) or issparse(X)


def is_dask(X: Any) -> bool:
    """Check whether X is a Dask collection, or an xarray object around one."""
    if isinstance(X, np.ndarray) or not hasattr(X, "__dask_graph__"):
        return False
    from dask.base import is_dask_collection

    return bool(is_dask_collection(X))


def unwrap(X: Any) -> Any:
    """Return the Dask array inside an xarray object, or `Rows` of any other array outside memory.

    Anything else is returned as it is.
    """
    if is_dask(X):
        import dask.array as da

        inner = getattr(X, "data", None)
        return inner if isinstance(inner, da.Array) else X
    return Rows(X) if not isinstance(X, Rows) and is_outside_memory(X) else X


def is_lazy(X: Any) -> bool:
    """Check whether `unwrap` has returned an array outside memory: a Dask array or `Rows`."""
    return is_dask(X) or isinstance(X, Rows)


def take_mask(X: Any, mask: Any) -> tuple[Any, Any]:
    """Divide X into pixels and a mask, which includes the pixels that X itself masks.

    Parameters
    ----------
    X : object
        As in `blocks_of`, or a NumPy masked array, a list of them, or a Dask array of them.
    mask : array of shape (n, p), bool, optional
        True where a pixel is to be ignored.

    Returns
    -------
    X, mask
        The same without masked arrays; lazy if X is.
    """
    X = unwrap(X)
    if isinstance(X, (list, tuple)) and any(isinstance(row, np.ma.MaskedArray) for row in X):
        X = np.ma.stack(X)
    if isinstance(X, np.ma.MaskedArray):
        X, hidden = X.data, np.ma.getmask(X)
        if not np.any(hidden):
            return X, mask
        hidden = hidden.reshape(len(hidden), -1)
        return X, hidden if mask is None else hidden | as_numpy("mask", check_mask(hidden, mask))
    if is_dask(X) and hasattr(X, "chunks"):
        from dask.array.utils import meta_from_array

        if isinstance(meta_from_array(X), np.ma.MaskedArray):
            pixels, masks = (np.empty((0,) * X.ndim, dtype) for dtype in (X.dtype, bool))
            hidden = X.map_blocks(np.ma.getmaskarray, dtype=bool, meta=masks)
            X = X.map_blocks(np.ma.getdata, dtype=X.dtype, meta=pixels)
            return X, hidden if mask is None else hidden | _as_dask_mask(X, mask)
    return X, mask


def _as_dask_mask(X: da.Array, mask: Any) -> da.Array:
    import dask.array as da

    mask = check_mask(X, mask)
    if is_dask(mask):
        return checked("mask", mask)
    lazy: da.Array = (mask.to_dask if isinstance(mask, Rows) else partial(da.from_array, mask))(
        chunks=X.chunks
    )
    return lazy


def gives_lazy_results(X: Any) -> bool:
    """Check whether X is outside memory, so that results computed from it are lazy."""
    return isinstance(X, Corpus) or is_lazy(unwrap(X))


def validate_images(estimator: NMFParameters, X: Any, *, reset: bool) -> Any:
    """Validate X as `sklearn.utils.validation.validate_data` does, except for its pixels.

    Pixels are checked when their block is read.

    Parameters
    ----------
    estimator : NMFParameters
        The estimator that X is for.
    X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
        Also any other array outside memory from which rows can be read, or a list of images.
    reset : bool
        Whether to set the estimator's `n_features_in_` and `image_shape_`, or to check X against
        the number of pixels.

    Returns
    -------
    Corpus, Rows, dask.array.Array, ndarray or SciPy sparse matrix in rows
        X, ready to be divided into blocks.
    """
    X = unwrap(X)
    shape = None
    if not (isinstance(X, Corpus) or is_of_zarr("Group", X) or is_lazy(X)):
        X, shape = flatten_images(X)
        X = _wide_integers_as_float64(
            validate_data(
                estimator,
                X,
                reset=reset,
                dtype="numeric",
                ensure_all_finite=False,
                accept_sparse="csr",
            )
        )
    elif reset:
        check_matrix(X)
        estimator.n_features_in_ = int(X.shape[1])
        estimator.__dict__.pop("feature_names_in_", None)
    else:
        check_matrix(X)
        require_width(X, estimator)
    if reset:
        estimator.image_shape_ = shape or tuple(getattr(X, "image_shape", X.shape[1:]))
    return X


def require_width(X: Any, estimator: NMFParameters) -> None:
    """Raise DataError if X does not have the number of pixels of a fitted estimator."""
    if X.shape[1] != estimator.n_features_in_:
        raise DataError(
            f"X has {X.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input: use the corpus the model was fitted "
            "on, or images of the same size"
        )


def _wide_integers_as_float64(X: Any) -> Any:
    """Convert 32-bit and 64-bit integers, which float32 cannot hold, as scikit-learn does."""
    wide = X.dtype.kind in "iu" and X.dtype.itemsize > 2
    return X.astype(np.float64) if wide else X


def check_width(W: Any, n_components: int) -> None:
    """Raise DataError if weights do not have one column per component."""
    if len(W.shape) != 2 or W.shape[1] != n_components:
        raise DataError(f"weights have shape {W.shape}; this model needs (n, {n_components})")


def compute_fingerprints(X: Any, blocks: Blocks) -> dict[str, int | None]:
    """Compute checksums that distinguish X, its weights and its mask from others of their shape.

    Returns
    -------
    dict
        ``fingerprint``: for a corpus the checksum of its manifest, for an array in memory that of
        all pixels, for other arrays that of the first block, so that X need not be read.
        ``sample_weight`` and ``mask``: the checksum of the whole array, or None if there is none.
    """
    if isinstance(X, Corpus):
        fingerprint = X.fingerprint
    else:
        fingerprint = _checksum(blocks, None if isinstance(blocks, LocalBlocks) else [0])
    aligned = {"sample_weight": blocks.weights, "mask": blocks.masks}
    return {"fingerprint": fingerprint} | {
        name: None if array is None else _checksum(_blocks_of_aligned(blocks, array), None)
        for name, array in aligned.items()
    }


def _checksum(blocks: Blocks, only: list[int] | None) -> int:
    """Compute the checksum of the checksums of blocks."""
    return crc32c(np.array(blocks.map_sum(_block_crc32c, only=only, check=False)))


def _blocks_of_aligned(blocks: Blocks, array: Any) -> Blocks:
    """Return the weights or the mask of blocks as blocks of their own."""
    if isinstance(blocks, LocalBlocks):
        return LocalBlocks(array.reshape(len(array), -1))
    from dnmf.engine.dask_graph import DaskBlocks

    return DaskBlocks(blocks.shape, np.dtype(bool), blocks.ranges, array)


def _block_crc32c(block: Block) -> list[int]:
    return [crc32c(block.X)]


def chunks_of(X: Any) -> Chunks:
    """Return a corpus, or an array outside memory, as a Dask array in blocks of whole rows."""
    X = unwrap(X)
    if isinstance(X, Corpus):
        return _single_chunks(X.to_dask())
    check_matrix(X)
    if is_dask(X):
        X = _check_dask(X)
        return Chunks(X, join_ranges(X.chunks[0], X.shape[1] * X.dtype.itemsize))
    return _single_chunks(X.to_dask((_block_rows(X), X.shape[1])))


def _single_chunks(X: da.Array) -> Chunks:
    return Chunks(X, list(pairwise(np.cumsum([0, *X.chunks[0]]).tolist())))


def check_matrix(X: Any) -> None:
    """Raise DataError if X does not have the shape and dtype of a matrix of pixels."""
    if not (hasattr(X, "shape") and hasattr(X, "dtype")):
        raise DataError(
            f"X is a {type(X).__name__}; NMF needs an array: open a corpus with dnmf.open_corpus, "
            "take an array out of a Zarr group, or call a Dask frame's to_dask_array(lengths=True)"
        )
    if len(X.shape) < 2:
        raise DataError(
            f"Expected 2D array, got {len(X.shape)}D array instead (dim {len(X.shape)}): one row "
            "per image, one column per pixel"
        )
    require_flat(X)
    if X.dtype.kind not in "buif":
        raise DataError(f"X has dtype {X.dtype}; NMF needs integer, boolean or floating pixels")
    if 0 in X.shape:
        raise DataError(f"X has shape {tuple(X.shape)}; NMF needs at least one image and one pixel")


def _check_dask(X: da.Array) -> da.Array:
    """Return X without empty chunks; raise DataError if its chunks do not hold whole rows."""
    if np.isnan(X.shape).any():
        raise DataError(
            "X has chunks of unknown sizes; call X.compute_chunk_sizes() first, or, of a frame, "
            "to_dask_array(lengths=True)"
        )
    if (n_parts := len(X.chunks[1])) > 1:
        raise DataError(
            f"each row of X is in {n_parts} chunks, and a pass needs it in one: use "
            "X.rechunk({1: -1})"
        )
    filled: da.Array = X.rechunk({0: tuple(rows for rows in X.chunks[0] if rows)})
    return filled


def _blocks_of_corpus(corpus: Corpus) -> DaskBlocks:
    from dnmf.engine.dask_graph import DaskBlocks

    indices = range(corpus.n_blocks)
    return DaskBlocks(
        corpus.shape,
        corpus.dtype,
        [corpus.block_range(i) for i in indices],
        corpus.reader,
        lambda row: f"image {row} ({corpus.id_of(row)})",
    )


def _blocks_of_rows(X: Rows) -> DaskBlocks:
    from dnmf.engine.dask_graph import DaskBlocks, read_rows

    ranges = even_ranges(X.shape[0], _block_rows(X))
    load = partial(read_rows, X, ranges)
    return DaskBlocks((X.shape[0], X.shape[1]), X.dtype, ranges, load)


def _block_rows(X: Rows) -> int:
    """Choose the rows per block: whole chunks, about 16 MiB together."""
    wanted = choose_block_rows(X.shape[0], X.shape[1] * X.dtype.itemsize)
    return max(wanted // X.chunk_rows, 1) * X.chunk_rows


def _blocks_of_dask(X: da.Array) -> DaskBlocks:
    from dnmf.engine.dask_graph import DaskBlocks

    chunks = chunks_of(X)
    return DaskBlocks(X.shape, X.dtype, chunks.ranges, chunks)
