"""Small pictures of images of any shape and type, for contact sheets and notebooks."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from dnmf._html import THUMBNAIL, format_html_pictures
from dnmf._typing import Array
from dnmf.errors import ParameterError

if TYPE_CHECKING:
    from dnmf.storage.corpus import Corpus
    from dnmf.storage.weights import Weights

HTML_IMAGES, HTML_COMPONENTS = 12, 24
"""Largest number of images, and of components, in a notebook."""

HTML_SIDE = 64
"""Largest height and width of an image in a notebook, in pixels."""

HTML_BYTES = 150_000
"""Most bytes of pictures that an object adds to a notebook; what goes beyond is left out."""

MAP_BYTES, MAP_BLOCKS = 2**26, 16
"""Largest weights whose maps are drawn in a notebook, and the largest number of their blocks, each
of which is a request to an object store."""

HEAT_ROWS, HEAT_COLUMNS, HEAT_WIDTH, HEAT_CELL = 40, 280, 560, 6
"""Largest number of images and of components whose weights are drawn as cells, the width of all
cells, and the largest height and width of one, in pixels."""

WHITE = 99.9
"""Percentile of the pixels of all thumbnails that is drawn white: a few hot pixels of a camera
leave the rest visible."""


def draw_thumbnails(
    corpus: Corpus, rows: Sequence[int] | Array, side: int, channel: str | int | None = None
) -> Array:
    """Draw images of a corpus in small, all on one scale from black at zero to white.

    Blocks are read one after the other, so memory holds one of them and the thumbnails.

    Parameters
    ----------
    corpus : Corpus
    rows : sequence of int
    side : int
        Largest height and width of a thumbnail.
    channel : str or int, optional
        Name or number of the channel to draw. Without it, three channels are red, green and blue,
        and of any other number their mean is drawn.

    Returns
    -------
    ndarray of shape (rows, h, w) or (rows, h, w, 3), uint8
        Missing pixels are white. Flat images are drawn as squares if they have a square number of
        pixels, else as curves.

    Raises
    ------
    ParameterError
        The images have no such channel.
    """
    numbers, chosen = np.asarray(rows), _channel_number(corpus, channel)
    small: Array | None = None
    for block in np.unique(numbers // corpus.block_rows):
        here = numbers // corpus.block_rows == block
        images = corpus.images(numbers[here])
        is_spectrum = images.ndim == 2 and corpus.rows is not None
        part = shrink(images if is_spectrum else _as_pictures(images, chosen), side)
        small = np.empty((len(numbers), *part.shape[1:]), np.float32) if small is None else small
        small[here] = part
    if small is None:
        raise ParameterError("rows select no image")
    if small.ndim == 2:
        return np.stack([_draw_curve(values, side) for values in _to_share(small)])
    pixels = _to_8_bits(small)
    times = max(1, side // max(pixels.shape[1:3]))
    return pixels.repeat(times, axis=1).repeat(times, axis=2)


def draw_html(corpus: Corpus) -> str:
    """Draw the first images of a corpus over their names as HTML, for notebooks.

    They are of one block, so that a corpus behind a URL is shown soon.
    """
    rows = range(min(HTML_IMAGES, corpus.block_rows, len(corpus)))
    return as_html(draw_thumbnails(corpus, rows, HTML_SIDE), corpus.block_ids(0))


def draw_maps(weights: Weights) -> str:
    """Draw the maps of the first components as HTML, each to its own maximum; of others nothing.

    Weights are maps if the rows of their corpus are pixels of an image. Large ones are not drawn.
    """
    shape = (weights.rows or {}).get("shape", ())
    if len(shape) != 2 or weights.nbytes > MAP_BYTES or weights.n_blocks > MAP_BLOCKS:
        return ""
    names = weights.component_names[:HTML_IMAGES]
    W = np.concatenate([weights.read_block(index) for index in range(weights.n_blocks)])
    return draw_each(W[:, : len(names)].T.reshape(-1, *shape), names)


def draw_first_weights(weights: Weights) -> str:
    """Draw the weights of the first images as HTML: a row for each image, a column a component."""
    W = weights.read_block(0)[:HEAT_ROWS, :HEAT_COLUMNS]
    rows, columns = W.shape
    side = max(1, min(HEAT_CELL, HEAT_WIDTH // columns))
    picture = _to_8_bits(W).repeat(side, axis=0).repeat(side, axis=1)
    name = f"weights of the first {rows} images (rows) for {columns} components (columns), 0 black"
    return as_html(picture[None], [name], HEAT_WIDTH)


def draw_each(images: Array, names: Sequence[str]) -> str:
    """Draw images over their names as HTML, each on a scale from zero to its own maximum.

    Parameters
    ----------
    images : ndarray of shape (n, h, w), (n, h, w, channels) or (n, p)
    names : sequence of str
    """
    small = shrink(_as_pictures(images, None), HTML_SIDE)
    if small.ndim == 2:
        return as_html([_draw_curve(_to_share(each), HTML_SIDE) for each in small], names)
    times = max(1, HTML_SIDE // max(small.shape[1:3]))
    large = small.repeat(times, axis=1).repeat(times, axis=2)
    return as_html([_to_8_bits(each) for each in large], names)


def as_html(pictures: Iterable[Array], names: Sequence[str], width: int = THUMBNAIL) -> str:
    """Write pictures of 8 bits over their names as HTML, as many as are small enough together."""
    cells, room = [], HTML_BYTES
    for picture, name in zip(pictures, names, strict=False):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG", optimize=True)
        url = f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
        room -= len(url)
        if room < 0:
            break
        cells.append((url, name))
    return format_html_pictures(cells, width)


def _to_share(small: Array) -> Array:
    """Return numbers as shares of what is drawn white, from 0 to 1; NaN stays."""
    observed = np.nan_to_num(small, posinf=0)
    top = float(np.percentile(observed, WHITE)) or float(observed.max(initial=0))
    share: Array = np.clip(small / (top or 1.0), 0, 1)
    return share


def _to_8_bits(small: Array) -> Array:
    """Return numbers as grey or colours of 8 bits; NaN is white."""
    pixels: Array = np.rint(255 * np.nan_to_num(_to_share(small), nan=1.0)).astype(np.uint8)
    return pixels


def _channel_number(corpus: Corpus, channel: str | int | None) -> int | None:
    """Return the number of a channel that is given by its number or name."""
    if channel is None:
        return None
    shape, axes = corpus.image_shape, corpus.axes
    names = [str(name) for name in corpus.coords.get(axes[-1], ())] if len(shape) == 3 else []
    if str(channel) in names:
        return names.index(str(channel))
    n = shape[2] if len(shape) == 3 else 1
    if not (str(channel).isdecimal() and int(channel) < n):
        known = f", or one of {', '.join(names)}" if names else ""
        raise ParameterError(
            f"channel is {channel}; the images have {n}: give a number from 0 to {n - 1}{known}"
        )
    return int(channel)


def _as_pictures(images: Array, channel: int | None) -> Array:
    """Return images as (n, h, w), (n, h, w, 3) or, to be drawn as curves, (n, p)."""
    n_channels = images.shape[3] if images.ndim == 4 else 1
    if images.ndim == 4:
        if channel is not None or n_channels == 1:
            return images[..., channel or 0]
        return images if n_channels == 3 else images.mean(axis=3, dtype=np.float32)
    side = math.isqrt(images.shape[1])
    is_square = images.ndim == 2 and side > 1 and side * side == images.shape[1]
    return images.reshape(-1, side, side) if is_square else images


def shrink(images: Array, side: int) -> Array:
    """Reduce images to a height and width of at most `side`, by means over the pixels observed."""
    if images.ndim == 2:
        edges = np.linspace(0, images.shape[1], min(side, images.shape[1]) + 1).astype(int)[:-1]
        return _observed_mean(images, lambda values: np.add.reduceat(values, edges, axis=1))
    height, width = images.shape[1:3]
    share = min(1.0, side / max(height, width))
    if share == 1:
        return images.astype(np.float32)
    size = max(1, round(share * width)), max(1, round(share * height))
    planes = np.moveaxis(images, 3, 1) if images.ndim == 4 else images[:, None]

    def resize(stack: Array) -> Array:
        small = [[Image.fromarray(p).resize(size, Image.Resampling.BOX) for p in x] for x in stack]
        return np.array([[np.asarray(picture) for picture in each] for each in small])

    shrunk = _observed_mean(planes, resize)
    return np.moveaxis(shrunk, 1, 3) if images.ndim == 4 else shrunk[:, 0]


def _observed_mean(values: Array, add: Callable[[Array], Array]) -> Array:
    """Divide sums over the numbers that are not NaN by their number; NaN where there are none."""
    values = values.astype(np.float32)
    observed = np.isfinite(values)
    counts = add(observed.astype(np.float32))
    sums = add(np.where(observed, values, 0))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _draw_curve(values: Array, side: int) -> Array:
    """Draw numbers from 0 to 1 as a black curve on white, half as high as it is wide."""
    height = max(2, side // 2)
    picture = Image.new("L", (side, height), 255)
    x = np.linspace(0, side - 1, len(values))
    y = (height - 1) * (1 - values)
    for part in np.split(np.arange(len(values)), np.flatnonzero(np.isnan(values))):
        points = [(float(x[i]), float(y[i])) for i in part if not np.isnan(values[i])]
        if points:
            ImageDraw.Draw(picture).line([*points, points[-1]], fill=0)
    return np.asarray(picture)
