"""Choices of a user for an ingest: which images of a file, and how to change their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from dnmf.errors import IngestError

Size = tuple[int, int]
"""Height and width."""

COLORS = ("gray", "rgb")
"""Colours that images can be converted to."""

ALPHAS = ("refuse", "drop", "white", "black")
"""Ways to treat transparent pixels."""

NANS = ("refuse", "keep")
"""Ways to treat NaN."""

DTYPES = ("uint8", "uint16", "uint32", "float32", "float64")
"""Types that pixels can be stored in, besides that of their file."""

_WORDS: dict[str, tuple[str | None, ...]] = {
    "color": (None, *COLORS),
    "alpha": ALPHAS,
    "nan": NANS,
    "dtype": (None, *DTYPES),
}
"""Allowed values of the choices that are words."""

_NUMBERS = {
    "size": ("height, width", (1, 1)),
    "pad": ("height, width", (1, 1)),
    "crop": ("top, left, height, width", (-1, -1, 1, 1)),
    "patches": ("height, width, stride", (1, 1, 1)),
}
"""Choices that are tuples of integers: names of the integers, and the smallest value of each."""


@dataclass(frozen=True)
class Choices:
    """Choices of an ingest, in the order in which they are applied to an image.

    Attributes
    ----------
    array : str or None
        Name of the array in a file that holds several; also written after the path, ``f.h5::/x``.
    level : int
        Level of a pyramid of resolutions, 0 for the largest images.
    axis : tuple of str, or None
        Names or numbers of the axes along which images follow each other.
    channel : str or None
        Name or number of the one channel to take.
    crop : tuple of int, or None
        Top, left, height and width of the part to take; a top or left of -1 centres it.
    patches : tuple of int, or None
        Height, width and stride of the patches that an image is cut into.
    alpha : str
        How to treat transparent pixels: ``refuse`` the image, ``drop`` the transparency (keep the
        colour that the file has), or put them on a ``white`` or ``black`` background.
    color : "gray", "rgb" or None
        Colours to which every image is converted.
    size : (h, w) or None
        Size to which every image is resized, by averaging over areas. Without crop and patches, the
        JPEG decoder does a part of this, and its averages may differ by some units.
    pad : (h, w) or None
        Size to which every smaller image is extended with zeros, on all sides.
    scale : float or None
        Positive number that pixels are multiplied by; integers are rounded after it.
    clip : bool
        Whether negative pixels are set to 0, and too large ones to the largest number of `dtype`.
    dtype : str or None
        NumPy name of the type of the stored pixels, one of `DTYPES`; by default that of the file.
    nan : str
        Whether to ``refuse`` images with NaN, or to ``keep`` NaN. Averages of a resized image leave
        NaN out.
    """

    array: str | None = None
    level: int = 0
    axis: tuple[str, ...] | None = None
    channel: str | None = None
    crop: tuple[int, int, int, int] | None = None
    patches: tuple[int, int, int] | None = None
    alpha: str = "refuse"
    color: str | None = None
    size: Size | None = None
    pad: Size | None = None
    scale: float | None = None
    clip: bool = False
    dtype: str | None = None
    nan: str = "refuse"

    def __post_init__(self) -> None:
        for name, allowed in _WORDS.items():
            if (value := getattr(self, name)) not in allowed:
                words = ", ".join(repr(word) for word in allowed if word is not None)
                raise IngestError(f"{name} is {value!r}; it must be one of {words}")
        for name, (words, least) in _NUMBERS.items():
            if (value := getattr(self, name)) is not None:
                _check_numbers(name, value, words, least)
        if self.axis is not None and not isinstance(self.axis, tuple):
            raise IngestError(f"axis is {self.axis!r}; it must be a tuple of names, like ('t',)")
        if not (isinstance(self.level, int) and self.level >= 0):
            raise IngestError(f"level is {self.level!r}; it must be 0 or a positive integer")
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise IngestError(f"scale is {self.scale!r}; it must be a positive number")

    def as_dict(self) -> dict[str, Any]:
        """Return the choices that differ from the defaults, as JSON types."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


def _check_numbers(name: str, value: Any, words: str, least: tuple[int, ...]) -> None:
    """Raise IngestError unless a choice is a tuple of integers that are not too small."""
    if not (
        isinstance(value, tuple)
        and len(value) == len(least)
        and all(isinstance(x, int) for x in value)
    ):
        raise IngestError(f"{name} is {value!r}; it must be ({words})")
    if any(x < limit for x, limit in zip(value, least, strict=True)):
        raise IngestError(f"{name} is {value}; ({words}) must be at least {least}")
