"""Weights of a corpus on disk, with the ids and the metadata of its images.

They are a matrix with ids and metadata, as `verified_matrix` describes it. The matrix is

    weights    (n, d)           one chunk per block of the corpus
    component  (d,) string      names of the components

The record also has the fingerprint of the corpus, and the shape of maps if its rows are pixels of
maps. Without the manifest, a lost block would be read as NaN, and nobody would notice two swapped
blocks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._access import StorageOptions, remember_options
from dnmf._format import format_bytes, format_count, shorten
from dnmf._html import format_html
from dnmf.errors import CorpusError
from dnmf.storage.atomic import read_record
from dnmf.storage.codecs import WEIGHTS_CODEC
from dnmf.storage.manifest import read_manifest
from dnmf.storage.metadata import check_format, is_checksum, is_shape, read_metadata
from dnmf.storage.paths import normalize_path
from dnmf.storage.store import InvalidObjectError, ObjectStore, crc32c
from dnmf.storage.table import Table, check_rest, read_coord, read_table
from dnmf.storage.table_writer import Line, NewArray, commit_table, create_table
from dnmf.storage.verified_matrix import MATRIX, VerifiedMatrix, open_matrix

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

FORMAT = "dnmf-weights"
VERSION = 3

COMPONENT = "component"
"""Name of the axis of components, and of the array of their names."""

SHOWN_IDS = 3
"""Number of ids in a notebook."""

ADVICE = "run `dnmf transform` again"
"""What the user can do about damaged weights, for error messages."""


def open_weights(
    path: str | os.PathLike[str], *, storage_options: StorageOptions = None
) -> Weights:
    """Open the weights that `dnmf transform` wrote, for reading with checks.

    Parameters
    ----------
    path : str or path
        Folder or URL of the weights.
    storage_options : dict, optional
        Options of the file systems behind URLs, as in `dnmf.open_corpus`.

    Returns
    -------
    dnmf.storage.weights.Weights
        A matrix of shape (n, d) with the ids of the images, read and checked block by block.

    Raises
    ------
    CorpusError
        If there are no weights, or their record or metadata is damaged.

    Examples
    --------
    >>> W = dnmf.open_weights("weights.zarr")  # doctest: +SKIP
    >>> W.to_pandas().loc["faces/anna.png"]  # doctest: +SKIP
    """
    remember_options(storage_options, path)
    return Weights._open(normalize_path(path))


class Weights(VerifiedMatrix):
    """Weights in a Zarr store; opened by `open_weights`.

    Attributes
    ----------
    path : str
        Folder or URL of the weights.
    shape : tuple of int
        (n images, d components).
    dtype : numpy.dtype
        Type of the stored weights.
    block_rows : int
        Number of images per block; the last block may be shorter.
    codec : str
        How the weights are compressed, as in `dnmf.ingest`.
    fingerprint : int
        Checksum (crc32c) of the manifest. It changes with any weight.
    corpus_fingerprint : int
        Fingerprint of the corpus that the weights belong to.

    Examples
    --------
    >>> W = dnmf.open_weights("weights.zarr")  # doctest: +SKIP
    >>> Y = model.inverse_transform(W.to_dask())  # doctest: +SKIP
    >>> W.to_pandas().loc["faces/anna.png"]  # doctest: +SKIP
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table.matrix, table.columns, table.manifest, table.fingerprint)
        self.corpus_fingerprint: int = table.record["corpus_fingerprint"]
        self.rows: dict[str, Any] | None = table.record.get("rows")
        self._table = table

    @property
    def component_names(self) -> list[str]:
        """Names of the components, a list of d strings."""
        if COMPONENT in self._table.coords:
            return list(read_coord(self._table, COMPONENT))
        return [f"nmf{number}" for number in range(self.shape[1])]

    def to_pandas(self) -> pd.DataFrame:
        """Read all weights into memory.

        Returns
        -------
        pandas.DataFrame
            A row for each image, a column for each component, and the metadata of the images. The
            index is the ids of the images.
        """
        W = np.concatenate([self.read_block(index) for index in range(self.n_blocks)])
        return self._to_frame(dict(zip(self.component_names, W.T, strict=True)))

    def to_xarray(self) -> xr.Dataset:
        """Return the weights as a lazy xarray Dataset, whose blocks are checked when they are read.

        Returns
        -------
        xarray.Dataset
            ``weights`` of shape (n, d), with the ids and the metadata of the images as coordinates
            of the axis ``image``. If the rows of the corpus are the pixels of maps, the axis
            ``image`` is split into the axes of the maps: one map for each component.
        """
        names = {COMPONENT: np.array(self.component_names)}
        return self._to_dataset("weights", self.to_dask(), (COMPONENT,), names)

    def check_rest(self) -> list[str]:
        """Check what is not a block.

        Returns
        -------
        list of str
            Description of each damage; empty if there is none.
        """
        return [] if self._table.record["version"] == 2 else list(check_rest(self._table))

    def __repr__(self) -> str:
        n, d = self.shape
        return (
            f"<Weights {self.path}: {n:,} images, {d} components, {self.dtype}, "
            f"{format_bytes(self.nbytes)} in {format_count(self.n_blocks, 'block')}>"
        )

    def _repr_html_(self) -> str:
        return self._facts_as_html() + self._pictures_as_html()

    def _pictures_as_html(self) -> str:
        """Return maps of components or the first weights as HTML; nothing if they are damaged."""
        from dnmf.storage.thumbnails import draw_first_weights, draw_maps

        try:
            return draw_maps(self) or draw_first_weights(self)
        except Exception:  # what is wrong with a block is said when somebody asks for it
            return ""

    def _facts_as_html(self) -> str:
        n, d = self.shape
        return format_html(
            {
                "Weights": self.path,
                "Shape": f"{n:,} images, {d} components, {self.dtype}",
                "Numbers": self._bytes_for_people,
                "Blocks": self._blocks_for_people,
                **self._first_ids,
            }
        )

    @property
    def _first_ids(self) -> dict[str, str]:
        """The first ids as a fact; none in weights of dnmf 0.1, or if they are damaged."""
        try:
            names = self.block_ids(0)[:SHOWN_IDS]
        except Exception:
            return {}
        more = ", ..." * (len(self) > len(names))
        return {"Ids": ", ".join(shorten(name, 30) for name in names) + more}

    @classmethod
    def _open(cls, path: str, fingerprint: int | None = None) -> Weights:
        record = check_format(
            read_record(path),
            path,
            FORMAT,
            VERSION,
            oldest=2,
            error=CorpusError,
            missing=lambda: (
                f"holds no finished weights; make them with `dnmf transform MODEL CORPUS {path}`"
            ),
            outdated=f"{ADVICE}, with --force",
        )
        store = ObjectStore(path)
        if record["version"] == 2:
            return cls(_read_version_2(store, record))
        try:
            root = read_metadata(store)
        except (FileNotFoundError, InvalidObjectError) as error:
            raise CorpusError(f"{path}: {error}; restore it from a copy, or {ADVICE}") from error
        if root["node_type"] != "group":
            raise _damaged(path)
        table = read_table(store, root, ADVICE, fingerprint)
        rows: Any = record.get("rows")
        is_whole = (
            is_checksum(record.get("corpus_fingerprint"))
            and len(table.matrix.shape) == 2
            and table.matrix.dtype.kind == "f"
            and (rows is None or (isinstance(rows, dict) and is_shape(rows.get("shape"))))
        )
        if not is_whole:
            raise _damaged(path)
        return cls(table)


def _damaged(path: str) -> CorpusError:
    return CorpusError(
        f"{path}: the record of the weights is damaged; restore zarr.json from a copy, or {ADVICE}"
    )


def _read_version_2(store: ObjectStore, record: dict[str, Any]) -> Table:
    """Open weights as dnmf 0.1 wrote them: one array, without ids."""
    checksums = [record.get("corpus_fingerprint"), record.get("manifest_crc32c")]
    array = open_matrix(store, "", ADVICE)
    intact = all(map(is_checksum, checksums)) and record.get("crc32c") == crc32c(
        np.array(checksums, np.int64)
    )
    if not intact or array.chunks[1] != array.shape[1]:
        raise _damaged(store.path)
    checksum: int = record["manifest_crc32c"]
    lines = read_manifest(array, "manifest", 3, checksum)
    return Table(record, array, {}, {}, [(array.shape[0], checksum)], 1, lines)


def create_weights(
    path: str,
    shape: tuple[int, int],
    block_rows: int,
    dtype: Any,
    columns: Mapping[str, str],
    components: Sequence[str],
) -> None:
    """Create the empty arrays of weights. They are unfinished until `commit_weights`.

    Parameters
    ----------
    path : str
        Folder or URL.
    shape : (n, d)
        Numbers of images and components.
    block_rows : int
        Number of images per block.
    dtype : numpy.dtype
        Type of the weights.
    columns : mapping of str to str
        Columns of metadata of the corpus, and their types.
    components : sequence of str
        Names of the components.
    """
    weights = NewArray(
        MATRIX[FORMAT],
        shape,
        block_rows,
        str(np.dtype(dtype)),
        ("image", COMPONENT),
        WEIGHTS_CODEC,
        np.nan,  # a reader that does not use the manifest must not read a lost block as zeros
    )
    create_table(path, FORMAT, weights, columns, {COMPONENT: np.array(components)})


def commit_weights(
    path: str,
    corpus_fingerprint: int,
    lines: Sequence[Line],
    rows: Mapping[str, Any] | None = None,
) -> None:
    """Write the manifest, and then the record, which makes the weights finished.

    Parameters
    ----------
    path : str
        Folder or URL.
    corpus_fingerprint : int
        Fingerprint of the corpus.
    lines : sequence of Line
        A line of the manifest for each block.
    rows : mapping, optional
        Axes and shape of maps, as in the record of the corpus.
    """
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "corpus_fingerprint": corpus_fingerprint,
        **({} if rows is None else {"rows": dict(rows)}),
    }
    commit_table(path, lines, record)
