"""Turn images upright, as the orientation tag of EXIF and of TIFF asks."""

from __future__ import annotations

from dnmf._typing import Array

_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""By the value of the tag: whether to swap rows and columns, then to reverse each of them."""


def turn_upright(image: Array, orientation: int) -> Array:
    """Return a view of an image that stands upright.

    Parameters
    ----------
    image : ndarray of shape (h, w) or (h, w, channels)
    orientation : int
        Value of the tag; one that the standard does not know asks for nothing.
    """
    swap, up, left = _TURNS.get(orientation, (False, False, False))
    image = image.swapaxes(0, 1) if swap else image
    return image[:: -1 if up else 1, :: -1 if left else 1]


def swaps_axes(orientation: int) -> bool:
    """Return whether rows of the file are columns of the upright image."""
    return _TURNS.get(orientation, (False,))[0]


def turn_of(orientation: int) -> tuple[bool, bool, bool]:
    """Return whether rows and columns are swapped, and then whether each of them is reversed."""
    return _TURNS.get(orientation, (False, False, False))
