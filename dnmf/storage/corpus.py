"""A corpus: images as a chunked Zarr matrix with a manifest that makes damage visible.

`corpus_writer` describes the arrays on disk, `verified_array` how a block is read and checked.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dnmf._format import format_bytes, format_html, format_shape
from dnmf._typing import Array
from dnmf.errors import BlockError, CorpusError
from dnmf.storage.atomic import READ_AGAIN, RECORD
from dnmf.storage.corpus_writer import FORMAT, VERSION
from dnmf.storage.metadata import (
    DTYPES,
    check_format,
    is_checksum,
    is_shape,
    read_metadata,
)
from dnmf.storage.paths import normalize_path
from dnmf.storage.store import InvalidObjectError, ObjectStore, StorageOptions, disk_error
from dnmf.storage.verified_array import VerifiedArray, VerifiedMatrix, open_matrix

ADVICE = "ingest again"
"""What the user can do about a damaged corpus, for error messages."""


def open_corpus(path: str | os.PathLike[str], *, storage_options: StorageOptions = None) -> Corpus:
    """Open a corpus for reading.

    Parameters
    ----------
    path : str or path
        A folder, or a URL for fsspec (``s3://bucket/faces.zarr``).
    storage_options : dict, optional
        Options of the file system behind a URL.

    Returns
    -------
    Corpus

    Raises
    ------
    CorpusError
        There is no corpus, it is unfinished, or its format is newer than this dnmf.
    """
    return Corpus._open(normalize_path(path), storage_options)


class Corpus(VerifiedMatrix):
    """Images in a Zarr store, as a matrix of one row per image; opened by `open_corpus`.

    Attributes
    ----------
    path : str
    shape : tuple of int
        (n images, p pixels); p counts channels.
    image_shape : tuple of int
        (h, w), (h, w, channels) or (p,).
    dtype : numpy.dtype
        Type of the stored pixels.
    block_rows : int
        Number of images per block; the last block may be shorter.
    codec : str
        How the pixels are compressed, as in `dnmf.ingest`.
    order : str or None
        ``"natural"`` where files of a folder are in the order f2, f10; None in corpora of dnmf 0.1,
        which have f10 before f2, and in those that are not of image files.
    skipped : dict of str to str
        Names of image files that the ingest has left out, with the reason for each.
    fingerprint : int
        crc32c of the manifest, which changes with any pixel and any id.

    Examples
    --------
    >>> X = dnmf.open_corpus("digits.zarr")
    >>> X.shape, X.image_shape
    ((10000, 784), (28, 28))
    >>> X.images(slice(0, 3)).shape
    (3, 28, 28)
    """

    def __init__(self, store: ObjectStore, record: dict[str, Any]) -> None:
        pixels = open_matrix(store, "pixels", ADVICE)
        self._ids = open_matrix(store, "ids", ADVICE)
        found = [list(pixels.shape), str(pixels.dtype)]
        if found != [record["shape"], record["dtype"]]:
            raise CorpusError(
                f"{store.path}: pixels are {found} where {record['shape']} {record['dtype']} were "
                f"written; restore pixels/zarr.json from a copy, or {ADVICE}"
            )
        super().__init__(pixels, 4, record["manifest_crc32c"])
        self.image_shape: tuple[int, ...] = tuple(record["image_shape"])
        self.order: str | None = record.get("order")
        self.n_rejects: int = record.get("rejects", 0)
        self.skipped: dict[str, str] = record.get("skipped", {})
        _check_grid(pixels, self._ids)

    @classmethod
    def _open(cls, path: str, storage_options: StorageOptions = None) -> Corpus:
        store = ObjectStore(path, storage_options)
        try:
            metadata = read_metadata(store)
        except (FileNotFoundError, InvalidObjectError) as error:
            if isinstance(error, InvalidObjectError) and disk_error(error) is not None:
                raise CorpusError(f"{path}: {error}: {READ_AGAIN}") from error
            found = error if isinstance(error, InvalidObjectError) else "no Zarr v3 group is there"
            raise CorpusError(
                f"{path} is not a corpus: {found}; make one with `dnmf ingest SOURCE NEW.zarr`"
            ) from error
        if metadata["node_type"] != "group":
            raise CorpusError(
                f"{path} is not a corpus but an array; give the path of a corpus, or make one "
                "with `dnmf ingest SOURCE CORPUS`"
            )
        return cls(store, _check_record(metadata.get("attributes", {}).get(RECORD), path))

    @property
    def ids(self) -> list[str]:
        """Ids of all images, a list of n strings that is read again at each access."""
        return [name for index in range(self.n_blocks) for name in self.block_ids(index)]

    def id_of(self, row: int) -> str:
        """Read the id of one image."""
        row = range(len(self))[row]
        return self.block_ids(row // self.block_rows)[row % self.block_rows]

    def block_ids(self, index: int) -> list[str]:
        """Read the ids of a block's images."""
        encoded = self._ids.read_block(index, int(self._manifest[index, 3]))
        return [bytes(line).rstrip(b"\0").decode(errors="surrogateescape") for line in encoded]

    def images(self, rows: int | slice | Sequence[int] | Array) -> Array:
        """Read images in their own shape.

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

    def __repr__(self) -> str:
        return (
            f"<Corpus {self.path}: {len(self):,} images of {format_shape(self.image_shape)} "
            f"{self.dtype}, {format_bytes(self.nbytes)} in {self.n_blocks} blocks>"
        )

    def _repr_html_(self) -> str:
        return self._facts_as_html() + self._pictures_as_html()

    def _pictures_as_html(self) -> str:
        """Return the first images as HTML, or nothing if they cannot be read and drawn."""
        from dnmf.storage.thumbnails import draw_html

        try:
            return draw_html(self)
        except Exception:  # what is wrong with a block is said when somebody asks for it
            return ""

    def _facts_as_html(self) -> str:
        return format_html(
            {
                "Corpus": self.path,
                "Images": f"{len(self):,} of {format_shape(self.image_shape)} {self.dtype}",
                "Pixels": self._bytes_for_people,
                "Blocks": self._blocks_for_people,
            }
        )

    def check_block(self, index: int) -> list[BlockError]:
        """Read the pixels and the ids of a block, and return the errors that this raises."""
        errors = super().check_block(index)
        try:
            self.block_ids(index)
        except BlockError as error:
            errors.append(error)
        return errors


def _check_record(record: Any, path: str) -> dict[str, Any]:
    """Return the record of a corpus, or raise if no corpus can have it."""

    def missing() -> str:
        what = record.get("format") if isinstance(record, dict) else "a group without a record"
        return f"is not a finished corpus ({what}); make one with `dnmf ingest SOURCE NEW.zarr`"

    restore = f"restore zarr.json from a copy, or {ADVICE}"
    checked = check_format(
        record, path, FORMAT, VERSION, error=CorpusError, missing=missing, outdated=restore
    )
    shape: Any = checked.get("shape")
    image_shape: Any = checked.get("image_shape")
    valid = {
        "shape": is_shape(shape) and len(shape) == 2,
        "dtype": isinstance(checked.get("dtype"), str) and checked["dtype"] in DTYPES,
        "image_shape": is_shape(image_shape) and len(image_shape) <= 3,
        "manifest_crc32c": is_checksum(checked.get("manifest_crc32c")),
        "order": checked.get("order") in (None, "natural"),
        "skipped": _is_text(checked.get("skipped", {})),
    }
    wrong = [name for name, is_valid in valid.items() if not is_valid]
    if not wrong and math.prod(image_shape) != shape[1]:
        wrong = ["image_shape"]
    if wrong:
        raise CorpusError(
            f"{path}: {wrong[0]} of the record is {str(checked.get(wrong[0]))[:80]}, which no "
            f"corpus has; {restore}"
        )
    return checked


def _is_text(value: Any) -> bool:
    """Check whether a JSON value is an object of strings."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _check_grid(pixels: VerifiedArray, ids: VerifiedArray) -> None:
    """Raise unless both arrays are cut into blocks of whole images, at the same rows."""
    grids = ((pixels, pixels.shape[1]), (ids, ids.shape[1]))
    whole = all(array.chunks == (pixels.chunks[0], width) for array, width in grids)
    if not whole or ids.shape[0] != pixels.shape[0] or ids.dtype != np.uint8:
        raise CorpusError(
            f"{pixels.store.path}: pixels in {pixels.chunks} and ids in {ids.chunks} are not "
            f"blocks of whole images; restore both zarr.json from a copy, or {ADVICE}"
        )
