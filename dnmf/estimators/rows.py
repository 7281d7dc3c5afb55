"""Arrays outside memory that are read in slices of rows: Zarr, HDF5, xarray and similar ones."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import issparse

from dnmf._typing import Array
from dnmf.engine.executors import active_client
from dnmf.errors import DataError
from dnmf.storage.verified_matrix import VerifiedMatrix

if TYPE_CHECKING:
    import dask.array as da

ONE_READ = threading.Lock()
"""Lock for all reads of a process except those of Zarr, whose documentation allows threads to read
at once. All arrays share the lock, because two of them may be in one file."""

IN_MEMORY = ("__array_interface__", "__dlpack__", "to_numpy")
"""Attributes of arrays and frames whose numbers are in memory."""


class Rows:
    """An array outside memory from which slices of rows are read.

    Parameters
    ----------
    array : object
        Has a `shape` and a NumPy `dtype`, and returns slices of rows that NumPy can convert.

    Attributes
    ----------
    shape, dtype, ndim
        Those of the array.
    chunk_rows : int
        Number of rows that are stored together; 1 if the array does not say.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = tuple(int(length) for length in array.shape)
        self.dtype = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self.chunk_rows = _chunk_rows(array)
        libraries = ("zarr.", "h5py.", "xarray.")
        self._takes_columns = type(array).__module__.startswith(libraries)  # others may not
        self._lock: Any = nullcontext() if is_of_zarr("Array", array) else ONE_READ

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        """Read rows. If the array takes only slices of rows, select columns in memory."""
        rows, *columns = key if isinstance(key, tuple) else (key,)
        parts = [rows]
        if self._takes_columns and all(isinstance(part, slice) for part in columns):
            parts, columns = [rows, *columns], []
        with self._lock:
            part = _dense(self._array[tuple(parts) if len(parts) > 1 else rows])
        start, stop, _ = rows.indices(len(self))
        lengths = [
            len(range(*part.indices(length)))
            for part, length in zip(parts, self.shape, strict=False)
        ]
        promised = (*lengths, *self.shape[len(parts) :])
        if part.shape != promised or part.dtype.newbyteorder("=") != self.dtype.newbyteorder("="):
            raise DataError(
                f"rows {start} to {stop - 1} of a {type(self._array).__name__} have shape "
                f"{part.shape} and dtype {part.dtype}, but its shape and dtype promise {promised} "
                f"and {self.dtype}"
            )
        return part[(slice(None), *columns)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Tell a worker how to make the array: it opens the file of an HDF5 dataset by its name."""
        filename = getattr(getattr(self._array, "file", None), "filename", None)
        if filename is not None and hasattr(self._array, "name"):
            return _open_hdf5, (os.path.abspath(filename), self._array.name)
        return Rows, (self._array,)

    def require_sendable(self, name: str) -> None:
        """Raise DataError if there is a cluster and the array cannot be sent to its workers."""
        if active_client() is None:
            return
        from distributed.protocol.serialize import serialize

        try:
            serialize(self, serializers=("pickle",), on_error="raise")
        except Exception as error:  # of whatever kind the array raises
            raise DataError(
                f"{name} cannot be sent to workers ({error}): copy it into a Zarr array or a "
                "corpus, or fit without a cluster"
            ) from error

    def to_dask(self, chunks: Any) -> da.Array:
        """Return the array as a Dask array in chunks of whole rows."""
        import dask.array as da

        lazy: da.Array = da.from_array(
            self,
            chunks=chunks,
            name=False,  # by default a checksum of what it holds
            meta=np.empty((0,) * self.ndim, self.dtype),
        )
        return lazy


def is_outside_memory(X: Any) -> bool:
    """Check whether an object is an array that `Rows` can read.

    An array in memory has an interface to its memory. An xarray object has none in either case, so
    its first row is read twice: if it is in memory, both reads share the same memory.
    """
    if is_of_zarr("Array", X) or isinstance(X, Rows):
        return True
    if isinstance(X, (np.ndarray, VerifiedMatrix)) or issparse(X):
        return False
    if not hasattr(X, "__getitem__"):
        return False
    if not (hasattr(X, "shape") and isinstance(getattr(X, "dtype", None), np.dtype)):
        return False
    if hasattr(X, "dims") and hasattr(X, "to_numpy"):
        with ONE_READ:
            return X.ndim > 0 and not np.shares_memory(np.asarray(X[:1]), np.asarray(X[:1]))
    return not any(hasattr(X, name) for name in IN_MEMORY)


def is_of_zarr(kind: str, X: Any) -> bool:
    """Check whether X is a Zarr ``Array`` or ``Group``, without importing Zarr."""
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(X, getattr(zarr, kind))


def _open_hdf5(path: str, name: str) -> Rows:
    import h5py

    return Rows(h5py.File(path, "r")[name])


def _chunk_rows(array: Any) -> int:
    """Return the number of rows that an array stores together."""
    chunks = getattr(array, "shards", None) or getattr(array, "chunks", None)
    if not chunks and hasattr(array, "dims"):  # of xarray
        preferred = getattr(array, "encoding", {}).get("preferred_chunks", {})
        chunks = [preferred.get(dim) for dim in array.dims]
    rows = chunks[0] if isinstance(chunks, (tuple, list)) and chunks else None
    return int(rows) if isinstance(rows, (int, np.integer)) and rows > 0 else 1


def _dense(part: Any) -> Array:
    """Return rows that were read as an ndarray; raise DataError if a mask would be lost."""
    if np.ma.is_masked(part):
        raise DataError(
            "an array returns rows with masked values, whose mask would be lost: fill them, and "
            "pass the mask as mask"
        )
    for name in ("toarray", "todense"):
        if hasattr(part, name):
            part = getattr(part, name)()
    return np.asarray(part)
