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

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

MOST_PIXELS = 2**31
"""Largest number of pixels of all frames of a file, which are decoded together."""


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
            if not any(name in found for name in _PIXELS):
                raise IngestError("it holds no pixels; leave it out")
            check_size(int(found.Rows), int(found.Columns))
            n_pixels = int(found.Rows) * int(found.Columns) * int(found.get("NumberOfFrames") or 1)
            if n_pixels > MOST_PIXELS:
                raise IngestError(f"it has more than {MOST_PIXELS:,} pixels; split it by frames")
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
    least, most = _stored_range(found)
    scales = _scales_of(found)
    if "ModalityLUTSequence" in found:
        return np.asarray(pydicom.pixels.apply_modality_lut(pixels, found)), None
    if kind == "MONOCHROME1":  # the least number is white
        pixels = least + most - pixels.astype(np.int64)
    if len(scales) > 1:
        return np.stack([_rescaled(*pair) for pair in zip(pixels, scales, strict=True)]), None
    return _smallest(_rescaled(pixels, scales[0]), pixels.dtype), None


def _stored_range(found: Any) -> tuple[int, int]:
    """Return the least and the largest number that a pixel can have."""
    bits = int(found.get("BitsStored", 16))
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if found.get("PixelRepresentation") else (
        0, 2**bits - 1,
    )  # fmt: skip


def _scales_of(found: Any) -> list[tuple[float, float]]:
    """Return slope and intercept, for all frames together or for each."""
    shared = (found.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = found.get("PerFrameFunctionalGroupsSequence") or []
    places = [group for group in (shared, found) if _has_scale(group)]
    if not places and frames and all(map(_has_scale, frames)):
        return [_scale_of(frame) for frame in frames]
    return [_scale_of(places[0])] if places else [(1.0, 0.0)]


def _has_scale(group: Any) -> bool:
    return group is not None and (
        "PixelValueTransformationSequence" in group or "RescaleSlope" in group
    )


def _scale_of(group: Any) -> tuple[float, float]:
    inner = (group.get("PixelValueTransformationSequence") or [group])[0]
    return float(inner.get("RescaleSlope", 1)), float(inner.get("RescaleIntercept", 0))


def _rescaled(pixels: Array, scale: tuple[float, float]) -> Array:
    """Apply slope and intercept; integers stay integers where these are integers, too."""
    slope, intercept = scale
    if slope == 1 and intercept == 0:
        return pixels
    if slope.is_integer() and intercept.is_integer() and pixels.dtype.kind in "ui":
        return pixels.astype(np.int64) * int(slope) + int(intercept)
    return (pixels * slope + intercept).astype(np.float32)


def _smallest(pixels: Array, stored: np.dtype[Any]) -> Array:
    """Return integers in the type that they were stored in, or else a wider one that holds them."""
    if pixels.dtype.kind == "f" or not pixels.size:
        return pixels
    for dtype in (stored, np.dtype(np.int32), np.dtype(np.int64)):
        limits = np.iinfo(dtype)
        if limits.min <= pixels.min() and pixels.max() <= limits.max:
            return pixels.astype(dtype)
    return pixels
