"""A corpus: images as a chunked Zarr matrix with a manifest that makes damage visible.

`corpus_writer` describes the arrays, `verified_array` how a block is read against the manifest.
Dask is imported by `Corpus.to_dask` alone, when it is called.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._format import format_bytes, format_shape
from dnmf.errors import BlockError, CorpusError
from dnmf.storage.atomic import RECORD, absolute
from dnmf.storage.corpus_writer import FORMAT, VERSION
from dnmf.storage.metadata import DTYPES, is_checksum, is_count, is_shape, read_metadata
from dnmf.storage.store import InvalidObjectError, ObjectStore
from dnmf.storage.verified_array import VerifiedArray, lazy_rows, open_matrix, read_manifest

if TYPE_CHECKING:
    import dask.array
from dnmf._typing import Array

StorageOptions = dict[str, Any] | None
ADVICE = "ingest again"


def open_corpus(path: str | os.PathLike[str], *, storage_options: StorageOptions = None) -> Corpus:
    """Open a corpus for reading.

    Parameters
    ----------
    path : str or path
        A folder, or a URL that zarr's stores take (``s3://bucket/faces.zarr``).
    storage_options : dict, optional
        For the store behind a URL.

    Returns
    -------
    Corpus

    Raises
    ------
    CorpusError
        There is no corpus, it is unfinished, or of a newer format.
    """
    location = os.fspath(path)
    store = ObjectStore(location, storage_options)
    try:
        metadata = read_metadata(store)
    except (FileNotFoundError, InvalidObjectError) as error:
        found = error if isinstance(error, InvalidObjectError) else "no Zarr v3 group is there"
        raise CorpusError(
            f"{location} is not a corpus: {found}; make one with `dnmf ingest SOURCE {location}`"
        ) from error
    if metadata["node_type"] != "group":
        raise CorpusError(
            f"{location} is not a corpus but an array; give the path of a corpus, or make one "
            "with `dnmf ingest SOURCE CORPUS`"
        )
    return Corpus(store, metadata.get("attributes", {}).get(RECORD))


class Corpus:
    """Images in a Zarr store, as a matrix of one row per image; made by `open_corpus`.

    Attributes
    ----------
    path : str
    shape : tuple of int
        (n images, p pixels); p counts channels.
    image_shape : tuple of int
        (h, w), (h, w, channels) or (p,).
    dtype : numpy.dtype
        Of the stored pixels.
    block_rows : int
        Images per block; the last block may be shorter.
    fingerprint : int
        crc32c of the manifest, and so of every pixel and id.

    Examples
    --------
    >>> X = dnmf.open_corpus("digits.zarr")
    >>> X.shape, X.image_shape
    ((10000, 784), (28, 28))
    >>> X.images(slice(0, 3)).shape
    (3, 28, 28)
    """

    def __init__(self, store: ObjectStore, record: Any) -> None:
        path = store.path
        _check_record(record, path)
        self.path = path
        self.storage_options = store.storage_options
        self._pixels = open_matrix(store, "pixels", ADVICE)
        self._ids = open_matrix(store, "ids", ADVICE)
        found = [list(self._pixels.shape), str(self._pixels.dtype)]
        if found != [record["shape"], record["dtype"]]:
            raise CorpusError(
                f"{path}: pixels are {found} where {record['shape']} {record['dtype']} were "
                f"written; restore pixels/zarr.json from a copy, or {ADVICE}"
            )
        self.image_shape: tuple[int, ...] = tuple(record["image_shape"])
        self.fingerprint: int = record["manifest_crc32c"]
        self.shape: tuple[int, int] = (self._pixels.shape[0], self._pixels.shape[1])
        self.dtype = self._pixels.dtype
        self.block_rows = self._pixels.chunks[0]
        self._manifest = read_manifest(self._pixels, 4, self.fingerprint)
        _check_grid(self._pixels, self._ids)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels in memory, uncompressed."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes of all pixels in the store, compressed."""
        return int(self._manifest[:, 1].sum())

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self._manifest)

    @property
    def ids(self) -> list[str]:
        """The ids of all images, read anew on each access: n strings."""
        return [name for index in range(self.n_blocks) for name in self.block_ids(index)]

    def id_of(self, row: int) -> str:
        """Read the id of one image."""
        row = range(len(self))[row]
        return self.block_ids(row // self.block_rows)[row % self.block_rows]

    def block_range(self, index: int) -> tuple[int, int]:
        """Give the first image of a block and the one after its last."""
        return self._pixels.block_range(index)

    def read_block(self, index: int) -> Array:
        """Read a block and check it against the manifest.

        Parameters
        ----------
        index : int
            Block number, from 0.

        Returns
        -------
        ndarray of shape (rows, p)
            In the stored dtype.

        Raises
        ------
        BlockError
            The block is missing, truncated, altered or in another's place.
        """
        _, stored, checksum, _ = map(int, self._manifest[index])
        return self._pixels.read(index, checksum, stored)

    def images(self, rows: int | slice | Sequence[int] | Array) -> Array:
        """Read images as images.

        Parameters
        ----------
        rows : int, slice or sequence of int
            As in NumPy indexing; a slice or a sequence keeps its axis.

        Returns
        -------
        ndarray of shape (rows,) + image_shape
        """
        wanted = np.arange(len(self))[rows]
        flat = np.atleast_1d(wanted)
        out = np.empty((len(flat), self.shape[1]), self.dtype)
        blocks = flat // self.block_rows
        for index in np.unique(blocks):
            here = blocks == index
            out[here] = self.read_block(int(index))[flat[here] - index * self.block_rows]
        return out.reshape(wanted.shape + self.image_shape)

    def to_dask(self) -> dask.array.Array:
        """Give the pixel matrix as a lazy Dask array, one chunk per block, each checked when read.

        Returns
        -------
        dask.array.Array of shape (n, p)
        """
        from dask.base import tokenize

        # Not the corpus itself: a scheduler unpacks graphs, and need not see the images.
        read = partial(_read_block, self._address)
        name = f"corpus-{tokenize(absolute(self.path), self.fingerprint)}"
        return lazy_rows(self._pixels, read, name)

    def __reduce__(self) -> tuple[Any, ...]:
        # Tasks carry the path alone; a process opens it once however many blocks it reads.
        return _reopen, self._address

    @property
    def _address(self) -> tuple[str, int, str]:
        return absolute(self.path), self.fingerprint, json.dumps(self.storage_options)

    def __repr__(self) -> str:
        return (
            f"<Corpus {self.path}: {len(self):,} images of {format_shape(self.image_shape)} "
            f"{self.dtype}, {format_bytes(self.nbytes)} in {self.n_blocks} blocks>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "Corpus": self.path,
            "Images": f"{len(self):,} of {format_shape(self.image_shape)} {self.dtype}",
            "Pixels": f"{format_bytes(self.nbytes)} ({format_bytes(self.stored_bytes)} stored)",
            "Blocks": f"{self.n_blocks} of up to {self.block_rows:,} images",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"

    def block_ids(self, index: int) -> list[str]:
        """Read the ids of a block's images."""
        encoded = self._ids.read(index, int(self._manifest[index, 3]))
        return [bytes(line).rstrip(b"\0").decode(errors="surrogateescape") for line in encoded]

    def check_block(self, index: int) -> list[BlockError]:
        """Read the pixels and ids of a block, and give what is wrong with them."""
        errors = []
        for read in (self.read_block, self.block_ids):
            try:
                read(index)
            except BlockError as error:
                errors.append(error)
        return errors


def _read_block(address: tuple[str, int, str], index: int) -> Array:
    return _reopen(*address).read_block(index)


@lru_cache(maxsize=8)
def _reopen(path: str, fingerprint: int, storage_options: str) -> Corpus:
    corpus = open_corpus(path, storage_options=json.loads(storage_options))
    if corpus.fingerprint != fingerprint:
        raise CorpusError(f"{path} was replaced by another corpus while in use; open it again")
    return corpus


def _check_record(record: Any, path: str) -> None:
    """Refuse a record that is not a corpus's, or that no corpus can have."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        what = record.get("format") if isinstance(record, dict) else "a group without a record"
        raise CorpusError(
            f"{path} is not a finished corpus ({what}); make one with `dnmf ingest SOURCE {path}`"
        )
    version: Any = record.get("version")
    if is_count(version) and version > VERSION:
        raise CorpusError(
            f"{path} has corpus format {version}; this dnmf reads up to {VERSION}: upgrade dnmf"
        )
    shape: Any = record.get("shape")
    image_shape: Any = record.get("image_shape")
    valid = {
        "version": is_count(version) and version == VERSION,
        "shape": is_shape(shape) and len(shape) == 2,
        "dtype": isinstance(record.get("dtype"), str) and record["dtype"] in DTYPES,
        "image_shape": is_shape(image_shape) and len(image_shape) <= 3,
        "manifest_crc32c": is_checksum(record.get("manifest_crc32c")),
    }
    wrong = [name for name, is_valid in valid.items() if not is_valid]
    if not wrong and math.prod(image_shape) != shape[1]:
        wrong = ["image_shape"]
    if wrong:
        raise CorpusError(
            f"{path}: {wrong[0]} of the record is {str(record.get(wrong[0]))[:80]}, which no "
            f"corpus has; restore zarr.json from a copy, or {ADVICE}"
        )


def _check_grid(pixels: VerifiedArray, ids: VerifiedArray) -> None:
    """Refuse arrays that are not cut into blocks of whole images, all at the same rows."""
    grids = ((pixels, pixels.shape[1]), (ids, ids.shape[1]))
    whole = all(array.chunks == (pixels.chunks[0], width) for array, width in grids)
    if not whole or ids.shape[0] != pixels.shape[0] or ids.dtype != np.uint8:
        raise CorpusError(
            f"{pixels.store.path}: pixels in {pixels.chunks} and ids in {ids.chunks} are not "
            f"blocks of whole images; restore both zarr.json from a copy, or {ADVICE}"
        )
