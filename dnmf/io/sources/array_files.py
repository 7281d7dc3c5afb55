"""Array files of images: ``.npy`` and IDX, memory-mapped unless they are compressed."""

from __future__ import annotations

import gzip
import math
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.arrays import ArrayImages, images_of
from dnmf.io.sources.image_files import Size

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Dtypes by their code in the IDX header."""

MAX_EXPANSION = 1032
"""Largest number of bytes that one byte of gzip (deflate) can expand to."""


def open_array_file(path: Path, size: Size | None, color: str | None) -> ArrayImages:
    """Open an array file as a source; see `open_source`."""
    load = partial(_rows_of_file, path)
    return images_of(read_array_file(path), load, str(path), path.name.split(".")[0], size, color)


def _rows_of_file(path: Path, start: int, stop: int) -> Array:
    return read_array_file(path)[start:stop]


def read_array_file(path: Path) -> Array:
    """Return the array of a file: memory-mapped, or in memory if the file is compressed.

    Nothing is unpickled, and no more is decompressed than the header announces.

    Raises
    ------
    IngestError
        The file holds no array, or is damaged.
    """
    return _read_version(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_version(path: Path, mtime_ns: int) -> Array:
    """Read a file once per process, and again when its modification time has changed."""
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(path) as decompressed:
                return _read_idx(path, decompressed, MAX_EXPANSION * path.stat().st_size)
        with path.open("rb") as file:
            dtype, shape, offset = _read_idx_header(path, file)
        _require_length(path, path.stat().st_size - offset, dtype, shape)
        return np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError) as error:
        if isinstance(error, IngestError):
            raise
        raise IngestError(f"{path} cannot be read ({error}); mend it or leave it out") from error


def _read_idx(path: Path, file: gzip.GzipFile, max_bytes: int) -> Array:
    """Read a compressed IDX file, unless its header announces more than `max_bytes`."""
    dtype, shape, offset = _read_idx_header(path, file)
    expected = math.prod(shape) * dtype.itemsize
    content = file.read(expected + 1) if offset + expected <= max_bytes else b""
    _require_length(path, len(content), dtype, shape)
    return np.frombuffer(content, dtype).reshape(shape)


def _read_idx_header(
    path: Path, file: BinaryIO | gzip.GzipFile
) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Read the IDX header: two zero bytes, a dtype, the number of axes and their lengths.

    Returns
    -------
    numpy.dtype, tuple of int, int
        Dtype and shape of the array, and the number of bytes of the header.
    """
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or head[3] == 0:
        raise IngestError(
            f"{path} is no image, IDX or .npy file; dnmf reads PNG, JPEG, TIFF, PGM, PPM, PNM, IDX "
            "and .npy"
        )
    lengths = file.read(4 * head[3])
    if len(lengths) < 4 * head[3]:
        raise IngestError(f"{path} is cut short in its IDX header; fetch it again")
    shape = tuple(np.frombuffer(lengths, ">u4").tolist())
    if len(shape) == 1:
        raise IngestError(f"{path} holds labels, not images; give the images file")
    return np.dtype(_DTYPES[head[2]]), shape, 4 + len(lengths)


def _require_length(path: Path, found: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        raise IngestError(
            f"{path} has {'not' if found < expected else 'more than'} the {expected:,} bytes of "
            f"pixels that its IDX header promises; fetch it again"
        )
