"""Weights of a corpus on disk: a Zarr array, with a manifest as a corpus has one.

    array     (n, d)             one chunk per block of the corpus
    manifest  (blocks, 3) int64  images, stored bytes, crc32c of the numbers
    attributes                   the record: format, version, crc32c of the corpus's manifest and of
                                 this one; written last

Without the manifest a lost block would read as NaN, and two swapped blocks would go unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dnmf._format import format_bytes, format_html
from dnmf._typing import Array
from dnmf.errors import CorpusError
from dnmf.storage.atomic import RECORD, clear_place, read_record, unfinished
from dnmf.storage.codecs import WEIGHTS_CODEC, compressors
from dnmf.storage.corpus_writer import write_manifest, write_rows
from dnmf.storage.metadata import check_format, is_checksum
from dnmf.storage.paths import for_zarr, normalize_path
from dnmf.storage.store import ObjectStore, StorageOptions, crc32c
from dnmf.storage.verified_array import VerifiedArray, VerifiedMatrix, open_matrix

Line = tuple[int, int, int]
"""Line of the manifest: images, stored bytes, crc32c of the numbers."""

FORMAT = "dnmf-weights"
VERSION = 2

ADVICE = "run `dnmf transform` again"
"""What the user can do about damaged weights, for error messages."""


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """Open the weights that `dnmf transform` wrote, for reading with checks.

    Raises
    ------
    CorpusError
        There are no weights, or their record or metadata is damaged.
    """
    return Weights._open(normalize_path(path))


class Weights(VerifiedMatrix):
    """Weights in a Zarr store; opened by `open_weights`.

    Attributes
    ----------
    path : str
    shape : tuple of int
        (n images, d components).
    dtype : numpy.dtype
    block_rows : int
        Number of images per block; the last block may be shorter.
    codec : str
        How the weights are compressed, as in `dnmf.ingest`.
    fingerprint : int
        crc32c of the manifest, which changes with any weight.
    corpus_fingerprint : int
        Fingerprint of the corpus that the weights belong to.

    Examples
    --------
    >>> W = dnmf.open_weights("weights.zarr")
    >>> Y = model.inverse_transform(W.to_dask())
    """

    def __init__(self, array: VerifiedArray, record: dict[str, Any]) -> None:
        super().__init__(array, 3, record["manifest_crc32c"])
        self.corpus_fingerprint: int = record["corpus_fingerprint"]

    def __repr__(self) -> str:
        n, d = self.shape
        return (
            f"<Weights {self.path}: {n:,} images, {d} components, {self.dtype}, "
            f"{format_bytes(self.nbytes)} in {self.n_blocks} blocks>"
        )

    def _repr_html_(self) -> str:
        n, d = self.shape
        return format_html(
            {
                "Weights": self.path,
                "Shape": f"{n:,} images, {d} components, {self.dtype}",
                "Numbers": self._bytes_for_people,
                "Blocks": self._blocks_for_people,
            }
        )

    @classmethod
    def _open(cls, path: str, storage_options: StorageOptions = None) -> Weights:
        record = check_format(
            read_record(path, storage_options),
            path,
            FORMAT,
            VERSION,
            error=CorpusError,
            missing=lambda: (
                f"holds no finished weights; make them with `dnmf transform MODEL CORPUS {path}`"
            ),
            outdated=f"{ADVICE}, with --force",
        )
        checksums = [record.get("corpus_fingerprint"), record.get("manifest_crc32c")]
        array = open_matrix(ObjectStore(path, storage_options), "", ADVICE)
        intact = all(map(is_checksum, checksums)) and record.get("crc32c") == _checksum(*checksums)
        if not intact or array.chunks[1] != array.shape[1]:
            raise CorpusError(
                f"{path}: the record of the weights is damaged; restore zarr.json from a copy, or "
                f"{ADVICE}"
            )
        return cls(array, record)


def create_weights(path: str, shape: tuple[int, int], block_rows: int, dtype: Any) -> None:
    """Create the empty array of weights; without `commit_weights` they are unfinished."""
    import zarr

    clear_place(path, FORMAT)
    zarr.create_array(
        for_zarr(path),
        shape=shape,
        chunks=(block_rows, shape[1]),
        dtype=dtype,
        fill_value=np.nan,  # a reader without the manifest must not take a lost block for zeros
        compressors=compressors(WEIGHTS_CODEC),
        attributes={RECORD: unfinished(FORMAT)},
    )


def write_weights_block(path: str, index: int, rows: Array) -> Line:
    """Write one block and return its line of the manifest; safe to repeat."""
    import zarr

    array = zarr.open_array(for_zarr(path), mode="r+", config={"write_empty_chunks": True})
    return (len(rows), *write_rows(path, array, index, rows))


def commit_weights(path: str, corpus_fingerprint: int, lines: Sequence[Line]) -> None:
    """Write the manifest, and then the record, which makes the weights finished."""
    import zarr

    checksum = write_manifest(path, np.asarray(lines, dtype=np.int64))
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "corpus_fingerprint": corpus_fingerprint,
        "manifest_crc32c": checksum,
        "crc32c": _checksum(corpus_fingerprint, checksum),
    }
    zarr.open_array(for_zarr(path), mode="r+").attrs.put({RECORD: record})


def _checksum(*checksums: Any) -> int:
    """Return the crc32c of the checksums in a record."""
    return crc32c(np.array(checksums, np.int64))
