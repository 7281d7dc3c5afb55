"""PBM, PGM, PPM and PFM: numbers behind a short header, which are read as they are.

Pillow scales them to 8 bits, and knows no colours of 16 bits.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.content import describe_content
from dnmf.io.sources.formats.file import ImageFile, check_size, named_errors
from dnmf.io.sources.formats.pillow import RENAME
from dnmf.io.sources.image_array import ImageArray

MAX_HEADER = 2**16
"""Bytes in which a header must end; its comments can have any length."""

BYTES_PER_NUMBER = 16
"""Bytes that a number in words may take, with the blanks before it, on average."""

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = _GAP + rb"([-+.\dEe]{1,20})"


@dataclass(frozen=True)
class NetpbmImages:
    """The formats of the Netpbm programs; see `Format`."""

    name: str = "PBM, PGM, PPM or PFM"
    suffixes: tuple[str, ...] = (".pbm", ".pgm", ".ppm", ".pnm", ".pfm")

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is of one of the formats by its first bytes."""
        return head[:1] == b"P" and head[1:2] in b"123456Ff" and head[2:3].isspace()

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Read an image; a 1 of PBM, which is black, becomes 0, and its 0 becomes 255."""
        with named_errors(file), file.open() as stream:
            kind, (width, height), largest = _read_header(stream)
            check_size(height, width)
            channels = (3,) if kind in b"36F" else ()
            shape = (height, width, *channels)
            if kind in b"Ff":
                pixels = _read_floats(stream, shape, largest)
            elif kind in b"14":
                pixels = _read_bits(stream, shape, kind)
            else:
                pixels = _read_integers(stream, shape, largest, kind)
        return ImageArray(
            pixels, ("y", "x", "c")[: pixels.ndim], file.name, "rgb" if channels else None
        )


FORMAT = NetpbmImages()


def _read_header(stream: BinaryIO) -> tuple[bytes, tuple[int, int], float]:
    """Read the header; return the kind, width and height, and the largest value or the scale."""
    head = stream.read(MAX_HEADER)
    is_pnm = re.match(rb"P[1-6Ff]\s", head)
    fields = 2 if head[1:2] in (b"1", b"4") else 3
    found = re.match(rb"P." + _NUMBER * fields + rb"\s", head) if is_pnm else None
    if found is None:
        raise IngestError(f"it is {describe_content(head)}, not a readable {FORMAT.name}; {RENAME}")
    stream.seek(found.end())
    numbers = [float(text) for text in found.groups()]
    if min(numbers[:2]) < 1:
        raise IngestError("it has no pixels; leave it out")
    return head[1:2], (int(numbers[0]), int(numbers[1])), numbers[2] if fields == 3 else 1


def _read_integers(stream: BinaryIO, shape: tuple[int, ...], largest: float, kind: bytes) -> Array:
    if not (1 <= largest <= 65535 and largest == int(largest)):
        raise IngestError(f"its largest value is {largest}; it must be from 1 to 65535")
    dtype = np.dtype(">u2" if largest > 255 else "u1")
    if kind in b"56":
        return _read_raw(stream, shape, dtype)
    return _read_words(stream, shape, int(largest)).astype(dtype.newbyteorder("="))


def _read_floats(stream: BinaryIO, shape: tuple[int, ...], scale: float) -> Array:
    """Read floats, whose rows go from the bottom up; the sign of the scale tells their order."""
    return _read_raw(stream, shape, np.dtype("<f4" if scale < 0 else ">f4"))[::-1]


def _read_bits(stream: BinaryIO, shape: tuple[int, ...], kind: bytes) -> Array:
    if kind == b"4":
        rows = _read_raw(stream, (shape[0], -(-shape[1] // 8)), np.dtype(np.uint8))
        bits = np.unpackbits(rows, axis=1, count=shape[1])
    else:
        bits = _read_words(stream, shape, 1)
    return np.where(bits, 0, 255).astype(np.uint8)


def _read_raw(stream: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Read binary numbers; raise IngestError if they end too soon, or another image follows."""
    expected = math.prod(shape) * dtype.itemsize
    content = stream.read(expected + 3)
    if len(content) < expected:
        raise IngestError(
            f"it is cut short: it has {len(content):,} of {expected:,} bytes of pixels; fetch it "
            "again or leave it out"
        )
    if re.match(rb"P[1-7Ff]\s", content[expected:]):
        raise IngestError("it holds several images; split it into one file per image")
    pixels = np.frombuffer(content, dtype, math.prod(shape)).reshape(shape)
    return pixels.astype(dtype.newbyteorder("="), copy=False)


def _read_words(stream: BinaryIO, shape: tuple[int, ...], largest: int) -> Array:
    """Read decimal numbers; those of one bit need no blanks between them."""
    expected = math.prod(shape)
    text = re.sub(rb"#[^\r\n]*", b" ", stream.read(BYTES_PER_NUMBER * expected + MAX_HEADER))
    if not re.fullmatch(rb"[\d\s]*", text):
        raise IngestError("it has something else than numbers as pixels; mend it or leave it out")
    if largest == 1:
        digits = np.frombuffer(text, np.uint8)
        numbers = digits[digits >= ord("0")].astype(np.int64) - ord("0")
    else:
        numbers = np.fromstring(text.decode(), np.int64, sep=" ")
    if not text.strip() or numbers.size != expected or numbers.max() > largest:
        raise IngestError(
            f"it has {numbers.size:,} of {expected:,} pixels, or some above {largest}; fetch it "
            "again or leave it out"
        )
    return numbers.reshape(shape)
