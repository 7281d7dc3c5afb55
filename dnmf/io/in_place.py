"""Images that are fitted without a copy: arrays in Zarr, HDF5 and NumPy files.

An array is read in blocks of whole images. If each chunk holds a part of many images, chunks would
be read again for each block. Such an array must be ingested.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dnmf._format import format_bytes, format_shape
from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.estimators.inputs import blocks_of, compute_fingerprints
from dnmf.estimators.rows import Rows
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.formats.registry import open_image_file
from dnmf.io.sources.formats.zarr_arrays import FORMAT as ZARR
from dnmf.io.sources.image_array import ImageRows, find_images
from dnmf.storage.paths import absolute, is_url, normalize_path

MOST_BYTES = 2**29
"""Largest number of bytes of images that share their chunks, since a task holds all of them."""


class ImagesInPlace(Rows):
    """Images of an array on disk, as a matrix of one row per image.

    Workers open the array by its path.

    Parameters
    ----------
    path : str
    choices : Choices
        Which array, and how images lie in it.

    Attributes
    ----------
    path : str
    image_shape : tuple of int
        (h, w), (h, w, channels) or (p,).

    Raises
    ------
    DataError
        If the array cannot be read in blocks of whole images.
    """

    def __init__(self, path: str, choices: Choices) -> None:
        self.path, self._choices = absolute(normalize_path(path)), choices
        self._images = _find(self.path, choices)
        super().__init__(_Matrix(self._images))
        self.image_shape = self._images.image_shape
        if hasattr(self._images.source.array, "store") or isinstance(
            self._images.source.array, np.ndarray
        ):
            self._lock = nullcontext()
        _require_small_chunks(self.path, self)

    @property
    def columns(self) -> dict[str, str]:
        """Columns of metadata: none."""
        return {}

    @property
    def rows(self) -> dict[str, Any] | None:
        """How the images fold into maps: names and lengths of several axes that count them."""
        axes, shape = self._images.row_axes, self._images.row_shape
        return {"axes": list(axes), "shape": list(shape)} if len(shape) > 1 else None

    @cached_property
    def block_rows(self) -> int:
        """Number of images in a block of a pass."""
        start, stop = blocks_of(self).ranges[0]
        return stop - start

    @property
    def n_blocks(self) -> int:
        """Number of blocks of a pass."""
        return -(-len(self) // self.block_rows)

    @cached_property
    def fingerprint(self) -> int:
        """Checksum of the first block."""
        return int(compute_fingerprints(self, blocks_of(self))["fingerprint"] or 0)

    def block_ids(self, index: int) -> list[str]:
        """Return the numbers of the images of a block along the axes of the array."""
        start = index * self.block_rows
        return self._images.ids(start, min(start + self.block_rows, len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._choices)

    def __repr__(self) -> str:
        return (
            f"<Images of {self.path}: {len(self):,} of {format_shape(self.image_shape)} "
            f"{self.dtype}, {format_bytes(math.prod(self.shape) * self.dtype.itemsize)}>"
        )


class _Matrix:
    """The images of an array as rows of a matrix; see `Rows` for what that needs."""

    def __init__(self, images: ImageRows) -> None:
        self._images = images
        self.shape = len(images), math.prod(images.image_shape)
        self.dtype = images.dtype
        self.chunks = _rows_together(images), self.shape[1]

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        stop = max(start, stop)
        return self._images.read(start, stop).reshape(stop - start, -1)


def _find(path: str, choices: Choices) -> ImageRows:
    whole, mark, key = path.rpartition("::")
    if mark and not os.path.lexists(path):
        path, choices = whole, replace(choices, array=key)
    local = None if is_url(path) else Path(path)
    file = ImageFile(path, partial(_open, path), local)
    opened = ZARR.open(file, choices) if local is None else open_image_file(file, choices)
    return find_images(opened, choices)


def _open(path: str) -> BinaryIO:
    return open(path, "rb")


@lru_cache(maxsize=8)
def _reopen(path: str, choices: Choices) -> ImagesInPlace:
    return ImagesInPlace(path, choices)


def _rows_together(images: ImageRows) -> int:
    """Return how many images must be read together, so that each chunk is read once."""
    array, rows, together = images.source.array, images.selection.rows, 1
    lengths = images.selection.lengths(rows)
    for number, axis in enumerate(rows):
        if (chunk := min(_chunk_length(array, axis, images.selection.image), lengths[number])) > 1:
            together = chunk * math.prod(lengths[number + 1 :])
            break
    return together


def _chunk_length(array: Any, axis: int, image: Sequence[int]) -> int:
    """Return how many images along an axis are stored together; of a NumPy array one or all."""
    chunks = getattr(array, "shards", None) or getattr(array, "chunks", None)
    if chunks is not None:
        return int(chunks[axis])
    strides = getattr(array, "strides", None)
    is_inner = strides is not None and abs(strides[axis]) < max(abs(strides[i]) for i in image)
    return int(array.shape[axis]) if is_inner else 1


def _require_small_chunks(path: str, images: ImagesInPlace) -> None:
    together = images.chunk_rows * images.shape[1] * images.dtype.itemsize
    if together > MOST_BYTES:
        raise DataError(
            f"{path} is stored in chunks that {images.chunk_rows:,} images share, "
            f"{format_bytes(together)} to be read for each block of them: copy it into a corpus "
            f"with `dnmf ingest {path} NEW.zarr` and the same options, then fit that"
        )
