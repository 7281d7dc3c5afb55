"""Files that outlast a power failure.

A file is written beside its place, fsynced, and moved into it, so that it is there whole or not at
all. That it is there is known for good when its folder has been fsynced too. Zarr's own store
moves files into place, but fsyncs nothing.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from uuid import uuid4

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
