"""NIfTI volumes of brain imaging, by nibabel: slices, and series of volumes.

Voxels keep the order in which they are stored; they are not turned to the axes of the body.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, named_errors
from dnmf.io.sources.formats.registry import require
from dnmf.io.sources.image_array import ImageArray

_NAMES = ("x", "y", "z", "t", "u", "v", "w")
"""Names of the axes of a volume, as the standard has them."""

VOLUME_BYTES = 2**33
"""Largest compressed volume, or volume in an archive, that is read: it must be in memory."""


@dataclass(frozen=True)
class NiftiVolumes:
    """The format of NIfTI files; see `Format`."""

    name: str = "NIfTI"
    suffixes: tuple[str, ...] = (".nii", ".nii.gz")

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is NIfTI by its first bytes."""
        return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Open a volume; slices of it are read when they are asked for, unless it is compressed."""
        nibabel = require("nibabel", "science")
        with named_errors(file):
            if file.path is not None and file.name.lower().endswith(".nii"):
                volume = _Volume(nibabel.load(file.path).dataobj)
                return ImageArray(volume, _NAMES[: len(volume.shape)], file.name)
            content = _read(file)
            is_second = content[4:8] == b"n+2\0"
            kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
            image = kind.from_stream(io.BytesIO(content))
            pixels = np.asanyarray(image.dataobj)
            return ImageArray(pixels, _NAMES[: pixels.ndim], file.name)


FORMAT = NiftiVolumes()


class _Volume:
    """A volume on a disk, with the type that its scaled numbers have."""

    def __init__(self, array: Any) -> None:
        self._array, self.shape = array, tuple(array.shape)
        self.dtype = np.asanyarray(array[(slice(0, 1),) * len(self.shape)]).dtype

    def __getitem__(self, key: Any) -> Array:
        """Read slices."""
        parts = key if isinstance(key, tuple) else (key,)
        numbers: Array = np.asanyarray(self._array[parts])
        return numbers.astype(self.dtype, copy=False)


def _read(file: ImageFile) -> bytes:
    """Read a file as a whole, decompressed."""
    with file.open() as stream:
        if file.name.lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=stream) as decompressed:
                content = decompressed.read(VOLUME_BYTES + 1)
        else:
            content = stream.read(VOLUME_BYTES + 1)
    if len(content) > VOLUME_BYTES:
        raise IngestError(f"it has more than {VOLUME_BYTES:,} bytes; decompress it first")
    return content
