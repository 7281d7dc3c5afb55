"""DICOM images of medicine, by pydicom: single frames, several of them, and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, check_size, named_errors
from dnmf.io.sources.formats.registry import require
from dnmf.io.sources.image_array import ImageArray


@dataclass(frozen=True)
class DicomImages:
    """The format of DICOM files; see `Format`."""

    name: str = "DICOM"
    suffixes: tuple[str, ...] = (".dcm", ".dicom", ".ima")

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is DICOM by its first bytes."""
        return head[128:132] == b"DICM"

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Decode the frames of a file to what they measure: rescaled, with white as most."""
        pydicom = require("pydicom", "science")
        require("pydicom.pixels", "science")
        with named_errors(file):
            with file.open() as stream:
                found = pydicom.dcmread(stream)
            if "PixelData" not in found and "FloatPixelData" not in found:
                raise IngestError("it holds no pixels; leave it out")
            check_size(int(found.Rows), int(found.Columns))
            pixels, colors = _decode(pydicom, found)
        axes = (
            ("t", "y", "x", "c") if int(found.get("NumberOfFrames") or 1) > 1 else ("y", "x", "c")
        )
        return ImageArray(pixels, axes[: pixels.ndim], file.name, colors)


FORMAT = DicomImages()


def _decode(pydicom: Any, found: Any) -> tuple[Array, str | None]:
    """Return the numbers of an image, and what its last axis means."""
    kind = str(found.PhotometricInterpretation)
    pixels: Array = pydicom.pixels.pixel_array(found)  # also turns YBR colours to rgb
    if kind == "PALETTE COLOR":
        colors = pydicom.pixels.apply_color_lut(pixels, found)
        return np.asarray(colors), "rgb" if colors.shape[-1] == 3 else "rgb+alpha"
    if int(found.SamplesPerPixel) > 1:
        return pixels, "rgb"
    pixels = _rescaled(pixels, found)
    if kind == "MONOCHROME1":  # the least number is white
        largest = 2 ** int(found.BitsStored) - 1
        top = _rescaled(np.array([largest], pixels.dtype), found)[0]
        pixels = (top - pixels).astype(pixels.dtype)
    return pixels, None


def _rescaled(pixels: Array, found: Any) -> Array:
    """Apply slope and intercept; integers stay integers where these are integers, too."""
    slope = float(found.get("RescaleSlope", 1) or 1)
    intercept = float(found.get("RescaleIntercept", 0) or 0)
    if (slope, intercept) == (1, 0):
        return pixels
    if slope.is_integer() and intercept.is_integer() and pixels.dtype.kind in "ui":
        return (pixels.astype(np.int64) * int(slope) + int(intercept)).astype(np.int32)
    return (pixels * slope + intercept).astype(np.float32)
