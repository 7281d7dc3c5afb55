"""Arrays with named axes, and the images that they hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.axes import Selection, select
from dnmf.io.sources.formats.file import named_errors

if TYPE_CHECKING:
    from dnmf.io.sources.choices import Choices

MAX_PIXELS = 2**30
"""Largest number of pixels of an image, because a damaged header can contain any number."""

CENTRE = -1
"""Top or left of a crop that lies in the middle of an image."""


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
        What the last axis means: ``gray+alpha``, ``rgb``, ``rgb+alpha``, or ``channels``, which are
        no colours; None if it is an axis like the others.
    coords : mapping of str to ndarray
        Numbers or names along an axis, such as wavelengths.
    """

    array: Any
    axes: tuple[str, ...] | None
    name: str
    colors: str | None = None
    coords: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageRows:
    """The images of an array, in a fixed order, as raw numbers; see `find_images`.

    Picklable if its array is.

    Attributes
    ----------
    source : ImageArray
    selection : Selection
        Which axes count the images, which are those of an image, and the part of each.
    patches : (h, w, stride) or None
        Size and distance of the patches that each image is cut into.
    """

    source: ImageArray
    selection: Selection
    patches: tuple[int, int, int] | None = None

    @property
    def colors(self) -> str | None:
        """What the last axis of an image means; see `ImageArray`. None for grey or flat images."""
        return self.selection.colors

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the images: that of the array in native byte order, uint8 for booleans."""
        found = np.dtype(self.source.array.dtype)
        return np.dtype("u1") if found.kind == "b" else found.newbyteorder("=")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of each image: (h, w), (h, w, channels) or (p,)."""
        shape = self.selection.lengths(self.selection.image)
        return shape if self.patches is None else (*self.patches[:2], *shape[2:])

    @property
    def image_axes(self) -> tuple[str, ...]:
        """Names of the axes of an image."""
        return tuple(self.selection.names[axis] for axis in self.selection.image)

    @property
    def image_coords(self) -> dict[str, Array]:
        """Numbers or names along the axes of an image, where the array has them."""
        found: dict[str, Array] = {}
        for axis in self.selection.image if self.patches is None else ():
            name = self.selection.names[axis]
            if name in self.source.coords:
                found[name] = np.asarray(self.source.coords[name])[self.selection.parts[axis]]
        return found

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Lengths of the axes along which the images follow each other; () for one image."""
        return self.selection.lengths(self.selection.rows) + self._grid

    @property
    def row_axes(self) -> tuple[str, ...]:
        """Names of the axes along which the images follow each other."""
        names = tuple(self.selection.names[axis] for axis in self.selection.rows)
        return names if self.patches is None else (*names, "patch_y", "patch_x")

    def __len__(self) -> int:
        return math.prod(self.row_shape)

    def ids(self, start: int, stop: int) -> list[str]:
        """Return what tells images `start` to `stop - 1` of this array from each other.

        It is the number along the only axis, such as ``3``; with several axes their names and
        numbers, such as ``t=2,z=5``; for a patch also its top and left, such as ``y=0,x=64``; and
        an empty text if the array is one image.
        """
        return [self._id(row) for row in range(start, stop)]

    def read(self, start: int, stop: int) -> Array:
        """Read images `start` to `stop - 1`, as few slices of the array as there can be.

        Returns
        -------
        ndarray of shape (stop - start,) + image_shape
            Perhaps a view of the array.

        Raises
        ------
        IngestError
            The array gives something else than its shape and dtype promise.
        """
        if self.patches is None:
            return self._read_images(start, stop, self.selection.parts)
        each = math.prod(self._grid)
        parts = [
            self._read_patches(i, max(start - i * each, 0), min(stop - i * each, each))
            for i in range(start // each, -(-stop // each))
        ]
        return np.concatenate(parts)

    @property
    def _grid(self) -> tuple[int, ...]:
        """Numbers of patches in a column and in a row of an image; () without patches."""
        if self.patches is None:
            return ()
        height, width, stride = self.patches
        h, w = self.selection.lengths(self.selection.image[:2])
        return (h - height) // stride + 1, (w - width) // stride + 1

    def _id(self, row: int) -> str:
        selection = self.selection
        numbers = [int(i) for i in np.unravel_index(row, self.row_shape)] if self.row_shape else []
        counted = [
            (selection.names[axis], selection.parts[axis].start + number)
            for axis, number in zip(selection.rows, numbers, strict=False)
        ]
        if self.patches is not None:
            tops = [selection.parts[axis].start for axis in selection.image[:2]]
            for name, first, number in zip("yx", tops, numbers[-2:], strict=True):
                counted.append((name, first + number * self.patches[2]))
        if len(counted) == 1:
            return str(counted[0][1])
        if self.source.axes is None and self.patches is None:
            return ",".join(str(number) for _, number in counted)
        return ",".join(f"{name}={number}" for name, number in counted)

    def _read_images(self, start: int, stop: int, parts: Sequence[slice]) -> Array:
        """Read images, of each axis the given part."""
        rows, image = self.selection.rows, self.selection.image
        order = [*rows, *image]
        order += [axis for axis in range(len(parts)) if axis not in order]
        found = []
        for box in _boxes(self.selection.lengths(rows), start, stop):
            index = list(parts)
            for axis, part in zip(rows, box, strict=True):
                first = parts[axis].start
                index[axis] = slice(first + part.start, first + part.stop)
            pixels = read_slices(self.source, index).transpose(order)
            lengths = [parts[axis].stop - parts[axis].start for axis in image]
            found.append(pixels.reshape(-1, *lengths))
        images = found[0] if len(found) == 1 else np.concatenate(found)
        return images.astype(self.dtype, copy=False)

    def _read_patches(self, image: int, start: int, stop: int) -> Array:
        """Read patches of one image, from the smallest part of it that holds them all."""
        assert self.patches is not None
        height, width, stride = self.patches
        across = self._grid[1]
        top, bottom = start // across, (stop - 1) // across
        left, right = (start % across, (stop - 1) % across) if top == bottom else (0, across - 1)
        parts = list(self.selection.parts)
        for axis, first, last, length in zip(
            self.selection.image, (top, left), (bottom, right), (height, width), strict=False
        ):
            offset = parts[axis].start
            parts[axis] = slice(offset + first * stride, offset + last * stride + length)
        pixels = self._read_images(image, image + 1, parts)[0]
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (height, width), (0, 1))
        windows = np.moveaxis(windows[::stride, ::stride], (-2, -1), (2, 3))
        flat = windows.reshape(-1, height, width, *pixels.shape[2:])
        skipped = start - top * across - left
        return flat[skipped : skipped + stop - start]


def find_images(source: ImageArray, choices: Choices) -> ImageRows:
    """Find the images in an array.

    With the names ``y`` and ``x`` among the axes, these are the images; the last axis with colours,
    or else ``c``, is that of their channels; and along the only other axis longer than 1 the images
    follow each other. Other arrays are (n, p), (n, h, w) or (n, h, w, channels). `choices` can say
    that images follow each other along other axes, by names or numbers.

    Parameters
    ----------
    source : ImageArray
    choices : Choices
        `axis`, `channel`, `crop` and `patches` are used.

    Returns
    -------
    ImageRows

    Raises
    ------
    IngestError
        The array holds no images or no pixels, a choice does not fit it, or it has several axes of
        which any could be that of the images.
    """
    _require_pixels(source)
    selection = select(source, choices)
    if choices.crop is not None:
        selection = _crop(source, selection, choices.crop)
    rows = ImageRows(source, selection, choices.patches)
    if choices.patches is not None:
        _require_room(rows)
    if math.prod(rows.image_shape) > MAX_PIXELS:
        raise IngestError(
            f"{source.name} has images of {format_shape(rows.image_shape)}, more than "
            f"{MAX_PIXELS:,} pixels; give --crop or --patches, or of a pyramid a --level"
        )
    return rows


def is_whole_image(source: ImageArray, choices: Choices) -> bool:
    """Return whether an array is one image in memory, of which all is taken.

    It needs no `find_images`, which would take a part of the time of a small file.
    """
    return (
        type(source.array) is np.ndarray
        and source.axes in (("y", "x"), ("y", "x", "c"))
        and (choices.axis, choices.channel, choices.crop, choices.patches) == (None,) * 4
    )


def read_slices(source: ImageArray, index: Sequence[slice]) -> Array:
    """Read slices of an array into memory; of a Dask array on this thread.

    Raises
    ------
    IngestError
        The array cannot be read, or gives something else than its shape and dtype promise.
    """
    array = source.array
    expected = tuple(part.stop - part.start for part in index)
    used = list(index)  # an array of rows only must still do
    while len(used) > 1 and used[-1] == slice(0, array.shape[len(used) - 1]):
        used.pop()
    with named_errors(source):
        found = array[tuple(used) if len(used) > 1 else used[0]]
        if hasattr(found, "compute"):  # on this thread, which may be one of its cluster's
            found = found.compute(scheduler="synchronous")
    if isinstance(found, np.ma.MaskedArray):
        raise IngestError(
            f"{source.name} is a masked array, whose mask would be lost: ingest its data, and give "
            "the mask to fit"
        )
    found = np.asarray(found.todense() if hasattr(found, "todense") else found)
    dtype = np.dtype(array.dtype)
    if found.shape != expected or found.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise IngestError(
            f"{source.name} gave {found.dtype} of shape {found.shape} where it promises {dtype} of "
            f"{expected}: correct the chunks, the dtype or the meta that it was made with"
        )
    return found


def _require_pixels(source: ImageArray) -> None:
    shape, dtype = tuple(source.array.shape), np.dtype(source.array.dtype)
    if 0 in shape or not shape:
        raise IngestError(f"{source.name} holds no images: its shape is {shape}")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise IngestError(
            f"{source.name} holds {dtype}; pixels are integers or floats of at most 64 bits: "
            "convert them"
        )


def _crop(source: ImageArray, selection: Selection, crop: tuple[int, int, int, int]) -> Selection:
    """Return the selection of a part of y and x, whether they are rows or axes of an image."""
    names = selection.names
    axes = [names.index(name) for name in "yx" if name in names]
    if len(axes) < 2:
        axes = list(selection.image[:2])
    if len(axes) < 2:
        raise IngestError(f"{source.name} holds flat images; --crop needs height and width")
    lengths = selection.lengths(axes)
    parts = list(selection.parts)
    for axis, found, first, length in zip(axes, lengths, crop[:2], crop[2:], strict=True):
        start = (found - length) // 2 if first == CENTRE else first
        if start < 0 or start + length > found:
            raise IngestError(
                f"{source.name} has images of {lengths[0]}x{lengths[1]}, which the crop of "
                f"{crop[2]}x{crop[3]} does not fit; give a smaller --crop"
            )
        parts[axis] = slice(start, start + length)
    return selection.with_parts(parts)


def _require_room(rows: ImageRows) -> None:
    assert rows.patches is not None
    height, width, _ = rows.patches
    shape = rows.selection.lengths(rows.selection.image)
    if len(shape) < 2:
        raise IngestError(f"{rows.source.name} holds flat images; --patches need height and width")
    if shape[0] < height or shape[1] < width:
        raise IngestError(
            f"{rows.source.name} has images of {shape[0]}x{shape[1]}, smaller than the patches of "
            f"{height}x{width}; give smaller --patches, or leave it out"
        )


def _boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[slice, ...]]:
    """Yield the fewest boxes, in C order, that hold elements `start` to `stop - 1` of an array."""
    if not shape:
        yield ()
        return
    each = math.prod(shape[1:])
    while start < stop:
        first = start // each
        if start % each == 0 and stop - start >= each:
            last = stop // each
            yield (slice(first, last), *(slice(0, length) for length in shape[1:]))
            start = last * each
        else:
            end = min(stop, (first + 1) * each)
            for box in _boxes(shape[1:], start - first * each, end - first * each):
                yield (slice(first, first + 1), *box)
            start = end
