"""What the numbers of a TIFF mean: palettes, inks, inverted grey, transparency."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError

_DECODED_TO_RGB = (6, 7, 33007, 34892, 34712, 50001)
"""Compressions whose decoders give the RGB of what is stored as YCbCr: JPEG, JPEG 2000, WebP."""

_LUMINOUS = ("CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV", "YCBCR")
"""Kinds of colours that are not converted."""

_ASSOCIATED, _UNASSOCIATED = 1, 2
"""Kinds of an extra sample that is transparency: multiplied into the colours, or not."""


class Conversion(NamedTuple):
    """How the numbers of a page become pixels.

    Attributes
    ----------
    colors : str or None
        What the last axis of the pixels means; see `ImageArray`.
    convert : callable or None
        Makes pixels of numbers; None if they are pixels.
    adds_axis : bool
        Whether `convert` makes an axis of colours.
    samples : int
        Length of the axis of colours of the pixels.
    """

    colors: str | None
    convert: Callable[[Array], Array] | None = None
    adds_axis: bool = False
    samples: int = 1


def conversion_of(page: Any, samples: int, is_measurement: bool) -> Conversion:
    """Return how the numbers of a page become pixels.

    Parameters
    ----------
    page : tifffile.TiffPage
    samples : int
        Number of samples of a pixel.
    is_measurement : bool
        Whether a palette only says in which colours a program shows the numbers.

    Raises
    ------
    IngestError
        The pixels are of a kind that is not converted.
    """
    kind = getattr(page.photometric, "name", str(page.photometric))
    if kind in _LUMINOUS and not (kind == "YCBCR" and page.compression in _DECODED_TO_RGB):
        raise IngestError(f"its colours are {kind}; convert it to RGB or grey")
    if kind == "PALETTE" and not is_measurement:
        return _of_palette(page)
    if kind == "SEPARATED" and samples == 4:
        return Conversion("rgb", _cmyk_to_rgb, samples=3)
    colors = _name_of(kind, samples, page.extrasamples)
    if page.dtype.kind == "b":
        return Conversion(colors, partial(_from_bits, kind == "MINISWHITE"), samples=samples)
    if kind == "MINISWHITE":
        if page.dtype.kind != "u":
            raise IngestError(f"its pixels are {page.dtype} in which white is 0; invert it")
        return Conversion(colors, partial(_invert, 2**page.bitspersample - 1), samples=samples)
    if samples in (2, 4) and colors != "channels" and page.extrasamples[0] == _ASSOCIATED:
        return Conversion(colors, _divide_by_alpha, samples=samples)
    return Conversion(colors, samples=samples)


def _name_of(kind: str, samples: int, extras: tuple[int, ...]) -> str | None:
    """Return what the samples of a pixel are; see `ImageArray`."""
    if samples == 1:
        return None
    base = {"RGB": 3, "YCBCR": 3, "MINISBLACK": 1, "MINISWHITE": 1}.get(kind, 0)
    colors = {1: "gray", 3: "rgb"}.get(base)
    if colors == "rgb" and samples == 3:
        return colors
    if colors and samples == base + 1 and extras and extras[0] in (_ASSOCIATED, _UNASSOCIATED):
        return f"{colors}+alpha"
    return "channels"


def _of_palette(page: Any) -> Conversion:
    """Return how the numbers of a palette become its colours, or grey if all of them are grey."""
    table = np.asarray(page.colormap).T
    table = (table >> 8 if table.max() > 255 else table).astype("u1")
    if (table == table[:, :1]).all():
        return Conversion(None, partial(_look_up, table[:, 0]))
    return Conversion("rgb", partial(_look_up, table), adds_axis=True, samples=3)


def _look_up(table: Array, numbers: Array) -> Array:
    if numbers.size and int(numbers.max()) >= len(table):
        raise IngestError(f"a pixel has the colour {numbers.max()} of a palette of {len(table)}")
    colors: Array = table[numbers.astype("u2") if numbers.dtype.kind == "b" else numbers]
    return colors


def _from_bits(white_is_zero: bool, bits: Array) -> Array:
    return np.where(bits != white_is_zero, np.uint8(255), np.uint8(0))


def _invert(largest: int, numbers: Array) -> Array:
    inverted: Array = numbers.dtype.type(largest) - numbers
    return inverted


def _cmyk_to_rgb(inks: Array) -> Array:
    """Convert inks to colours as Pillow does: what is left of white after each ink and black."""
    largest = _largest(inks)
    wide = inks.astype("u8" if inks.dtype.kind == "u" else "f8")
    left = largest - wide[..., 3:]
    half = largest // 2 if inks.dtype.kind == "u" else 0
    used = (wide[..., :3] * left + half) // largest if half else wide[..., :3] * left / largest
    colors: Array = (left - used).astype(inks.dtype)
    return colors


def _divide_by_alpha(pixels: Array) -> Array:
    """Undo that colours were multiplied by their opacity; the transparent ones stay 0."""
    largest, alpha = _largest(pixels), pixels[..., -1:]
    scale = largest / np.where(alpha == 0, largest, alpha)
    colors = np.minimum(pixels[..., :-1] * scale, largest).astype(pixels.dtype)
    return np.concatenate([colors, alpha], axis=-1)


def _largest(pixels: Array) -> Any:
    """Return the number that is full ink, or wholly opaque."""
    return np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1.0
