"""An array of a store, read against what was written.

Zarr by itself reads a lost chunk as zeros and cannot tell two swapped chunks apart. So each chunk
of a corpus or of weights has a checksum of its numbers in a manifest or a pass, and the arrays of a
pass have one each in its record. Chunks are decoded here, where their length, what they claim to
hold and what they hold are checked one after the other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.blosc import Blosc

from dnmf._format import format_bytes
from dnmf.errors import BlockError, CorpusError
from dnmf.storage.metadata import read_metadata
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c

if TYPE_CHECKING:
    import dask.array as da
from dnmf._typing import Array

BLOSC_HEADER = 16
"""Bytes; also the most by which Blosc makes incompressible numbers longer."""

_blosc = Blosc()


@dataclass(frozen=True)
class VerifiedArray:
    """An array in chunks, which are blocks of rows where it is read by blocks.

    Made by `open_matrix` and `open_array`.

    Attributes
    ----------
    store : ObjectStore
    name : str
        Of the array in the store; empty for the root.
    advice : str
        What makes the array anew, for errors.
    shape, chunks : tuple of int
    dtype : numpy.dtype
    codecs : sequence of str
    separator : str
        Of the parts of a chunk's key.
    """

    store: ObjectStore
    name: str
    advice: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    codecs: Sequence[str]
    separator: str = "/"

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.shape[0] // self.chunks[0])

    @property
    def most_bytes(self) -> int:
        """The most that a chunk takes in the store."""
        return self._chunk_bytes + BLOSC_HEADER + 4

    @property
    def _chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize

    def block_range(self, index: int) -> tuple[int, int]:
        """Give the first row of a block and the one after its last."""
        start = index * self.chunks[0]
        return start, min(start + self.chunks[0], self.shape[0])

    def read(self, index: int, checksum: int, stored: int | None = None) -> Array:
        """Read a block.

        Parameters
        ----------
        index : int
        checksum : int
            crc32c of its numbers.
        stored : int, optional
            Bytes that it takes in the store.

        Raises
        ------
        BlockError
            It is missing, truncated, altered or in another's place.
        """
        start, stop = self.block_range(index)
        try:
            rows = self.decode(self._content(self.key(index), stored))[: stop - start]
        except FileNotFoundError:
            raise self.damaged(index, "is missing") from None
        except InvalidObjectError as refused:
            raise self.damaged(index, str(refused)) from None
        if crc32c(rows) != checksum:
            raise self.damaged(index, "is not what was written: altered, lost or swapped")
        return rows

    def read_whole(self) -> Array:
        """Read all chunks, which lie in one folder, cut along any axis; nothing else is checked.

        Raises
        ------
        FileNotFoundError
            A chunk is missing.
        InvalidObjectError
            One cannot be decoded, or all do not fit into memory.
        """
        counts = [-(-n // chunk) for n, chunk in zip(self.shape, self.chunks, strict=True)]
        # Before so much memory is set aside: what a shape claims costs nobody anything.
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
            chunk = self.decode(self._content(self.key(*place), None))
            part[...] = chunk[tuple(map(slice, part.shape))]
        return whole

    def _content(self, key: str, stored: int | None) -> bytes:
        content = self.store.get(key, self.most_bytes)
        if stored is not None and len(content) != stored:
            raise InvalidObjectError(
                f"is truncated or altered: {len(content)} stored bytes where {stored} were written"
            )
        return content

    def decode(self, content: bytes) -> Array:
        """Turn the bytes of a chunk into its numbers, which they must have the right number of."""
        body = np.frombuffer(content, np.uint8)
        if "crc32c" in self.codecs:
            body, tail = body[:-4], content[-4:]
            if len(tail) < 4 or crc32c(body) != int.from_bytes(tail, "little"):
                raise InvalidObjectError("cannot be decoded: its checksum is another")
        if "blosc" in self.codecs:
            return self._inflate(body)
        if len(body) != self._chunk_bytes:
            raise InvalidObjectError(
                f"has {len(body)} bytes where {self._chunk_bytes} were written"
            )
        return body.view(self.dtype).reshape(self.chunks).copy()

    def _inflate(self, body: Array) -> Array:
        # The header is all that Blosc goes by: a wrong one would inflate to 2 GiB, or read past the
        # end. crc32c keeps accidents out, but not who computes it anew.
        claimed, _, length = (
            struct.unpack_from("<III", body.data, 4) if len(body) >= BLOSC_HEADER else (0, 0, 0)
        )
        if (claimed, length) != (self._chunk_bytes, len(body)):
            raise InvalidObjectError(
                f"cannot be decoded: of {len(body)} bytes it says that they are {length} and hold "
                f"{claimed}, where {self._chunk_bytes} belong"
            )
        out = np.empty(self.chunks, self.dtype)
        try:
            _blosc.decode(body, out=out)
        except (RuntimeError, ValueError) as error:
            raise InvalidObjectError(f"cannot be decoded ({error})") from error
        return out

    def key(self, *place: int) -> str:
        """Name the object of a chunk, by its place along the first axes."""
        parts = [*place, *[0] * (len(self.shape) - len(place))]
        return f"{self.name}/{self.separator.join(['c', *map(str, parts)])}".lstrip("/")

    def damaged(self, index: int, what: str) -> BlockError:
        """Say that a block cannot be used, in the words of its images."""
        start, stop = self.block_range(index)
        return BlockError(
            f"{self.store.path}: block {index} (images {start} to {stop - 1}) {what}; "
            f"restore {self.key(index)} from a copy, or {self.advice}"
        )


def open_matrix(store: ObjectStore, name: str, advice: str) -> VerifiedArray:
    """Open a matrix of a corpus or of weights, by its checked metadata alone.

    Raises
    ------
    CorpusError
        It is missing, or not what dnmf writes.
    """
    try:
        return open_array(store, name, advice)
    except FileNotFoundError:
        raise CorpusError(f"{store.path}: the array {name!r} is missing; {advice}") from None
    except InvalidObjectError as refused:
        raise CorpusError(f"{store.path}: {refused}; restore it from a copy, or {advice}") from None


def open_array(
    store: ObjectStore, name: str, advice: str, *, axes: int = 2, separator: str = "/"
) -> VerifiedArray:
    """Open an array as `open_matrix` does.

    Parameters
    ----------
    store : ObjectStore
    name, advice : str
        See `VerifiedArray`.
    axes : int
        How many it must have.
    separator : str
        Which it must have.

    Raises
    ------
    FileNotFoundError, InvalidObjectError
    """
    found = read_metadata(store, name)
    kind = (found["node_type"], len(found.get("shape", ())), found.get("separator"))
    if kind != ("array", axes, separator):
        raise InvalidObjectError(
            f"{f'{name}/{METADATA}'.lstrip('/')} is of another array than belongs there"
        )
    dtype = np.dtype(found["dtype"])
    shape, chunks = found["shape"], found["chunks"]
    return VerifiedArray(store, name, advice, shape, chunks, dtype, found["codecs"], separator)


def read_manifest(array: VerifiedArray, columns: int, checksum: int) -> Array:
    """Read the lines of an array's blocks: images, stored bytes, crc32c, and what else there is.

    Raises
    ------
    CorpusError
        They are missing, damaged or none of this array's.
    """
    path, advice = array.store.path, array.advice
    lines = open_matrix(array.store, "manifest", advice)
    shape = (array.n_blocks, columns)
    found = (lines.shape, lines.chunks, lines.dtype, list(lines.codecs))
    if found != (shape, shape, np.dtype(np.int64), ["bytes", "crc32c"]):
        raise CorpusError(
            f"{path}: the manifest is damaged: {lines.shape} {lines.dtype} where {shape} int64 "
            f"belong; {advice}"
        )
    try:
        manifest = lines.read(0, checksum)
    except BlockError as error:
        raise CorpusError(
            f"{path}: the manifest is damaged or lost; restore {lines.key(0)} from a copy, or "
            f"{advice}"
        ) from error
    counts = [stop - start for start, stop in map(array.block_range, range(array.n_blocks))]
    if (
        manifest.min(initial=0) < 0
        or manifest[:, 1].max(initial=0) > array.most_bytes
        or (manifest[:, 0] != counts).any()
    ):
        raise CorpusError(f"{path}: the manifest is none of these blocks; {advice}")
    return manifest


def lazy_rows(array: VerifiedArray, read: Callable[[int], Array], name: str) -> da.Array:
    """Give an array as a lazy Dask array, one chunk per block, each checked when it is read.

    Parameters
    ----------
    array : VerifiedArray
    read : callable
        Reads a block by its number; pickled with every task.
    name : str
        Of the Dask array: the same for the same numbers.
    """
    import dask.array as da

    rows = tuple(b - a for a, b in map(array.block_range, range(array.n_blocks)))
    lazy: da.Array = da.map_blocks(
        _read_dask_block,
        read=read,
        chunks=(rows, (array.shape[1],)),
        dtype=array.dtype,
        meta=np.empty((0, 0), array.dtype),
        name=name,
    )
    return lazy


def _read_dask_block(read: Callable[[int], Array], block_id: tuple[int, ...]) -> Array:
    return read(block_id[0])
