"""Tables of weights for other programs, CSV and Parquet: a row for each image, under its id.

They are written block by block, so that memory does not grow with the number of images. The file is
written beside the path (for a URL, in a temporary folder) and moved there when it is complete.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from dnmf._access import StorageOptions, readable_errors, remember_options
from dnmf._typing import Array
from dnmf.errors import OutputExistsError, ParameterError
from dnmf.estimators.nmf import NMF
from dnmf.io.export import write_weights
from dnmf.io.in_place import ImagesInPlace
from dnmf.storage.atomic import remove_store, translate_disk_full
from dnmf.storage.corpus import Corpus
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.store import ObjectStore, require_parent
from dnmf.storage.weights import FORMAT as WEIGHTS
from dnmf.storage.weights import Weights, open_weights

ID = "id"
"""Name of the column of ids."""

MARK = b"dnmf"
"""Key in the metadata of a Parquet file by which dnmf knows it again."""


class Table:
    """A table of weights that will be written, and checks beforehand that this is possible.

    Parameters
    ----------
    path : str or path
        The file, or its URL.
    kind : "csv" or "parquet"
    force : bool
        Whether to replace a table of weights that dnmf wrote there before.
    storage_options : dict, optional
        Options of the file system behind a URL, as of `dnmf.open_corpus`.

    Raises
    ------
    OutputExistsError
        Something is at `path`, or the folder that is to hold it does not exist.
    ParameterError
        pyarrow is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        *,
        force: bool = False,
        storage_options: StorageOptions = None,
    ) -> None:
        remember_options(storage_options, path)
        self.path = normalize_path(path)
        self._store, self._name = _split(self.path)
        is_own = _is_own_csv if kind == "csv" else _is_own_parquet
        self._write = _write_csv if kind == "csv" else _write_parquet
        if kind == "parquet":
            _import_pyarrow()
        require_parent(self.path)
        if is_url(self.path) or os.path.lexists(self.path):
            self._require_own(is_own, force)

    def write(self, weights: Weights) -> None:
        """Write the ids, the columns of metadata and the weights of all images."""
        with translate_disk_full(self.path, "the table"), self._new_file() as building:
            self._write(building, weights)
            self._store.set_file(self._name, building)

    def _require_own(self, is_own: Callable[[BinaryIO], bool], force: bool) -> None:
        try:
            if not is_url(self.path) and not os.path.isfile(self.path):
                found = False
            else:
                with self._store.open(self._name) as file, readable_errors(f"{self.path}: "):
                    found = is_own(file)
        except FileNotFoundError:
            return
        if not found:
            raise OutputExistsError(
                f"{self.path} already exists and is no table of weights that dnmf has written; "
                "choose another path"
            )
        if not force:
            raise OutputExistsError(
                f"{self.path} already exists; choose another path or pass --force"
            )

    @contextmanager
    def _new_file(self) -> Iterator[Path]:
        """Yield the path of a new file on a disk, beside the table if that is on one."""
        folder = None if is_url(self.path) else os.path.dirname(os.path.abspath(self.path))
        prefix = f".{self._name}."
        with TemporaryDirectory(prefix=prefix, suffix=".partial", dir=folder) as scratch:
            yield Path(scratch, self._name)


def write_results(
    model: NMF,
    images: Corpus | ImagesInPlace,
    weights: str | os.PathLike[str] | None,
    tables: Sequence[Table],
    *,
    mask: Any = None,
    force: bool = False,
    storage_options: StorageOptions = None,
) -> int:
    """Write the weights of images as Zarr arrays, as tables, or both.

    Parameters
    ----------
    model : NMF
    images : Corpus or ImagesInPlace
    weights : str, path or None
        Path of the Zarr arrays; without it they are only kept until the tables are written, beside
        the first of them.
    tables : sequence of Table
    mask : array of shape (n, p), bool, optional
        True where a pixel is to be ignored.
    force : bool, default False
        Whether to replace weights that are already there.
    storage_options : dict, optional
        Options of the file system behind a URL, as of `dnmf.open_corpus`.

    Returns
    -------
    int
        Number of images.
    """
    remember_options(storage_options, weights)
    with _place_for(weights, tables) as place:
        n_images = write_weights(model, images, place, mask=mask, force=force)
        for table in tables:
            table.write(open_weights(place))
    return n_images


@contextmanager
def _place_for(weights: Any, tables: Sequence[Table]) -> Iterator[Any]:
    if weights is not None:
        yield weights
        return
    table = tables[0].path
    if is_url(table):  # where all workers can write
        place = f"{table}.{uuid4().hex[:12]}.partial"
        try:
            yield place
        finally:
            remove_store(place, WEIGHTS)
        return
    with TemporaryDirectory(prefix=".dnmf-", dir=os.path.dirname(os.path.abspath(table))) as folder:
        yield os.path.join(folder, "weights.zarr")


def _split(path: str) -> tuple[ObjectStore, str]:
    """Return the store of a folder, or of a URL, and the name of a file in it."""
    folder, _, name = path.rpartition("/")
    if is_url(path) and not is_url(folder):
        raise ParameterError(f"{path} is no table; give a file in a bucket, s3://bucket/NAME.csv")
    return ObjectStore(folder or ("/" if path.startswith("/") else ".")), name


def _blocks(weights: Weights) -> Iterator[tuple[Sequence[str], list[Array], Array]]:
    """Yield ids, columns of metadata and weights of each block."""
    for index in range(weights.n_blocks):
        columns = [weights.read_column_block(name, index) for name in weights.columns]
        yield weights.block_ids(index), columns, weights.read_block(index)


def _write_csv(path: Path, weights: Weights) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([ID, *weights.columns, *weights.component_names])
        for ids, columns, rows in _blocks(weights):
            # NumPy writes the fewest digits from which the same number is read again.
            numbers = rows.astype(str).tolist()
            known = zip(ids, *(column.tolist() for column in columns), strict=True)
            writer.writerows([*left, *right] for left, right in zip(known, numbers, strict=True))


def _write_parquet(path: Path, weights: Weights) -> None:
    pa = _import_pyarrow()
    import pyarrow.parquet as pq

    numbers = dict.fromkeys(weights.component_names, str(weights.dtype))
    kinds = {ID: "string", **weights.columns, **numbers}
    types = {name: pa.type_for_alias(kind) for name, kind in kinds.items()}
    schema = pa.schema(list(types.items()), metadata={MARK: b"weights"})
    with pq.ParquetWriter(path, schema) as writer:
        for ids, columns, rows in _blocks(weights):
            parts = [[_as_unicode(name) for name in ids], *columns, *np.ascontiguousarray(rows.T)]
            arrays = [pa.array(p, type=t) for p, t in zip(parts, types.values(), strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _as_unicode(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _is_own_csv(file: BinaryIO) -> bool:
    header = file.readline(2**20).decode(errors="replace").strip().split(",")
    return header[0] == ID and re.fullmatch(r"nmf\d+", header[-1]) is not None


def _is_own_parquet(file: BinaryIO) -> bool:
    pa = _import_pyarrow()
    import pyarrow.parquet as pq

    try:
        return MARK in (pq.read_schema(file).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ParameterError(
            "Parquet files need pyarrow: `pip install 'dnmf[parquet]'`, or write --csv"
        ) from error
    return pyarrow
