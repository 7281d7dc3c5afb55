"""A file that may hold images, and the interface of a format that opens it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from dnmf.errors import IngestError

if TYPE_CHECKING:
    from dnmf.io.sources.choices import Choices
    from dnmf.io.sources.image_array import ImageArray


@dataclass(frozen=True)
class ImageFile:
    """A file on a disk, behind a URL or inside an archive.

    Attributes
    ----------
    name : str
        What messages call it: its path, its URL, or the path of its archive and its name in it.
    open : callable
        Opens it for reading in binary mode, seekable.
    path : path or None
        Where it lies on a disk of this machine; None if it does not.
    """

    name: str
    open: Callable[[], BinaryIO]
    path: str | os.PathLike[str] | None = None


class Format(Protocol):
    """A format of image files.

    Attributes
    ----------
    name : str
        Such as ``TIFF``.
    suffixes : tuple of str
        Ends of the names of such files, in lower case, such as ``.tif``.
    """

    name: str
    suffixes: tuple[str, ...]

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is of the format by its first bytes, whatever its name."""
        ...

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Open a file; decode its pixels now, or lazily when they are read.

        Raises
        ------
        IngestError
            It cannot be read, or is not of this format; the message begins with its name.
        """
        ...


MAX_PIXELS = 2**26
"""Largest number of pixels of an image that is decoded at once: a file of some kilobytes can
decompress to any number."""

TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels; cut it into tiles, shrink it or leave it out"
"""What is said of an image with more pixels."""


def check_size(height: int, width: int) -> None:
    """Raise IngestError if an image has too many pixels to be decoded, by what its header says."""
    if height * width > MAX_PIXELS:
        raise IngestError(TOO_LARGE)


class named_errors:  # noqa: N801
    """Turn every error of a reader into an IngestError that begins with the name of the file.

    Decoders meet damaged files with errors of any kind, which must not end an ingest. A class,
    since a generator would take a part of the time in which a small file is decoded.
    """

    def __init__(self, file: ImageFile | ImageArray) -> None:
        self.file = file

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raise the error again, with the name of the file."""
        if isinstance(error, IngestError):
            raise IngestError(f"{self.file.name}: {error}") from None
        if isinstance(error, Exception):
            text = str(error) or type(error).__name__
            raise IngestError(
                f"{self.file.name} cannot be read ({text}); mend it or leave it out"
            ) from error


def require_unpacked(attributes: Mapping[str, Any]) -> None:
    """Raise IngestError if the numbers of an array stand for others, as netCDF packs them."""
    scale, offset = attributes.get("scale_factor", 1), attributes.get("add_offset", 0)
    if scale != 1 or offset != 0:
        raise IngestError(
            f"its numbers are packed: times {scale}, plus {offset}; open it with xarray, and "
            "ingest the DataArray: dnmf.ingest(dataset[NAME], PATH)"
        )
