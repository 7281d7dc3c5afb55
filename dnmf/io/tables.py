"""Tables of weights for other programs, CSV and Parquet: a row for each image, under its id.

They are written block by block, so memory does not grow with the number of images, into a file
beside the path that takes its place when it is complete.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np

from dnmf._typing import Array
from dnmf.errors import OutputExistsError, ParameterError
from dnmf.estimators.nmf import NMF
from dnmf.io.export import write_weights
from dnmf.io.in_place import ImagesInPlace
from dnmf.storage.atomic import translate_disk_full
from dnmf.storage.corpus import Corpus
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.store import fsync_dir, require_parent
from dnmf.storage.weights import Weights, open_weights

ID = "id"
"""Name of the column of ids."""

MARK = b"dnmf"
"""Key in the metadata of a Parquet file by which dnmf knows it again."""


class Table:
    """A table of weights that is to be written; what could prevent it is checked beforehand.

    Parameters
    ----------
    path : str or path
        The file.
    kind : "csv" or "parquet"
    force : bool
        Whether to replace a table of weights that dnmf wrote there before.

    Raises
    ------
    OutputExistsError
        Something is at `path`, or the folder that is to hold it does not exist.
    ParameterError
        The path is a URL, or pyarrow is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str, *, force: bool = False) -> None:
        location = normalize_path(path)
        if is_url(location):
            raise ParameterError(f"{location} is a URL; tables are written to a disk")
        self.path = Path(location)
        is_own = _is_own_csv if kind == "csv" else _is_own_parquet
        self._write = _write_csv if kind == "csv" else _write_parquet
        if kind == "parquet":
            _import_pyarrow()
        require_parent(location)
        if os.path.lexists(self.path):
            _require_own(self.path, is_own, force)

    def write(self, weights: Weights) -> None:
        """Write the ids, the columns of metadata and the weights of all images."""
        with translate_disk_full(self.path, "the table"), _new_file(self.path) as building:
            self._write(building, weights)


def write_results(
    model: NMF,
    images: Corpus | ImagesInPlace,
    weights: str | os.PathLike[str] | None,
    tables: Sequence[Table],
    *,
    mask: Any = None,
    force: bool = False,
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

    Returns
    -------
    int
        Number of images.
    """
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
    with TemporaryDirectory(prefix=".dnmf-", dir=tables[0].path.parent) as folder:
        yield os.path.join(folder, "weights.zarr")


def _require_own(path: Path, is_own: Callable[[Path], bool], force: bool) -> None:
    if not path.is_file() or not is_own(path):
        raise OutputExistsError(
            f"{path} already exists and is no table of weights that dnmf has written; choose "
            "another path"
        )
    if not force:
        raise OutputExistsError(f"{path} already exists; choose another path or pass --force")


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file beside another, whose place it takes at the end."""
    building = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield building
        with open(building, "rb") as file:
            os.fsync(file.fileno())
        os.replace(building, path)
        fsync_dir(path.parent)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


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
            # As text by NumPy: the fewest digits that give the same number again.
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


def _is_own_csv(path: Path) -> bool:
    with open(path, "rb") as file:
        header = file.readline(2**20).decode(errors="replace").strip().split(",")
    return header[0] == ID and re.fullmatch(r"nmf\d+", header[-1]) is not None


def _is_own_parquet(path: Path) -> bool:
    pa = _import_pyarrow()
    import pyarrow.parquet as pq

    try:
        return MARK in (pq.read_schema(path).metadata or {})
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
