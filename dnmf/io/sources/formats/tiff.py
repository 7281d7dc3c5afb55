"""TIFF of every kind, by tifffile: stacks, pyramids and big images are read when asked for."""

from __future__ import annotations

import io
import re
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, check_size, named_errors
from dnmf.io.sources.formats.mapped import MappedArray
from dnmf.io.sources.formats.orientation import turn_of
from dnmf.io.sources.formats.tiff_colors import conversion_of
from dnmf.io.sources.image_array import ImageArray

if TYPE_CHECKING:
    from dnmf._typing import Array

PAGE_BYTES = 2**26
"""Largest page that is decoded as a whole; of a larger one the tiles or strips that are needed."""

_JPEG = (6, 7, 33007, 34892)
"""Compressions whose decoder fills what is missing with grey, without an error."""

_WITH_EXTRAS = ("svs", "ndpi", "scn", "qpi", "bif", "philips", "avs", "lsm", "sis", "mdgel", "eer")
"""Kinds of TIFF whose first series is the image, and the others are labels and previews."""

_ORIENTATION = 274


@dataclass(frozen=True)
class Tiff:
    """The format of TIFF files, see `Format`."""

    name: str = "TIFF"
    suffixes: tuple[str, ...] = (
        *(
            ".tif",
            ".tiff",
            ".btf",
            ".tf2",
            ".tf8",
            ".lsm",
            ".svs",
            ".ndpi",
            ".stk",
            ".scn",
            ".qptiff",
        ),
    )

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is a TIFF or a BigTIFF by its first bytes."""
        return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Decode a file of one image; of any other, read its structure."""
        try:
            import imagecodecs  # noqa: F401 (by which tifffile decompresses)
            import tifffile
        except ImportError:
            from dnmf.io.sources.formats.simple_tiff import open_simple_tiff

            return open_simple_tiff(file)
        with named_errors(file):
            with file.open() as stream:
                tif = tifffile.TiffFile(stream)
                if not len(tif.pages):
                    raise IngestError("it is cut short, without one whole image; fetch it again")
                if choices.array is None and choices.level == 0 and _is_one_image(tif):
                    return _open_page(tif, file.name)
            return _open_lazily(file, choices)


FORMAT = Tiff()


class _Anonymous(io.BufferedReader):
    """A file that does not say where it lies: tifffile opens no other files that it names."""

    def fileno(self) -> int:
        """Raise OSError."""
        raise io.UnsupportedOperation("fileno")


def _is_one_image(tif: Any) -> bool:
    """Check whether there is one image, without the work of finding series.

    Several images behind one directory are never compressed, so that the file is longer than one.
    """
    page = tif.pages[0]
    if len(tif.pages) > 1 or page.imagedepth > 1 or page.nbytes > PAGE_BYTES:
        return False
    return bool(page.compression != 1 or tif.filehandle.size < 2 * page.nbytes)


def _open_page(tif: Any, name: str) -> ImageArray:
    page = tif.pages[0]
    _require_all_pages(tif)
    _require_whole(tif, [page])
    return _as_image_array(page.asarray(), page.axes, page, tif, name)


def _open_lazily(file: ImageFile, choices: Choices) -> ImageArray:
    """Open a series of images, whose file stays open."""
    stream = file.open() if file.path is None else _Anonymous(io.FileIO(file.path))
    try:
        found = _open_series(stream, file, choices)
    except BaseException:
        stream.close()
        raise
    weakref.finalize(found.array, stream.close)
    return found


def _open_series(stream: Any, file: ImageFile, choices: Choices) -> ImageArray:
    import tifffile

    tif = tifffile.TiffFile(stream)
    _require_all_pages(tif)
    series = None if _names_other_files(tif) else _choose_series(tif, choices)
    if series is None or (series.kind in ("ome", "mmstack") and None in list(series)):
        stream.seek(0)  # the images of the other files are read from those files
        tif = tifffile.TiffFile(stream, is_ome=False, is_mmstack=False, is_ndtiff=False)
        series = _choose_series(tif, choices)
    if choices.level >= len(series.levels):
        raise IngestError(
            f"it has {len(series.levels)} levels of resolution; give --level with a number from 0 "
            f"to {len(series.levels) - 1}"
        )
    level = series.levels[choices.level]
    if level.keyframe.compression in _JPEG:
        _require_whole(tif, level)
    name = file.name if choices.array is None else f"{file.name}::{choices.array}"
    axes = level.axes
    array = _read_lazily(level, file)
    coords = _channel_names(tif, series, dict(zip(axes, array.shape, strict=True)))
    return _as_image_array(array, axes, level.keyframe, tif, name, coords)


def _names_other_files(tif: Any) -> bool:
    """Check whether a file belongs to several that hold the images together."""
    named = re.findall(r'FileName\s*=\s*"([^"]*)"', tif.ome_metadata or "") if tif.is_ome else []
    return bool(tif.is_ndtiff or len(set(named)) > 1)


def _choose_series(tif: Any, choices: Choices) -> Any:
    """Return the series of images that is asked for, or the only one."""
    every = tif.series
    names = [series.name for series in every]
    if choices.array is not None:
        if names.count(choices.array) == 1:
            return every[names.index(choices.array)]
        if choices.array.isdigit() and int(choices.array) < len(every):
            return every[int(choices.array)]
    else:
        usable = [series for series in every if not series.keyframe.is_reduced] or every
        if len(usable) == 1 or usable[0].kind in _WITH_EXTRAS:
            return usable[0]
    listed = "; ".join(
        f"{number}{f' ({series.name})' * bool(series.name)} with "
        + ", ".join(f"{a}={n}" for a, n in zip(series.axes.lower(), series.shape, strict=True))
        for number, series in enumerate(every)
    )
    wanted = "" if choices.array is None else f" and no {choices.array}"
    raise IngestError(
        f"it holds {len(every)} arrays of images{wanted}: {listed}; give --array with one of these "
        "numbers"
    )


def _read_lazily(level: Any, file: ImageFile) -> Any:
    """Return an array that reads slices of a series when they are asked for."""
    import zarr

    page, shape = level.keyframe, level.shape
    if level.dataoffset is not None and file.path is not None:
        dtype = np.dtype(level.dtype).newbyteorder(page.parent.byteorder)
        return np.memmap(file.path, dtype, "r", level.dataoffset, shape)
    by_page = page.nbytes <= PAGE_BYTES
    if not by_page:
        check_size(*page.chunks[:2])
    store = level.aszarr(level=0, chunkmode=2 if by_page else 0)
    return zarr.open_array(store, mode="r")


def _as_image_array(
    array: Any, axes: str, page: Any, tif: Any, name: str, coords: dict[str, Array] | None = None
) -> ImageArray:
    """Give an array the colours, the order of axes and the names that the tags of a page say."""
    names = _unique(axes.lower())
    has_samples = "s" in names
    samples = array.shape[names.index("s")] if has_samples else 1
    colors, convert, adds_axis, given = conversion_of(page, samples, _is_measurement(tif))
    order = sorted(range(len(names)), key=lambda axis: names[axis] == "s")
    names, mirrored = _upright(names, page)
    seen = [names[axis] for axis in order]
    channels = (samples if has_samples else None, given if has_samples else None)
    if adds_axis:
        channels = (samples if has_samples else None, given)
        seen = [*(each for each in seen if each != "s"), "s"]
        if has_samples:
            convert = partial(_of_only_sample, convert)
    if order != list(range(len(names))) or mirrored or convert is not None:
        array = MappedArray(array, order, mirrored, convert, channels)
    return ImageArray(array, tuple(seen), name, colors, coords or {})


def _of_only_sample(convert: Callable[[Array], Array] | None, numbers: Array) -> Array:
    assert convert is not None
    return convert(numbers[..., 0])


def _upright(names: list[str], page: Any) -> tuple[list[str], frozenset[int]]:
    """Return the names of axes in an upright image, and the axes that are to be reversed."""
    swap, up, left = turn_of(page.tags.valueof(_ORIENTATION, 1))
    if swap:
        names = [{"y": "x", "x": "y"}.get(name, name) for name in names]
    reversed_names = ({"y"} if up else set()) | ({"x"} if left else set())
    return names, frozenset(axis for axis, name in enumerate(names) if name in reversed_names)


def _is_measurement(tif: Any) -> bool:
    """Check whether the program that wrote a file uses palettes only to show numbers."""
    return bool(tif.is_imagej or tif.is_ome or tif.is_lsm or tif.is_stk)


def _unique(axes: str) -> list[str]:
    """Return a name for each letter, of which the second of a kind gets a number."""
    return [
        letter + (str(axes[:i].count(letter) + 1) if letter in axes[:i] else "")
        for i, letter in enumerate(axes)
    ]


def _channel_names(tif: Any, series: Any, lengths: dict[str, int]) -> dict[str, Array]:
    """Return the names of the channels of an OME-TIFF."""
    if series.kind != "ome":
        return {}
    with suppress(ElementTree.ParseError, IndexError):
        number = next(i for i, each in enumerate(tif.series) if each is series)
        image = ElementTree.fromstring(tif.ome_metadata).findall("{*}Image")[number]
        names = [channel.get("Name") for channel in image.iterfind("{*}Pixels/{*}Channel")]
        if all(names) and len(names) == lengths.get("C"):
            return {"c": np.array(names)}
    return {}


def _require_all_pages(tif: Any) -> None:
    """Raise IngestError if the place of the next directory lies behind the end of the file."""
    tif.filehandle.seek(tif.pages.next_page_offset)
    size = 8 if tif.is_bigtiff else 4
    following = tif.filehandle.read(size)
    place = int.from_bytes(following, "big" if tif.byteorder == ">" else "little")
    if len(following) < size or place >= tif.filehandle.size:
        raise IngestError(f"it is cut short after image {len(tif.pages)}; fetch it again")


def _require_whole(tif: Any, pages: Iterable[Any]) -> None:
    """Raise IngestError if pixels lie behind the end of the file."""
    size = tif.filehandle.size
    for page in pages:
        ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > size:
            raise IngestError("it is cut short; fetch it again")
