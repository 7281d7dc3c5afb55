"""Passes of a model on disk: how one is committed, which are kept, and how one is read.

Each pass is a Zarr group of its own:

    pass-000012-1/   H             (d, p) float64
                     state         float64, all other numbers, one after the other: see `pack_state`
                     attributes    the record, JSON, with a checksum of its own

``pass-000012-2`` is the same pass, committed again with the reason why no other followed. The
metadata of both arrays are in those of the group alone, so that a pass takes few requests where it
is behind a URL. Passes of version 4 have arrays H, Y, Z and checksums, each with its own metadata.

Objects in use are never overwritten. A pass is committed when its ``zarr.json``, which holds the
record, exists: it is written in one step, after everything else has been fsynced, and it is the
first object to be removed. A pass is therefore either whole or not committed, at whatever moment
the process is killed or the machine loses power.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import CheckpointError, SpaceError
from dnmf.storage.atomic import RECORD, is_absent, translate_disk_full
from dnmf.storage.atomic import read_record as read_root_record
from dnmf.storage.checkpoint.schema import WEIGHTS, check_record
from dnmf.storage.checkpoint.spec import NAMES, FitSpec
from dnmf.storage.codecs import compressors, default_codec
from dnmf.storage.lease import require_lease
from dnmf.storage.metadata import CONSOLIDATED, brief, check_format, read_metadata, with_checksum
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c, disk_error
from dnmf.storage.verified_array import VerifiedArray, array_of, open_array

FORMAT = "dnmf-model"
VERSION = 5
OLDEST = 4
"""The oldest version of models that are read. A fit that continues one writes the newest."""

FLAT: dict[str, Any] = {"name": "default", "separator": "."}
"""Encoding of chunk keys that puts all chunks into one folder, so that one fsync covers them."""

CHUNK_BYTES = 2**26
"""Largest chunk of a state, if a row is no longer: few files, far below the 2 GiB of Blosc."""

KEEP = 2
"""Number of passes that are kept by default: the second is for when storage damages the newest."""

UNKNOWN = "unknown"
"""Name of the weights of a pass whose record is damaged: while it is kept, all weights are."""

_NAME = re.compile(r"pass-(\d{6,})-(\d+)")


@contextmanager
def translate_write_errors(path: str, what: str) -> Iterator[None]:
    """Raise an OSError of the block as SpaceError if the disk is full, else as CheckpointError.

    Parameters
    ----------
    path : str
        Path of the model, for the message.
    what : str
        What is being written, for the message.
    """
    try:
        with translate_disk_full(path, what):
            yield
    except (CheckpointError, SpaceError):
        raise
    except OSError as error:
        raise CheckpointError(
            f"{what} at {path} could not be written ({error}); what was committed before is "
            "intact: see to the disk, then run the same again"
        ) from error


def require_model(location: str) -> int:
    """Return the version of a model; raise CheckpointError unless this dnmf reads it."""
    try:
        record = read_root_record(location, error=CheckpointError)
    except CheckpointError as error:
        if disk_error(error.__cause__) is not None:
            raise
        record = None  # damaged

    def missing() -> str:
        absent = is_absent(location, error=CheckpointError)
        what = "nothing is there" if absent else "it holds something else"
        if record is not None and "format" in record:
            what = f"it is a {str(record['format'])[:80]}"
        elif list_passes(ObjectStore(location)):
            what = "its zarr.json is damaged or lost; that of any other model will do"
        return f"is not a dnmf model: {what}; make one with `dnmf fit CORPUS NEW.model -k 16`"

    found = check_format(
        record,
        location,
        FORMAT,
        VERSION,
        oldest=OLDEST,
        error=CheckpointError,
        missing=missing,
        outdated="fit again with --force",
    )
    return int(found["version"])


def pass_number(name: str) -> int:
    """Return the number of a pass, given its name."""
    return _order(name)[0]


def _order(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else (-1, 0)


def list_passes(store: ObjectStore) -> list[str]:
    """List the names of all passes, committed or not, oldest first."""
    return sorted(filter(_NAME.fullmatch, store.list_dir()), key=_order)


def list_committed(store: ObjectStore) -> list[str]:
    """List the names of the committed passes, intact or damaged, oldest first."""
    return [name for name in list_passes(store) if METADATA in store.list_dir(name)]


def new_pass_name(names: Collection[str], n_iter: int) -> str:
    """Return a name for a pass that none of those in a model has."""
    taken = [count for n, count in map(_order, names) if n == n_iter]
    return f"pass-{n_iter:06d}-{max(taken, default=0) + 1}"


def commit(
    store: ObjectStore,
    name: str,
    arrays: Mapping[str, Array],
    record: dict[str, Any],
    weights: str | None,
) -> None:
    """Write a pass; once this has returned, the pass survives a crash and a power failure.

    Parameters
    ----------
    store : ObjectStore
    name : str
        Name of the pass.
    arrays : mapping of str to ndarray
    record : dict
        Made of JSON types.
    weights : str, optional
        Name of the weights that belong to the pass, whose chunks are already fsynced.
    """
    nodes = {key: _write_chunks(store, f"{name}/{key}", array) for key, array in arrays.items()}
    store.fsync_dir(name)
    if weights is not None:
        store.fsync_dir(weights)
    store.fsync_dir()  # the names of the pass and of its weights
    require_lease(store.path)
    store.set(f"{name}/{METADATA}", group_json(with_checksum(record), nodes))
    store.fsync_dir(name)


def write_array(store: ObjectStore, key: str, array: Array) -> None:
    """Write a small array with its metadata, fsynced."""
    node = _write_chunks(store, key, array)
    store.set(f"{key}/{METADATA}", json.dumps(node).encode())
    store.fsync_dir(key)


def _write_chunks(store: ObjectStore, key: str, array: Array) -> dict[str, Any]:
    """Write the chunks of an array, fsynced, and return its metadata."""
    row = array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    chunks = (min(max(1, CHUNK_BYTES // row), len(array)), *array.shape[1:])
    dims = ("component", "pixel") if array.ndim == 2 else ("number",)
    new, node = new_array(
        store, key, array.shape, chunks, array.dtype.name, default_codec(array.itemsize), dims
    )
    for index in range(new.n_blocks):
        start, stop = new.block_range(index)
        new.write_block(index, array[start:stop])
    store.fsync_dir(key)
    return node


def new_array(
    store: ObjectStore,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    codec: str,
    dims: tuple[str, ...],
) -> tuple[VerifiedArray, dict[str, Any]]:
    """Return an array that is to be written, and its metadata; nothing is written yet.

    Parameters
    ----------
    store, name, shape, chunks, dtype, codec
        As in `VerifiedArray`.
    dims : tuple of str
        Names of the axes.
    """
    import zarr
    from zarr.storage import MemoryStore

    objects: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(objects),
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=np.nan if dtype.startswith("float") else 0,  # a lost chunk must not read as 0
        compressors=compressors(codec),
        chunk_key_encoding=FLAT,
        dimension_names=dims,
    )
    names = ("bytes", "blosc", "crc32c")
    separator = FLAT["separator"]
    new = VerifiedArray(store, name, "", shape, chunks, np.dtype(dtype), names, codec, separator)
    return new, json.loads(objects[METADATA].to_bytes())


def group_json(record: dict[str, Any], nodes: Mapping[str, Any] | None = None) -> bytes:
    """Return the ``zarr.json`` of a group: a record, and the metadata of arrays in it, by name."""
    group: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {RECORD: record},
    }
    if nodes is not None:
        group["consolidated_metadata"] = {**CONSOLIDATED, "metadata": nodes}
    return json.dumps(group).encode()


def read_weights_names(store: ObjectStore) -> dict[str, str | None]:
    """Read from the records which weights belong to each committed pass.

    Returns
    -------
    dict of str to str or None
        Name of the weights by name of the pass, oldest first; `UNKNOWN` if a record is damaged.
    """
    names: dict[str, str | None] = {}
    for name in list_committed(store):
        try:
            names[name] = read_record(store, name)[0]["weights"]
        except CheckpointError:
            names[name] = UNKNOWN
    return names


def prune(
    store: ObjectStore, passes: Mapping[str, str | None], names: set[str], keep: int
) -> dict[str, str | None]:
    """Remove all but the newest passes, the newest pass with weights, and their weights.

    The loss of successive passes never rises, so the newest is also the best. The newest with
    weights is kept too, because weights may be written in few passes only.

    Parameters
    ----------
    store : ObjectStore
    passes : mapping of str to str or None
        Name of the weights by name of the pass, for the committed passes, oldest first.
    names : set of str
        Names of all groups in the model. Passes among them that were not committed are removed. The
        names of removed groups are removed from the set.
    keep : int
        Number of newest passes to keep, intact or damaged.

    Returns
    -------
    dict of str to str or None
        The passes that are kept, with the names of their weights.
    """
    last = {pass_number(name): name for name in passes}  # a pass may be committed twice
    with_weights = [name for name, weights in passes.items() if weights is not None]
    newest = {*list(last.values())[-keep:], *with_weights[-1:]}
    kept = {name: weights for name, weights in passes.items() if name in newest}
    old = sorted({*filter(_NAME.fullmatch, names)} - kept.keys(), key=_order)
    if UNKNOWN not in kept.values():  # weights after the passes that may need them
        old += sorted({*filter(WEIGHTS.fullmatch, names)} - {*kept.values()})
    for name in old:
        store.delete_dir(name)
        names.discard(name)
    return kept


def read_record(store: ObjectStore, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the record of a committed pass, and the metadata of its arrays, by their names.

    Raises
    ------
    CheckpointError
        It is not what was written.
    OSError
        The disk could not read it.
    """
    try:
        metadata = read_metadata(store, name)
        return check_record(metadata.get("attributes", {}).get(RECORD)), metadata.get("arrays", {})
    except FileNotFoundError:
        what = "is missing"
    except InvalidObjectError as error:
        if (cause := disk_error(error)) is not None:
            raise cause from None
        what = str(error).removeprefix(f"{name}/{METADATA} ")
    raise CheckpointError(f"{store.path}: {name}/{METADATA} {what}")


def read_spec(store: ObjectStore, fit: dict[str, Any]) -> FitSpec:
    """Return the specification in a checked record, with the names of pixels, if there are any.

    Raises
    ------
    CheckpointError, OSError
        As `read_array` does.
    """
    fit = {"versions": {}, **fit}
    X = {name: value for name, value in fit["X"].items() if name != NAMES}
    if NAMES not in fit["X"]:
        return FitSpec(**fit)
    n_bytes, checksum = fit["X"][NAMES]
    stored = read_array(store, NAMES, (1, n_bytes), "uint8", checksum)
    try:
        names = tuple(map(str, json.loads(stored.tobytes())))
    except (ValueError, TypeError, RecursionError):
        names = ()
    if len(names) != X["shape"][1]:
        raise CheckpointError(f"{store.path}: {NAMES} is no list of {X['shape'][1]} names")
    return FitSpec(**{**fit, "X": X}, feature_names=names)


def read_array(
    store: ObjectStore,
    key: str,
    shape: tuple[int, ...],
    dtype: str,
    checksum: int,
    node: Mapping[str, Any] | None = None,
) -> Array:
    """Read an array of a pass and check it.

    Parameters
    ----------
    store, key, shape, dtype
        As in `VerifiedArray`.
    checksum : int
        crc32c of all its numbers.
    node : mapping, optional
        Its checked metadata; read if they are not given.

    Raises
    ------
    CheckpointError
        It is not what was written.
    OSError
        The disk could not read it.
    """
    try:
        if node is None:
            stored = open_array(store, key, "", ndim=len(shape), separator=FLAT["separator"])
        else:
            stored = array_of(store, key, "", node)
        if (stored.shape, stored.dtype.name) != (shape, dtype):
            raise InvalidObjectError(
                f"is {brief(stored.shape)} {stored.dtype}, not {shape} {dtype}"
            )
        array = stored.read_all()
    except (FileNotFoundError, InvalidObjectError) as error:
        cause = disk_error(error)
        if cause is not None and not isinstance(cause, FileNotFoundError):
            raise cause from None
        what = str(error).removeprefix(f"{store.path}: ")
        raise CheckpointError(f"{store.path}: {key} cannot be read ({what})") from error
    if crc32c(array) != checksum:
        raise CheckpointError(f"{store.path}: {key} is not what was written: altered or swapped")
    return array
