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

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
import zarr.errors
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from dnmf.durable import put_file, sync_folder
from dnmf.errors import CheckpointError, SpaceError
from dnmf.layout import crc32c
from dnmf.output import RECORD, absolute, full_disk_named, is_url

Array = np.ndarray[Any, np.dtype[Any]]

METADATA = "zarr.json"

FLAT: dict[str, Any] = {"name": "default", "separator": "."}
"""Chunks lie beside each other, so that a power failure can part them from one folder only."""

CHUNK_BYTES = 2**26
"""Of the chunks of H: few files, far from what the compressor can take."""

_NAME = re.compile(r"pass-(\d{6,})-(\d+)")


class Objects(Protocol):
    """The objects of a model."""

    def names(self, folder: str = "") -> list[str]:
        """List what is in a folder; nothing where there is none."""
        ...

    def get(self, key: str) -> bytes | None:
        """Read an object; None where there is none."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        ...

    def settle(self, folder: str = "") -> None:
        """Make the names in a folder last."""
        ...

    def remove(self, folder: str) -> None:
        """Remove a folder, its metadata first: what is left of it counts for nothing."""
        ...


class LocalObjects:
    """Objects on a disk, which are there for good when `put` and `settle` have returned."""

    def __init__(self, path: str) -> None:
        self.root = Path(absolute(path))

    def names(self, folder: str = "") -> list[str]:
        """See `Objects`."""
        try:
            return os.listdir(self.root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def get(self, key: str) -> bytes | None:
        """See `Objects`."""
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        """See `Objects`."""
        put_file(self.root / key, data)

    def settle(self, folder: str = "") -> None:
        """See `Objects`."""
        sync_folder(self.root / folder)

    def remove(self, folder: str) -> None:
        """See `Objects`."""
        target = self.root / folder
        if (target / METADATA).exists():
            (target / METADATA).unlink()
            sync_folder(target)
        shutil.rmtree(target)


class UrlObjects:
    """Objects behind a URL: an object store keeps what it has taken, whole."""

    def __init__(self, path: str) -> None:
        self.store = zarr.open_group(path, mode="r+").store

    def names(self, folder: str = "") -> list[str]:
        """See `Objects`."""

        async def listed() -> list[str]:
            return [name.rstrip("/") async for name in self.store.list_dir(folder)]

        return sync(listed())

    def get(self, key: str) -> bytes | None:
        """See `Objects`."""
        found = sync(self.store.get(key, prototype=default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def put(self, key: str, data: bytes) -> None:
        """See `Objects`."""
        sync(self.store.set(key, default_buffer_prototype().buffer.from_bytes(data)))

    def settle(self, folder: str = "") -> None:
        """See `Objects`."""

    def remove(self, folder: str) -> None:
        """See `Objects`."""
        sync(self.store.delete(f"{folder}/{METADATA}"))
        sync(self.store.delete_dir(folder))


def objects_at(path: str) -> Objects:
    """Give the objects of a model, which must be there."""
    return UrlObjects(path) if is_url(path) else LocalObjects(path)


@contextmanager
def faults_named(path: str, what: str) -> Iterator[None]:
    """Turn what a disk answers to writing into SpaceError or CheckpointError."""
    try:
        with full_disk_named(path, what):
            yield
    except (CheckpointError, SpaceError):
        raise
    except OSError as error:
        raise CheckpointError(
            f"{what} at {path} could not be written ({error}); what was committed before is "
            "intact: see to the disk, then run the same again"
        ) from error


def pass_of(name: str) -> int:
    """Give the number of a pass by its name."""
    return _order(name)[0]


def _order(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else (-1, 0)


def passes_in(objects: Objects) -> list[str]:
    """List all passes, oldest first, those too that do not count."""
    return sorted(filter(_NAME.fullmatch, objects.names()), key=_order)


def committed(objects: Objects) -> list[str]:
    """List the passes that count, whole or damaged, oldest first."""
    return [name for name in passes_in(objects) if METADATA in objects.names(name)]


def name_of(objects: Objects, n_iter: int) -> str:
    """Choose a free name for a pass."""
    taken = [count for n, count in map(_order, passes_in(objects)) if n == n_iter]
    return f"pass-{n_iter:06d}-{max(taken, default=0) + 1}"


def commit(
    objects: Objects,
    name: str,
    arrays: Mapping[str, Array],
    record: dict[str, Any],
    weights: str | None,
) -> None:
    """Write a pass; when this returns, it outlasts whatever happens next.

    Parameters
    ----------
    objects : Objects
    name : str
    arrays : mapping of str to ndarray
    record : dict
        JSON types only.
    weights : str, optional
        Folder of the weights that the pass relies on, whose objects are there for good.
    """
    for key, array in arrays.items():
        for part, data in _encoded(array).items():
            objects.put(f"{name}/{key}/{part}", data)
        objects.settle(f"{name}/{key}")
    objects.settle(name)
    if weights is not None:
        objects.settle(weights)
    objects.settle()  # the folders of the pass and of its weights
    objects.put(f"{name}/{METADATA}", group_json(sealed(record)))
    objects.settle(name)


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Add a record's own checksum."""
    return {**record, "record_crc32c": _seal(record)}


def _seal(record: dict[str, Any]) -> int:
    plain = {name: value for name, value in record.items() if name != "record_crc32c"}
    return crc32c(np.frombuffer(json.dumps(plain, sort_keys=True).encode(), np.uint8))


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


def read_record(objects: Objects, path: str, name: str) -> dict[str, Any]:
    """Read the record of a pass that counts.

    Raises
    ------
    CheckpointError
        It is not what was written.
    OSError
        The disk did not give it.
    """
    stored = objects.get(f"{name}/{METADATA}") or b""
    try:
        record = json.loads(stored)["attributes"][RECORD]
        if record["record_crc32c"] == _seal(record):
            return record  # type: ignore[no-any-return]
        what = "is not what was written"
    except (ValueError, KeyError, TypeError) as error:
        what = f"cannot be read ({error!r})"
    raise CheckpointError(f"{path}: {name}/{METADATA} {what}")


def read_array(path: str, key: str, shape: tuple[int, ...], dtype: str, expected: int) -> Array:
    """Read an array of a pass.

    Raises
    ------
    CheckpointError
        It is not what was written.
    """
    try:
        array = np.asarray(zarr.open_array(path, path=key, mode="r", zarr_format=3)[:])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {key} cannot be read ({error})") from error
    if (array.shape, str(array.dtype), crc32c(array)) != (shape, dtype, expected):
        raise CheckpointError(f"{path}: {key} is not what was written: altered, lost or swapped")
    return array
