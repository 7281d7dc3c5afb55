"""A corpus: images as a chunked Zarr matrix with a manifest that makes damage visible.

Zarr by itself reads a lost chunk as zeros and cannot tell two swapped chunks apart; so a block is
read against its line of the manifest. `dnmf.layout` describes the arrays. This module knows no
Dask on the way in or out of a block: `Corpus.to_dask` imports it when called.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
import zarr.errors

from dnmf.errors import BlockError, CorpusError
from dnmf.layout import FORMAT, VERSION, corpus_array, crc32c, stored_bytes
from dnmf.output import RECORD, absolute
from dnmf.words import size, times

if TYPE_CHECKING:
    import dask.array

Array = np.ndarray[Any, np.dtype[Any]]
StorageOptions = dict[str, Any] | None


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
    try:
        group = zarr.open_group(location, mode="r", zarr_format=3, storage_options=storage_options)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise CorpusError(
            f"{location} is not a corpus: no Zarr v3 group can be opened there; "
            f"make one with `dnmf ingest SOURCE {location}`"
        ) from error
    return Corpus(group, location, storage_options)


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

    def __init__(self, group: zarr.Group, path: str, storage_options: StorageOptions) -> None:
        record = group.attrs.asdict().get(RECORD)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            what = record.get("format") if isinstance(record, dict) else "a group without a record"
            raise CorpusError(
                f"{path} is not a finished corpus ({what}); "
                f"make one with `dnmf ingest SOURCE {path}`"
            )
        if record["version"] > VERSION:
            raise CorpusError(
                f"{path} has corpus format {record['version']}; this dnmf reads up to {VERSION}: "
                "upgrade dnmf"
            )
        self.path = path
        self.storage_options = storage_options
        self._pixels = corpus_array(group, "pixels")
        self._ids = corpus_array(group, "ids")
        found = [list(self._pixels.shape), str(self._pixels.dtype)]
        if found != [record["shape"], record["dtype"]]:
            raise CorpusError(
                f"{path}: pixels are {found} where {record['shape']} {record['dtype']} were "
                "written; restore pixels/zarr.json from a copy, or ingest again"
            )
        self.image_shape: tuple[int, ...] = tuple(record["image_shape"])
        self.fingerprint: int = record["manifest_crc32c"]
        self._manifest = _read_manifest(group, path, self.fingerprint)
        n, p = self._pixels.shape
        self.shape = (n, p)
        self.dtype = self._pixels.dtype
        self.block_rows: int = self._pixels.chunks[0]

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
        start = index * self.block_rows
        return start, min(start + self.block_rows, len(self))

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
        _, stored, expected, _ = self._manifest[index]
        try:
            found = stored_bytes(self._pixels, index)
        except FileNotFoundError:
            raise self._damaged(self._pixels, index, "is missing") from None
        if found != stored:
            what = f"is truncated or altered: {found} stored bytes where {stored} were written"
            raise self._damaged(self._pixels, index, what)
        return self._read_checked(self._pixels, index, expected)

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
        import dask.array as da
        from dask.base import tokenize

        rows = tuple(b - a for a, b in map(self.block_range, range(self.n_blocks)))
        lazy: da.Array = da.map_blocks(
            _read_dask_block,
            # Not the corpus itself: a scheduler unpacks graphs, and need not see the images.
            reopen=partial(_reopen, *self._address),
            chunks=(rows, (self.shape[1],)),
            dtype=self.dtype,
            meta=np.empty((0, 0), self.dtype),
            name=f"corpus-{tokenize(absolute(self.path), self.fingerprint)}",
        )
        return lazy

    def __reduce__(self) -> tuple[Any, ...]:
        # Tasks carry the path alone; a process opens it once however many blocks it reads.
        return _reopen, self._address

    @property
    def _address(self) -> tuple[str, int, str]:
        return absolute(self.path), self.fingerprint, json.dumps(self.storage_options)

    def __repr__(self) -> str:
        return (
            f"<Corpus {self.path}: {len(self):,} images of {times(self.image_shape)} "
            f"{self.dtype}, {size(self.nbytes)} in {self.n_blocks} blocks>"
        )

    def _repr_html_(self) -> str:
        rows = {
            "Corpus": self.path,
            "Images": f"{len(self):,} of {times(self.image_shape)} {self.dtype}",
            "Pixels": f"{size(self.nbytes)} ({size(self.stored_bytes)} stored)",
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
        encoded = self._read_checked(self._ids, index, self._manifest[index, 3])
        return [bytes(line).rstrip(b"\0").decode(errors="surrogateescape") for line in encoded]

    def _read_checked(self, array: zarr.Array[Any], index: int, expected: int) -> Array:
        start, stop = self.block_range(index)
        try:
            block = np.asarray(array[start:stop])
        except (ValueError, RuntimeError) as error:  # what the codecs raise on damage
            raise self._damaged(array, index, f"cannot be decoded ({error})") from error
        if crc32c(block) != expected:
            raise self._damaged(array, index, "is not what was written: altered, lost or swapped")
        return block

    def _damaged(self, array: zarr.Array[Any], index: int, what: str) -> BlockError:
        start, stop = self.block_range(index)
        key = f"{array.basename}/{array.metadata.encode_chunk_key((index, 0))}"
        return BlockError(
            f"{self.path}: block {index} (images {start} to {stop - 1}) {what}; "
            f"restore {key} from a copy, or ingest again"
        )


def _read_dask_block(reopen: Callable[[], Corpus], block_id: tuple[int, ...]) -> Array:
    return reopen().read_block(block_id[0])


@lru_cache(maxsize=8)
def _reopen(path: str, fingerprint: int, storage_options: str) -> Corpus:
    corpus = open_corpus(path, storage_options=json.loads(storage_options))
    if corpus.fingerprint != fingerprint:
        raise CorpusError(f"{path} was replaced by another corpus while in use; open it again")
    return corpus


def _read_manifest(group: zarr.Group, path: str, expected: int) -> Array:
    try:
        manifest = np.asarray(corpus_array(group, "manifest")[:])
    except (ValueError, RuntimeError) as error:
        raise CorpusError(f"{path}: the manifest is damaged ({error}); ingest again") from error
    if crc32c(manifest) != expected:
        raise CorpusError(f"{path}: the manifest is damaged or lost; ingest again")
    return manifest
