"""TIFF of one image and up to 8 bits per colour, decoded by Pillow where tifffile is missing.

Pillow gives 8 of 16 bits per colour, the first image of a stack, signed bytes as unsigned ones,
and more, each without a warning. So what the file says about itself is compared with what the
decoder gives: the numbers of the file are kept, or the file is refused.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
from PIL import Image

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.formats.file import ImageFile, named_errors
from dnmf.io.sources.formats.orientation import turn_upright
from dnmf.io.sources.formats.pillow import ORIENTATION, as_image, open_picture, to_pixels
from dnmf.io.sources.image_array import ImageArray

ADVICE = "install the reader of all TIFF: pip install 'dnmf[tiff]'"
"""What to do about a TIFF that Pillow does not read as it is."""

_BITS_PER_PIXEL = 258
_PHOTOMETRIC = 262
_DESCRIPTION = 270
_SAMPLES_PER_PIXEL = 277
_SAMPLE_FORMAT = 339
_IMAGE_DEPTH = 32997
_METAMORPH_PLANES = 33629


def open_simple_tiff(file: ImageFile) -> ImageArray:
    """Decode a TIFF with Pillow, upright, with the numbers that are in the file.

    Of one in which white is zero the pixels are the brightness: the largest value minus the number.

    Raises
    ------
    IngestError
        The file cannot be decoded, or would not keep its numbers; the message begins with its name.
    """
    # By its path, Pillow maps a TIFF into memory, and one that lies on its side is scrambled.
    with (
        named_errors(file),
        file.open() as stream,
        open_picture(stream, ("TIFF",), ADVICE) as image,
    ):
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise IngestError(f"it holds {frames} images; {ADVICE}")
        _check_planes(image, tags)
        bits = max(tags.get(_BITS_PER_PIXEL, (1,)))
        _check_numbers(image, tags, bits)
        pixels, colors = to_pixels(image)
        pixels = _restore(pixels, image.mode, tags, bits)
        return as_image(turn_upright(pixels, tags.get(ORIENTATION, 1)), colors, file)


def _check_numbers(image: Image.Image, tags: Any, bits: int) -> None:
    """Raise IngestError if the decoder gives fewer bits than the file has, or other channels."""
    given = 16 if image.mode.startswith("I;16") else 32 if image.mode in ("I", "F") else 8
    if bits > given:
        raise IngestError(
            f"it is a TIFF of {bits} bits per colour, of which Pillow keeps {given}; {ADVICE}"
        )
    if 2 in tags.get(_SAMPLE_FORMAT, (1,)) and image.mode not in ("I", "F"):
        raise IngestError(f"it is a TIFF of signed {bits}-bit numbers; {ADVICE}")
    samples, bands = tags.get(_SAMPLES_PER_PIXEL, 1), len(image.getbands())
    if samples != bands:
        raise IngestError(
            f"it is a TIFF of {samples} channels, of which Pillow keeps {bands}; {ADVICE}"
        )
    if tags.get(_PHOTOMETRIC) == 0 and image.mode == "F":
        raise IngestError(f"it is a TIFF of floats in which white is 0; {ADVICE}")


def _restore(pixels: Array, mode: str, tags: Any, bits: int) -> Array:
    """Return the numbers of the file in a dtype of their own bits, and as brightness."""
    if mode == "I":  # 32 bits, to which the decoder widens signed ones of 16
        signed = 2 in tags.get(_SAMPLE_FORMAT, (1,))
        pixels = pixels.astype(np.int16) if bits == 16 and signed else pixels
        pixels = pixels if signed else pixels.view(np.uint32)
    if tags.get(_PHOTOMETRIC) == 0 and mode not in ("1", "L", "P"):  # these the decoder inverts
        largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "i" else 2**bits - 1
        return np.subtract(largest, pixels, dtype=pixels.dtype)
    return pixels


def _check_planes(image: Image.Image, tags: Any) -> None:
    """Raise IngestError if more images lie behind the only directory of a TIFF."""
    text = str(tags.get(_DESCRIPTION, ""))
    found = re.search(r"^images=(\d+)", text, re.M) if text.startswith("ImageJ=") else None
    planes = [tags.get(_IMAGE_DEPTH, 1), int(found[1]) if found else 1]
    planes.append(np.size(tags.get(_METAMORPH_PLANES, 0)))
    if text.startswith("{"):  # tifffile writes the shape of its arrays as JSON
        planes.append(_shaped_size(text) // math.prod((*image.size, len(image.getbands()))))
    if max(planes) > 1:
        raise IngestError(
            f"it is a stack of {max(planes)} images in one TIFF directory, of which Pillow gives "
            f"the first; {ADVICE}"
        )


def _shaped_size(text: str) -> int:
    """Return the number of pixels in the shape that tifffile has described; 0 without one."""
    try:
        return math.prod(json.loads(text)["shape"])
    except (ValueError, KeyError, TypeError):
        return 0
