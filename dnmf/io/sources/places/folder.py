"""Image files on a disk of this machine: folders with their subfolders, patterns, single files."""

from __future__ import annotations

import glob
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from dnmf.errors import IngestError
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.formats.registry import all_suffixes, known_suffixes
from dnmf.io.sources.places.order import natural, sort_flat
from dnmf.io.sources.places.place import Listed, Reject

_log = logging.getLogger(__name__)

STORE_FILES = ("zarr.json", ".zarray", ".zgroup")
"""Names of the files that make a folder a Zarr array or group."""


@dataclass(frozen=True)
class LocalFiles:
    """Files below a folder of this machine; a `Place`.

    Attributes
    ----------
    root : str
        Absolute path of the folder that the names are relative to.
    targets : tuple of str
        Absolute paths of folders and files below it, in the order of the corpus.
    """

    root: str
    targets: tuple[str, ...] = ()

    def list_files(self) -> Iterator[Listed | Reject]:
        """Yield the files of the targets; of folders those with the suffix of an image."""
        ignored: Counter[str] = Counter()
        for target in self.targets:
            if os.path.isdir(target) and not is_store(target):
                yield from self._pictures_or_arrays(target, ignored)
            elif is_store(target) or stat.S_ISREG(os.stat(target).st_mode):
                yield self._listed(target)
            else:
                yield Reject(target, "is no regular file; leave it out")
        report_ignored(ignored)

    def _pictures_or_arrays(self, folder: str, ignored: Counter[str]) -> Iterator[Listed | Reject]:
        """Yield the pictures below a folder or, if there are none, the arrays."""
        pictures, arrays = known_suffixes()
        found, left = False, Counter[str]()
        top = os.path.realpath(folder)
        for item in self._walk(folder, top, pictures, left):
            found = found or isinstance(item, Listed)
            yield item
        if not found:
            left.clear()
            files = self._walk(folder, top, arrays, left)
            yield from (item for item in files if isinstance(item, Listed))
        ignored.update(left)

    def _walk(
        self, folder: str, top: str, suffixes: tuple[str, ...], ignored: Counter[str]
    ) -> Iterator[Listed | Reject]:
        """Yield the files below a folder whose names have some suffixes, in natural order.

        Links that lead out of the folder are refused: the folder may belong to somebody else, and a
        link in it may lead to a private file of the caller. A path that the caller has named may
        lead anywhere.
        """
        try:
            names = ((e.name, _kind(e)) for e in os.scandir(folder) if not e.name.startswith("."))
            entries = sort_flat(names, key=lambda entry: natural(entry[0]))
            for name, kind in entries:
                path = os.path.join(folder, name)
                if kind == "folder" and not is_store(path):
                    yield from self._walk(path, top, suffixes, ignored)
                elif not name.lower().endswith(suffixes):
                    ignored[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
                elif kind == "link" and (reason := _refuse_link(path, top)):
                    yield Reject(path, reason)
                elif kind != "file" and os.path.isdir(path) and not is_store(path):
                    ignored["links to folders"] += 1
                elif kind == "other":
                    ignored["that are no regular files"] += 1
                else:
                    yield self._listed(path)
        except OSError as error:
            yield Reject(folder, f"cannot be listed ({error.strerror}); check your rights")

    def _listed(self, path: str) -> Listed:
        name = path.removeprefix(self.root).lstrip(os.sep)
        return Listed(name, name)

    def open_files(self, names: Sequence[str]) -> Iterator[ImageFile | IngestError]:
        """Yield files by their names."""
        for name in names:
            path = os.path.join(self.root, name)
            yield ImageFile(path, partial(_open, path), path)


def open_local(paths: Sequence[str]) -> LocalFiles:
    """Return a place for files and folders; raise IngestError unless they exist."""
    targets: list[str] = []
    for path in map(os.path.abspath, paths):
        if os.path.lexists(path):
            targets.append(path)
            continue
        found = sorted(glob.glob(path, recursive=True), key=natural)
        if not found:
            raise IngestError(f"{path} does not exist; give folders, files, patterns or URLs")
        targets += found
    folders = [p if os.path.isdir(p) and not is_store(p) else os.path.dirname(p) for p in targets]
    return LocalFiles(os.path.commonpath(folders), tuple(targets))


def is_store(path: str) -> bool:
    """Check whether a folder is a Zarr array or group, which counts as one file."""
    return any(os.path.exists(os.path.join(path, name)) for name in STORE_FILES)


def has_suffix(name: str) -> bool:
    """Check whether a name ends as those of pictures or arrays do."""
    return name.lower().endswith(all_suffixes())


def report_ignored(ignored: Counter[str]) -> None:
    """Log how many files were left out because their names are not those of images."""
    if ignored:
        most = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common(5))
        _log.warning("%d files left out, not images that dnmf reads: %s", ignored.total(), most)


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir():
        return "folder"
    return "file" if entry.is_file() else "other"


def _refuse_link(path: str, top: str) -> str | None:
    """Say why a link is not followed; None if it is."""
    target = os.path.realpath(path)
    if os.path.commonpath([top, target]) != top:
        return (
            f"is a link out of {top}; give the file it stands for by name, copy it, or leave it out"
        )
    return None if os.path.exists(target) else "is a link to nothing; mend it or leave it out"
