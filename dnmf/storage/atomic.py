"""Where results go: beside their place first, into it only when they are whole.

Every store dnmf writes is a Zarr v3 group or array whose attributes hold a ``dnmf`` record,
written last. So a store without the record is unfinished, and only a store with one is ever
replaced: `--force` cannot delete a folder of somebody's images.
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
from dnmf.storage.store import InvalidObjectError, ObjectStore, fsync_dir, fsync_tree

FULL = (errno.ENOSPC, errno.EDQUOT)
RECORD = "dnmf"
"""Name of the attribute that says what a store is."""


def is_url(path: str) -> bool:
    """Tell a URL of an object store from a local path."""
    return "://" in path


def absolute(path: str) -> str:
    """Make a local path mean the same in a worker, whose working folder may be another."""
    return path if is_url(path) else os.path.abspath(path)


def read_record(path: str, storage_options: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Read what dnmf says about the store at a path; None where there is no such record."""
    try:
        metadata = read_node_json(ObjectStore(path, storage_options))
    except (OSError, InvalidObjectError):
        return None
    record = metadata.get("attributes", {}).get(RECORD)
    return record if isinstance(record, dict) else None


def is_absent(path: str | os.PathLike[str]) -> bool:
    """Tell whether nothing but an empty folder is at a path, or no store of dnmf's at a URL."""
    location = os.fspath(path)
    if is_url(location):
        return read_record(location) is None
    return not os.path.lexists(location) or (os.path.isdir(location) and not os.listdir(location))


@contextmanager
def new_store(path: str | os.PathLike[str], kind: str, *, force: bool = False) -> Iterator[str]:
    """Give a place to build a store in, and move it to `path` when the block ends well.

    On an error nothing is left and what was at `path` stays. A URL is built in place, since object
    stores cannot rename: there the record, written last, tells a whole store from a part of one.

    Parameters
    ----------
    path : str or path
    kind : str
        Format that the record will name.
    force : bool
        Replace a store of the same kind that is already there.

    Raises
    ------
    OutputExistsError
        Something is at `path` and `force` is false, or it is not a store of that kind.
    """
    target = os.fspath(path)
    check_free(target, kind, force=force)
    if is_url(target):
        yield target
        return
    final = Path(absolute(target))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputExistsError(
            f"{target} cannot be written ({error.strerror}: {error.filename}); choose another path"
        ) from error
    building = _beside(final)
    _remove(building)
    try:
        yield str(building)
        _swap_in(building, final)
    except BaseException:
        _remove(building)
        raise


def check_free(path: str, kind: str, *, force: bool) -> None:
    """Raise unless a store of a kind may be written to `path`; see `new_store`."""
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
    """Remove a store of a kind; where nothing is, nothing happens."""
    target = os.fspath(path)
    check_free(target, kind, force=True)
    if is_absent(target):
        return
    if is_url(target):
        zarr.open_group(target, mode="w", zarr_format=3)  # empties it
    else:  # moved away first: what is at the path is whole at any time
        final = Path(absolute(target))
        old = _beside(final)
        _remove(old)
        final.rename(old)
        fsync_dir(final.parent)
        shutil.rmtree(old)


def bytes_at(path: str | os.PathLike[str]) -> int:
    """Add up what a store takes of its disk; 0 where nothing is known of it."""
    target = os.fspath(path)
    if is_url(target):
        return 0
    return sum(
        512 * os.lstat(os.path.join(folder, name)).st_blocks
        for folder, _, files in os.walk(target)
        for name in [*files, "."]
    )


def require_space(path: str | os.PathLike[str], needed: float, what: str) -> None:
    """Raise SpaceError unless the disk of a path, which need not exist yet, has room for bytes.

    Nothing is known of the room behind a URL.
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
    """Turn a full disk, or a quota that is used up, into SpaceError; a task's error, too."""
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
    """Remove what processes that were killed left beside a path; only where none is at work."""
    target = os.fspath(path)
    if not is_url(target):
        final = Path(absolute(target))
        for remains in final.parent.glob(f".{glob.escape(final.name)}.*.partial"):
            _remove(remains)


def _beside(final: Path) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.partial")


def _remove(building: Path) -> None:
    """Remove what was being built, also what tasks that are still running add to it meanwhile."""
    for _ in range(100):
        shutil.rmtree(building, ignore_errors=True)
        if not building.exists():
            return
        time.sleep(0.05)


def _swap_in(building: Path, final: Path) -> None:
    """Put a finished store in place of whatever `check_free` allowed to be there."""
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
    fsync_dir(final.parent)  # only then may what was there before go
    shutil.rmtree(old, ignore_errors=True)
