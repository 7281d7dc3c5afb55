"""Passes of a model on disk: how one is committed, which are kept, and how one is read.

Each pass is a Zarr group of its own:

    pass-000012-1/   H, Y, Z       (d, p) float64
                     checksums     (blocks,) int64, crc32c of the weights that belong to H
                     attributes    the record, JSON, with a checksum of its own

``pass-000012-2`` is the same pass, committed again with the reason why no other followed.

Nothing that is in use is ever overwritten. A pass is committed when its ``zarr.json``, which holds
the record, is there: it is written in one step, after everything else has been fsynced, and it is
the first object to be removed. So a pass is either whole or not committed, at whatever moment the
process is killed or the machine loses power.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dnmf._typing import Array
from dnmf.errors import CheckpointError, SpaceError
from dnmf.storage.atomic import RECORD, is_absent, translate_disk_full
from dnmf.storage.atomic import read_record as read_root_record
from dnmf.storage.checkpoint.schema import WEIGHTS, check_record
from dnmf.storage.checkpoint.spec import NAMES, FitSpec
from dnmf.storage.metadata import brief, check_format, read_metadata, with_checksum
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c, disk_error
from dnmf.storage.verified_array import open_array

FORMAT = "dnmf-model"
VERSION = 4

FLAT: dict[str, Any] = {"name": "default", "separator": "."}
"""Encoding of chunk keys that puts all chunks into one folder, so that one fsync covers them."""

CHUNK_BYTES = 2**26
"""Largest chunk of H, Y and Z: few files, and far below the 2 GiB that Blosc can compress."""

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


def require_model(location: str) -> None:
    """Raise CheckpointError unless there is a model of a format that this dnmf reads."""
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

    check_format(
        record,
        location,
        FORMAT,
        VERSION,
        error=CheckpointError,
        missing=missing,
        outdated="fit again with --force",
    )


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


def new_pass_name(store: ObjectStore, n_iter: int) -> str:
    """Return a name for a pass that no other has."""
    taken = [count for n, count in map(_order, list_passes(store)) if n == n_iter]
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
    for key, array in arrays.items():
        write_array(store, f"{name}/{key}", array)
    store.fsync_dir(name)
    if weights is not None:
        store.fsync_dir(weights)
    store.fsync_dir()  # the names of the pass and of its weights
    store.set(f"{name}/{METADATA}", group_json(with_checksum(record)))
    store.fsync_dir(name)


def write_array(store: ObjectStore, key: str, array: Array) -> None:
    """Write a small array, fsynced."""
    for part, data in _encode_array(array).items():
        store.set(f"{key}/{part}", data)
    store.fsync_dir(key)


def group_json(record: dict[str, Any]) -> bytes:
    """Return the ``zarr.json`` of a Zarr group whose attributes hold a record."""
    import zarr
    from zarr.storage import MemoryStore

    objects: dict[str, Any] = {}
    zarr.create_group(MemoryStore(objects), attributes={RECORD: record}, zarr_format=3)
    return bytes(objects[METADATA].to_bytes())


def _encode_array(array: Array) -> dict[str, bytes]:
    """Return the objects of a Zarr array, by their keys."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    objects: dict[str, Any] = {}
    columns = max(1, CHUNK_BYTES // (array.itemsize * len(array)))
    zarr.create_array(
        MemoryStore(objects),
        data=array,
        chunks=(*array.shape[:-1], min(columns, array.shape[-1])),
        compressors=[BloscCodec(), Crc32cCodec()],
        chunk_key_encoding=FLAT,
        config={"write_empty_chunks": True},
    )
    return {key: value.to_bytes() for key, value in objects.items()}


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
            names[name] = read_record(store, name)["weights"]
        except CheckpointError:
            names[name] = UNKNOWN
    return names


def prune(store: ObjectStore, passes: Mapping[str, str | None], keep: int) -> dict[str, str | None]:
    """Remove all but the newest passes, the newest pass with weights, and their weights.

    The loss of successive passes never rises, so the newest is also the best. The newest with
    weights is kept too, because weights may be written in few passes only.

    Parameters
    ----------
    store : ObjectStore
    passes : mapping of str to str or None
        Name of the weights by name of the pass, for the committed passes, oldest first. Any other
        pass in the store was not committed, and is removed.
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
    for name in list_passes(store):
        if name not in kept:
            store.delete_dir(name)
    if UNKNOWN not in kept.values():
        for name in sorted(filter(WEIGHTS.fullmatch, store.list_dir())):
            if name not in kept.values():
                store.delete_dir(name)
    return kept


def read_record(store: ObjectStore, name: str) -> dict[str, Any]:
    """Read the record of a committed pass.

    Raises
    ------
    CheckpointError
        It is not what was written.
    OSError
        The disk could not read it.
    """
    try:
        attributes = read_metadata(store, name).get("attributes", {})
        return check_record(attributes.get(RECORD))
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
    store: ObjectStore, key: str, shape: tuple[int, ...], dtype: str, checksum: int
) -> Array:
    """Read an array of a pass and check it.

    Raises
    ------
    CheckpointError
        It is not what was written.
    OSError
        The disk could not read it.
    """
    try:
        stored = open_array(store, key, "", ndim=len(shape), separator=FLAT["separator"])
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
