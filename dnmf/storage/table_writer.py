"""How a matrix with ids and metadata is written; see `verified_matrix` for what is on disk.

Blocks can be written in any order, by any process, and repeatedly. Without the record a store is
unfinished.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import CorpusError, ParameterError
from dnmf.storage.atomic import RECORD, clear_place, unfinished
from dnmf.storage.codecs import compressors
from dnmf.storage.lease import require_lease
from dnmf.storage.manifest import MANIFESTS, write_manifest
from dnmf.storage.metadata import (
    CONSOLIDATED,
    DTYPES,
    TEXT,
    is_array_name,
    read_metadata,
    with_checksum,
)
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore
from dnmf.storage.text import to_text
from dnmf.storage.verified_array import VerifiedArray, array_of
from dnmf.storage.verified_matrix import ID, MATRIX

COLUMN_CODEC = "lz4"
"""Codec of ids and metadata. Readers rely on the ratio by which LZ4 can compress text."""

MAX_COLUMNS = 500
"""Largest number of columns of metadata, so that the root's metadata stay small."""

NAME_BYTES = 100
"""Largest number of bytes of the name of a column: file systems allow 255 in a name."""

RESERVED = (*MATRIX.values(), ID, MANIFESTS, "image", "component")
"""Names that no column of metadata has."""

Line = tuple[int, ...]
"""Line of the manifest for a block: images, stored bytes, crc32c of the matrix, of the ids, and of
each column."""


@dataclass(frozen=True)
class NewArray:
    """An array that is to be created: one chunk per block of whole rows.

    Attributes
    ----------
    name : str
    shape : tuple of int
    block_rows : int
        Number of rows of a chunk.
    dtype : str
    dims : tuple of str
        Names of the axes.
    codec : str
    fill : object
        What a reader that does not check sees where a chunk is lost.
    attributes : mapping
    """

    name: str
    shape: tuple[int, ...]
    block_rows: int
    dtype: str
    dims: tuple[str, ...]
    codec: str = COLUMN_CODEC
    fill: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def create_table(
    path: str,
    kind: str,
    matrix: NewArray,
    columns: Mapping[str, str],
    coords: Mapping[str, Array] | None = None,
) -> None:
    """Create the empty arrays of a matrix with ids and columns of metadata.

    Parameters
    ----------
    path : str
    kind : str
        Format of the store, as in its record.
    matrix : NewArray
    columns : mapping of str to str
        Names of the columns of metadata, of which `column_names` makes those in the store, and
        their types: NumPy's name of a type of numbers or of ``"str"``, or ``"string"``.
    coords : mapping of str to ndarray
        Numbers or names along axes of the matrix, by the names of the axes.
    """
    columns = {name: TEXT if dtype == "str" else dtype for name, dtype in columns.items()}
    _check_columns(columns)
    safe = column_names(columns, (*matrix.dims, *(coords or {})))
    columns = {safe[name]: dtype for name, dtype in columns.items()}
    clear_place(path, kind)
    rows, n, dim = matrix.block_rows, matrix.shape[0], matrix.dims[:1]
    given = {name: np.asarray(values) for name, values in (coords or {}).items()}
    arrays = [
        matrix,
        *(NewArray(name, (n,), rows, dtype, dim) for name, dtype in {ID: TEXT, **columns}.items()),
        *(
            NewArray(name, values.shape, len(values), _dtype_of(values), (name,))
            for name, values in given.items()
        ),
    ]
    nodes = {array.name: _array_json(array, [ID, *columns]) for array in arrays}
    store = ObjectStore(path)
    record = {**unfinished(kind), "columns": list(columns), "names": safe, "coords": {}}
    write_root(store, record, nodes)
    for name, node in nodes.items():
        store.set(f"{name}/{METADATA}", json.dumps(node).encode())
    store.set(f"{MANIFESTS}/{METADATA}", b'{"zarr_format": 3, "node_type": "group"}')
    written = _open_arrays(store)[1]
    for name, values in given.items():
        record["coords"][name] = written[name].write_block(0, values)[1]
    write_root(store, record, nodes)


def _check_columns(columns: Mapping[str, str]) -> None:
    """Raise ParameterError if a table cannot have such columns of metadata."""
    if len(columns) > MAX_COLUMNS:
        raise ParameterError(
            f"there are {len(columns):,} columns of metadata; at most {MAX_COLUMNS} are possible: "
            "leave some out"
        )
    for name, dtype in columns.items():
        if dtype not in (*DTYPES, TEXT):
            raise ParameterError(
                f"the column of metadata {name!r} has type {dtype!r}; it must be a type of "
                "numbers, bool or string"
            )


def write_block(
    path: str,
    index: int,
    rows: Array,
    ids: Sequence[str],
    columns: Mapping[str, Any] | None = None,
) -> Line:
    """Write one block and return its line of the manifest; safe to repeat.

    Parameters
    ----------
    path : str
    index : int
        Block number.
    rows : ndarray of shape (rows, ...)
        Of the matrix; the axes after the first may be flattened.
    ids : sequence of str
    columns : mapping of str to array_like of shape (rows,)
        All columns of metadata of the table, by their names there or by those that it was
        created with.
    """
    record, arrays = _open_arrays(ObjectStore(path))
    given = dict(columns or {})
    if given.keys() != set(record["columns"]):
        given = {record["names"].get(name, name): values for name, values in given.items()}
    given = {name: given[name] for name in record["columns"] if name in given}
    if any(len(values) != len(rows) for values in (ids, *given.values())) or len(given) != len(
        record["columns"]
    ):
        raise CorpusError(
            f"{path}: block {index} of {len(rows)} images needs as many ids, and as many values of "
            f"each of {record['columns']}"
        )
    matrix = arrays[MATRIX[record["format"].removeprefix("unfinished ")]]
    stored, checksum = matrix.write_block(index, rows.reshape(len(rows), *matrix.chunks[1:]))
    checksums = (
        arrays[name].write_block(index, values)[1] for name, values in {ID: ids, **given}.items()
    )
    return (len(rows), stored, checksum, *checksums)


def commit_table(path: str, lines: Sequence[Line], facts: Mapping[str, Any]) -> None:
    """Write the manifest, and then the record, which makes the table finished.

    Parameters
    ----------
    path : str
    lines : sequence of Line
    facts : mapping
        What the record also says, format and version among it.
    """
    require_lease(path)
    store = ObjectStore(path)
    root = read_metadata(store)
    begun = root["attributes"][RECORD]
    manifest = np.array(lines, dtype=np.int64)
    nodes = grow_table(store, int(manifest[:, 0].sum()))
    checksum = write_manifest(path, f"{MANIFESTS}/1", manifest)
    generations = {"images": [int(manifest[:, 0].sum())], "manifest_crc32c": [checksum]}
    record = {
        **facts,
        "columns": begun["columns"],
        "names": begun["names"],
        "coords": begun["coords"],
        "generations": generations,
    }
    write_root(store, with_checksum(record), nodes)


def grow_table(store: ObjectStore, n: int) -> dict[str, Any]:
    """Give the arrays with a value for each row so many rows, and return the metadata of all.

    Their own metadata change before those of the root, by which dnmf and xarray read them.
    """
    root = read_metadata(store)
    coords = root["attributes"][RECORD]["coords"]
    nodes: dict[str, Any] = root["consolidated_metadata"]["metadata"]
    for name, node in nodes.items():
        if name not in coords and node["shape"][0] != n:
            node["shape"][0] = n
            store.set(f"{name}/{METADATA}", json.dumps(node).encode())
    return nodes


def read_table_block(
    path: str, index: int, line: Line
) -> tuple[Array, list[str], dict[str, Array]]:
    """Read a block of a table, finished or not, by its line of the manifest, and check it.

    Returns
    -------
    rows : ndarray of shape (rows, ...)
    ids : list of str
    columns : dict of str to ndarray
    """
    record, arrays = _open_arrays(ObjectStore(path))
    matrix = MATRIX[record["format"].removeprefix("unfinished ")]
    n = index * arrays[matrix].chunks[0] + line[0]
    names = (matrix, ID, *record["columns"])
    rows, ids, *columns = (
        replace(arrays[name], shape=(n, *arrays[name].shape[1:])).read_block(index, crc)
        for name, crc in zip(names, line[2:], strict=True)
    )
    return rows, list(ids), dict(zip(record["columns"], columns, strict=True))


def delete_block(path: str, index: int) -> None:
    """Remove a block of a table that is not finished; do nothing if it is not there."""
    store = ObjectStore(path)
    record, arrays = _open_arrays(store)
    names = (MATRIX[record["format"].removeprefix("unfinished ")], ID, *record["columns"])
    store.delete([arrays[name].chunk_key(index) for name in names], arrays[names[0]].name)


def write_root(store: ObjectStore, record: Mapping[str, Any], nodes: Mapping[str, Any]) -> None:
    """Write the ``zarr.json`` of the root: a record, and the metadata of the arrays, by name."""
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {RECORD: record},
        "consolidated_metadata": {**CONSOLIDATED, "metadata": nodes},
    }
    store.set(METADATA, json.dumps(root).encode())
    store.fsync_dir()


def column_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return names that columns of metadata can have in a store, for names as sources have them.

    Letters and digits of any script stay. Characters that a file system or a URL gives a meaning
    become ``_``; a name that another column, an axis or an array of dnmf has gets a number.

    Parameters
    ----------
    names : iterable of str
        All different.
    taken : iterable of str
        Names of axes.

    Returns
    -------
    dict of str to str
        The given names, each with the one to use.
    """
    # Some file systems take upper and lower case for the same.
    used = {name.casefold() for name in (*RESERVED, *taken)}
    safe: dict[str, str] = {}
    for name in names:
        plain = _plain_name(name)
        numbered = (f"{plain}_{number}" for number in count(2))
        safe[name] = next(each for each in chain([plain], numbered) if each.casefold() not in used)
        used.add(safe[name].casefold())
    return safe


def _plain_name(name: str) -> str:
    text = unicodedata.normalize("NFC", to_text([name[:1000]])[0])
    text = "".join(
        letter if is_array_name(f"a{letter}") and letter != " " else "_" for letter in text
    ).lstrip("._")
    return text.encode()[:NAME_BYTES].decode(errors="ignore").rstrip("._") or "column"


def _array_json(array: NewArray, coordinates: Sequence[str]) -> dict[str, Any]:
    """Return the metadata that Zarr writes of an array."""
    import zarr
    from zarr.storage import MemoryStore

    objects: dict[str, Any] = {}
    attributes = dict(array.attributes)
    if len(array.shape) > 1:  # as xarray has it: which arrays are coordinates of this one
        attributes["coordinates"] = " ".join(coordinates)
    zarr.create_array(
        MemoryStore(objects),
        shape=array.shape,
        chunks=(array.block_rows, *array.shape[1:]),
        dtype=array.dtype,
        fill_value=array.fill,
        compressors=compressors(array.codec),
        dimension_names=array.dims,
        attributes=attributes,
    )
    node: dict[str, Any] = json.loads(objects[METADATA].to_bytes())
    return node


def _open_arrays(store: ObjectStore) -> tuple[dict[str, Any], dict[str, VerifiedArray]]:
    """Return the record of a table, finished or not, and its arrays."""
    try:
        root = read_metadata(store)
    except (FileNotFoundError, InvalidObjectError) as error:
        raise CorpusError(f"{store.path}: {error}; the store was removed while written") from error
    arrays = {name: array_of(store, name, "", found) for name, found in root["arrays"].items()}
    return root["attributes"][RECORD], arrays


def _dtype_of(values: Array) -> str:
    return str(values.dtype) if values.dtype.name in DTYPES else TEXT
