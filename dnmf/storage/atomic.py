"""Atomic output: a store is built beside its path, and moved there when it is finished.

Every store that dnmf writes is a Zarr v3 group or array whose attributes hold a record under
``dnmf``. At a URL, where nothing can be moved, a first record says that the store is unfinished.

dnmf removes only what it has written. A path is free if nothing is there, and what cannot be read
or listed is an error: it may be anybody's. Only a store whose record says what it is can be
replaced, and only if it holds no other objects.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from dnmf._format import format_bytes
from dnmf.errors import AccessError, CorpusError, DnmfError, OutputExistsError, SpaceError
from dnmf.storage.metadata import read_metadata, read_node_json
from dnmf.storage.paths import absolute, is_url, normalize_path
from dnmf.storage.store import (
    METADATA,
    InvalidObjectError,
    ObjectStore,
    disk_error,
    fsync_dir,
    fsync_tree,
    is_zarr_name,
    require_parent,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, and of a quota that is used up."""

RECORD = "dnmf"
"""Name of the attribute that holds the record: format and version of the store, and more."""

READ_AGAIN = "see to the disk or the network and to your rights, then run the same again"
"""What the user can do about something that cannot be read now, for error messages."""

REJECTS = "rejects.jsonl"
"""Key of the list of images that an ingest has left out."""

MEMBERS = {
    "dnmf-corpus": r"pixels|id|manifests|ids|manifest|plan|rejects\.jsonl",
    "dnmf-weights": r"weights|id|component|manifests|c|manifest",
    "dnmf-model": r"pass-\d{6,}-\d+|weights-\d{6,}-[0-9a-f]{8}|feature-names",
    "dnmf-components": r"0",
    "dnmf-sweep": r"\.?k\d{4,}-(?:whole|part)-\d+(?:\.[0-9a-f]+\.partial)?",
}
"""Patterns of the names of the groups and arrays that a store of each format consists of, besides
those that the consolidated metadata of its root name."""

FILES = {"dnmf-components": r"component-\d{3,}\.(?:png|tiff)|components\.npy|spectra\.csv"}
"""Patterns of the names of other files that a store of a format may hold."""


def read_record(path: str, *, error: type[DnmfError] = CorpusError) -> dict[str, Any] | None:
    """Read the record of the store at a path; None if it is certain that there is no record.

    Raises
    ------
    DnmfError
        The metadata at the path cannot be read, of the type `error`.
    """
    try:
        metadata = read_node_json(ObjectStore(path))
    except FileNotFoundError:
        return None
    except InvalidObjectError as found:
        advice = "restore it from a copy"
        if disk_error(found) is not None:
            advice = READ_AGAIN
        raise error(f"{path}: {found}: {advice}; nothing was changed") from found
    record = metadata.get("attributes", {}).get(RECORD)
    return record if isinstance(record, dict) else None


def format_at(path: str, *, error: type[DnmfError] = CorpusError) -> str | None:
    """Return the format of the store at a path; None if it is certain that it is not dnmf's.

    Raises
    ------
    DnmfError
        The metadata at the path cannot be read, of the type `error`.
    """
    found = (read_record(path, error=error) or {}).get("format")
    return None if found is None else str(found)[:80]


def unfinished(kind: str) -> dict[str, Any]:
    """Return the record of a store that is being built in place."""
    return {"format": f"unfinished {kind}"}


def is_absent(path: str, *, error: type[DnmfError] = OutputExistsError) -> bool:
    """Check whether nothing is at a path, or an empty folder.

    Raises
    ------
    DnmfError
        It cannot be found out, of the type `error`.
    """
    try:
        return ObjectStore(absolute(path)).is_empty()
    except AccessError:
        raise
    except (OSError, ValueError, ImportError) as found:  # an unknown protocol or its library
        raise error(
            f"{path} cannot be looked at ({found}), and dnmf writes only where it can see that "
            "nothing is there: see to the disk or the network and to your rights, or choose "
            "another path"
        ) from found


def is_free(path: str, kind: str, *, error: type[DnmfError] = OutputExistsError) -> bool:
    """Check whether nothing is at a path, or an unfinished store of a kind, left at a URL.

    Raises
    ------
    DnmfError
        It cannot be found out, of the type `error`.
    """
    return is_absent(path, error=error) or (
        format_at(path, error=error) == unfinished(kind)["format"]
    )


@contextmanager
def new_store(path: str, kind: str, *, force: bool = False) -> Iterator[str]:
    """Yield a temporary path to build a store at, and move the store to `path` at the end.

    If the block raises, the temporary store is removed and what was at `path` stays. At a URL the
    store is built in place, since object stores cannot rename: there its creation begins with
    `clear_place` and the record `unfinished`, which the record of the finished store replaces.

    Parameters
    ----------
    path : str
    kind : str
        Format of the store, as in its record.
    force : bool
        Whether to replace a store of the same kind.

    Raises
    ------
    OutputExistsError
        Something is at `path` and `force` is false, or it is not a store of that kind, or holds
        other objects too, or it cannot be found out what is there; or the folder that is to hold
        it does not exist.
    """
    check_free(path, kind, force=force)
    if is_url(path):
        yield path
        return
    require_parent(path)
    final = Path(os.path.realpath(path))
    building = _partial_path(final)
    try:
        yield str(building)
        check_free(path, kind, force=force)  # hours may have passed
        swap_in(str(building), path, kind)
    except BaseException:
        _remove(building)
        raise


def clear_place(path: str, kind: str) -> None:
    """Remove what a store that is built in place replaces; see `new_store`.

    Not before the new one can be written: what it is made from has been checked by then.
    """
    if is_url(path):
        _remove_objects(path, kind)


def check_free(path: str, kind: str, *, force: bool) -> None:
    """Raise OutputExistsError unless a store may be written to `path`; see `new_store`."""
    refuse_root(path)
    if is_absent(path):
        return
    found = format_at(path, error=OutputExistsError)
    if found not in (kind, unfinished(kind)["format"]):
        raise OutputExistsError(
            f"{path} already exists and is {found or 'not written by dnmf'}, so --force does not "
            f"replace it by a {kind}; choose another path"
        )
    if found == kind and not force:
        raise OutputExistsError(
            f"{path} already exists; choose another path or pass --force (force=True in Python)"
        )
    if others := _other_objects(path, kind):
        raise OutputExistsError(
            f"{path} holds {', '.join(others[:3])}{', ...' * (len(others) > 3)}, which dnmf did "
            "not write: move that elsewhere, or choose another path"
        )


def remove_store(path: str, kind: str) -> None:
    """Remove a store of a kind, if there is one; raise OutputExistsError as `check_free` does."""
    check_free(path, kind, force=True)
    if is_absent(path):
        return
    if is_url(path):
        _remove_objects(path, kind)
    else:  # renamed first: what is at the path is complete at any time
        final = Path(os.path.realpath(path))
        old = _partial_path(final)
        final.rename(old)
        fsync_dir(final.parent)
        _remove_objects(str(old), kind)


def refuse_root(path: str) -> None:
    """Raise OutputExistsError for the root of a file system, and for a whole bucket."""
    if is_url(path):
        from fsspec.core import url_to_fs

        try:
            place = str(url_to_fs(path)[1])
        except (OSError, ValueError, ImportError) as error:
            raise OutputExistsError(f"{path} cannot be written ({error})") from error
        is_root = not place.strip("/") if place.startswith("/") else "/" not in place.strip("/")
    else:
        place = os.path.realpath(path)
        is_root = place == os.path.dirname(place)
    if is_root:
        raise OutputExistsError(
            f"{path} is all of a file system or of a bucket; choose a path inside it, such as "
            f"{path.rstrip('/')}/images.zarr"
        )


def _other_objects(path: str, kind: str) -> list[str]:
    """List the keys of objects that are not of a store of a kind but lie in its folder."""
    names = _named_arrays(path)
    return [key for key in _list_keys(path) if not _is_member(key, kind, names)]


def _list_keys(path: str) -> list[str]:
    try:
        return sorted(ObjectStore(path).list_keys())
    except OSError as error:
        raise OutputExistsError(
            f"{path} cannot be listed ({error}): see to the disk or the network and to your rights"
        ) from error


def _named_arrays(path: str) -> frozenset[str]:
    """Return the names of the arrays that the metadata of the root at a path describe."""
    try:
        return frozenset(read_metadata(ObjectStore(path)).get("arrays", ()))
    except (FileNotFoundError, InvalidObjectError):
        return frozenset()  # what they may be called is in MEMBERS alone


def _is_member(key: str, kind: str, names: frozenset[str]) -> bool:
    top = key.partition("/")[0]
    is_metadata = re.fullmatch(r"zarr\.json|\.zarr\.json\.[0-9a-f]+\.partial", key)
    is_node = is_metadata or top in names or re.fullmatch(MEMBERS[kind], top)
    return bool(is_zarr_name(key) and is_node) or bool(re.fullmatch(FILES.get(kind, "(?!)"), key))


def _remove_objects(path: str, kind: str) -> None:
    """Remove the objects of a store of a kind and nothing else, its record last."""
    names = _named_arrays(path)
    keys = [key for key in _list_keys(path) if _is_member(key, kind, names)]
    store = ObjectStore(path)
    store.delete([key for key in keys if key != METADATA])
    store.delete([METADATA] if METADATA in keys else [])


def bytes_at(path: str | os.PathLike[str]) -> int:
    """Return the number of bytes that a store takes on its disk; 0 for a URL."""
    target = normalize_path(path)
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
    target = normalize_path(path)
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
            f"the disk is full: {what} at {normalize_path(path)} could not be written "
            f"({error.strerror}); make room, then run the same again"
        ) from error


def remove_partial_stores(path: str, kind: str) -> None:
    """Remove unfinished stores that killed processes left beside a path, which must be locked."""
    if is_url(path):
        return
    final = Path(os.path.realpath(path))
    remains = re.compile(rf"\.{re.escape(final.name)}\.[0-9a-f]+\.partial")
    for name in ObjectStore(str(final.parent)).list_dir():
        if remains.fullmatch(name):
            _remove_objects(str(final.with_name(name)), kind)


def discard_building(building: str, kind: str) -> None:
    """Remove an unfinished store; do nothing if there is none, or a finished one.

    Raises
    ------
    OutputExistsError
        Objects that dnmf did not write lie there, or it cannot be found out what does.
    """
    if is_absent(building):
        return
    if is_url(building):
        if format_at(building, error=OutputExistsError) == unfinished(kind)["format"]:
            _remove_objects(building, kind)
        return
    if others := _other_objects(building, kind):
        raise OutputExistsError(
            f"{building} is where an unfinished {kind} would lie, and it holds {others[0]}, which "
            "dnmf did not write: move that elsewhere"
        )
    _remove(Path(building))


def _partial_path(final: Path) -> Path:
    """Return a new path beside a store, which no other process uses."""
    return final.with_name(f".{final.name}.{uuid4().hex[:12]}.partial")


def _remove(building: Path) -> None:
    """Remove an unfinished store, to which tasks that are still running may be writing."""
    looks = 0  # in a row that found nothing: a late task makes the folder again
    for _ in range(100):
        looks = 0 if building.exists() else looks + 1
        shutil.rmtree(building, ignore_errors=True)
        if looks == 3:
            return
        time.sleep(0.05)


def swap_in(building: str, path: str, kind: str) -> None:
    """Move a finished store to a local path, and remove what `check_free` allowed to be there."""
    final = Path(os.path.realpath(path))
    fsync_tree(Path(building))
    old = _partial_path(final).with_suffix(".old")
    if final.exists():
        final.rename(old)
    try:
        Path(building).rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    fsync_dir(final.parent)  # before the old store is removed
    with suppress(OSError):
        _remove_objects(str(old), kind)
