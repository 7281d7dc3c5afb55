"""What is done to the pixels of images before they are stored."""

from __future__ import annotations

from dnmf._typing import Array
from dnmf.io.sources.choices import Choices


def prepare(images: Array, colors: str | None, choices: Choices) -> Array:
    """Convert raw images to the pixels that are stored.

    Parameters
    ----------
    images : ndarray of shape (n, h, w), (n, h, w, channels) or (n, p)
    colors : str or None
        What the last axis means; see `ImageArray`.
    choices : Choices

    Raises
    ------
    IngestError
        A choice does not fit the images, or a pixel is negative, NaN or infinite.
    """
    raise NotImplementedError
