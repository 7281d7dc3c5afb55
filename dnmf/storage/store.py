"""Objects of a store, in a folder or at a URL. All of dnmf reads and writes them through this.

A store may come from anybody. Therefore every read has a bound, and a folder is read only in
regular files inside the store. Objects that were written to a folder with `ObjectStore.set` and
`ObjectStore.fsync_dir` survive a power failure.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import google_crc32c
import numpy as np

from dnmf._access import open_file_system, readable_errors
from dnmf._typing import Array
from dnmf.errors import AccessError, OutputExistsError
from dnmf.storage.memory import take_bytes
from dnmf.storage.paths import is_url, normalize_path

SLOW_SECONDS = 15.0
"""Seconds that a request may take before the log says so: file systems repeat those that fail."""

METADATA = "zarr.json"
"""Name of the object that holds the metadata of a Zarr v3 node."""

NO_FSYNC = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot fsync a directory: nothing more can be done there."""


_ZARR_NAME = re.compile(
    r"(?:.*/)?(?:zarr\.json|c(?:[./]\d+)+|[^/]+\.[0-9a-f]{32}\.partial"
    r"|plan/(?:plan|(?:files|done)/\d{6,})\.json|rejects\.jsonl)"
)
"""Pattern of the keys under which dnmf writes: those of Zarr v3, the plan and the rejects of an
ingest, and files that are unfinished."""

WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs"})
"""Protocols of object stores, in which a folder is gone with the last of its objects."""

MAGIC = frozenset("*?[")
"""Characters for which fsspec takes the path of what it is to remove as a pattern."""


log = logging.getLogger("dnmf")


class InvalidObjectError(Exception):
    """An object of a store is not as dnmf writes it; the message leaves out the store's path."""


def disk_error(error: BaseException | None) -> OSError | None:
    """Return the OSError of a disk among the causes of an error; None if the object is damaged."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__
    return error


@dataclass(frozen=True)
class ObjectStore:
    """A store of objects by key, in a folder or behind a URL.

    The methods are named as those of `zarr.abc.store.Store`, and are synchronous.

    Attributes
    ----------
    path : str
        A folder, or a URL for fsspec, with the options that `dnmf._access` has for it.
    """

    path: str

    def get(self, key: str, max_bytes: int) -> bytes:
        """Read an object; raise as `get_array` does."""
        return self.get_array(key, max_bytes).tobytes()

    def get_array(self, key: str, max_bytes: int) -> Array:
        """Read an object into an array of bytes, which may be read-only.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        InvalidObjectError
            It is longer than `max_bytes`, or cannot or must not be read. The cause is the OSError
            of the disk, if there was one.
        """
        root = local_folder(self.path)
        try:
            if root is None:
                with readable_errors():
                    fs, path = self._locate(key)
                    content = np.frombuffer(fs.cat_file(path, start=0, end=max_bytes + 1), np.uint8)
            else:
                content = _read_file(root, key, max_bytes)
        except AccessError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            if root is None and key == METADATA:  # of the root: nothing may be there at all
                self._require_bucket()
            raise FileNotFoundError(f"{self.path}: {key} is missing") from error
        except OSError as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidObjectError(f"cannot be read ({reason})") from error
        if len(content) > max_bytes:
            raise InvalidObjectError(f"is too long: it has more than {max_bytes:,} bytes")
        return content

    def getsize(self, key: str) -> int:
        """Return the size of an object in bytes.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        """
        if (root := local_folder(self.path)) is not None:
            return os.path.getsize(os.path.join(root, key))
        with self._requests(key, "read") as (fs, path):
            return int(fs.size(path))

    def list_dir(self, prefix: str = "") -> list[str]:
        """List the names in a folder of the store; an empty list if there is no such folder."""
        root = local_folder(self.path)
        try:
            if root is not None:
                return os.listdir(os.path.join(root, prefix))
            with self._requests(prefix, "listed") as (fs, path):
                found = [name.rstrip("/") for name in fs.ls(path, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        # Some file systems list the folder itself, as an empty object with its name.
        return [name.rpartition("/")[2] for name in found if name.strip("/") != path.strip("/")]

    def set(self, key: str, *parts: bytes | memoryview) -> None:
        """Write an object as a whole, of parts one after the other; safe to repeat."""
        if (root := local_folder(self.path)) is not None:
            write_file(Path(root, key), *parts)
        else:
            with self._requests(key, "written") as (fs, path):
                fs.pipe_file(path, b"".join(parts))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one, and return whether it was written.

        Of several processes that do this at the same time, one alone gets True. The data must be
        unlike those of all others: a request whose answer was lost is sent again, and finds what
        it wrote itself.

        Raises
        ------
        OSError
            It cannot be written; the errno is ENOTSUP if the file system has no such write.
        """
        if (root := local_folder(self.path)) is not None:
            is_new = _create_file(Path(root, key), data)
        else:
            is_new = True
            try:
                with self._requests(key, "written") as (fs, path):
                    _create_object(fs, path, data)
            except FileExistsError:
                is_new = False
        return is_new or self._has(key, data)

    def _has(self, key: str, data: bytes) -> bool:
        """Check whether an object is there and holds just that."""
        try:
            return self.get(key, len(data)) == data
        except FileNotFoundError:
            return False
        except InvalidObjectError as error:
            if disk_error(error) is None:  # it is longer
                return False
            raise

    def set_file(self, key: str, file: Path) -> None:
        """Move a file on a disk to the place of an object, as a whole; safe to repeat."""
        if (root := local_folder(self.path)) is not None:
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
            os.replace(file, Path(root, key))
            fsync_dir(Path(root, key).parent)
            return
        with self._requests(key, "written") as (fs, path):
            fs.put_file(str(file), path)

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading, seekable; raise FileNotFoundError if there is none."""
        if (root := local_folder(self.path)) is not None:
            return open(Path(root, key), "rb")
        with self._requests(key, "read") as (fs, path):
            file: BinaryIO = fs.open(path, "rb")
            return file

    def fsync_dir(self, prefix: str = "") -> None:
        """Fsync a folder, so that the names in it survive a power failure; of a URL do nothing."""
        if (root := local_folder(self.path)) is not None:
            fsync_dir(Path(root, prefix))

    def is_empty(self) -> bool:
        """Check whether nothing is at the path of the store, or an empty folder.

        Raises
        ------
        AccessError
            The bucket of a URL is not there.
        OSError
            It cannot be found out.
        """
        root = local_folder(self.path)
        try:
            if root is not None:
                return not stat.S_ISREG(os.lstat(root).st_mode) and not os.listdir(root)
            with self._requests("", "listed") as (fs, path):
                found = fs.ls(path, detail=True)
        except FileNotFoundError:
            if root is None:
                self._require_bucket()
                return True
            return not os.path.islink(root)
        except NotADirectoryError:  # something is above it, or there, that is no folder
            return root is not None and not os.path.lexists(root)
        # Some file systems list the folder itself, as an empty object with its name.
        return all(
            entry["name"].strip("/") == path.strip("/")
            and (entry["type"] == "directory" or not entry["size"])
            for entry in found
        )

    def list_keys(self, prefix: str = "") -> list[str]:
        """List the keys of all objects in a folder of the store, and of links to folders."""
        if (root := local_folder(self.path)) is not None:
            return _list_files(root, prefix)
        with self._requests(prefix, "listed") as (fs, path):
            start = len(self._locate("")[1]) + 1
            return [name[start:] for name in fs.find(path) if name.rstrip("/") != path]

    def delete_dir(self, prefix: str) -> None:
        """Remove what dnmf wrote to a folder, its metadata first: what remains is no Zarr node.

        Other objects stay where they are, and the folders that hold them.
        """
        if (root := local_folder(self.path)) is not None:
            target = Path(root, prefix)
            if target.is_symlink():  # what it points to may be somebody's
                target.unlink()
                return
            if (target / METADATA).exists():
                (target / METADATA).unlink()
                fsync_dir(target)
        else:
            self._delete([f"{prefix}/{METADATA}"])
        self.delete([key for key in self.list_keys(prefix) if is_zarr_name(key)], prefix)

    def delete(self, keys: Sequence[str], prefix: str = "") -> None:
        """Remove objects and then the empty folders in a folder of the store, and itself."""
        root = local_folder(self.path)
        self._delete(keys)
        if root is not None:
            for folder, _, _ in os.walk(os.path.join(root, prefix), topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
            return
        if self.path.partition("://")[0] in WITHOUT_FOLDERS:
            return
        with self._requests(prefix, "listed") as (fs, path):
            left = fs.find(path, withdirs=True, detail=True)
            folders = [name for name, entry in left.items() if entry["type"] == "directory"]
            for folder in sorted(folders, reverse=True):
                with suppress(OSError):
                    if not fs.ls(folder, detail=False):  # some remove what is in it, too
                        fs.rmdir(folder)

    def _delete(self, keys: Sequence[str]) -> None:
        """Remove objects, whether they are there or not."""
        if (root := local_folder(self.path)) is not None:
            for key in keys:
                Path(root, key).unlink(missing_ok=True)
            return
        from fsspec.asyn import AsyncFileSystem

        with self._requests("", "cleared") as (fs, top):
            paths = [f"{top}/{key}" for key in keys]
            with suppress(FileNotFoundError):
                if paths and isinstance(fs, AsyncFileSystem) and not MAGIC.intersection(top, *keys):
                    fs.rm(paths)  # many at once
                    return
            for path in paths:
                with suppress(FileNotFoundError):
                    fs.rm_file(path)

    @contextmanager
    def _requests(self, key: str, done: str) -> Iterator[tuple[Any, str]]:
        """Yield the file system behind the URL and a path in it; an error says what was asked."""
        fs, path = self._locate(key)
        fs.invalidate_cache(path)  # other processes write, too
        what, began = f"{self.path}{f'/{key}' * bool(key)}", time.monotonic()
        with readable_errors(f"{what} cannot be {done}: "):
            yield fs, path
        if (seconds := time.monotonic() - began) > SLOW_SECONDS:
            log.info(
                "%s was %s after %.0f s: the store answers slowly, or requests fail and are sent "
                "again",
                what,
                done,
                seconds,
            )

    def _require_bucket(self) -> None:
        """Raise AccessError unless there is the bucket of a place where nothing was found."""
        fs, path = self._locate("")
        bucket, slash, _ = path.partition("/")
        if not slash or not bucket or ":" in bucket:
            return
        try:
            is_there = bool(fs.exists(bucket))
        except Exception:  # of whatever kind: not everybody may ask
            return
        if not is_there:
            raise AccessError(
                f"{self.path}: there is no bucket {bucket}; make it first, or correct its name"
            )

    def _locate(self, key: str) -> tuple[Any, str]:
        """Return the fsspec file system behind the URL, and the path of an object in it."""
        fs, root = open_file_system(self.path)
        return fs, f"{root.rstrip('/')}/{key}".rstrip("/")


def local_folder(path: str) -> str | None:
    """Return the local folder of a store, or None if it is behind a URL."""
    return None if is_url(local := normalize_path(path)) else local


def is_zarr_name(key: str) -> bool:
    """Check whether dnmf writes objects under such a key, in one of its stores."""
    return _ZARR_NAME.fullmatch(key) is not None


def _list_files(root: str, prefix: str) -> list[str]:
    """List all files below a folder, and links to folders, relative to the root."""
    return [
        os.path.relpath(path, root)
        for folder, folders, files in os.walk(os.path.join(root, prefix))
        for path in [
            *(os.path.join(folder, name) for name in files),
            *filter(os.path.islink, (os.path.join(folder, name) for name in folders)),
        ]
    ]


def require_parent(path: str) -> None:
    """Raise OutputExistsError unless the folder that is to hold a new path exists.

    A folder that does not exist is a slip of the keyboard more often than a wish. Of a URL the
    bucket must exist, or it is an AccessError.
    """
    if (folder := local_folder(path)) is None:
        ObjectStore(path).is_empty()
        return
    parent = Path(os.path.abspath(folder)).parent
    if not parent.is_dir():
        raise OutputExistsError(
            f"{path} cannot be written: "
            + (f"{parent} is no folder" if parent.exists() else f"there is no folder {parent}")
            + "; make that folder first, or choose another path"
        )


def _read_file(root: str, key: str, max_bytes: int) -> Array:
    top = os.path.realpath(root)
    file = os.path.realpath(os.path.join(top, key))
    if os.path.commonpath([top, file]) != top:
        raise InvalidObjectError("is a link out of the store")

    def open_nonblocking(path: str, flags: int) -> int:  # opening a pipe would wait for a writer
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    with open(file, "rb", buffering=0, opener=open_nonblocking) as opened:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidObjectError("is no regular file")
        if status.st_size > max_bytes:
            raise InvalidObjectError(
                f"is too long: {status.st_size:,} bytes, at most {max_bytes:,}"
            )
        content, count = take_bytes(status.st_size), 0
        while more := opened.readinto(content[count:].data):
            count += more
        return content[:count]


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file as a whole and fsync it, making the folders above it; safe to repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with open(partial, "xb", buffering=0) as file:
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[file.write(rest) :]
            # On an error the file is given up: a second fsync would succeed and prove nothing.
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _create_object(fs: Any, path: str, data: bytes) -> None:
    try:
        fs.pipe_file(path, data, mode="create")
    except (NotImplementedError, TypeError, ValueError) as error:
        what = f"it cannot write only where nothing is: {error}"
        raise OSError(errno.ENOTSUP, what) from error


def _create_file(path: Path, data: bytes) -> bool:
    """Write a file that appears as a whole, unless there is one; return whether it was written."""
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    write_file(partial, data)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def fsync_dir(path: Path) -> None:
    """Fsync a directory, so that the names in it survive a power failure."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
    finally:
        os.close(folder)


def fsync_tree(path: Path) -> None:
    """Fsync all files and directories below a directory, and the directory itself."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            file = os.open(Path(folder, name), os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        fsync_dir(Path(folder))


def crc32c(array: Array) -> int:
    """Return the crc32c of an array's bytes in C order."""
    return int(google_crc32c.value(np.ascontiguousarray(array).view(np.uint8)))
