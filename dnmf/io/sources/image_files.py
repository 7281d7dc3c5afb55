"""Image files, one image each: PNG, JPEG, TIFF, PGM and PPM, decoded by Pillow."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import BadImagesError, IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats import netpbm, pillow
from dnmf.io.sources.formats.file import ImageFile, named_errors
from dnmf.io.sources.formats.simple_tiff import open_simple_tiff
from dnmf.io.sources.prepare import prepare

_log = logging.getLogger(__name__)

Size = tuple[int, int]
"""Height and width."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
"""Suffixes of the files that are read from folders."""

MAX_TRIED = 1000
"""Number of files tried in search of a readable one, which says what the others must be like."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files of one shape and dtype; a `Source`.

    Attributes
    ----------
    root : Path
        Folder that holds all files.
    names : sequence of str
        Paths of the files, relative to `root`.
    size : (h, w) or None
        Size to which every image is resized.
    color : "gray", "rgb" or None
        Colours to which every image is converted.
    image_shape : tuple of int
    dtype : numpy.dtype
    example : str
        Name of the file that has this shape and dtype.
    order : str
        Name of the order of files in a folder; a corpus without it, of dnmf 0.1, has them by the
        characters of their names: f10 before f2.
    """

    root: Path
    names: Sequence[str]
    size: Size | None
    color: str | None
    image_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    example: str
    order: str = "natural"

    def __len__(self) -> int:
        return len(self.names)

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the paths of images `start` to `stop - 1` below the folder."""
        return list(self.names[start:stop])

    def read(self, start: int, stop: int) -> Array:
        """Decode images `start` to `stop - 1`; see `Source.read`."""
        images = np.empty((stop - start, *self.image_shape), self.dtype)
        errors: dict[str, str] = {}
        for i, name in enumerate(self.names[start:stop]):
            try:
                images[i] = self._read_one(name)
            except IngestError as error:
                errors[name] = str(error)
        if errors:
            raise BadImagesError(list(errors.values()), list(errors))
        return images

    def _read_one(self, name: str) -> Array:
        pixels = read_image(self.root / name, self.size, self.color)
        if pixels.shape != self.image_shape or pixels.dtype != self.dtype:
            raise IngestError(
                f"{self.root / name} is {describe_images(pixels.shape, pixels.dtype)}, but "
                f"{self.example} is {describe_images(self.image_shape, self.dtype)}; "
                f"{self._advise(pixels)}"
            )
        return pixels

    def _advise(self, other: Array) -> str:
        """Return what makes an image like the others, if options of an ingest do it at all."""
        if other.dtype != self.dtype:
            return (
                f"no option makes {other.dtype} and {self.dtype} alike: convert the files to one "
                "depth, or ingest the two kinds into separate corpora"
            )
        options = []
        if other.shape[:2] != self.image_shape[:2]:
            options.append("--size HxW to resize")
        if other.shape[2:] != self.image_shape[2:]:
            options.append("--color gray or rgb to convert")
        return f"pass {' and '.join(options)} all, or leave it out"


def open_image_files(paths: Sequence[Path], size: Size | None, color: str | None) -> ImageFiles:
    """Open image files, and those below folders, as a source; see `open_source`."""
    root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))
    names: list[str] = []
    ignored: Counter[str] = Counter()
    for path in paths:
        for file in [path] if path.is_file() else _files_below(path):
            if file.name.startswith("."):
                continue
            if not stat.S_ISREG(file.stat().st_mode):
                ignored["that are no regular files"] += 1
            elif file.suffix.lower() in SUFFIXES:
                names.append(file.relative_to(root).as_posix())
            else:
                ignored[file.suffix.lower() or "without a suffix"] += 1
    left_out = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common(5))
    if not names:
        raise IngestError(
            f"{', '.join(map(str, paths))}: no images found; looked for {' '.join(SUFFIXES)}"
            + (f", left out {left_out}" * bool(ignored))
            + "; give .npy and IDX files by their names"
        )
    if ignored:
        _log.warning("%d files left out, not images that dnmf reads: %s", ignored.total(), left_out)
    example, first = _first_readable(root, names, size, color)
    return ImageFiles(root, names, size, color, first.shape, first.dtype, example)


def read_image(path: Path, size: Size | None, color: str | None) -> Array:
    """Decode an image file, upright, to (h, w) or (h, w, 3).

    Raises
    ------
    IngestError
        The file cannot be decoded to the numbers that are in it, has transparent pixels, or has
        pixels that are negative, NaN or infinite.
    """
    file = ImageFile(str(path), partial(io.FileIO, path), path)
    choices = Choices(size=size, color=color)
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        image = open_simple_tiff(file)
    else:
        reader = netpbm.FORMAT if suffix in netpbm.FORMAT.suffixes else pillow.FORMAT
        image = reader.open(file, choices)
    with named_errors(file):
        prepared: Array = prepare(image.array[None], image.colors, choices)[0]
    return prepared


def convert_array(image: Array, size: Size | None, color: str | None) -> Array:
    """Convert and resize an image that is an array of shape (h, w) or (h, w, channels)."""
    prepared: Array = prepare(image[None], None, Choices(size=size, color=color))[0]
    return prepared


def describe_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Write shape and dtype of an image, such as ``28 x 28 uint8``."""
    return f"{format_shape(shape)} {dtype}"


def _first_readable(
    root: Path, names: Sequence[str], size: Size | None, color: str | None
) -> tuple[str, Array]:
    """Return name and pixels of the first file that can be read; all others must be like it."""
    errors = []
    for name in names[:MAX_TRIED]:
        try:
            return name, read_image(root / name, size, color)
        except IngestError as error:
            errors.append(str(error))
    raise BadImagesError(errors)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, in the natural order of their names: f2 before f10.

    Links must not lead out of the folder: it may belong to somebody else, and a link in it may lead
    to a file that only its reader may see. A path that the caller has named may lead anywhere.
    """
    top = folder.resolve()
    for file in sorted(folder.rglob("*"), key=_natural):
        if file.is_symlink() and not file.name.startswith("."):
            if not file.resolve().is_relative_to(top):
                raise IngestError(
                    f"{file} is a link out of {folder}; give the files it stands for by name, copy "
                    "them, or leave it out"
                )
            if not file.exists():
                raise IngestError(f"{file} is a link to nothing; mend it or leave it out")
        if not file.is_dir():
            yield file


def _natural(path: Path) -> list[Any]:
    """Return a key that sorts paths by their parts, and digits in these by their value."""
    return [
        ([int(part) if part.isdigit() else part for part in re.split("([0-9]+)", name)], name)
        for name in path.parts
    ]
