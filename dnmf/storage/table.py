"""How a matrix with ids and metadata is opened; see `verified_matrix` for what is on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dnmf._typing import Array
from dnmf.errors import BlockError, CorpusError
from dnmf.storage.atomic import RECORD
from dnmf.storage.manifest import MANIFESTS, manifest_array, read_manifest
from dnmf.storage.metadata import (
    brief,
    is_array_name,
    is_checksum,
    is_shape,
    read_metadata,
    record_checksum,
)
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore
from dnmf.storage.verified_array import VerifiedArray, array_of
from dnmf.storage.verified_matrix import ID, MATRIX

EMPTY_GROUP = {"zarr_format": 3, "node_type": "group", "arrays": {}}
"""Checked metadata of the group of manifests."""


@dataclass(frozen=True)
class Table:
    """A matrix with its ids, columns and manifest, as one generation has them.

    Attributes
    ----------
    record : mapping
    matrix : VerifiedArray
    columns : mapping of str to VerifiedArray
        The ids, and the columns of metadata, in the order of the manifest.
    coords : mapping of str to VerifiedArray
        Numbers or names along axes of the matrix.
    generations : sequence of (int, int)
        Number of rows and fingerprint of each generation, from the first to the newest.
    number : int
        Number of this generation, from 1.
    manifest : ndarray of shape (blocks, 3 + columns), int64
    nodes : mapping
        Checked metadata of the arrays, by name.
    """

    record: Mapping[str, Any]
    matrix: VerifiedArray
    columns: Mapping[str, VerifiedArray]
    coords: Mapping[str, VerifiedArray]
    generations: list[tuple[int, int]]
    number: int
    manifest: Array
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> int:
        """The crc32c of the manifest."""
        return self.generations[self.number - 1][1]


def read_table(
    store: ObjectStore, root: Mapping[str, Any], advice: str, fingerprint: int | None = None
) -> Table:
    """Open the table whose root has some metadata, as `read_metadata` returns them.

    Parameters
    ----------
    store : ObjectStore
    root : mapping
    advice : str
        What the user can do about damage.
    fingerprint : int, optional
        Fingerprint of the generation to open, if it is there; by default the newest is opened.

    Raises
    ------
    CorpusError
        The record, the metadata or the manifest is damaged.
    """
    record = root["attributes"][RECORD]
    try:
        generations = _check_record(record)
        arrays = {
            name: array_of(store, name, advice, node) for name, node in root["arrays"].items()
        }
        matrix = arrays.get(MATRIX[record["format"]])
        columns = {name: arrays[name] for name in (ID, *record["columns"]) if name in arrays}
        coords = {name: arrays[name] for name in record["coords"] if name in arrays}
        _check_arrays(record, matrix, columns, coords, generations[-1][0], len(arrays))
    except InvalidObjectError as error:
        raise CorpusError(
            f"{store.path}: {METADATA} {error}; restore it from a copy, or {advice}"
        ) from error
    assert matrix is not None
    known = [crc for _, crc in generations]
    number = len(known) - (known[::-1].index(fingerprint) if fingerprint in known else 0)
    n, checksum = generations[number - 1]
    matrix = _first_rows(matrix, n)
    columns = {name: _first_rows(array, n) for name, array in columns.items()}
    lines = read_manifest(matrix, f"{MANIFESTS}/{number}", 3 + len(columns), checksum)
    return Table(record, matrix, columns, coords, generations, number, lines, root["arrays"])


def read_coord(table: Table, name: str) -> Array:
    """Read the numbers or names along an axis of the matrix, and check them.

    Raises
    ------
    CorpusError
        They are missing or damaged.
    """
    return table.coords[name].read_block(0, table.record["coords"][name])


def check_rest(table: Table) -> Iterator[str]:
    """Yield the damage to what is not a block of the newest generation.

    These are the metadata of each array, which other software reads, the numbers along axes, and
    the manifests of earlier generations, with the images that they have in the last block.
    """
    store, advice = table.matrix.store, table.matrix.advice
    for array in (table.matrix, *table.columns.values(), *table.coords.values()):
        try:
            own = read_metadata(store, array.name)
            node, shape = table.nodes[array.name], own.get("shape", (0,))
            if shape[0] < array.shape[0] or {**own, "shape": node["shape"]} != node:
                yield _restore(array, METADATA, "is of another array than belongs there")
        except FileNotFoundError:
            yield _restore(array, METADATA, "is missing")
        except (InvalidObjectError, KeyError) as error:
            yield _restore(array, METADATA, str(error).removeprefix(f"{array.name}/{METADATA} "))
    try:
        if read_metadata(store, MANIFESTS) != EMPTY_GROUP:
            raise InvalidObjectError(f"{MANIFESTS}/{METADATA} is no group's")
    except (FileNotFoundError, InvalidObjectError) as error:
        found = str(error).removeprefix(f"{store.path}: ")
        yield f"{store.path}: {found}; restore it from a copy, or {advice}"
    for name in table.coords:
        try:
            read_coord(table, name)
        except BlockError as error:
            yield str(error)
    for number, (n, checksum) in enumerate(table.generations, 1):
        yield from _check_generation(table, number, n, checksum)


def _check_generation(table: Table, number: int, n: int, checksum: int) -> Iterator[str]:
    """Yield the damage to a manifest, and to what only an earlier generation has."""
    matrix, name = _first_rows(table.matrix, n), f"{MANIFESTS}/{number}"
    try:
        own = read_metadata(matrix.store, name)
        expected = manifest_array(matrix, name, 3 + len(table.columns))
        if own.get("shape") != expected.shape or own.get("dtype") != "int64":
            yield _restore(expected, METADATA, "is of another array than belongs there")
        lines = read_manifest(matrix, name, expected.shape[1], checksum)
        if (lines[:, 0] == matrix.chunks[0]).all() or number == table.number:
            return
        last = [matrix, *(_first_rows(array, n) for array in table.columns.values())]
        for array, crc in zip(last, lines[-1, 2:], strict=True):
            array.read_block(array.n_blocks - 1, int(crc))
    except FileNotFoundError:
        yield f"{matrix.store.path}: {name}/{METADATA} is missing; restore it from a copy"
    except (InvalidObjectError, CorpusError) as error:
        yield str(error)


def _restore(array: VerifiedArray, key: str, what: str) -> str:
    path = array.store.path
    return f"{path}: {array.name}/{key} {what}; restore it from a copy, or {array.advice}"


def _first_rows(array: VerifiedArray, n: int) -> VerifiedArray:
    return replace(array, shape=(n, *array.shape[1:]))


def _check_record(record: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the generations of a record, or raise InvalidObjectError if no table can have it."""
    if record.get("record_crc32c") != record_checksum(record):
        raise InvalidObjectError("has a record that is not what was written")
    columns, coords, found = (record.get(name) for name in ("columns", "coords", "generations"))
    names = record.get("names")
    generations: Any = found if isinstance(found, dict) else {}
    images, checksums = generations.get("images"), generations.get("manifest_crc32c")
    valid = {
        "columns": isinstance(columns, list) and all(map(_is_name, columns)),
        "names": isinstance(names, dict) and list(names.values()) == columns,
        "coords": isinstance(coords, dict)
        and all(map(_is_name, coords))
        and all(map(is_checksum, coords.values())),
        "generations": is_shape(images)
        and isinstance(checksums, list)
        and len(checksums) == len(images)
        and all(map(is_checksum, checksums))
        and images == sorted(images),
    }
    for name, is_valid in valid.items():
        if not is_valid:
            raise InvalidObjectError(f"has a record whose {name} are {brief(record.get(name))}")
    return list(zip(images, checksums, strict=True))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and is_array_name(value)


def _check_arrays(
    record: Mapping[str, Any],
    matrix: VerifiedArray | None,
    columns: Mapping[str, VerifiedArray],
    coords: Mapping[str, VerifiedArray],
    n: int,
    count: int,
) -> None:
    """Raise InvalidObjectError unless arrays are those of the record, cut into the same blocks."""
    names = (ID, *record["columns"])
    whole = 1 + len(names) + len(record["coords"])
    if matrix is None or (1 + len(columns) + len(coords), count) != (whole, whole):
        raise InvalidObjectError(
            f"has the metadata of {count} arrays, which are not those that the record names"
        )
    rows = matrix.chunks[0]
    if len(matrix.shape) < 2 or matrix.is_text or not columns[ID].is_text:
        raise InvalidObjectError("has arrays of other types than the record says")
    cut = [(array.shape, array.chunks, array.separator) for array in (matrix, *columns.values())]
    grids = [((n, *matrix.shape[1:]), (rows, *matrix.shape[1:]), "/")]
    grids += [((n,), (rows,), "/")] * len(columns)
    ends = all(array.shape == array.chunks and len(array.shape) == 1 for array in coords.values())
    if cut != grids or not ends:
        raise InvalidObjectError("has arrays that are not blocks of whole images at the same rows")
