"""Tables of image files: lists in text, CSV, Parquet and Arrow, pandas frames, image columns.

A column with paths says where the files are; all other columns are kept beside the images.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate, groupby
from typing import Any, BinaryIO

import numpy as np

from dnmf._access import inherit_options, open_file_system, readable_errors
from dnmf.errors import IngestError
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.formats.registry import require
from dnmf.io.sources.places.folder import LocalFiles
from dnmf.io.sources.places.place import Listed, Place, Reject
from dnmf.io.sources.places.remote import RemoteFiles
from dnmf.storage.paths import is_url

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "url")
"""Names of the column that holds the paths of the images, in any case; the first found is taken."""

ID_COLUMNS = ("id", "ids", "key", "name")
"""Names of the column that holds the ids of the images."""

PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather")
LISTS = (".csv", ".tsv", ".txt", ".lst", *PARQUET, *ARROW)
"""Suffixes of tables."""


@dataclass(frozen=True)
class ListedFiles:
    """Files that a table names; a `Place`.

    Attributes
    ----------
    table : str
        Path or URL of the table; empty for a frame.
    base : str
        Folder or URL that the names are relative to, unless they are absolute.
    rows : object
        Frame of pandas, or None. Workers, which only open files, do not get it.
    """

    table: str
    base: str
    rows: Any = field(default=None, compare=False)

    def list_files(self) -> Iterator[Listed | Reject]:
        """Yield the files in the order of the table."""
        rows = read_rows(self) if self.rows is None else _rows_of_frame(self.rows)
        for number, row in enumerate(rows):
            column = _column(row, PATH_COLUMNS, self.table or "the frame")
            path = row[column]
            if not isinstance(path, (str, os.PathLike)) or not str(path):
                yield Reject(f"{self.table}:{number}", f"has no path in the column {column!r}")
                continue
            yield _listed(os.fspath(path), row, column)

    def open_files(self, names: Sequence[str]) -> Iterator[ImageFile | IngestError]:
        """Yield files by their names."""
        for folder, group in groupby(names, key=self._folder):
            if is_url(folder):
                inherit_options(self.table, folder)
                files = RemoteFiles(folder)
                yield from files.open_files([name.removeprefix(f"{folder}/") for name in group])
            else:
                yield from LocalFiles(folder).open_files(list(group))

    def _folder(self, name: str) -> str:
        return name.rpartition("/")[0] if is_url(name) else self.base

    def __reduce__(self) -> tuple[Any, ...]:
        return ListedFiles, (self.table, self.base)


@dataclass(frozen=True)
class ParquetImages:
    """Images in a column of Parquet or Arrow, as bytes or as the struct of Hugging Face; a `Place`.

    Attributes
    ----------
    table : str
        Path or URL of the file.
    column : str
        Name of the column with the images.
    """

    table: str
    column: str

    def list_files(self) -> Iterator[Listed | Reject]:
        """Yield the images in the order of the table, named by their row."""
        stem = os.path.basename(self.table)
        for number, row in enumerate(read_rows(self, without=self.column)):
            yield _listed(str(number), row, None, default=f"{stem}:{number}")

    def open_files(self, names: Sequence[str]) -> Iterator[ImageFile | IngestError]:
        """Yield images by their rows, of which each group is read once."""
        for name in names:
            try:
                content = self._content(int(name))
            except (OSError, ValueError) as error:
                yield IngestError(f"{self.table}: row {name} cannot be read ({error})")
                continue
            if not isinstance(content, bytes):
                yield IngestError(f"{self.table}: row {name} holds no image")
                continue
            yield ImageFile(f"{self.table}:{name}", partial(io.BytesIO, content))

    def _content(self, row: int) -> Any:
        starts = _row_groups(self)
        group = next(i for i in range(len(starts) - 1) if row < starts[i + 1])
        value = _read_group(self, group)[row - starts[group]].as_py()
        return value.get("bytes") if isinstance(value, dict) else value


def open_table(path: str) -> Place:
    """Return the place of a table of files, or of Parquet or Arrow with images in a column."""
    base = path.rpartition("/")[0] if is_url(path) else os.path.dirname(os.path.abspath(path))
    table = ListedFiles(path, base)
    is_columnar = path.lower().endswith((*PARQUET, *ARROW))
    column = _image_column(table) if is_columnar else None
    return table if column is None else ParquetImages(path, column)


def open_frame(frame: Any) -> ListedFiles:
    """Return the place of the files that a pandas frame names, relative to the working folder."""
    _column(dict.fromkeys(map(str, frame.columns)), PATH_COLUMNS, "the frame")
    return ListedFiles("", os.getcwd(), rows=frame)


def read_rows(
    table: ListedFiles | ParquetImages, without: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as dicts, some at a time.

    Parameters
    ----------
    table : ListedFiles or ParquetImages
        Of a Parquet file, of CSV or TSV with a header, or of text with a path in each line.
    without : str, optional
        Name of a column to leave out.
    """
    path = table.table
    if path.lower().endswith((*PARQUET, *ARROW)):
        with _columnar(table) as file:
            names = [name for name in file.schema.names if name != without]
            for group, count in enumerate(file.sizes):
                for batch in (
                    file.read(group, names).to_batches(max_chunksize=4096) if names else ()
                ):
                    yield from batch.to_pylist()
                yield from ({} for _ in range(0 if names else count))
        return
    try:
        with (
            _open(table) as opened,
            io.TextIOWrapper(opened, "utf-8-sig", "surrogateescape", newline="") as file,
        ):
            if path.lower().endswith((".csv", ".tsv")):
                yield from _read_csv(file, path)
            else:
                lines = (line.rstrip("\r\n") for line in file)
                yield from ({"path": line} for line in lines if line and line[0] != "#")
    except OSError as error:
        raise IngestError(f"{path} cannot be read ({error.strerror or error})") from error


def _open(table: ListedFiles | ParquetImages) -> BinaryIO:
    """Open the file of a table in binary mode."""
    if not is_url(table.table):
        return open(table.table, "rb")
    fs, path = open_file_system(table.table)
    with readable_errors(f"{table.table} cannot be read: "):
        file: BinaryIO = fs.open(path, "rb")
    return file


@dataclass(frozen=True)
class _Columnar:
    """An open file of Parquet or Arrow.

    Attributes
    ----------
    schema : pyarrow.Schema
    sizes : list of int
        Number of rows of each group.
    read : callable ``(group, names) -> pyarrow.Table``
        Reads columns of a group.
    """

    schema: Any
    sizes: list[int]
    read: Callable[[int, list[str]], Any]


@contextmanager
def _columnar(table: ListedFiles | ParquetImages) -> Iterator[_Columnar]:
    """Open a file of Parquet or Arrow; raise IngestError if it is none."""
    pa, pq = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    try:
        with _open(table) as opened:
            if table.table.lower().endswith(ARROW):
                reader = pa.ipc.open_file(opened)
                sizes = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
                yield _Columnar(reader.schema, sizes, partial(_read_batch, pa, reader))
                return
            with pq.ParquetFile(opened) as file:
                groups = range(file.metadata.num_row_groups)
                sizes = [file.metadata.row_group(group).num_rows for group in groups]
                yield _Columnar(file.schema_arrow, sizes, file.read_row_group)
    except (OSError, pa.ArrowInvalid) as error:
        raise IngestError(f"{table.table} cannot be read as Parquet or Arrow ({error})") from error


def _read_batch(pa: Any, reader: Any, group: int, names: list[str]) -> Any:
    return pa.Table.from_batches([reader.get_batch(group)]).select(names)


def _read_csv(file: Iterable[str], path: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise IngestError(
                    f"{path}, line {reader.line_num}: has {'more' if None in row else 'fewer'} "
                    f"fields than the header, which has {len(reader.fieldnames or ())}: mend it"
                )
            yield dict(row)
    except csv.Error as error:
        raise IngestError(f"{path}, line {reader.line_num}: {error}; mend the table") from error


def _rows_of_frame(frame: Any) -> Iterator[dict[str, Any]]:
    names = list(map(str, frame.columns))
    for row in frame.itertuples(index=False, name=None):
        yield {name: _plain(value) for name, value in zip(names, row, strict=True)}


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _listed(
    name: str, row: Mapping[str, Any], column: str | None, default: str | None = None
) -> Listed:
    """Return a row of a table as a file with its id and its other columns."""
    by_name = {key.lower(): key for key in reversed(list(row)) if key != column}
    key = next((by_name[name] for name in ID_COLUMNS if name in by_name), None)
    identity = str(row[key]) if key is not None and row[key] not in (None, "") else default or name
    values = {other: row[other] for other in row if other not in (column, key)}
    return Listed(name, identity, values)


def _column(row: Mapping[str, Any], names: Sequence[str], table: str) -> str:
    by_name = {key.lower(): key for key in reversed(list(row))}
    for name in names:
        if name in by_name:
            return by_name[name]
    raise IngestError(
        f"{table} has the columns {', '.join(row)}, none of which holds paths: name one of them "
        f"{', '.join(names[:-1])} or {names[-1]}"
    )


def _image_column(table: ListedFiles) -> str | None:
    """Return the name of the column that holds encoded images; None if there is none."""
    pa = require("pyarrow", "parquet")
    with _columnar(table) as file:
        for column in file.schema:
            parts = column.type.fields if pa.types.is_struct(column.type) else ()
            kind = next((part.type for part in parts if part.name == "bytes"), column.type)
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return str(column.name)
    return None


@lru_cache(maxsize=64)
def _row_groups(table: ParquetImages) -> tuple[int, ...]:
    """Return the number of the first row of each group, and then that of all rows."""
    with _columnar(table) as file:
        return (0, *accumulate(file.sizes))


@lru_cache(maxsize=4)
def _read_group(table: ParquetImages, group: int) -> Any:
    with _columnar(table) as file:
        return file.read(group, [table.column]).column(0)
