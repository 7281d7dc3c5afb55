"""A matrix in a store with a manifest, and the ids and columns of metadata of its rows.

This is the base of `Corpus` and `Weights`. Both are Zarr v3 groups that xarray opens, too:

    pixels, weights   (n, ...)         the matrix, one chunk per block of whole rows
    id                (n,) string      the ids of the rows, in the same blocks
    label, ...        (n,)             columns of metadata, in the same blocks
    manifests/1       (blocks, 4 + columns) int64
                                       rows, stored bytes of the matrix, and the crc32c of the
                                       matrix, of the ids and of each column
    attributes                         the record, written last

The ``zarr.json`` of the root holds the record and the metadata of all these arrays (consolidated
metadata). One write therefore replaces all of it, and one read opens the group. `table_writer`
writes such a group.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dnmf._format import format_bytes
from dnmf._typing import Array
from dnmf.errors import BlockError, CorpusError, ParameterError
from dnmf.storage.paths import absolute
from dnmf.storage.store import InvalidObjectError, ObjectStore
from dnmf.storage.verified_array import VerifiedArray, open_array

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd
    import xarray as xr

ID = "id"
"""Name of the array of ids, which the manifest has before the columns of metadata."""

MATRIX = {"dnmf-corpus": "pixels", "dnmf-weights": "weights"}
"""Name of the matrix in a store of each format."""


def open_matrix(store: ObjectStore, name: str, advice: str) -> VerifiedArray:
    """Open a matrix of an older format by its own metadata, as `open_array` does.

    Raises
    ------
    CorpusError
        It is missing, or not as dnmf writes it.
    """
    try:
        return open_array(store, name, advice)
    except FileNotFoundError:
        raise CorpusError(f"{store.path}: the array {name!r} is missing; {advice}") from None
    except InvalidObjectError as error:
        raise CorpusError(f"{store.path}: {error}; restore it from a copy, or {advice}") from None


def import_extra(name: str, what: str) -> Any:
    """Import a library that dnmf does not need, or raise ParameterError with how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        cause = None if isinstance(error, ModuleNotFoundError) else error
        raise ParameterError(
            f"{what} need {name}, which is not installed: pip install {name}"
        ) from cause


class VerifiedMatrix(ABC):
    """A matrix in a store, in blocks of rows that are checked against a manifest when read.

    A pickle holds only its path. Each process opens the matrix once, however many of its blocks it
    reads.

    Parameters
    ----------
    array : VerifiedArray
        The matrix; the axes after the first are flattened.
    columns : mapping of str to VerifiedArray
        The ids and the columns of metadata, in the order of the manifest.
    manifest : Array of shape (blocks, columns), int64
        See `read_manifest`.
    fingerprint : int
        crc32c of the manifest.
    """

    rows: dict[str, Any] | None
    """How rows fold into maps; None if they do not."""

    def __init__(
        self,
        array: VerifiedArray,
        columns: Mapping[str, VerifiedArray],
        manifest: Array,
        fingerprint: int,
    ) -> None:
        self.path = array.store.path
        self.shape: tuple[int, int] = (array.shape[0], math.prod(array.shape[1:]))
        self.dtype = array.dtype
        self.block_rows = array.chunks[0]
        self.codec = array.codec
        self.fingerprint = fingerprint
        self._array = array
        self._columns = columns
        self._manifest = manifest

    @classmethod
    @abstractmethod
    def _open(cls, path: str, fingerprint: int | None = None) -> Self:
        """Open the matrix at a path; if it has grown, with the rows of an earlier fingerprint."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self._array.n_blocks

    @property
    def manifest(self) -> Array:
        """Manifest: a line for each block of images, stored bytes and checksums."""
        return self._manifest

    @property
    def nbytes(self) -> int:
        """Number of bytes of the matrix in memory, uncompressed."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Number of bytes of the matrix in the store, compressed."""
        return int(self._manifest[:, 1].sum())

    @property
    def _bytes_for_people(self) -> str:
        return f"{format_bytes(self.nbytes)} ({format_bytes(self.stored_bytes)} stored)"

    @property
    def _blocks_for_people(self) -> str:
        return f"{self.n_blocks} of up to {self.block_rows:,} images"

    def block_range(self, index: int) -> tuple[int, int]:
        """Return the numbers of the images of a block.

        Parameters
        ----------
        index : int
            Block number, from 0.

        Returns
        -------
        tuple of int
            Number of the first image, and number of the last image plus one.
        """
        return self._array.block_range(index)

    def read_block(self, index: int) -> Array:
        """Read a block and check it against the manifest.

        Parameters
        ----------
        index : int
            Block number, from 0.

        Returns
        -------
        ndarray of shape (rows, columns)
            The rows of the block, in the stored dtype.

        Raises
        ------
        BlockError
            If the block is missing, truncated, altered or swapped with another.
        """
        rows, stored_bytes, checksum = map(int, self._manifest[index, :3])
        # Images that were appended later may have been added to the last block.
        expected = stored_bytes if rows == self.block_rows else None
        return self._array.read_block(index, checksum, expected).reshape(rows, -1)

    def read_column_block(self, name: str, index: int) -> Array:
        """Read a block of the ids (``"id"``) or of a column of metadata, and check it.

        Parameters
        ----------
        name : str
            ``"id"``, or one of `columns`.
        index : int
            Block number, from 0.

        Returns
        -------
        ndarray of shape (rows,)
            One value per image of the block.
        """
        if name not in self._columns:
            known = ", ".join(self._columns) or "none"
            raise ParameterError(f"{self.path} has no column {name!r}; it has {known}")
        checksum = self._manifest[index, 3 + list(self._columns).index(name)]
        return self._columns[name].read_block(index, int(checksum))

    @property
    def columns(self) -> dict[str, str]:
        """Names and types of the columns of metadata; the type of text is ``"string"``."""
        return {
            name: "string" if array.is_text else str(array.dtype)
            for name, array in self._columns.items()
            if name != ID
        }

    @property
    def ids(self) -> list[str]:
        """Ids of all images, a list of n strings that is read again at each access."""
        return [name for index in range(self.n_blocks) for name in self.block_ids(index)]

    def id_of(self, row: int) -> str:
        """Read the id of one image.

        Parameters
        ----------
        row : int
            Number of the image, from 0.

        Returns
        -------
        str
            The id, such as ``"anna/1.png"``.
        """
        row = range(len(self))[row]
        return self.block_ids(row // self.block_rows)[row % self.block_rows]

    def block_ids(self, index: int) -> list[str]:
        """Read the ids of the images of a block.

        Parameters
        ----------
        index : int
            Block number, from 0.

        Returns
        -------
        list of str
            One id for each image.
        """
        found = self.read_column_block(ID, index)
        if self._columns[ID].is_text:
            return list(found)
        # Ids of format version 1 are padded with zero bytes.
        return [bytes(line).rstrip(b"\0").decode(errors="surrogateescape") for line in found]

    def column(self, name: str) -> Array:
        """Read a column of metadata.

        Parameters
        ----------
        name : str
            One of `columns`.

        Returns
        -------
        ndarray of shape (n,)
            Numbers, booleans, or strings (dtype object).
        """
        return np.concatenate(
            [self.read_column_block(name, index) for index in range(self.n_blocks)]
        )

    @property
    def metadata(self) -> pd.DataFrame:
        """Columns of metadata of all images, a pandas DataFrame whose index is the ids."""
        return self._to_frame({name: self.column(name) for name in self.columns})

    def _to_frame(self, columns: Mapping[str, Array]) -> pd.DataFrame:
        pandas = import_extra("pandas", "tables")
        frame: pd.DataFrame = pandas.DataFrame(dict(columns), index=pandas.Index(self.ids, name=ID))
        return frame

    def check_block(self, index: int) -> list[BlockError]:
        """Read a block with its ids and metadata, and return the errors that this raises.

        Parameters
        ----------
        index : int
            Block number, from 0.

        Returns
        -------
        list of BlockError
            Empty if nothing is damaged.
        """
        errors = []
        readers: list[Callable[[int], Array]] = [self.read_block]
        readers += [partial(self.read_column_block, name) for name in self._columns]
        for read in readers:
            try:
                read(index)
            except BlockError as error:
                errors.append(error)
        return errors

    @property
    def reader(self) -> BlockReader:
        """The function `read_block`, to be sent to workers."""
        return BlockReader(self)

    def to_dask(self) -> da.Array:
        """Return the matrix as a lazy Dask array with one chunk per block, checked when read.

        Returns
        -------
        dask.array.Array of shape (n, columns)
            One row per image.
        """
        return self._lazy(_read_block, "", self.dtype, (self.shape[1],))

    def _lazy(self, read: Any, name: str, dtype: Any, *widths: tuple[int, ...]) -> da.Array:
        """Return what a function reads of each block as a lazy Dask array."""
        import dask.array as da
        from dask.base import tokenize

        rows = tuple(b - a for a, b in map(self.block_range, range(self.n_blocks)))
        lazy: da.Array = da.map_blocks(
            _read_dask_block,
            # Send the address, not the matrix: a scheduler unpickles graphs, and may have no access
            # to the store.
            read=partial(read, self.address, name),
            chunks=(rows, *widths),
            dtype=dtype,
            meta=np.empty((0,) * (1 + len(widths)), dtype),
            name=f"{type(self).__name__.lower()}-{name}-{tokenize(name, self.address[1:])}",
        )
        return lazy

    def _to_dataset(
        self, name: str, matrix: Any, axes: tuple[str, ...], coords: Mapping[str, Any]
    ) -> xr.Dataset:
        """Return the matrix as an xarray Dataset with its ids and metadata as coordinates."""
        xarray = import_extra("xarray", "Datasets")
        rows = self.rows or {"axes": ["image"], "shape": [len(self)]}
        dims, shape = tuple(rows["axes"]), tuple(rows["shape"])
        labels = {
            name: (dims, self._lazy(_read_column, name, array.dtype).reshape(shape))
            for name, array in self._columns.items()
            if array.is_text or len(array.shape) == 1
        }
        values = matrix.reshape((*shape, *matrix.shape[1:]))
        along = {axis: (axis, along) for axis, along in coords.items()}
        data: xr.Dataset = xarray.Dataset({name: ((*dims, *axes), values)}, {**labels, **along})
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        return reopen_matrix, self.address

    @property
    def address(self) -> Address:
        """Arguments of `reopen_matrix`, by which another process finds the matrix."""
        return type(self), absolute(self.path), self.fingerprint


@dataclass(frozen=True)
class BlockReader:
    """The function `read_block` of a matrix; sent elsewhere, it opens the matrix at its first call.

    A worker that cannot open it says so as the result of a task. If it opened it on arrival, Dask
    would close the connection and call the worker lost.
    """

    matrix: VerifiedMatrix

    def __call__(self, index: int) -> Array:
        """Read a block."""
        return self.matrix.read_block(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (_read_block, self.matrix.address, "")


Address = tuple[type[VerifiedMatrix], str, int]
"""Arguments of `reopen_matrix`."""


@lru_cache(maxsize=8)
def reopen_matrix(kind: type[VerifiedMatrix], path: str, fingerprint: int) -> VerifiedMatrix:
    """Open a matrix again, as it was when it had a fingerprint, or return it if it is open."""
    matrix = kind._open(path, fingerprint)
    if matrix.fingerprint != fingerprint:
        raise CorpusError(f"{path} was replaced while it was in use; open it again")
    return matrix


def _read_block(address: Address, _: str, index: int) -> Array:
    return reopen_matrix(*address).read_block(index)


def _read_column(address: Address, name: str, index: int) -> Array:
    return reopen_matrix(*address).read_column_block(name, index)


def _read_dask_block(read: partial[Array], block_id: tuple[int, ...]) -> Array:
    return read(block_id[0])
