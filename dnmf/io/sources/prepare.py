"""Changes to the pixels of images before they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices, Size
from dnmf.io.sources.resize import resize, to_integers

LUMA = (19595, 38470, 7471)
"""Shares of red, green and blue in grey by ITU-R 601 (0.299, 0.587 and 0.114), in 65536ths."""

COLORS_OF_CHANNELS = {1: "gray", 3: "rgb"}
"""What channels are by their number, if nothing else says it and colours are to be converted."""


def prepare(images: Array, colors: str | None, choices: Choices) -> Array:
    """Convert raw images to the pixels that are stored.

    Numbers are not changed unless a choice says so. If pixels are scaled or stored as floats, all
    steps compute in floats. Otherwise they compute in the dtype of the images and round averages.

    Parameters
    ----------
    images : ndarray of shape (n, h, w), (n, h, w, channels) or (n, p)
    colors : str or None
        What the last axis means; see `ImageArray`.
    choices : Choices

    Returns
    -------
    ndarray
        The same array if there is nothing to do.

    Raises
    ------
    IngestError
        If a choice does not fit the images, or a pixel is negative, NaN or infinite, or not in the
        range of the dtype. The message begins with "it" or "its" if there is one image, else with
        the number of the image.
    """
    images = _as_numbers(images)
    _check_pixels(images, choices)
    dtype = np.dtype(choices.dtype or images.dtype)
    if images.ndim == 2:
        _check_flat(images, choices)
    else:
        images, colors = _without_alpha(images, colors, choices.alpha)
    if choices.scale is not None or (
        dtype != images.dtype and "f" in dtype.kind + images.dtype.kind
    ):
        images = images.astype(_float_dtype(images.dtype, dtype), copy=False)
    if images.ndim > 2:
        images = _convert_colors(images, colors, choices.color)
        images = images if choices.size is None else resize(images, choices.size)
        images = images if choices.pad is None else _pad(images, choices.pad)
    if choices.scale is not None:
        with np.errstate(over="ignore"):  # it is named below
            images = images * images.dtype.type(choices.scale)
    return _store(images, dtype, choices)


def _as_numbers(images: Array) -> Array:
    """Return images as integers or floats in the byte order of this machine."""
    dtype = images.dtype
    if dtype.kind == "b":
        return images.astype(np.uint8)
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise IngestError(
            f"{_subject(images)} holds {dtype}; pixels are integers or floats of at most 64 bits: "
            "convert them"
        )
    return images.astype(dtype.newbyteorder("="), copy=False)


def _float_dtype(found: np.dtype[Any], stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the floats in which numbers are computed: of 32 bits if these hold them."""
    fits = found.itemsize <= 2 or found == np.float32
    return np.dtype(np.float32 if fits and stored != np.float64 else np.float64)


def _check_pixels(images: Array, choices: Choices) -> None:
    """Raise IngestError unless numbers can be pixels, before any are mixed with others."""
    if images.dtype.kind == "u" or images.size == 0:
        return
    keep = choices.nan == "keep"
    lowest = (np.fmin if keep else np.minimum).reduce(images, axis=None)
    highest = (np.fmax if keep else np.maximum).reduce(images, axis=None)
    if (lowest >= 0 or (choices.clip and lowest > -np.inf)) and highest < np.inf:
        return
    wrong = ~np.isfinite(images)
    if keep:
        wrong &= ~np.isnan(images)
    if not choices.clip:
        wrong |= images < 0
    if not wrong.any():  # all is NaN, and kept
        return
    where, value = _first(wrong), images[_first(wrong)]
    if np.isnan(value):
        advice = "pass --nan keep for a corpus that is fitted with --missing ignore, mend it"
    elif np.isinf(value):
        advice = "write NaN in its place and pass --nan keep, mend it"
    else:
        advice = "pass --clip to make negative pixels 0, mend it"
    word = "NaN" if np.isnan(value) else value
    raise IngestError(
        f"{_place(images, where)} is {word}, which cannot be factorised; {advice} or leave it out"
    )


def _check_flat(images: Array, choices: Choices) -> None:
    """Raise IngestError if what is asked needs images of height and width."""
    asked = [f"--{name}" for name in ("color", "size", "pad") if getattr(choices, name) is not None]
    if asked:
        raise IngestError(
            f"{_subject(images)} is a row of {images.shape[1]:,} pixels, and {' and '.join(asked)} "
            "needs images of height and width: give an array of shape (images, height, width)"
        )


def _without_alpha(images: Array, colors: str | None, alpha: str) -> tuple[Array, str | None]:
    """Return images without their channel of transparency, and what their colours are then."""
    if colors not in ("gray+alpha", "rgb+alpha"):
        return images, colors
    opaque = np.iinfo(images.dtype).max if images.dtype.kind in "ui" else 1
    shown, cover = images[..., :-1], images[..., -1:]
    if alpha in ("refuse", "white", "black") and (clear := cover < opaque).any():
        if alpha == "refuse":
            raise IngestError(
                f"{_place(images[..., 0], _first(clear[..., 0]))} is transparent, so its colour "
                "depends on what is behind; pass --alpha white or black for a background, or "
                "--alpha drop for the colour that the file gives it"
            )
        shown = _on_background(shown, cover, opaque, opaque if alpha == "white" else 0)
    if colors == "gray+alpha":
        return shown[..., 0], None
    return shown, "rgb"


def _on_background(shown: Array, cover: Array, opaque: int, background: int) -> Array:
    """Return colours as they look on a background, in their own depth."""
    if shown.dtype.kind == "f":
        blend: Array = shown * cover + background * (1 - cover)
        return blend.astype(shown.dtype)
    wide = np.uint32 if shown.dtype.itemsize <= 2 else np.float64
    part = cover.astype(wide)
    mixed: Array = shown * part + background * (opaque - part)
    if wide is np.float64:
        return to_integers(mixed / opaque, shown.dtype)
    return ((mixed + opaque // 2) // opaque).astype(shown.dtype)


def _convert_colors(images: Array, colors: str | None, color: str | None) -> Array:
    """Return images in the colours that are asked for."""
    if color is None:
        return images
    if images.ndim == 4 and colors != "rgb":
        channels = images.shape[3]
        if channels not in COLORS_OF_CHANNELS:
            raise IngestError(
                f"{_subject(images)} has {channels} channels, and --color {color} does not "
                "know which colours they are; pass --channel to take one, or leave out --color"
            )
        colors = COLORS_OF_CHANNELS[channels]
        images = images[..., 0] if colors == "gray" else images
    if color == "gray":
        return _gray(images) if images.ndim == 4 else images
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


def _gray(images: Array) -> Array:
    """Return the brightness of rgb by ITU-R 601; integers are rounded, halves upward."""
    dtype = images.dtype
    if dtype == np.uint8:  # Pillow computes the same, and faster
        return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    colors = np.moveaxis(images, 3, 0)
    if dtype.kind == "f" or dtype.itemsize == 8:
        brightness: Array = sum(
            share / 65536 * part for share, part in zip(LUMA, colors, strict=True)
        )
        return brightness.astype(dtype) if dtype.kind == "f" else to_integers(brightness, dtype)
    wide = np.dtype(np.uint32 if dtype == np.uint16 else np.int64)
    shares = [share * part.astype(wide) for share, part in zip(LUMA, colors, strict=True)]
    total: Array = sum(shares, np.array(32768, wide)) >> 16
    return total.astype(dtype)


def _pad(images: Array, size: Size) -> Array:
    """Return images with zeros on all sides, up to a size."""
    found = images.shape[1:3]
    if found == size:
        return images
    if found[0] > size[0] or found[1] > size[1]:
        raise IngestError(
            f"{_subject(images)} is {format_shape(found)}, larger than --pad "
            f"{size[0]}x{size[1]}; pass a larger one, or --size or --crop to make it smaller"
        )
    top, left = (size[0] - found[0]) // 2, (size[1] - found[1]) // 2
    out = np.zeros((len(images), *size, *images.shape[3:]), images.dtype)
    out[:, top : top + found[0], left : left + found[1]] = images
    return out


def _store(images: Array, dtype: np.dtype[Any], choices: Choices) -> Array:
    """Return pixels in the dtype in which they are stored.

    Raises
    ------
    IngestError
        A pixel is no number of this dtype, and nothing allows to clip or to round it.
    """
    if choices.clip and images.dtype.kind != "u":
        images = np.maximum(images, images.dtype.type(0))
    if images.dtype == dtype and choices.scale is None:
        return images
    to_round = dtype.kind != "f" and images.dtype.kind == "f"
    if to_round:
        _check_whole(images, dtype, choices)
    largest = (np.finfo if dtype.kind == "f" else np.iinfo)(dtype).max
    over = images >= largest + 0.5 if to_round else images > largest
    if over.any():
        if not choices.clip:
            raise IngestError(
                f"{_place(images, _first(over))} is {images[_first(over)]}, more than {dtype} "
                f"holds; pass --clip to store {largest} there, --scale to make numbers smaller, or "
                "a --dtype that holds it"
            )
        images = np.minimum(images, images.dtype.type(largest))
    return to_integers(images, dtype) if to_round else images.astype(dtype, copy=False)


def _check_whole(images: Array, dtype: np.dtype[Any], choices: Choices) -> None:
    """Raise IngestError if integers cannot hold numbers, or not without rounding them."""
    if choices.nan == "keep" and (missing := np.isnan(images)).any():
        raise IngestError(
            f"{_place(images, _first(missing))} is NaN, which {dtype} cannot hold; pass --dtype "
            "float32"
        )
    if choices.scale is None and (broken := images != np.floor(images)).any():
        raise IngestError(
            f"{_place(images, _first(broken))} is {images[_first(broken)]}, which {dtype} would "
            "round; pass --scale, 1 to only round, or --dtype float32"
        )


def _first(wrong: Array) -> tuple[int, ...]:
    """Return the place of the first that is true."""
    return tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))


def _subject(images: Array) -> str:
    """Return what an error calls the images."""
    return "it" if len(images) == 1 else "each of its images"


def _place(images: Array, where: tuple[int, ...]) -> str:
    """Return what an error calls a pixel."""
    image, *place = where
    if images.ndim == 2:
        pixel = f"pixel {place[0]}"
    else:
        pixel = f"pixel at row {place[0]}, column {place[1]}"
    return f"its {pixel}" if len(images) == 1 else f"image {image}: its {pixel}"
