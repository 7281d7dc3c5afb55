"""The interface of a source of images, and how paths become one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.array_files import open_array_file
from dnmf.io.sources.arrays import ArrayImages
from dnmf.io.sources.image_files import SUFFIXES, Size, describe_images, open_image_files

COLORS = ("gray", "rgb")


class Source(Protocol):
    """Images in a fixed order, read by range; picklable, so that any process can read.

    Attributes
    ----------
    image_shape : tuple of int
        (h, w), (h, w, channels) or (p,).
    dtype : numpy.dtype
    """

    @property
    def image_shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the ids of images `start` to `stop - 1`."""
        ...

    def read(self, start: int, stop: int) -> Array:
        """Read images `start` to `stop - 1` as ``(stop - start,) + image_shape``.

        Raises
        ------
        IngestError
            An image cannot be read, or is not like the others.
        """
        ...


@dataclass(frozen=True)
class Stack:
    """Sources of images of one shape and dtype, one after the other; see `Source`."""

    parts: Sequence[Source]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of each image."""
        return self.parts[0].image_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of each image."""
        return self.parts[0].dtype

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the ids that the parts give to their images."""
        return [name for part, a, b in self._ranges(start, stop) for name in part.ids(a, b)]

    def read(self, start: int, stop: int) -> Array:
        """Read images across the parts; see `Source.read`."""
        return np.concatenate([part.read(a, b) for part, a, b in self._ranges(start, stop)])

    def _ranges(self, start: int, stop: int) -> list[tuple[Source, int, int]]:
        """List the parts that hold a range of images, with the range in each of them."""
        ranges, first = [], 0
        for part in self.parts:
            a, b = max(start - first, 0), min(stop - first, len(part))
            if a < b:
                ranges.append((part, a, b))
            first += len(part)
        return ranges


def open_source(
    paths: Sequence[str | os.PathLike[str]], *, size: Size | None = None, color: str | None = None
) -> Source:
    """Open image files, folders of them, or array files as one source.

    Parameters
    ----------
    paths : sequence of paths
        Folders (searched with their subfolders) and image files, in one list; or IDX (``.gz``
        too) and ``.npy`` files, one after the other.
    size : (h, w), optional
        Size to which every image is resized, averaging over areas.
    color : "gray" or "rgb", optional
        Colours to which every image is converted; without it all must be alike.

    Returns
    -------
    Source

    Raises
    ------
    IngestError
        A path does not exist or holds no images, images and arrays are mixed, or a parameter is
        out of its range.
    """
    check_options(size, color)
    files = [Path(path).absolute() for path in paths]
    for path in files:
        if not path.exists():
            raise IngestError(f"{path} does not exist; give folders, image files, IDX or .npy")
    arrays = [path for path in files if path.is_file() and path.suffix.lower() not in SUFFIXES]
    if not arrays:
        return open_image_files(files, size, color)
    if len(arrays) < len(files):
        raise IngestError(
            f"{arrays[0]} is an array file and {next(f for f in files if f not in arrays)} is not; "
            "ingest images and arrays into separate corpora"
        )
    return _stack([open_array_file(path, size, color) for path in arrays])


def check_options(size: Any, color: Any) -> None:
    """Raise IngestError unless size and colours are among those of `open_source`."""
    if color not in (None, *COLORS):
        raise IngestError(f"color is {color!r}; it must be 'gray' or 'rgb'")
    if size is None:
        return
    if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(x, int) for x in size)):
        raise IngestError(f"size is {size!r}; it must be (height, width)")
    if min(size) < 1:
        raise IngestError(f"size is {size[0]}x{size[1]}; height and width must be at least 1")


def _stack(parts: Sequence[ArrayImages]) -> Source:
    first = parts[0]
    for part in parts[1:]:
        if (part.image_shape, part.dtype) != (first.image_shape, first.dtype):
            raise IngestError(
                f"{part.name} holds images of {describe_images(part.image_shape, part.dtype)}, but "
                f"{first.name} of {describe_images(first.image_shape, first.dtype)}; "
                "make them alike, or ingest them into separate corpora"
            )
    return first if len(parts) == 1 else Stack(parts)
