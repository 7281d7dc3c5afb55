"""Pictures of a report: images as data URLs of PNG, and spectra as points of a curve."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from PIL import Image

from dnmf._typing import Array
from dnmf.storage.thumbnails import shrink

if TYPE_CHECKING:
    from dnmf.estimators.nmf import NMF

MOST_SIDE = 144
"""Largest height and width of a picture, in pixels."""

CURVE = 240, 72
"""Width and height of a curve, in units of its own."""


def is_drawn_as_curve(model: NMF) -> bool:
    """Check whether the images of a model are spectra, or other rows of numbers."""
    shape = model.image_shape_
    is_square = math.isqrt(shape[0]) ** 2 == shape[0] > 1
    return len(shape) == 1 and (not is_square or hasattr(model, "feature_names_in_"))


def draw(images: Array, model: NMF, n_bytes: int, palette: str = "gray") -> list[dict[str, str]]:
    """Draw images in small.

    Parameters
    ----------
    images : ndarray of shape (m, p)
        Brightness from 0 to 1, in which NaN is a missing pixel.
    model : NMF
        For the shape of its images.
    n_bytes : int
        Most bytes that all of the pictures may have together before they are compressed.
    palette : str
        Name of a colour map of Matplotlib, for images without colours.

    Returns
    -------
    list of dict
        For each image ``src``, a data URL; for a spectrum that is empty, and ``points`` are those
        of its curve.
    """
    if is_drawn_as_curve(model):
        return [{"src": "", "points": _points(image)} for image in _reduce(images)]
    stack = _as_stack(images, model.image_shape_)
    bytes_per_pixel = 3 if stack.ndim == 4 else 1
    side = int(math.sqrt(n_bytes / (bytes_per_pixel * max(1, len(images)))))
    small = shrink(stack, max(8, min(MOST_SIDE, side)))
    return [{"src": _to_png(image, palette)} for image in small]


def _as_stack(images: Array, shape: tuple[int, ...]) -> Array:
    """Return flat images as (m, h, w), or (m, h, w, 3) in colours; other channels as their mean."""
    if len(shape) == 1:
        side = math.isqrt(shape[0])
        return images.reshape(-1, side, side)
    stack = images.reshape(-1, *shape)
    if stack.ndim == 4 and shape[2] != 3:
        return np.asarray(stack.mean(axis=3))
    return stack


def _to_png(image: Array, palette: str) -> str:
    """Return brightness from 0 to 1 as the data URL of a PNG; NaN is mid-grey."""
    bright = np.rint(255 * np.clip(np.nan_to_num(image, nan=0.5), 0, 1)).astype(np.uint8)
    picture = Image.fromarray(bright)
    if bright.ndim == 2 and palette != "gray":
        colors = colormaps[palette](np.arange(256), bytes=True)[:, :3]
        picture.putpalette(colors.tobytes())
    content = io.BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def _reduce(images: Array) -> Array:
    """Return rows of numbers with at most as many as a curve is wide, by means."""
    n = min(CURVE[0], images.shape[1])
    edges = np.linspace(0, images.shape[1], n + 1).astype(int)
    sums = np.add.reduceat(np.nan_to_num(images), edges[:-1], axis=1)
    return np.asarray(sums / np.diff(edges))


def _points(values: Array) -> str:
    width, height = CURVE
    x = np.linspace(2, width - 2, len(values))
    y = 2 + (height - 4) * (1 - np.clip(values, 0, 1))
    return " ".join(f"{a:.4g},{b:.4g}" for a, b in zip(x, y, strict=True))
