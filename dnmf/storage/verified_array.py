"""Arrays of a store, each chunk of which is checked against what was written.

Zarr alone reads a missing chunk as fill values and cannot tell two swapped chunks apart. So the
numbers of each chunk have a crc32c, which is kept elsewhere in the store: for a corpus and for
weights in a manifest, for a model in the record of a pass. Chunks are decoded here, not by Zarr, so
that their length, their header and their numbers can be checked one after the other.

`VerifiedArray` is one array; `VerifiedMatrix` is an array with a manifest, the base of `Corpus` and
`Weights`.
"""

from __future__ import annotations

import json
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dnmf._format import format_bytes
from dnmf._typing import Array
from dnmf.errors import BlockError, CorpusError
from dnmf.storage.codecs import import_blosc
from dnmf.storage.memory import take_bytes
from dnmf.storage.metadata import read_metadata
from dnmf.storage.paths import absolute
from dnmf.storage.store import (
    METADATA,
    InvalidObjectError,
    ObjectStore,
    StorageOptions,
    crc32c,
)

if TYPE_CHECKING:
    import dask.array as da

BLOSC_HEADER = 16
"""Bytes of the header of a Blosc buffer, and the most that Blosc adds to incompressible data."""


@dataclass(frozen=True)
class VerifiedArray:
    """A chunked array of a store, opened by `open_array` or `open_matrix`.

    A block is a chunk of whole rows.

    Attributes
    ----------
    store : ObjectStore
    name : str
        Name of the array in the store; empty for the root.
    advice : str
        What the user can do to make the array anew, for error messages.
    shape, chunks : tuple of int
    dtype : numpy.dtype
    codecs : sequence of str
        Names of the codecs.
    codec : str
        Name of the compression, as in `dnmf.storage.codecs`.
    separator : str
        Separator in the keys of chunks.
    """

    store: ObjectStore
    name: str
    advice: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    codecs: Sequence[str]
    codec: str
    separator: str = "/"

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.shape[0] // self.chunks[0])

    @property
    def max_stored_bytes(self) -> int:
        """Largest number of bytes that a chunk can take in the store."""
        return self._chunk_bytes + BLOSC_HEADER + 4

    @property
    def _chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize

    def block_range(self, index: int) -> tuple[int, int]:
        """Return the first row of a block and the one after its last."""
        start = index * self.chunks[0]
        return start, min(start + self.chunks[0], self.shape[0])

    def chunk_key(self, *place: int) -> str:
        """Return the key of a chunk, given its place along the first axes."""
        parts = [*place, *[0] * (len(self.shape) - len(place))]
        return f"{self.name}/{self.separator.join(['c', *map(str, parts)])}".lstrip("/")

    def read_block(self, index: int, checksum: int, stored_bytes: int | None = None) -> Array:
        """Read a block and check it.

        Parameters
        ----------
        index : int
            Block number.
        checksum : int
            crc32c of its numbers.
        stored_bytes : int, optional
            Number of bytes that it takes in the store.

        Raises
        ------
        BlockError
            The block is missing, truncated, altered or swapped with another.
        """
        start, stop = self.block_range(index)
        try:
            rows = self._decode(self._get(self.chunk_key(index), stored_bytes))[: stop - start]
        except FileNotFoundError:
            raise self._block_error(index, "is missing") from None
        except InvalidObjectError as error:
            raise self._block_error(index, str(error)) from None
        if crc32c(rows) != checksum:
            raise self._block_error(index, "is not what was written: altered, lost or swapped")
        return rows

    def read_all(self) -> Array:
        """Read all chunks, which must lie in one folder, without comparing a checksum.

        Raises
        ------
        FileNotFoundError
            A chunk is missing.
        InvalidObjectError
            A chunk cannot be decoded, or the array does not fit in memory.
        """
        counts = [-(-n // chunk) for n, chunk in zip(self.shape, self.chunks, strict=True)]
        # Before memory is allocated: a shape in damaged metadata can be of any size.
        if math.prod(counts) > len(self.store.list_dir(self.name)):
            raise FileNotFoundError("a chunk is missing")
        try:
            whole = np.empty(self.shape, self.dtype)
        except (MemoryError, ValueError) as error:
            nbytes = format_bytes(math.prod(self.shape) * self.dtype.itemsize)
            raise InvalidObjectError(f"takes {nbytes}, which are not there ({error})") from error
        for place in product(*map(range, counts)):
            starts = [i * chunk for i, chunk in zip(place, self.chunks, strict=True)]
            part = whole[tuple(map(slice, starts, map(int.__add__, starts, self.chunks)))]
            chunk = self._decode(self._get(self.chunk_key(*place)))
            part[...] = chunk[tuple(map(slice, part.shape))]
        return whole

    def _get(self, key: str, stored_bytes: int | None = None) -> Array:
        content = self.store.get_array(key, self.max_stored_bytes)
        if stored_bytes is not None and len(content) != stored_bytes:
            raise InvalidObjectError(
                f"is truncated or altered: {len(content)} stored bytes where {stored_bytes} were "
                "written"
            )
        return content

    def _decode(self, body: Array) -> Array:
        """Decode the bytes of a chunk."""
        if "crc32c" in self.codecs:
            body, tail = body[:-4], body[-4:]
            if len(tail) < 4 or crc32c(body) != int.from_bytes(tail, "little"):
                raise InvalidObjectError("cannot be decoded: its checksum is another")
        if "blosc" in self.codecs:
            return self._decompress(body)
        if len(body) != self._chunk_bytes:
            raise InvalidObjectError(
                f"has {len(body)} bytes where {self._chunk_bytes} were written"
            )
        return np.require(body.view(self.dtype).reshape(self.chunks), requirements="W")

    def _decompress(self, body: Array) -> Array:
        # Blosc trusts its header: a false one makes it allocate up to 2 GiB, or read past the end
        # of the buffer. The crc32c excludes accidents, not somebody who computes it again.
        nbytes, _, length = (
            struct.unpack_from("<III", body.data, 4) if len(body) >= BLOSC_HEADER else (0, 0, 0)
        )
        if (nbytes, length) != (self._chunk_bytes, len(body)):
            raise InvalidObjectError(
                f"cannot be decoded: of {len(body)} bytes it says that they are {length} and hold "
                f"{nbytes}, where {self._chunk_bytes} belong"
            )
        out = take_bytes(self._chunk_bytes).view(self.dtype).reshape(self.chunks)
        try:
            import_blosc().Blosc().decode(body, out=out)
        except (RuntimeError, ValueError) as error:
            raise InvalidObjectError(f"cannot be decoded ({error})") from error
        return out

    def _block_error(self, index: int, what: str) -> BlockError:
        start, stop = self.block_range(index)
        return BlockError(
            f"{self.store.path}: block {index} (images {start} to {stop - 1}) {what}; "
            f"restore {self.chunk_key(index)} from a copy, or {self.advice}"
        )


def open_array(
    store: ObjectStore, name: str, advice: str, *, ndim: int = 2, separator: str = "/"
) -> VerifiedArray:
    """Open an array by its checked metadata; no chunk is read.

    Parameters
    ----------
    store : ObjectStore
    name, advice : str
        See `VerifiedArray`.
    ndim : int
        Number of dimensions that it must have.
    separator : str
        Separator that the keys of its chunks must have.

    Raises
    ------
    FileNotFoundError, InvalidObjectError
    """
    found = read_metadata(store, name)
    kind = (found["node_type"], len(found.get("shape", ())), found.get("separator"))
    if kind != ("array", ndim, separator):
        raise InvalidObjectError(
            f"{f'{name}/{METADATA}'.lstrip('/')} is of another array than belongs there"
        )
    dtype = np.dtype(found["dtype"])
    shape, chunks, codecs = found["shape"], found["chunks"], found["codecs"]
    return VerifiedArray(
        store, name, advice, shape, chunks, dtype, codecs, found["codec"], separator
    )


def open_matrix(store: ObjectStore, name: str, advice: str) -> VerifiedArray:
    """Open a matrix of a corpus or of weights, as `open_array` does.

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


class VerifiedMatrix(ABC):
    """A matrix in a store, in blocks of rows that are checked against a manifest when read.

    A pickle of it holds its address alone. Each process opens the matrix once, however many of its
    blocks are read there.

    Parameters
    ----------
    array : VerifiedArray
        The matrix, in a store with a manifest.
    n_columns : int
        Number of columns of the manifest.
    fingerprint : int
        crc32c of the manifest.
    """

    def __init__(self, array: VerifiedArray, n_columns: int, fingerprint: int) -> None:
        self.path = array.store.path
        self.storage_options = array.store.storage_options
        self.shape: tuple[int, int] = (array.shape[0], array.shape[1])
        self.dtype = array.dtype
        self.block_rows = array.chunks[0]
        self.codec = array.codec
        self.fingerprint = fingerprint
        self._array = array
        self._manifest = _read_manifest(array, n_columns, fingerprint)

    @classmethod
    @abstractmethod
    def _open(cls, path: str, storage_options: StorageOptions = None) -> Self:
        """Open the matrix at a path."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self._array.n_blocks

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
        """Return the first image of a block and the one after its last."""
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
            In the stored dtype.

        Raises
        ------
        BlockError
            The block is missing, truncated, altered or swapped with another.
        """
        stored_bytes, checksum = map(int, self._manifest[index, 1:3])
        return self._array.read_block(index, checksum, stored_bytes)

    def check_block(self, index: int) -> list[BlockError]:
        """Read a block and return the errors that this raises."""
        try:
            self.read_block(index)
        except BlockError as error:
            return [error]
        return []

    def to_dask(self) -> da.Array:
        """Return the matrix as a lazy Dask array with one chunk per block, checked when read.

        Returns
        -------
        dask.array.Array of shape (n, columns)
        """
        import dask.array as da
        from dask.base import tokenize

        rows = tuple(b - a for a, b in map(self.block_range, range(self.n_blocks)))
        lazy: da.Array = da.map_blocks(
            _read_dask_block,
            # The address, not the matrix: a scheduler unpacks graphs and may not see the store.
            read=partial(_read_block, self._address),
            chunks=(rows, (self.shape[1],)),
            dtype=self.dtype,
            meta=np.empty((0, 0), self.dtype),
            name=f"{type(self).__name__.lower()}-{tokenize(self._address[1:])}",
        )
        return lazy

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._address

    @property
    def _address(self) -> Address:
        return type(self), absolute(self.path), self.fingerprint, json.dumps(self.storage_options)


Address = tuple[type[VerifiedMatrix], str, int, str]
"""Arguments of `_reopen`."""


@lru_cache(maxsize=8)
def _reopen(
    kind: type[VerifiedMatrix], path: str, fingerprint: int, storage_options: str
) -> VerifiedMatrix:
    matrix = kind._open(path, json.loads(storage_options))
    if matrix.fingerprint != fingerprint:
        raise CorpusError(f"{path} was replaced while it was in use; open it again")
    return matrix


def _read_block(address: Address, index: int) -> Array:
    return _reopen(*address).read_block(index)


def _read_dask_block(read: partial[Array], block_id: tuple[int, ...]) -> Array:
    return read(block_id[0])


def _read_manifest(array: VerifiedArray, n_columns: int, checksum: int) -> Array:
    """Read the manifest that lies beside a matrix, or below it if it is the root.

    Parameters
    ----------
    array : VerifiedArray
        The matrix.
    n_columns : int
    checksum : int
        crc32c of the manifest.

    Returns
    -------
    ndarray of shape (blocks, n_columns), int64
        One line per block: images, stored bytes, crc32c of the numbers, and other checksums.

    Raises
    ------
    CorpusError
        The manifest is missing, damaged, or belongs to another matrix.
    """
    path, advice = array.store.path, array.advice
    lines = open_matrix(array.store, "manifest", advice)
    shape = (array.n_blocks, n_columns)
    found = (lines.shape, lines.chunks, lines.dtype, list(lines.codecs))
    if found != (shape, shape, np.dtype(np.int64), ["bytes", "crc32c"]):
        raise CorpusError(
            f"{path}: the manifest is damaged: {lines.shape} {lines.dtype} where {shape} int64 "
            f"belong; {advice}"
        )
    try:
        manifest = lines.read_block(0, checksum)
    except BlockError as error:
        raise CorpusError(
            f"{path}: the manifest is damaged or lost; restore {lines.chunk_key(0)} from a copy, "
            f"or {advice}"
        ) from error
    counts = [stop - start for start, stop in map(array.block_range, range(array.n_blocks))]
    if (
        manifest.min(initial=0) < 0
        or manifest[:, 1].max(initial=0) > array.max_stored_bytes
        or (manifest[:, 0] != counts).any()
    ):
        raise CorpusError(f"{path}: the manifest is none of these blocks; {advice}")
    return manifest
