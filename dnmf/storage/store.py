"""The objects of a store, in a folder or behind a URL: the one way dnmf reaches them.

Reading has a bound, and takes only regular files inside the store, since a store may come from
anybody. What is written to a disk is there for good when `put` and `settle` have returned.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import google_crc32c
import numpy as np
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer.core import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from dnmf._typing import Array

METADATA = "zarr.json"


class RefusedError(Exception):
    """Something in a store is not what dnmf writes; said without the path of the store."""


@dataclass(frozen=True)
class Objects:
    """The objects of a store, read and written whole.

    Attributes
    ----------
    path : str
        A folder, or a URL for fsspec. Links to places outside the folder are not followed, and
        what is no regular file is not read; of a URL its file system knows such things. An object
        store keeps what it has taken; to a folder, files are moved when they are whole.
    storage_options : dict, optional
        For the file system behind a URL.
    """

    path: str
    storage_options: dict[str, Any] | None = None

    def read(self, key: str, most: int) -> bytes:
        """Read an object.

        Raises
        ------
        FileNotFoundError
            There is none.
        RefusedError
            It is longer than `most` bytes, or cannot or may not be read; with the OSError that the
            disk answered, if it did, as its cause.
        """
        root = local_folder(self.path)
        try:
            content = self._fetch(key, most + 1) if root is None else _read_file(root, key, most)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{self.path}: {key} is missing") from error
        except (OSError, ValueError) as error:  # of a URL, also: no such protocol
            reason = getattr(error, "strerror", None) or error
            raise RefusedError(f"cannot be read ({reason})") from error
        if len(content) > most:
            raise RefusedError(f"is too long: it has more than {most:,} bytes")
        return content

    def _fetch(self, key: str, most: int) -> bytes:
        request = RangeByteRequest(0, most)
        found = sync(self._store().get(key, default_buffer_prototype(), request))
        if found is None:
            raise FileNotFoundError(key)
        return found.to_bytes()

    def names(self, folder: str = "") -> list[str]:
        """List what is in a folder; nothing where there is none."""
        root = local_folder(self.path)
        if root is None:
            return sync(self._listed(folder))
        try:
            return os.listdir(os.path.join(root, folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    async def _listed(self, folder: str) -> list[str]:
        return [name.rstrip("/") async for name in self._store().list_dir(folder)]

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, whole or not at all; safe to repeat."""
        if (root := local_folder(self.path)) is not None:
            put_file(Path(root, key), data)
        else:
            buffer = default_buffer_prototype().buffer.from_bytes(bytes(data))
            sync(self._store().set(key, buffer))

    def settle(self, folder: str = "") -> None:
        """Make the names in a folder last."""
        if (root := local_folder(self.path)) is not None:
            sync_folder(Path(root, folder))

    def remove(self, folder: str) -> None:
        """Remove a folder, its metadata first: what is left of it counts for nothing."""
        if (root := local_folder(self.path)) is None:
            store = self._store()
            sync(store.delete(f"{folder}/{METADATA}"))
            sync(store.delete_dir(folder))
            return
        target = Path(root, folder)
        if target.is_symlink():  # what it leads to may be somebody's
            target.unlink()
            return
        if (target / METADATA).exists():
            (target / METADATA).unlink()
            sync_folder(target)
        shutil.rmtree(target)

    def _store(self) -> FsspecStore:
        return FsspecStore.from_url(self.path, self.storage_options)


def local_folder(path: str) -> str | None:
    """Give the folder of a store, or None where it is behind a URL."""
    for scheme in ("file://", "local://"):
        path = path.removeprefix(scheme)
    return None if "://" in path else path


def _read_file(root: str, key: str, most: int) -> bytes:
    top = os.path.realpath(root)
    file = os.path.realpath(os.path.join(top, key))
    if os.path.commonpath([top, file]) != top:
        raise RefusedError("is a link out of the store")

    def at_once(path: str, flags: int) -> int:  # opening a pipe would wait for a writer
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    with open(file, "rb", opener=at_once) as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError("is no regular file")
        if status.st_size > most:
            raise RefusedError(f"is too long: {status.st_size:,} bytes, at most {most:,}")
        return opened.read(status.st_size)  # not `most`: so much would be set aside first


NO_FSYNC = (errno.EINVAL, errno.ENOTSUP)
"""What file systems say that do not fsync folders: no more can be done there."""


def put_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file as a whole; folders on the way to it are made. Safe to repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with open(partial, "xb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            # On an error the file is given up: a second fsync would succeed and prove nothing.
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Make the names in a folder last."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
    finally:
        os.close(folder)


def sync_tree(path: Path) -> None:
    """Make everything below a folder last."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            file = os.open(Path(folder, name), os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        sync_folder(Path(folder))


def crc32c(array: Array) -> int:
    """Checksum an array's bytes in C order."""
    return int(google_crc32c.value(np.ascontiguousarray(array).view(np.uint8)))
