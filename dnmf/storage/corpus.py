"""A corpus: images as a chunked Zarr matrix with a manifest that makes damage visible.

`corpus_writer` describes the arrays on disk, `verified_array` how a block is read and checked.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._access import StorageOptions, remember_options
from dnmf._format import format_bytes, format_count, format_shape
from dnmf._html import format_html
from dnmf._typing import Array
from dnmf.errors import CorpusError
from dnmf.storage.atomic import READ_AGAIN, RECORD
from dnmf.storage.corpus_writer import FORMAT, VERSION, default_axes
from dnmf.storage.manifest import read_manifest
from dnmf.storage.metadata import (
    DTYPES,
    check_format,
    is_checksum,
    is_shape,
    read_metadata,
)
from dnmf.storage.paths import normalize_path
from dnmf.storage.store import InvalidObjectError, ObjectStore, disk_error
from dnmf.storage.table import Table, check_rest, read_coord, read_table
from dnmf.storage.verified_array import VerifiedArray
from dnmf.storage.verified_matrix import ID, VerifiedMatrix, open_matrix

if TYPE_CHECKING:
    import xarray as xr

ADVICE = "ingest again"
"""What the user can do about a damaged corpus, for error messages."""


def open_corpus(path: str | os.PathLike[str], *, storage_options: StorageOptions = None) -> Corpus:
    """Open a corpus for reading.

    Parameters
    ----------
    path : str or path
        A folder, or a URL that fsspec knows (``s3://bucket/faces.zarr``).
    storage_options : dict, optional
        Options of fsspec for the file system behind a URL. This process uses them for all later
        access to that bucket.

    Returns
    -------
    Corpus
        Images, which are read and checked when they are asked for.

    Raises
    ------
    CorpusError
        If there is no corpus, it is unfinished, or its format is newer than this dnmf.

    See Also
    --------
    ingest : Make a corpus.

    Examples
    --------
    >>> X = dnmf.open_corpus("digits.zarr")  # doctest: +SKIP
    >>> X.shape, X.image_shape  # doctest: +SKIP
    ((10000, 784), (28, 28))
    """
    remember_options(storage_options, path)
    return Corpus._open(normalize_path(path))


class Corpus(VerifiedMatrix):
    """Images in a Zarr store, as a matrix with one row per image; opened by `open_corpus`.

    Attributes
    ----------
    path : str
        Folder or URL of the corpus.
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
    version : int
        Version of the format.
    n_rejects : int
        Number of images that the ingest has left out; ``rejects.jsonl`` in the corpus lists them.
    order : str or None
        ``"natural"`` if files of a folder are in the order f2, f10. None in corpora of dnmf 0.1,
        where f10 is before f2, and in corpora that are not made from image files.
    skipped : dict of str to str
        Names of image files that the ingest has left out, with the reason for each.
    names : dict of str to str
        Names of the columns of metadata: name in the source to name in the corpus.
    axes : tuple of str
        Names of the axes of an image.
    choices : dict
        What was done to the pixels when they were ingested.
    facts : dict
        Other facts about the source that the ingest has recorded.
    rows : dict or None
        Axes and shape of the maps if each row is a pixel of a map (a spectrum, say), such as
        ``{"axes": ["y", "x"], "shape": [512, 512]}``.
    generations : list of (int, int)
        Number of images and fingerprint of the corpus when it was ingested, and after each append.
    fingerprint : int
        Checksum (crc32c) of the manifest. It changes with any pixel, id or metadata.

    Examples
    --------
    >>> X = dnmf.open_corpus("digits.zarr")  # doctest: +SKIP
    >>> X.shape, X.image_shape  # doctest: +SKIP
    ((10000, 784), (28, 28))
    >>> X[0:3].shape  # doctest: +SKIP
    (3, 28, 28)
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table.matrix, table.columns, table.manifest, table.fingerprint)
        record = table.record
        self.version: int = record["version"]
        self.image_shape: tuple[int, ...] = tuple(record["image_shape"])
        self.order: str | None = record.get("order")
        self.n_rejects: int = record.get("rejects", 0)
        self.skipped: dict[str, str] = record.get("skipped", {})
        self.names: dict[str, str] = record.get("names", {})
        self.axes: tuple[str, ...] = tuple(record.get("axes", default_axes(self.image_shape)))
        self.choices: dict[str, Any] = record.get("choices", {})
        self.facts: dict[str, Any] = record.get("facts", {})
        self.rows: dict[str, Any] | None = record.get("rows")
        self.generations = table.generations
        self._table = table

    @classmethod
    def _open(cls, path: str, fingerprint: int | None = None) -> Corpus:
        store = ObjectStore(path)
        try:
            metadata = read_metadata(store)
        except (FileNotFoundError, InvalidObjectError) as error:
            if isinstance(error, InvalidObjectError) and disk_error(error) is not None:
                raise CorpusError(f"{path}: {error}: {READ_AGAIN}") from error
            is_damaged = isinstance(error, InvalidObjectError)
            found = error if is_damaged else "no Zarr v3 group is there"
            raise CorpusError(
                f"{path} is not a corpus: {found}; make one with `dnmf ingest SOURCE NEW.zarr`"
            ) from (error if is_damaged else None)
        if metadata["node_type"] != "group":
            raise CorpusError(
                f"{path} is not a corpus but an array; give the path of a corpus, or make one "
                "with `dnmf ingest SOURCE CORPUS`"
            )
        record = check_record(metadata.get("attributes", {}).get(RECORD), path)
        if record["version"] == 1:
            return cls(_read_version_1(store, record))
        table = read_table(store, metadata, ADVICE, fingerprint)
        _check_images(table, path)
        return cls(table)

    @property
    def facts_of_images(self) -> dict[str, Any]:
        """What the record says of the images; the results for each row need it, too."""
        facts = {"order": self.order, "choices": self.choices, "rows": self.rows}
        return {name: fact for name, fact in facts.items() if fact}

    @property
    def coords(self) -> dict[str, Array]:
        """Numbers or names along axes of the images, such as wavelengths, by names of axes."""
        return {name: read_coord(self._table, name) for name in self._table.coords}

    def check_rest(self) -> list[str]:
        """Check what is not a block.

        Returns
        -------
        list of str
            Description of each damage; empty if there is none.
        """
        return [] if self._table.record["version"] == 1 else list(check_rest(self._table))

    def __getitem__(self, rows: int | slice | Sequence[int] | Array) -> Array:
        return self.images(rows)

    def __iter__(self) -> Iterator[Array]:
        for index in range(self.n_blocks):
            yield from self.read_block(index).reshape(-1, *self.image_shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the matrix in memory, one row per image."""
        if copy is False:
            raise ValueError(f"{self.path} is on a disk: it cannot be an array without a copy")
        out = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for index in range(self.n_blocks):
            out[slice(*self.block_range(index))] = self.read_block(index)
        return out

    def to_xarray(self) -> xr.Dataset:
        """Return the corpus as a lazy xarray Dataset, whose blocks are checked when they are read.

        Returns
        -------
        xarray.Dataset
            ``pixels`` of shape (n,) + image_shape, with the ids and the metadata as coordinates of
            the axis ``image``. If the rows of the corpus are the pixels of maps, the axis ``image``
            is split into the axes of the maps.
        """
        pixels = self.to_dask().reshape((len(self), *self.image_shape))
        return self._to_dataset("pixels", pixels, self.axes, self.coords)

    def images(self, rows: int | slice | Sequence[int] | Array) -> Array:
        """Read images in their own shape.

        Parameters
        ----------
        rows : int, slice or sequence of int
            Numbers of images, as in NumPy indexing. A slice or a sequence keeps the axis of images.

        Returns
        -------
        ndarray of shape (rows,) + image_shape
            Pixels in the dtype of the corpus.
        """
        wanted = _row_numbers(rows, len(self))
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
            f"{self.dtype}, {format_bytes(self.nbytes)} in {format_count(self.n_blocks, 'block')}>"
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


def check_record(record: Any, path: str) -> dict[str, Any]:
    """Return the record of a corpus; raise CorpusError if it is not valid."""

    def missing() -> str:
        what = record.get("format") if isinstance(record, dict) else "a group without a record"
        return f"is not a finished corpus ({what}); make one with `dnmf ingest SOURCE NEW.zarr`"

    restore = f"restore zarr.json from a copy, or {ADVICE}"
    checked = check_format(
        record,
        path,
        FORMAT,
        VERSION,
        oldest=1,
        error=CorpusError,
        missing=missing,
        outdated=restore,
    )
    shape: Any = checked.get("shape")
    image_shape: Any = checked.get("image_shape")
    valid = {
        "dtype": isinstance(checked.get("dtype"), str) and checked["dtype"] in DTYPES,
        "image_shape": is_shape(image_shape) and len(image_shape) <= 3,
        "order": checked.get("order") in (None, "natural"),
        "skipped": _is_text(checked.get("skipped", {})),
    }
    if checked["version"] == 1:
        valid["shape"] = is_shape(shape) and len(shape) == 2
        valid["manifest_crc32c"] = is_checksum(checked.get("manifest_crc32c"))
    else:
        valid["axes"] = _are_names(checked.get("axes"))
        valid["choices"] = isinstance(checked.get("choices", {}), dict)
        valid["facts"] = isinstance(checked.get("facts", {}), dict)
        valid["rows"] = _are_rows(checked.get("rows"))
    wrong = [name for name, is_valid in valid.items() if not is_valid]
    if not wrong and checked["version"] == 1 and math.prod(image_shape) != shape[1]:
        wrong = ["image_shape"]
    if not wrong and checked["version"] > 1 and len(checked["axes"]) != len(image_shape):
        wrong = ["axes"]
    if wrong:
        raise CorpusError(
            f"{path}: {wrong[0]} in the record is {str(checked.get(wrong[0]))[:80]}, which is not "
            f"valid; {restore}"
        )
    return checked


def _is_text(value: Any) -> bool:
    """Check whether a JSON value is an object of strings."""
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _are_names(value: Any) -> bool:
    """Check whether a JSON value is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_rows(value: Any) -> bool:
    """Check whether a JSON value is missing, or has the axes and the shape of maps."""
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    axes: Any = value.get("axes")
    shape: Any = value.get("shape")
    return _are_names(axes) and is_shape(shape) and len(axes) == len(shape)


def _row_numbers(rows: Any, n: int) -> Array:
    """Return the row numbers that a NumPy index selects, without a list of all rows if possible."""
    if isinstance(rows, (int, np.integer)) and not isinstance(rows, (bool, np.bool_)):
        return np.array(range(n)[rows])
    if isinstance(rows, slice):
        return np.arange(*rows.indices(n))
    numbers: Array = np.arange(n)[rows]
    return numbers


def _check_images(table: Table, path: str) -> None:
    """Raise CorpusError if the pixels of version 2 are not those of the record."""
    record, pixels = table.record, table.matrix
    found = [list(pixels.shape[1:]), str(pixels.dtype)]
    if found != [record["image_shape"], record["dtype"]]:
        raise CorpusError(
            f"{path}: images are {found} where {record['image_shape']} {record['dtype']} were "
            f"written; restore zarr.json from a copy, or {ADVICE}"
        )
    rows = record.get("rows")
    if rows is not None and math.prod(rows["shape"]) != table.generations[-1][0]:
        raise CorpusError(
            f"{path}: the record has {table.generations[-1][0]} rows, which do not fill maps of "
            f"shape {rows['shape']}; restore zarr.json from a copy, or {ADVICE}"
        )


def _read_version_1(store: ObjectStore, record: dict[str, Any]) -> Table:
    """Open a corpus as dnmf 0.1 wrote it: a matrix of pixels, and ids as rows of bytes."""
    pixels = open_matrix(store, "pixels", ADVICE)
    ids = open_matrix(store, "ids", ADVICE)
    found = [list(pixels.shape), str(pixels.dtype)]
    if found != [record["shape"], record["dtype"]]:
        raise CorpusError(
            f"{store.path}: pixels are {found} where {record['shape']} {record['dtype']} were "
            f"written; restore pixels/zarr.json from a copy, or {ADVICE}"
        )
    checksum = record["manifest_crc32c"]
    lines = read_manifest(pixels, "manifest", 4, checksum)
    _check_grid(pixels, ids)
    return Table(record, pixels, {ID: ids}, {}, [(pixels.shape[0], checksum)], 1, lines)


def _check_grid(pixels: VerifiedArray, ids: VerifiedArray) -> None:
    """Raise CorpusError if the arrays are not both divided into blocks of the same whole images."""
    grids = ((pixels, pixels.shape[1]), (ids, ids.shape[1]))
    whole = all(array.chunks == (pixels.chunks[0], width) for array, width in grids)
    if not whole or ids.shape[0] != pixels.shape[0] or ids.dtype != np.uint8:
        raise CorpusError(
            f"{pixels.store.path}: pixels in {pixels.chunks} and ids in {ids.chunks} are not "
            f"blocks of whole images; restore both zarr.json from a copy, or {ADVICE}"
        )
