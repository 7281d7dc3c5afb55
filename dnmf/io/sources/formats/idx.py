"""IDX files, the format of MNIST: mapped into memory unless they are compressed by gzip."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, named_errors
from dnmf.io.sources.image_array import ImageArray

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Dtypes by their code in the header."""

MAX_EXPANSION = 1032
"""Largest number of bytes that one byte of gzip (deflate) can expand to."""


@dataclass(frozen=True)
class IdxArrays:
    """The format of IDX files; see `Format`."""

    name: str = "IDX"
    suffixes: tuple[str, ...] = ("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is IDX by its first bytes, or a gzip file, which may hold one."""
        is_idx = len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _DTYPES and head[3] > 0
        return is_idx or head.startswith(b"\x1f\x8b")

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Open the array of a file."""
        with named_errors(file), file.open() as stream:
            is_compressed = stream.read(2) == b"\x1f\x8b"
            size = stream.seek(0, 2)
            stream.seek(0)
            if is_compressed:
                with gzip.GzipFile(fileobj=stream) as decompressed:
                    array = _read(decompressed, MAX_EXPANSION * size)
            else:
                array = _map(file, stream, size)
        return ImageArray(array, None, file.name)


FORMAT = IdxArrays()


def _read(stream: Any, most: int) -> Array:
    """Read a compressed file, unless its header promises more than there can be."""
    dtype, shape, offset = _read_header(stream)
    expected = math.prod(shape) * dtype.itemsize
    content = stream.read(expected + 1) if offset + expected <= most else b""
    _require_length(len(content), expected)
    return np.frombuffer(content, dtype).reshape(shape)


def _map(file: ImageFile, stream: BinaryIO, size: int) -> Array:
    dtype, shape, offset = _read_header(stream)
    _require_length(size - offset, math.prod(shape) * dtype.itemsize)
    if file.path is not None:
        return np.memmap(file.path, dtype, "r", offset, shape)
    return np.frombuffer(stream.read(), dtype).reshape(shape)


def _read_header(stream: Any) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Read the header: two zero bytes, a dtype, the number of axes and their lengths.

    Returns
    -------
    numpy.dtype, tuple of int, int
        Dtype and shape of the array, and the number of bytes of the header.
    """
    head = stream.read(4)
    if not FORMAT.recognizes(head):
        raise IngestError("it is no IDX file; give it the suffix of its format, or leave it out")
    lengths = stream.read(4 * head[3])
    if len(lengths) < 4 * head[3]:
        raise IngestError("it is cut short in its IDX header; fetch it again")
    shape = tuple(np.frombuffer(lengths, ">u4").tolist())
    if len(shape) == 1:
        raise IngestError("it holds labels, not images; give the images file")
    return np.dtype(_DTYPES[head[2]]), shape, 4 + len(lengths)


def _require_length(found: int, expected: int) -> None:
    if found != expected:
        raise IngestError(
            f"it has {'not' if found < expected else 'more than'} the {expected:,} bytes of pixels "
            "that its IDX header promises; fetch it again"
        )
