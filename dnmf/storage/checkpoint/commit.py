"""The passes of a model on disk, each a Zarr group of its own, and how one is committed.

    pass-000012-1/   H, Y, Z       (d, p) float64
                     checksums     (blocks,) int64, crc32c of the weights that belong to H
                     attributes    the record, JSON, with a checksum of its own

``pass-000012-2`` is the same pass committed again, with the reason why none followed. Nothing that
is in use is ever written to. A pass counts when its ``zarr.json`` is there, which holds the record:
it is written when everything else is there for good, in one step, and it is the first to go. So
whatever ends the process or the machine, a pass is whole or does not count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from dnmf._typing import Array
from dnmf.errors import CheckpointError, SpaceError
from dnmf.storage.atomic import RECORD, is_absent, translate_disk_full
from dnmf.storage.atomic import read_record as read_root
from dnmf.storage.checkpoint.schema import WEIGHTS, check_record, with_checksum
from dnmf.storage.metadata import brief, is_count, read_metadata
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c
from dnmf.storage.verified_array import open_array

FORMAT = "dnmf-model"
VERSION = 4
FLAT: dict[str, Any] = {"name": "default", "separator": "."}
"""Chunks lie beside each other, so that a power failure can part them from one folder only."""

CHUNK_BYTES = 2**26
"""Of the chunks of H: few files, far from what the compressor can take."""

KEEP = 2
"""Number of passes that are kept: the second is there in case storage damages the newest."""

UNKNOWN = "unknown"
"""Weights of a pass whose record is damaged: as long as it is kept, all weights are."""

_NAME = re.compile(r"pass-(\d{6,})-(\d+)")


@contextmanager
def translate_write_errors(path: str, what: str) -> Iterator[None]:
    """Turn what a disk answers to writing into SpaceError or CheckpointError."""
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
    """Raise CheckpointError unless a model of this format is there."""
    record = read_root(location)
    if record is None or record.get("format") != FORMAT:
        what = "nothing is there" if is_absent(location) else "it holds something else"
        if record is not None and "format" in record:
            what = f"it is a {str(record['format'])[:80]}"
        elif os.path.isdir(location) and list_passes(ObjectStore(location)):
            what = "its zarr.json is damaged or lost; that of any other model will do"
        raise CheckpointError(
            f"{location} is not a dnmf model: {what}; make one with `dnmf fit CORPUS {location}`"
        )
    version: Any = record.get("version")
    if not is_count(version) or version != VERSION:
        newer = is_count(version) and version > VERSION
        raise CheckpointError(
            f"{location} has model format {str(version)[:80]}; this dnmf reads {VERSION}: "
            f"{'upgrade dnmf' if newer else 'fit again with --force'}"
        )


def pass_number(name: str) -> int:
    """Give the number of a pass by its name."""
    return _order(name)[0]


def _order(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else (-1, 0)


def list_passes(store: ObjectStore) -> list[str]:
    """List all passes, oldest first, those too that do not count."""
    return sorted(filter(_NAME.fullmatch, store.list_dir()), key=_order)


def list_committed(store: ObjectStore) -> list[str]:
    """List the passes that count, whole or damaged, oldest first."""
    return [name for name in list_passes(store) if METADATA in store.list_dir(name)]


def new_pass_name(store: ObjectStore, n_iter: int) -> str:
    """Choose a free name for a pass."""
    taken = [count for n, count in map(_order, list_passes(store)) if n == n_iter]
    return f"pass-{n_iter:06d}-{max(taken, default=0) + 1}"


def commit(
    store: ObjectStore,
    name: str,
    arrays: Mapping[str, Array],
    record: dict[str, Any],
    weights: str | None,
) -> None:
    """Write a pass; when this returns, it outlasts whatever happens next.

    Parameters
    ----------
    store : ObjectStore
    name : str
    arrays : mapping of str to ndarray
    record : dict
        JSON types only.
    weights : str, optional
        Folder of the weights that the pass relies on, whose objects are there for good.
    """
    for key, array in arrays.items():
        for part, data in _encoded(array).items():
            store.set(f"{name}/{key}/{part}", data)
        store.fsync_dir(f"{name}/{key}")
    store.fsync_dir(name)
    if weights is not None:
        store.fsync_dir(weights)
    store.fsync_dir()  # the folders of the pass and of its weights
    store.set(f"{name}/{METADATA}", group_json(with_checksum(record)))
    store.fsync_dir(name)


def group_json(record: dict[str, Any]) -> bytes:
    """Make the metadata of a Zarr group that holds a record."""
    made: dict[str, Any] = {}
    zarr.create_group(MemoryStore(made), attributes={RECORD: record}, zarr_format=3)
    return bytes(made[METADATA].to_bytes())


def _encoded(array: Array) -> dict[str, bytes]:
    """Make the objects of a Zarr array."""
    made: dict[str, Any] = {}
    columns = max(1, CHUNK_BYTES // (array.itemsize * len(array)))
    zarr.create_array(
        MemoryStore(made),
        data=array,
        chunks=(*array.shape[:-1], min(columns, array.shape[-1])),
        compressors=[BloscCodec(), Crc32cCodec()],
        chunk_key_encoding=FLAT,
        config={"write_empty_chunks": True},
    )
    return {key: value.to_bytes() for key, value in made.items()}


def read_record(store: ObjectStore, name: str) -> dict[str, Any]:
    """Read the record of a pass that counts.

    Raises
    ------
    CheckpointError
        It is not what was written.
    OSError
        The disk did not give it.
    """
    try:
        attributes = read_metadata(store, name).get("attributes", {})
        return check_record(attributes.get(RECORD))
    except FileNotFoundError:
        what = "is missing"
    except InvalidObjectError as refused:
        if (answer := _of_the_disk(refused)) is not None:
            raise answer from None
        what = str(refused).removeprefix(f"{name}/{METADATA} ")
    raise CheckpointError(f"{store.path}: {name}/{METADATA} {what}")


def _of_the_disk(error: BaseException | None) -> OSError | None:
    """Find what a disk answered, if that is behind an error; of damage, which stays, nothing is."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


def read_array(
    store: ObjectStore, key: str, shape: tuple[int, ...], dtype: str, expected: int
) -> Array:
    """Read an array of a pass.

    Raises
    ------
    CheckpointError
        It is not what was written.
    """
    try:
        stored = open_array(store, key, "", axes=len(shape), separator=FLAT["separator"])
        if (stored.shape, stored.dtype.name) != (shape, dtype):
            raise InvalidObjectError(
                f"is {brief(stored.shape)} {stored.dtype}, not {shape} {dtype}"
            )
        array = stored.read_whole()
    except (FileNotFoundError, InvalidObjectError) as error:
        what = str(error).removeprefix(f"{store.path}: ")
        raise CheckpointError(f"{store.path}: {key} cannot be read ({what})") from error
    if crc32c(array) != expected:
        raise CheckpointError(f"{store.path}: {key} is not what was written: altered or swapped")
    return array


def read_weights_names(store: ObjectStore) -> dict[str, str | None]:
    """Read which weights each committed pass has, oldest pass first.

    Returns
    -------
    dict of str to str or None
        Name of the weights by the name of the pass; `UNKNOWN` if the record is damaged.
    """
    found: dict[str, str | None] = {}
    for name in list_committed(store):
        try:
            found[name] = read_record(store, name)["weights"]
        except CheckpointError:
            found[name] = UNKNOWN
    return found


def prune(store: ObjectStore, passes: Mapping[str, str | None], keep: int) -> dict[str, str | None]:
    """Remove all but the newest passes, the newest with weights, and the weights of these.

    The loss of successive passes never rises, so the newest is also the best. The newest with
    weights is kept beside it, since weights may be due in few passes only.

    Parameters
    ----------
    store : ObjectStore
    passes : mapping of str to str or None
        Committed passes, oldest first, and the weights that each has; whatever else is in the
        store was never committed, and is removed.
    keep : int
        Number of newest passes to keep, whole or damaged.

    Returns
    -------
    dict of str to str or None
        The passes that are kept, and the weights of each.
    """
    last = {pass_number(name): name for name in passes}  # a pass may be committed twice
    newest = {*list(last.values())[-keep:], *[name for name in passes if passes[name]][-1:]}
    kept = {name: weights for name, weights in passes.items() if name in newest}
    for name in list_passes(store):
        if name not in kept:
            store.delete_dir(name)
    if UNKNOWN not in kept.values():
        for name in sorted(filter(WEIGHTS.fullmatch, store.list_dir())):
            if name not in kept.values():
                store.delete_dir(name)
    return kept
