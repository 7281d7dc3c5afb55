"""Lists of images as X: PIL images, or arrays of the same height and width."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnmf.errors import DataError

PIXEL_MODES = ("1", "L", "F", "I", "I;16", "I;16B", "I;16L", "RGB")
"""Modes of PIL images whose numbers are brightness. Other modes hold palette indices, opacity or
inks."""


def flatten_images(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Return X with a row for each image, and the shape of the images.

    Parameters
    ----------
    X : object
        A list of images becomes a matrix, and an object without a `shape` an ndarray. Anything else
        stays as it is.

    Returns
    -------
    X : object
        X with one row per image.
    image_shape : tuple of int, or None
        Height, width and colours. None unless X is a list of images.

    Raises
    ------
    DataError
        If images differ in size, a PIL image does not hold brightness, or X is an array of images.
    """
    if isinstance(X, (list, tuple)) and X and all(map(_is_image, X)):
        images = [_pixels(image, f"image {i}") for i, image in enumerate(X)]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            other = next(i for i, image in enumerate(images) if image.shape != images[0].shape)
            raise DataError(
                f"image 0 is of shape {images[0].shape} and image {other} of "
                f"{images[other].shape}: resize them to one size"
            )
        return np.stack(images).reshape(len(images), -1), images[0].shape
    if _is_pillow(X):
        X = _pixels(X, "X")
    elif hasattr(X, "__array_interface__") and not hasattr(X, "shape"):
        X = np.asarray(X)
    require_flat(X)
    return X, None


def require_flat(X: Any) -> None:
    """Raise DataError for an array of more than two dimensions."""
    dimensions = len(getattr(X, "shape", ()))
    if dimensions > 2:
        raise DataError(
            f"Found array with dim {dimensions}, while dim <= 2 is required by NMF: one row per "
            f"image; reshape it, as X.reshape(len(X), -1) does"
        )


def _is_image(value: Any) -> bool:
    return _is_pillow(value) or (isinstance(value, np.ndarray) and value.ndim in (2, 3))


def _is_pillow(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("mode", "size", "getbands"))


def _pixels(image: Any, name: str) -> np.ndarray[Any, Any]:
    if _is_pillow(image) and image.mode not in PIXEL_MODES:
        raise DataError(
            f"{name} is a PIL image of mode {image.mode!r}, whose numbers are not brightness: take "
            "image.convert('L') or image.convert('RGB')"
        )
    return np.asarray(image)
