"""Decode an image file with Pillow, and refuse what Pillow would change without a word.

Pillow gives 8 of 16 bits per colour, the first image of a stack, signed bytes as unsigned ones,
and more, each without a warning. So what the file says about itself is compared with what the
decoder gives: the numbers of the file are kept, or the file is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dnmf.errors import IngestError

FORMATS = ("PNG", "JPEG", "TIFF", "PPM")
"""Formats that Pillow may open; it refuses a file of any other, whatever its suffix."""

MAX_PIXELS = 2**26
"""Largest number of pixels of an image: a file of some kilobytes can decompress to any number."""

TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels; cut it into tiles, shrink it or leave it out"

AS_ARRAY = "save the images as one .npy file of shape (images, height, width[, channels])"
"""What to do with pixels that no image format of `FORMATS` brings through Pillow."""

HEADER_BYTES = 4096
"""Bytes at the start of a file in which the headers of PNG and of PGM and PPM are looked for."""

_PNM_HEADER = re.compile(rb"P[2356](?:(?:\s|#[^\r\n]*[\r\n])+(\d+)){3}")
"""Header of PGM and PPM: width, height and the largest value, which is the group."""

_BITS_PER_PIXEL = 258
_PHOTOMETRIC = 262
_DESCRIPTION = 270
_SAMPLES_PER_PIXEL = 277
_SAMPLE_FORMAT = 339
_IMAGE_DEPTH = 32997
_METAMORPH_PLANES = 33629


def decode_image(path: Path, *, convert: bool) -> Image.Image:
    """Decode an image file, upright, with the numbers that are in the file.

    Parameters
    ----------
    path : Path
    convert : bool
        Whether the colours are converted afterwards: then 1, 2 and 4 bits are scaled to 8.

    Returns
    -------
    PIL.Image.Image
        Of a white-is-zero TIFF the brightness, which is the largest value minus the number.

    Raises
    ------
    IngestError
        The file cannot be opened or decoded, or would not keep its numbers.
    """
    try:
        # By its path, Pillow maps a TIFF into memory, and one that lies on its side is scrambled.
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                return _decode(image, head, convert)
    except IngestError as error:
        raise IngestError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise IngestError(f"{path} is {_describe_unknown(head)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise IngestError(f"{path}: {TOO_LARGE}") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise IngestError(f"{path} cannot be read ({error}); mend it or leave it out") from error


def _decode(image: Image.Image, head: bytes, convert: bool) -> Image.Image:
    if image.size[0] * image.size[1] > MAX_PIXELS:  # the header says so: nothing is decoded
        raise IngestError(TOO_LARGE)
    if (frames := getattr(image, "n_frames", 1)) > 1:
        raise IngestError(f"it holds {frames} images; split it into one file per image")
    restore: Callable[[Image.Image], Image.Image] | None = None
    if image.format == "PNG":
        _check_depth(image, head[24], convert)
    elif image.format == "TIFF":
        restore = _check_tiff(image, convert)
    elif image.format == "PPM":
        restore = _check_pnm(image, head)
    upright = ImageOps.exif_transpose(image)
    return upright if restore is None else restore(upright)


def _check_depth(image: Image.Image, bits: int, convert: bool) -> None:
    """Raise IngestError if the decoder gives fewer bits than the file has, or scales them."""
    given = 16 if image.mode.startswith("I;16") else 32 if image.mode in ("I", "F") else 8
    if bits > given:
        raise IngestError(
            f"it is a {image.format} of {bits} bits per colour, of which the decoder keeps "
            f"{given}; dnmf takes 8 bits per colour, and of grey 16 bits or 32-bit floats: "
            f"convert it to one of these, or {AS_ARRAY}"
        )
    if bits in (2, 4) and image.mode == "L" and not convert:
        raise IngestError(
            f"it is a {image.format} of {bits} bits per pixel; pass --color gray to scale them to "
            f"8 bits, in which white is 255, or {AS_ARRAY}"
        )


def _check_tiff(image: Image.Image, convert: bool) -> Callable[[Image.Image], Image.Image] | None:
    """Raise IngestError unless the numbers of a TIFF are kept; return what restores them."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    _check_planes(image, tags)
    bits = max(tags.get(_BITS_PER_PIXEL, (1,)))
    _check_depth(image, bits, convert)
    if 2 in tags.get(_SAMPLE_FORMAT, (1,)) and image.mode not in ("I", "F"):
        raise IngestError(f"it is a TIFF of signed {bits}-bit numbers; {AS_ARRAY}")
    samples, bands = tags.get(_SAMPLES_PER_PIXEL, 1), len(image.getbands())
    if samples != bands:
        raise IngestError(
            f"it is a TIFF of {samples} channels, of which the decoder keeps {bands}; {AS_ARRAY}"
        )
    if tags.get(_PHOTOMETRIC) != 0 or image.mode in ("1", "L"):  # these the decoder inverts
        return None
    if image.mode == "F":
        raise IngestError(
            f"it is a TIFF of floats in which white is 0; invert it to black is 0, or {AS_ARRAY}"
        )
    return lambda upright: Image.fromarray(2**bits - 1 - np.asarray(upright).astype(np.int32))


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
            f"it is a stack of {max(planes)} images in one TIFF directory, of which the decoder "
            f"gives the first; save it as one file per image, or {AS_ARRAY}"
        )


def _shaped_size(text: str) -> int:
    """Return the number of pixels in the shape that tifffile has described; 0 without one."""
    try:
        return math.prod(json.loads(text)["shape"])
    except (ValueError, KeyError, TypeError):
        return 0


def _check_pnm(image: Image.Image, head: bytes) -> Callable[[Image.Image], Image.Image] | None:
    """Raise IngestError if a PGM or PPM loses bits; return what undoes the decoder's scaling."""
    if image.mode in ("1", "F"):
        return None
    found = _PNM_HEADER.match(head)
    if found is None:
        raise IngestError(
            f"its header has more than {HEADER_BYTES} bytes; write it without comments"
        )
    largest, full = int(found[1]), 65535 if image.mode == "I" else 255
    if largest > full:
        _check_depth(image, 16, convert=True)
    if largest == full:
        return None

    def restore(scaled: Image.Image) -> Image.Image:
        numbers = np.rint(np.asarray(scaled) * (largest / full))
        return Image.fromarray(numbers.astype(np.int32 if image.mode == "I" else np.uint8))

    return restore


def _describe_unknown(head: bytes) -> str:
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return f"a TIFF whose kind of pixels the decoder does not know; {AS_ARRAY}"
    return f"not an image that dnmf reads ({', '.join(FORMATS)}); leave it out"
