"""Arrays that NumPy has saved: ``.npy`` files, mapped into memory, and those in ``.npz`` archives.

Nothing is unpickled, and no more is read than the file has, whatever its header promises.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, named_errors
from dnmf.io.sources.image_array import ImageArray

_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
"""Readers of the versions of the header that hold numbers."""


@dataclass(frozen=True)
class NumpyArrays:
    """The format of arrays that NumPy has saved; see `Format`."""

    name: str = "npy or npz"
    suffixes: tuple[str, ...] = (".npy", ".npz")

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is a ``.npy`` by its first bytes."""
        return head.startswith(b"\x93NUMPY")

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Open an array; in an archive that holds several, the one that `array` names."""
        with named_errors(file):
            if file.name.lower().endswith(".npz"):
                return _open_member(file, choices.array)
            if file.path is not None:
                array: Any = np.load(file.path, mmap_mode="r", allow_pickle=False)
                return ImageArray(array, None, file.name)
            with file.open() as stream:
                size = stream.seek(0, 2)
                stream.seek(0)
                return ImageArray(_read(stream, size), None, file.name)


FORMAT = NumpyArrays()


def _open_member(file: ImageFile, key: str | None) -> ImageArray:
    with file.open() as stream, zipfile.ZipFile(stream) as archive:
        found = {
            member.filename.removesuffix(".npy"): member
            for member in archive.infolist()
            if member.filename.endswith(".npy")
        }
        if key is None and len(found) == 1:
            (key,) = found
        if key not in found:
            what = "several arrays" if key is None else f"no array {key!r}"
            listed = ", ".join(_describe(archive, found, name) for name in found) or "none"
            raise IngestError(f"it holds {what}; it has {listed}: name one of them, file.npz::NAME")
        member = found[key]
        with archive.open(member) as content:
            return ImageArray(_read(content, member.file_size), None, f"{file.name}::{key}")


def _describe(archive: zipfile.ZipFile, found: dict[str, zipfile.ZipInfo], name: str) -> str:
    with archive.open(found[name]) as content:
        shape, _, dtype = _read_header(content)
    return f"{name} ({format_shape(shape)} {dtype})"


def _read(stream: Any, size: int) -> Array:
    """Read an array from a file of a size; raise IngestError if the header promises another."""
    shape, is_fortran, dtype = _read_header(stream)
    count = 1
    for length in shape:
        count *= length
    if dtype.hasobject:
        raise IngestError("it holds Python objects, not numbers; save it as an array of numbers")
    if count * dtype.itemsize > size:
        raise IngestError(
            f"its header promises {count * dtype.itemsize:,} bytes of pixels, and the file has "
            f"{size:,}; fetch it again"
        )
    content = stream.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise IngestError("it is cut short; fetch it again")
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)


def _read_header(stream: BinaryIO | Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(stream)
    if version not in _READERS:
        raise IngestError(f"it is a .npy of version {version}; save it again with numpy.save")
    shape, is_fortran, dtype = _READERS[version](stream)
    return tuple(shape), is_fortran, dtype
