"""Arrays with named axes, and the images that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dnmf._typing import Array


@dataclass(frozen=True)
class ImageArray:
    """An N-D array of pixels, in memory or lazy.

    Attributes
    ----------
    array : object
        Has a `shape`, a `dtype` and slices along all axes, of which NumPy makes arrays.
    axes : tuple of str, or None
        Name of each axis in lower case; ``y`` and ``x`` are rows and columns of pixels, ``c`` is
        the channel. None if nothing names them: then it is (n, p), (n, h, w) or (n, h, w, c).
    name : str
        What messages call it.
    colors : str or None
        What the last axis means: ``gray+alpha``, ``rgb``, ``rgb+alpha``; None if it is no colour.
    coords : mapping of str to ndarray
        Numbers or names along an axis, such as wavelengths.
    """

    array: Any
    axes: tuple[str, ...] | None
    name: str
    colors: str | None = None
    coords: Mapping[str, Array] = field(default_factory=dict)
