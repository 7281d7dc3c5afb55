"""Atomic output: a store is built beside its path, and moved there when it is finished.

Every store that dnmf writes is a Zarr v3 group or array whose attributes hold a record under
``dnmf``, which is written last. So a store without the record is unfinished, and only a store with
a record is ever replaced: `--force` cannot delete a folder of somebody's images.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zarr

from dnmf._format import format_bytes
from dnmf.errors import OutputExistsError, SpaceError
from dnmf.storage.metadata import read_node_json
from dnmf.storage.store import (
    InvalidObjectError,
    ObjectStore,
    fsync_dir,
    fsync_tree,
    require_parent,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, and of a quota that is used up."""

RECORD = "dnmf"
"""Name of the attribute that holds the record: format and version of the store, and more."""


def is_url(path: str) -> bool:
    """Check whether a path is a URL."""
    return "://" in path


def absolute(path: str) -> str:
    """Return the absolute path, for workers with another working folder; a URL is kept as it is."""
    return path if is_url(path) else os.path.abspath(path)


def read_record(path: str, storage_options: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Read the record of the store at a path; None if there is no record."""
    try:
        metadata = read_node_json(ObjectStore(path, storage_options))
    except (OSError, InvalidObjectError):
        return None
    record = metadata.get("attributes", {}).get(RECORD)
    return record if isinstance(record, dict) else None


def is_absent(path: str | os.PathLike[str]) -> bool:
    """Check whether a path is free: nothing or an empty folder, or no store of dnmf at a URL."""
    location = os.fspath(path)
    if is_url(location):
        return read_record(location) is None
    return not os.path.lexists(location) or (os.path.isdir(location) and not os.listdir(location))


@contextmanager
def new_store(path: str | os.PathLike[str], kind: str, *, force: bool = False) -> Iterator[str]:
    """Yield a temporary path to build a store at, and move the store to `path` at the end.

    If the block raises, the temporary store is removed and what was at `path` stays. At a URL the
    store is built in place, since object stores cannot rename: there the record, written last,
    distinguishes a finished store from an unfinished one.

    Parameters
    ----------
    path : str or path
    kind : str
        Format of the store, as in its record.
    force : bool
        Whether to replace a store of the same kind.

    Raises
    ------
    OutputExistsError
        Something is at `path` and `force` is false, or it is not a store of that kind; or the
        folder that is to hold it does not exist.
    """
    target = os.fspath(path)
    check_free(target, kind, force=force)
    if is_url(target):
        yield target
        return
    require_parent(target)
    final = Path(absolute(target))
    building = _partial_path(final)
    _remove(building)
    try:
        yield str(building)
        _swap_in(building, final)
    except BaseException:
        _remove(building)
        raise


def check_free(path: str, kind: str, *, force: bool) -> None:
    """Raise OutputExistsError unless a store may be written to `path`; see `new_store`."""
    if is_absent(path):
        return
    if not force:
        raise OutputExistsError(
            f"{path} already exists; choose another path or pass --force (force=True in Python)"
        )
    found = (read_record(path) or {}).get("format", "not written by dnmf")
    if found != kind:
        raise OutputExistsError(
            f"{path} is {found}, so --force does not replace it by a {kind}; choose another path"
        )


def remove_store(path: str | os.PathLike[str], kind: str) -> None:
    """Remove a store of a kind, if there is one."""
    target = os.fspath(path)
    check_free(target, kind, force=True)
    if is_absent(target):
        return
    if is_url(target):
        zarr.open_group(target, mode="w", zarr_format=3)  # empties it
    else:  # renamed first: what is at the path is complete at any time
        final = Path(absolute(target))
        old = _partial_path(final)
        _remove(old)
        final.rename(old)
        fsync_dir(final.parent)
        shutil.rmtree(old)


def bytes_at(path: str | os.PathLike[str]) -> int:
    """Return the number of bytes that a store takes on its disk; 0 for a URL."""
    target = os.fspath(path)
    if is_url(target):
        return 0
    return sum(
        512 * os.lstat(os.path.join(folder, name)).st_blocks
        for folder, _, files in os.walk(target)
        for name in [*files, "."]
    )


def require_space(path: str | os.PathLike[str], needed: float, what: str) -> None:
    """Raise SpaceError unless the disk of a path has enough free space; a URL is not checked.

    Parameters
    ----------
    path : str or path
        Need not exist yet.
    needed : float
        Number of bytes.
    what : str
        What is to be written, for the message.
    """
    target = os.fspath(path)
    if is_url(target):
        return
    place = Path(absolute(target))
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise SpaceError(
            f"{what} at {target} takes up to {format_bytes(needed)}, and the disk has "
            f"{format_bytes(free)} free: make room, or choose a path on another disk"
        )


@contextmanager
def translate_disk_full(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Raise an OSError of the block as SpaceError if the disk is full, also one from a task."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or isinstance(error, SpaceError):
            raise
        raise SpaceError(
            f"the disk is full: {what} at {os.fspath(path)} could not be written "
            f"({error.strerror}); make room, then run the same again"
        ) from error


def remove_partial_stores(path: str | os.PathLike[str]) -> None:
    """Remove unfinished stores that killed processes left beside a path, which must be locked."""
    target = os.fspath(path)
    if not is_url(target):
        final = Path(absolute(target))
        for remains in final.parent.glob(f".{glob.escape(final.name)}.*.partial"):
            _remove(remains)


def _partial_path(final: Path) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.partial")


def _remove(building: Path) -> None:
    """Remove an unfinished store, to which tasks that are still running may be writing."""
    for _ in range(100):
        shutil.rmtree(building, ignore_errors=True)
        if not building.exists():
            return
        time.sleep(0.05)


def _swap_in(building: Path, final: Path) -> None:
    """Move a finished store to its path, and remove what `check_free` allowed to be there."""
    fsync_tree(building)
    old = building.with_suffix(".old")
    if final.exists():
        final.rename(old)
    try:
        building.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    fsync_dir(final.parent)  # before the old store is removed
    shutil.rmtree(old, ignore_errors=True)
