"""Weights of a corpus on disk: a Zarr array, with a manifest as a corpus has.

    array (n, d)               one chunk per block of the corpus
    manifest (blocks, 3) int64 images, stored bytes, crc32c of the numbers
    attributes:                the record (format, version, checksums of corpus and manifest), last

Without the manifest a lost block would read as NaN, and two swapped blocks as each other's images.
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
from dnmf.storage.atomic import RECORD, absolute, read_record
from dnmf.storage.corpus_writer import write_manifest, write_rows
from dnmf.storage.metadata import is_checksum, is_count
from dnmf.storage.store import ObjectStore, crc32c
from dnmf.storage.verified_array import VerifiedArray, lazy_rows, open_matrix, read_manifest

if TYPE_CHECKING:
    import dask.array as da
from dnmf._typing import Array

Line = tuple[int, int, int]
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
    return (len(rows), *write_rows(path, array, index, rows))


def commit_weights(path: str, corpus_fingerprint: int, lines: Sequence[Line]) -> None:
    """Write the manifest and then the record that makes the array weights."""
    checksum = write_manifest(path, np.asarray(lines, dtype=np.int64))
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "corpus_fingerprint": corpus_fingerprint,
        "manifest_crc32c": checksum,
        "crc32c": _crc32c_of(corpus_fingerprint, checksum),
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
    >>> W = dnmf.open_weights("weights.zarr")
    >>> Y = model.inverse_transform(W.to_dask())
    """

    def __init__(self, array: VerifiedArray, record: dict[str, Any]) -> None:
        self.path = array.store.path
        self.shape = array.shape
        self.dtype = array.dtype
        self.corpus_fingerprint: int = record["corpus_fingerprint"]
        self._array = array
        self._fingerprint: int = record["manifest_crc32c"]
        self._manifest = read_manifest(array, 3, self._fingerprint)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self._array.n_blocks

    def block_range(self, index: int) -> tuple[int, int]:
        """Give the first image of a block and the one after its last."""
        return self._array.block_range(index)

    def read_block(self, index: int) -> Array:
        """Read a block, (rows, d), and check it against the manifest.

        Raises
        ------
        BlockError
            The block is missing, truncated, altered or in another's place.
        """
        _, stored, checksum = map(int, self._manifest[index])
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
        return absolute(self.path), self._fingerprint


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
    version: Any = record.get("version")
    if not is_count(version) or version != VERSION:
        raise CorpusError(
            f"{location} has weights of format {str(version)[:80]}; this dnmf reads "
            f"{VERSION}: {ADVICE}, with --force"
        )
    checksums = [record.get("corpus_fingerprint"), record.get("manifest_crc32c")]
    array = open_matrix(ObjectStore(location), "", ADVICE)
    whole = all(map(is_checksum, checksums)) and record.get("crc32c") == _crc32c_of(*checksums)
    if not whole or array.chunks[1] != array.shape[1]:
        raise CorpusError(
            f"{location}: the record of the weights is damaged; restore zarr.json from a copy, or "
            f"{ADVICE}"
        )
    return Weights(array, record)


def _crc32c_of(*checksums: Any) -> int:
    return crc32c(np.array(checksums, np.int64))


def _read_block(address: tuple[str, int], index: int) -> Array:
    return _reopen(*address).read_block(index)


@lru_cache(maxsize=8)
def _reopen(path: str, checksum: int) -> Weights:
    weights = open_weights(path)
    if weights._fingerprint != checksum:
        raise CorpusError(f"{path} was replaced by other weights while in use; open it again")
    return weights
