"""What a user asks of images: which part of a file, and what is done to its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from dnmf.errors import IngestError

Size = tuple[int, int]
"""Height and width."""

COLORS = ("gray", "rgb")
ALPHAS = ("refuse", "drop", "white", "black")
NANS = ("refuse", "keep")
DTYPES = ("uint8", "uint16", "uint32", "float32", "float64")


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
        Height, width and stride of the patches that an image is cut into; with a stride of 0
        they lie side by side.
    alpha : str
        What becomes of transparent pixels: ``refuse``, ``drop`` (the colour that the file gives
        them), or the background ``white`` or ``black``.
    color : "gray", "rgb" or None
        Colours to which every image is converted.
    size : (h, w) or None
        Size to which every image is resized, averaging over areas; the decoder of JPEG does a part
        of it where no crop and no patches come before, and its averages may differ by some units.
    pad : (h, w) or None
        Size to which every smaller image is extended with zeros, on all sides.
    scale : float or None
        Positive number that pixels are multiplied by; integers are rounded after it.
    clip : bool
        Whether negative pixels become 0, and those above the range of `dtype` its largest number.
    dtype : str or None
        NumPy name of the type of the stored pixels, one of `DTYPES`; by default that of the file.
    nan : str
        What becomes of NaN: ``refuse`` or ``keep``; an average of a part of NaN and a part of
        numbers is that of the numbers.
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
        for name, allowed in self._words():
            if (value := getattr(self, name)) not in allowed:
                words = ", ".join(repr(word) for word in allowed if word is not None)
                raise IngestError(f"{name} is {value!r}; it must be one of {words}")
        for name in ("size", "pad"):
            _check_size(name, getattr(self, name))
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise IngestError(f"scale is {self.scale!r}; it must be a positive number")

    @staticmethod
    def _words() -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        """Return the names of the choices that are words, with the words they may be."""
        return (
            ("color", (None, *COLORS)),
            ("alpha", ALPHAS),
            ("nan", NANS),
            ("dtype", (None, *DTYPES)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the choices that differ from the defaults, as JSON types."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


def _check_size(name: str, size: Any) -> None:
    if size is None:
        return
    if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(x, int) for x in size)):
        raise IngestError(f"{name} is {size!r}; it must be (height, width)")
    if min(size) < 1:
        raise IngestError(f"{name} is {size[0]}x{size[1]}; height and width must be at least 1")
