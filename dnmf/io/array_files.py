"""Files of arrays: ``.npy`` and IDX, mapped where they are not compressed."""

from __future__ import annotations

import gzip
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
DEFLATE = 1032
"""What a byte of gzip can become at most."""


def open_array(path: Path) -> Array:
    """Open an array file: mapped, or held in memory where it is compressed.

    Raises
    ------
    IngestError
        It is none, or damaged. Nothing is unpickled, and nothing inflated beyond its header's word.
    """
    return _open_version(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _open_version(path: Path, mtime_ns: int) -> Array:
    """Open an array file once per process, and anew when it has changed."""
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(path) as inflated:
                return _read_idx(path, inflated, DEFLATE * path.stat().st_size)
        with path.open("rb") as file:
            dtype, shape, offset = _read_header(path, file)
        _require_length(path, path.stat().st_size - offset, dtype, shape)
        return np.memmap(path, dtype, "r", offset, shape)
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError) as error:
        if isinstance(error, IngestError):
            raise
        raise IngestError(f"{path} cannot be read ({error}); mend it or leave it out") from error


def _read_idx(path: Path, file: BinaryIO | gzip.GzipFile, most: int) -> Array:
    """Read a compressed IDX file: as much as its header says, if so much can be in it."""
    dtype, shape, offset = _read_header(path, file)
    expected = math.prod(shape) * dtype.itemsize
    content = file.read(expected + 1) if offset + expected <= most else b""
    _require_length(path, len(content), dtype, shape)
    return np.frombuffer(content, dtype).reshape(shape)


def _read_header(
    path: Path, file: BinaryIO | gzip.GzipFile
) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Read the head of the IDX format: two zero bytes, a type, the number of axes, their lengths.

    Returns
    -------
    numpy.dtype, shape, bytes of the header
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
