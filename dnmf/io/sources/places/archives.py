"""Images in zip and tar archives, WebDataset shards too, read without extraction.

dnmf never uses the name of a member as a path on a disk. A member whose name would lead out of a
folder is still refused: the name becomes an id, and somebody may make a path of it.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, BinaryIO

from dnmf._access import open_file_system, readable_errors
from dnmf.errors import IngestError
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.places.folder import has_suffix
from dnmf.io.sources.places.order import natural
from dnmf.io.sources.places.place import Listed, Reject

MEMBER_BYTES = 2**30
"""Largest member that is read, in bytes. A file of some kilobytes can decompress to any size."""

SIDECAR_BYTES = 2**20
"""Largest text or JSON beside an image that is read."""

SIDECARS = ("cls", "txt", "json", "id", "index")
"""Suffixes of what lies beside an image in a WebDataset shard, and becomes columns."""

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ZIPS = (".zip", ".npz.zip", ".cbz")

_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error)
"""Errors of the standard library's readers of archives for what is damaged or encrypted."""


@dataclass(frozen=True)
class Archive:
    """An archive on this machine or behind a URL; a `Place` of its members.

    Attributes
    ----------
    path : str
    prefix : str
        What the ids of the members begin with.
    """

    path: str
    prefix: str = ""

    def list_files(self) -> Iterator[Listed | Reject]:
        """Yield the images: of a zip file in natural order, of a tar file in its own order."""
        try:
            with _translate(self.path):
                yield from _list_zip(self) if _is_zip(self) else _list_tar(self)
        except IngestError as error:
            yield Reject(self.path, str(error).removeprefix(f"{self.path} "))

    def open_files(self, names: Sequence[str]) -> Iterator[ImageFile | IngestError]:
        """Yield members by their names, each read as a whole."""
        read = _read_zip if _is_zip(self) else _read_tar
        for name in names:
            try:
                with _translate(f"{self.path}/{name}"):
                    content = read(self, name)
            except IngestError as error:
                yield error
                continue
            yield ImageFile(f"{self.path}/{name}", partial(io.BytesIO, content))

    def open(self) -> BinaryIO:
        """Open the archive itself."""
        if "://" not in self.path:
            return open(self.path, "rb")
        fs, path = open_file_system(self.path)
        with readable_errors(f"{self.path} cannot be read: "):
            file: BinaryIO = fs.open(path, "rb")
        return file


def is_archive(path: str) -> bool:
    """Check whether a name is that of an archive."""
    return path.lower().endswith((*TARS, *ZIPS))


def _is_zip(archive: Archive) -> bool:
    return archive.path.lower().endswith(ZIPS)


@contextmanager
def _translate(name: str) -> Iterator[None]:
    """Turn errors of a reader of archives into an IngestError that names the file."""
    try:
        yield
    except IngestError:
        raise
    except (*_DAMAGE, zipfile.BadZipFile, tarfile.TarError) as error:
        raise IngestError(
            f"{name} cannot be read ({error}); fetch it again, or leave it out"
        ) from error


def _refuse_name(name: str) -> str | None:
    """Say why the name of a member is refused; None if it is not."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name):
        return "its name leads out of the archive; rename it, or leave it out"
    if any(ord(letter) < 32 for letter in name):
        return "its name has control characters; rename it, or leave it out"
    return None


@lru_cache(maxsize=8)
def _zip(archive: Archive) -> zipfile.ZipFile:
    """Open a zip file for all threads of the process, which may read it at the same time."""
    file = archive.open()
    try:
        opened = zipfile.ZipFile(file)
    except BaseException:
        file.close()
        raise
    weakref.finalize(opened, file.close)
    return opened


def _list_zip(archive: Archive) -> Iterator[Listed | Reject]:
    members = sorted(_zip(archive).infolist(), key=lambda member: natural(member.filename))
    for member in members:
        name = member.filename
        if member.is_dir() or not _is_image(name):
            continue
        path = f"{archive.path}/{name}"
        if reason := _refuse_name(name):
            yield Reject(path, reason)
        elif member.external_attr >> 28 == 0o12:  # the file type of Unix: a link
            yield Reject(path, "is a link; give the file it stands for, or leave it out")
        else:
            yield Listed(name, archive.prefix + name)


def _read_zip(archive: Archive, name: str) -> bytes:
    file = _zip(archive)
    member = file.getinfo(name)
    if member.flag_bits & 1:
        raise IngestError(f"{archive.path}/{name} is encrypted; decrypt it, or leave it out")
    with file.open(member) as content:
        return _bounded(content.read, f"{archive.path}/{name}")


def _list_tar(archive: Archive) -> Iterator[Listed | Reject]:
    """Yield the images of a tar file, each with what lies beside it under the same key."""
    waiting: list[Listed | Reject] = []
    key: tuple[str, str] | None = None
    values: dict[str, Any] = {}
    for member, content in _members(archive):
        found, _, suffix = member.name.rpartition("/")[2].partition(".")
        if (folder := member.name.rpartition("/")[0], found) != key:
            yield from (_with_values(item, values) for item in waiting)
            waiting, values, key = [], {}, (folder, found)
        if suffix.lower() in SIDECARS and member.isreg():
            values.update(_parse_sidecar(suffix.lower(), content(), archive, member.name))
        elif _is_image(member.name) and not member.isdir():
            waiting.append(_list_member(archive, member))
    yield from (_with_values(item, values) for item in waiting)


def _list_member(archive: Archive, member: tarfile.TarInfo) -> Listed | Reject:
    path = f"{archive.path}/{member.name}"
    if not member.isreg() or member.issparse():
        return Reject(path, "is a link or no regular file; give the file itself, or leave it out")
    if reason := _refuse_name(member.name):
        return Reject(path, reason)
    return Listed(member.name, archive.prefix + member.name)


def _members(archive: Archive) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """Yield the members of a tar file with a function that reads the beginning of each."""
    file: Any
    with archive.open() as opened, tarfile.open(fileobj=opened, mode="r:*") as file:
        while (member := file.next()) is not None:
            yield member, partial(_beginning, file, member)
            file.members = []  # it would keep all members


def _beginning(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    found = file.extractfile(member)
    return b"" if found is None else found.read(SIDECAR_BYTES)


def _with_values(item: Listed | Reject, values: dict[str, Any]) -> Listed | Reject:
    return item if isinstance(item, Reject) else Listed(item.name, item.id, dict(values))


def _parse_sidecar(suffix: str, content: bytes, archive: Archive, name: str) -> dict[str, Any]:
    text = content.decode(errors="replace").strip()
    if suffix != "json":
        return {suffix: text}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IngestError(f"{archive.path}/{name} is no JSON ({error}); mend it") from error
    scalars = (bool, int, float, str)
    if not isinstance(found, dict):
        return {"json": text}
    return {key: value for key, value in found.items() if isinstance(value, scalars)}


@lru_cache(maxsize=64)
def _index(archive: Archive) -> dict[str, tuple[int, int]]:
    """Return offset and size of each member of a tar file that is not compressed."""
    places = {}
    for member, _ in _members(archive):
        if member.isreg():
            places[member.name] = (member.offset_data, member.size)
    return places


def _open_stream(archive: Archive) -> tarfile.TarFile:
    opened = archive.open()
    stream = tarfile.open(fileobj=opened, mode="r|*")  # noqa: SIM115 - it stays open
    weakref.finalize(stream, opened.close)
    return stream


class _Stream:
    """A compressed tar file that is read from its beginning, once for members in order."""

    def __init__(self, archive: Archive) -> None:
        self.archive, self.lock = archive, threading.Lock()
        self.file: Any = None

    def read(self, name: str) -> bytes:
        """Read a member; those before the last one that was read need a new start."""
        with self.lock:
            for _ in range(2):
                if self.file is None:
                    self.file = _open_stream(self.archive)
                while (member := self.file.next()) is not None:
                    self.file.members = []
                    if member.name == name and (found := self.file.extractfile(member)):
                        return _bounded(found.read, f"{self.archive.path}/{name}")
                self.file = None
        raise IngestError(f"{self.archive.path}/{name} is not there any more")


@lru_cache(maxsize=8)
def _stream(archive: Archive) -> _Stream:
    return _Stream(archive)


def _read_tar(archive: Archive, name: str) -> bytes:
    if not archive.path.lower().endswith(".tar"):
        return _stream(archive).read(name)
    offset, size = _index(archive)[name]
    with archive.open() as file:
        file.seek(offset)
        return _bounded(lambda n: file.read(min(n, size)), f"{archive.path}/{name}")


def _bounded(read: Callable[[int], bytes], name: str) -> bytes:
    content = read(MEMBER_BYTES + 1)
    if len(content) > MEMBER_BYTES:
        raise IngestError(f"{name} has more than {MEMBER_BYTES:,} bytes; leave it out")
    return content


def _is_image(name: str) -> bool:
    return has_suffix(name) and not name.rpartition("/")[2].startswith(".")
