"""Arrays of a store, each chunk of which is checked against what was written.

Zarr alone reads a missing chunk as fill values, and does not notice swapped chunks. Therefore the
numbers of each chunk have a crc32c, which is kept elsewhere in the store: for a corpus and for
weights in a manifest, for a model in the record of a pass. This module decodes chunks without Zarr,
so that it can check their length, their header and their numbers one after the other.

`dnmf.storage.verified_matrix` has the arrays that a manifest belongs to.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dnmf._format import format_bytes
from dnmf._typing import Array
from dnmf.errors import BlockError
from dnmf.storage.codecs import compress, import_blosc
from dnmf.storage.memory import take_bytes
from dnmf.storage.metadata import CHUNK_BYTES, TEXT, read_metadata
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c
from dnmf.storage.text import TEXT_BYTES, decode_text, encode_text, to_text

BLOSC_HEADER = 16
"""Bytes of the header of a Blosc buffer, and the most that Blosc adds to incompressible data."""

TEXT_RATIO = 256
"""Largest ratio by which texts are compressed, which no LZ4 exceeds: their length is not known
beforehand, and no more memory must be allocated than what is stored can need."""


@dataclass(frozen=True)
class VerifiedArray:
    """A chunked array of a store, made by `open_array` or `array_of`.

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
        That of objects if the array holds text.
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
    def is_text(self) -> bool:
        """Whether the array holds text."""
        return self.dtype.hasobject

    @property
    def _chunk_bytes(self) -> int:
        """Number of bytes of a decoded chunk; of text, the largest."""
        if self.is_text:
            return min(4 + self.chunks[0] * (4 + TEXT_BYTES), CHUNK_BYTES)
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
            crc32c of its numbers, or of its texts as they are encoded.
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
        if self._checksum(rows) != checksum:
            raise self._block_error(index, "is not what was written: altered, lost or swapped")
        return rows

    def write_block(self, index: int, rows: Any) -> tuple[int, int]:
        """Write a block, fsynced, and return its stored bytes and checksum; safe to repeat.

        Parameters
        ----------
        index : int
            Block number.
        rows : array_like
            At most as many rows as a chunk has; a missing rest is filled up.
        """
        rows = to_text(rows) if self.is_text else np.ascontiguousarray(rows, self.dtype)
        body = compress(self.codec, self._encode(rows))
        checksum = self._checksum(rows)
        is_same = self.codec == "none" and not self.is_text and len(rows) == self.chunks[0]
        tail = checksum if is_same else crc32c(np.frombuffer(body, np.uint8))
        self.store.set(self.chunk_key(index), body, tail.to_bytes(4, "little"))
        return len(body) + 4, checksum

    def _encode(self, rows: Array) -> Array:
        """Return the numbers of a whole chunk, or the bytes of its texts."""
        chunk = rows
        if len(rows) < self.chunks[0]:
            chunk = np.full(self.chunks, "" if self.is_text else 0, self.dtype)
            chunk[: len(rows)] = rows
        return encode_text(chunk) if self.is_text else chunk

    def _checksum(self, rows: Array) -> int:
        return crc32c(encode_text(rows) if self.is_text else rows)

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
        if self.is_text:
            return self._decode_text(body)
        if "blosc" in self.codecs:
            return self._decompress(body, self._chunk_bytes).view(self.dtype).reshape(self.chunks)
        if len(body) != self._chunk_bytes:
            raise InvalidObjectError(
                f"has {len(body)} bytes where {self._chunk_bytes} were written"
            )
        return np.require(body.view(self.dtype).reshape(self.chunks), requirements="W")

    def _decode_text(self, body: Array) -> Array:
        if "blosc" in self.codecs:
            nbytes = int.from_bytes(body[4:8], "little")
            if nbytes > min(self._chunk_bytes, TEXT_RATIO * len(body)):
                raise InvalidObjectError(
                    f"cannot be decoded: of {len(body)} bytes it says that they hold {nbytes}"
                )
            body = self._decompress(body, nbytes)
        try:
            return decode_text(body, self.chunks[0])
        except ValueError as error:
            raise InvalidObjectError(f"cannot be decoded ({error})") from error

    def _decompress(self, body: Array, expected: int) -> Array:
        # Blosc trusts its header: a false one makes it allocate up to 2 GiB, or read past the end
        # of the buffer. The crc32c excludes accidents, not somebody who computes it again.
        nbytes, _, length = (
            struct.unpack_from("<III", body.data, 4) if len(body) >= BLOSC_HEADER else (0, 0, 0)
        )
        if (nbytes, length) != (expected, len(body)):
            raise InvalidObjectError(
                f"cannot be decoded: of {len(body)} bytes it says that they are {length} and hold "
                f"{nbytes}, where {expected} belong"
            )
        out = take_bytes(expected)
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
    if kind != ("array", ndim, separator) or found["dtype"] == TEXT:
        raise InvalidObjectError(
            f"{f'{name}/{METADATA}'.lstrip('/')} is of another array than belongs there"
        )
    return array_of(store, name, advice, found)


def array_of(
    store: ObjectStore, name: str, advice: str, metadata: Mapping[str, Any]
) -> VerifiedArray:
    """Return the array that checked metadata describe, as `read_metadata` returns them."""
    dtype = np.dtype(object if metadata["dtype"] == TEXT else metadata["dtype"])
    shape, chunks, separator = (metadata[field] for field in ("shape", "chunks", "separator"))
    codecs, codec = metadata["codecs"], metadata["codec"]
    return VerifiedArray(store, name, advice, shape, chunks, dtype, codecs, codec, separator)
