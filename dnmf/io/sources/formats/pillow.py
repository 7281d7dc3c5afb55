"""PNG, JPEG, GIF, BMP and WebP, decoded by Pillow to the numbers that are in the file.

Without a warning, Pillow returns 8 of 16 bits per colour, and indices instead of the colours of a
palette. Therefore the header of the file decides how its pixels are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, MpoImagePlugin, UnidentifiedImageError

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.content import HEAD_BYTES, describe_content
from dnmf.io.sources.formats.file import TOO_LARGE, ImageFile, check_size, named_errors
from dnmf.io.sources.formats.orientation import swaps_axes, turn_upright
from dnmf.io.sources.image_array import ImageArray

KINDS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
"""Formats that Pillow may open; it refuses a file of any other, whatever its suffix."""

_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")
"""First bytes of files of these formats, except of WebP."""

ORIENTATION = 274
"""EXIF tag that says which way up an image is."""

MP_ENTRIES = 0xB002
"""Tag of the list of the images in a JPEG that holds several."""

_CONVERTED_MODES = ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La")
"""Pillow's modes of 8-bit colours that are converted to rgb; the numbers of others are pixels."""

RENAME = "give it the suffix of its format, or leave it out"
"""What to do about a file that is none of the formats of its suffix."""

_COLORS = {1: None, 2: "gray+alpha", 3: "rgb", 4: "rgb+alpha"}
"""What channels are by their number."""

_HOMES_OF_EXIF = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Names under which Pillow has the places of the orientation."""

_REDUCTIONS = (8, 4, 2)
"""Factors by which the decoder of JPEG can shrink an image while it decodes."""


@dataclass(frozen=True)
class PillowImages:
    """The format of image files that Pillow decodes; see `Format`."""

    name: str = "PNG, JPEG, GIF, BMP or WebP"
    suffixes: tuple[str, ...] = (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".webp"),
    )

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is of one of the formats by its first bytes."""
        return head.startswith(_BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Decode an image; the frames of an animation are decoded when they are read."""
        with named_errors(file), file.open() as stream, open_picture(stream) as image:
            if _count_frames(image) > 1:
                return _open_frames(file, image, choices)
            pixels, colors = _decode(image, stream, choices)
        return as_image(pixels, colors, file)


FORMAT = PillowImages()


def open_picture(
    stream: BinaryIO, kinds: tuple[str, ...] = KINDS, advice: str = RENAME
) -> Image.Image:
    """Open a file with Pillow, and check its size; no pixels are decoded.

    Raises
    ------
    IngestError
        It is of none of these kinds, for which the advice tells what to do, or too large.
    """
    try:
        image = Image.open(stream, formats=kinds)
    except UnidentifiedImageError:
        stream.seek(0)
        raise IngestError(
            f"it is {describe_content(stream.read(HEAD_BYTES))}, not one of {', '.join(kinds)} "
            f"that Pillow reads; {advice}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise IngestError(TOO_LARGE) from None
    check_size(image.height, image.width)
    return image


def as_image(pixels: Array, colors: str | None, file: ImageFile) -> ImageArray:
    """Return one image of a file as an array with named axes."""
    return ImageArray(
        pixels, ("y", "x") if pixels.ndim == 2 else ("y", "x", "c"), file.name, colors
    )


def _decode(image: Image.Image, stream: BinaryIO, choices: Choices) -> tuple[Array, str | None]:
    """Decode an opened image, upright.

    Returns
    -------
    ndarray of shape (h, w) or (h, w, channels), str or None
        Its pixels, and what its channels are; see `ImageArray`.
    """
    orientation = _orientation_of(image)
    if image.format in ("JPEG", "MPO"):
        _shrink_while_decoding(image, choices, swaps_axes(orientation))
        pixels, colors = to_pixels(image)
    elif image.format == "PNG":
        bits = _png_bits(stream)
        if bits == 16 and image.mode != "I;16":
            pixels, colors = _decode_deep_png(image, stream)
        else:
            pixels, colors = to_pixels(image, 255 // (2 ** min(bits, 8) - 1))
    else:
        pixels, colors = to_pixels(image)
    return pixels if orientation == 1 else turn_upright(pixels, orientation), colors


def _orientation_of(image: Image.Image) -> int:
    """Return the value of the orientation tag; 1, upright, if EXIF is missing or damaged."""
    if image.format not in ("JPEG", "MPO"):  # these have it before the pixels, others also behind
        image.load()
    if image.info.keys().isdisjoint(_HOMES_OF_EXIF):
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF does not make the pixels unusable
        return 1


def _shrink_while_decoding(image: Image.Image, choices: Choices, swapped: bool) -> None:
    """Let the decoder of JPEG do what it does faster: convert to grey, and shrink.

    Its grey is the brightness that JPEG itself stores. It shrinks by whole factors that divide
    the image, to no less than the size that is asked for.
    """
    mode = "L" if choices.color == "gray" and image.mode == "RGB" else image.mode
    width, height = image.size
    if choices.size is not None and choices.crop is None and choices.patches is None:
        high, wide = choices.size[::-1] if swapped else choices.size
        for factor in _REDUCTIONS:
            fits = width >= wide * factor and height >= high * factor
            if fits and width % factor == 0 and height % factor == 0:
                image.draft(mode, (width // factor, height // factor))
                return
    image.draft(mode, None)


def _png_bits(stream: BinaryIO) -> int:
    """Return the bits per colour that the header of a PNG says."""
    place = stream.tell()
    stream.seek(24)
    bits = stream.read(1)[0]
    stream.seek(place)
    return bits


def _decode_deep_png(image: Image.Image, stream: BinaryIO) -> tuple[Array, str | None]:
    """Decode a PNG of 16 bits per colour, of which Pillow would keep 8."""
    try:
        import imagecodecs
    except ImportError as error:
        raise IngestError(
            "it is a PNG of 16 bits per colour, which needs imagecodecs: pip install 'dnmf[tiff]'"
        ) from error
    limit = 2**20 + 9 * image.width * image.height  # more than the bytes of pixels, if any repeat
    stream.seek(0)
    content = stream.read(limit + 1)
    if len(content) > limit:
        raise IngestError("it is larger than a PNG of its size can be; leave it out")
    pixels = imagecodecs.png_decode(content)
    return pixels, _COLORS[pixels.shape[2]]


def to_pixels(image: Image.Image, step: int = 1) -> tuple[Array, str | None]:
    """Return the pixels that Pillow has decoded, in one of the kinds of colours of dnmf.

    Parameters
    ----------
    image : PIL.Image.Image
    step : int
        What the decoder has multiplied grey by, if it had less than 8 bits.

    Returns
    -------
    ndarray of shape (h, w) or (h, w, channels), str or None
        Black and white as 0 and 255, palettes as rgb, or grey if all their colours are grey; and
        what the channels are.
    """
    if image.mode in ("P", "PA"):
        return _from_palette(image)
    if image.mode in _CONVERTED_MODES:
        image = image.convert("RGBA" if image.mode in ("RGBa", "La") else "RGB")
    pixels = np.asarray(image)
    if image.mode == "1":
        pixels = pixels * np.uint8(255)
    key = image.info.get("transparency")
    if key is not None and image.mode in ("1", "L", "I;16", "RGB"):
        if image.mode == "1":
            key = 255 * bool(key)
        elif image.mode == "L":
            key *= step
        return _with_alpha(pixels, key)
    return pixels, _COLORS[1 if pixels.ndim == 2 else pixels.shape[2]]


def _from_palette(image: Image.Image) -> tuple[Array, str | None]:
    """Return the colours behind the indices of an image with a palette."""
    if image.mode == "PA":
        return np.asarray(image.convert("RGBA")), "rgb+alpha"
    image.load()
    image.apply_transparency()
    table = np.zeros((256, 4), np.uint8)
    palette = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)
    table[: len(palette)] = palette
    is_gray = bool((palette[:, :3] == palette[:, :1]).all())
    channels = ([0] if is_gray else [0, 1, 2]) + [3] * bool((palette[:, 3] < 255).any())
    pixels = table[:, channels][np.asarray(image)]
    return (pixels[..., 0], None) if len(channels) == 1 else (pixels, _COLORS[len(channels)])


def _with_alpha(pixels: Array, key: Any) -> tuple[Array, str | None]:
    """Return pixels with a channel of transparency, 0 where they have the transparent colour."""
    colors = pixels if pixels.ndim == 3 else pixels[..., None]
    opaque = np.iinfo(pixels.dtype).max
    alpha = np.where((colors == key).all(axis=2, keepdims=True), 0, opaque).astype(pixels.dtype)
    pixels = np.concatenate([colors, alpha], axis=2)
    return pixels, _COLORS[pixels.shape[2]]


def _count_frames(image: Image.Image) -> int:
    """Return the number of images of a file that are meant to be seen one by one.

    A photo of a phone often has further images behind it, such as a small one to preview it; they
    are left alone, unless the file says that they are frames of a stereo pair or a panorama.
    """
    if isinstance(image, MpoImagePlugin.MpoImageFile):
        listed: Any = image.mpinfo
        kinds = [entry["Attribute"]["MPType"] for entry in listed[MP_ENTRIES]]
        return len(kinds) if any(kind.startswith("Multi-Frame") for kind in kinds) else 1
    return getattr(image, "n_frames", 1)


def _open_frames(file: ImageFile, image: Image.Image, choices: Choices) -> ImageArray:
    """Return the frames of an animation: grey if its first frame is, else rgb."""
    if image.mode.startswith("I"):
        raise IngestError("it is an animation of 16 bits per pixel; save its frames one by one")
    frames = _count_frames(image)
    is_gray = choices.color is None and to_pixels(image)[1] in (None, "gray+alpha")
    shape = (frames, image.height, image.width, 2 if is_gray else 4)
    return ImageArray(_Frames(file, shape), ("t", "y", "x", "c"), file.name, _COLORS[shape[3]])


@dataclass(frozen=True)
class _Frames:
    """Frames of an animation with a channel of transparency, an array that is read by slices."""

    file: ImageFile
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any] = np.dtype(np.uint8)  # noqa: RUF009

    def __getitem__(self, key: Any) -> Array:
        first, *rest = key if isinstance(key, tuple) else (key,)
        numbers = np.arange(self.shape[0])[first]
        frames = np.empty((numbers.size, *self.shape[1:]), np.uint8)
        with (
            named_errors(self.file),
            self.file.open() as stream,
            open_picture(stream) as image,
        ):
            for frame, number in zip(frames, numbers.ravel(), strict=True):
                image.seek(int(number))
                frame[:] = self._convert(image, int(number))
        return frames.reshape(numbers.shape + self.shape[1:])[
            (*[slice(None)] * numbers.ndim, *rest)
        ]

    def _convert(self, image: Image.Image, number: int) -> Array:
        if image.size[::-1] != self.shape[1:3]:
            raise IngestError(f"its images 0 and {number} differ in size; save them one by one")
        pixels = np.asarray(image.convert("RGBA"))
        if self.shape[3] == 4:
            return pixels
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise IngestError(f"its frame 0 is grey, but frame {number} is not; pass --color")
        return pixels[..., [0, 3]]
