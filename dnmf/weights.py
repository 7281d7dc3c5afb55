"""Weights of a corpus on disk: a Zarr array, and in its record a line for each block.

    array (n, d)  one chunk per block of the corpus
    attributes:   the record (format, version, fingerprint of the corpus, lines), written last

A line is the stored bytes of a block and the crc32c of its numbers. Without them a lost block would
read as NaN, and two swapped blocks as each other's images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from dnmf.errors import BlockError, CorpusError
from dnmf.layout import crc32c, write_rows
from dnmf.output import RECORD, absolute, read_record
from dnmf.stored import StoredArray, lazy_rows, open_stored
from dnmf.trust import Objects, is_checksum, is_count

if TYPE_CHECKING:
    import dask.array as da

Array = np.ndarray[Any, np.dtype[Any]]
Line = tuple[int, int]

FORMAT = "dnmf-weights"
VERSION = 2
ADVICE = "run `dnmf transform` again"


def create_weights(path: str, shape: tuple[int, int], block_rows: int, dtype: Any) -> None:
    """Create the empty array; it is no weights before `commit_weights`."""
    zarr.create_array(
        path,
        shape=shape,
        chunks=(block_rows, shape[1]),
        dtype=dtype,
        fill_value=np.nan,  # what reads it without the lines must not take a lost block for zeros
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
    )


def write_weights_block(path: str, index: int, rows: Array) -> Line:
    """Write one block and return its line; safe to repeat."""
    array = zarr.open_array(path, mode="r+", config={"write_empty_chunks": True})
    return write_rows(array, index, rows)


def commit_weights(path: str, corpus_fingerprint: int, lines: Sequence[Line]) -> None:
    """Write the record that makes the array weights."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "corpus_fingerprint": corpus_fingerprint,
        "blocks": [list(line) for line in lines],
        "crc32c": _crc32c_of(corpus_fingerprint, lines),
    }
    zarr.open_array(path, mode="r+").attrs.put({RECORD: record})


class Weights:
    """Weights in a Zarr store; made by `open_weights`.

    Attributes
    ----------
    path : str
    shape : tuple of int
        (n images, d components).
    dtype : numpy.dtype
    corpus_fingerprint : int
        Of the corpus they are of.

    Examples
    --------
    >>> W = dnmf.weights.open_weights("weights.zarr")
    >>> Y = model.inverse_transform(W.to_dask())
    """

    def __init__(self, array: StoredArray, lines: Sequence[Line], corpus_fingerprint: int) -> None:
        self.path = array.objects.path
        self.shape = array.shape
        self.dtype = array.dtype
        self.corpus_fingerprint = corpus_fingerprint
        self._array = array
        self._lines = lines

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self._array.n_blocks

    def block_range(self, index: int) -> tuple[int, int]:
        """Give the first image of a block and the one after its last."""
        return self._array.block_range(index)

    def read_block(self, index: int) -> Array:
        """Read a block, (rows, d), and check it against its line.

        Raises
        ------
        BlockError
            The block is missing, truncated, altered or in another's place.
        """
        stored, checksum = self._lines[index]
        return self._array.read(index, checksum, stored)

    def check_block(self, index: int) -> list[BlockError]:
        """Read a block, and give what is wrong with it."""
        try:
            self.read_block(index)
        except BlockError as error:
            return [error]
        return []

    def to_dask(self) -> da.Array:
        """Give the weights as a lazy Dask array, one chunk per block, each checked when read.

        Returns
        -------
        dask.array.Array of shape (n, d)
        """
        from dask.base import tokenize

        read = partial(_read_block, self._address)
        return lazy_rows(self._array, read, f"weights-{tokenize(self._address)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._address

    @property
    def _address(self) -> tuple[str, int]:
        return absolute(self.path), _crc32c_of(self.corpus_fingerprint, self._lines)


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Open the weights that `dnmf transform` wrote, for reading with checks.

    Raises
    ------
    CorpusError
        There are none, or their record or metadata is damaged.
    """
    location = os.fspath(path)
    record = read_record(location)
    if record is None or record.get("format") != FORMAT:
        raise CorpusError(
            f"{location} holds no finished weights; make them with "
            f"`dnmf transform MODEL CORPUS {location}`"
        )
    if record.get("version") != VERSION:
        raise CorpusError(
            f"{location} has weights of format {record.get('version')!r}; this dnmf reads "
            f"{VERSION}: {ADVICE}, with --force"
        )
    array = open_stored(Objects(location), "", ADVICE)
    lines: Any = record.get("blocks")
    fingerprint: Any = record.get("corpus_fingerprint")
    whole = (
        array.chunks[1] == array.shape[1]
        and isinstance(lines, list)
        and len(lines) == array.n_blocks
        and all(_is_line(line) for line in lines)
        and is_checksum(fingerprint)
        and record.get("crc32c") == _crc32c_of(fingerprint, lines)
    )
    if not whole:
        raise CorpusError(
            f"{location}: the record of the blocks is damaged; restore zarr.json from a copy, or "
            f"{ADVICE}"
        )
    return Weights(array, lines, fingerprint)


def _is_line(line: Any) -> bool:
    return isinstance(line, list) and len(line) == 2 and is_count(line[0]) and is_checksum(line[1])


def _crc32c_of(fingerprint: int, lines: Sequence[Line]) -> int:
    return crc32c(np.array([fingerprint, *(part for line in lines for part in line)], np.int64))


def _read_block(address: tuple[str, int], index: int) -> Array:
    return _reopen(*address).read_block(index)


@lru_cache(maxsize=8)
def _reopen(path: str, checksum: int) -> Weights:
    weights = open_weights(path)
    if weights._address[1] != checksum:
        raise CorpusError(f"{path} was replaced by other weights while in use; open it again")
    return weights
