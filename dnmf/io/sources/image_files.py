"""Image files, one image each: PNG, JPEG, TIFF, PGM and PPM, decoded by Pillow."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import BadImagesError, IngestError

_log = logging.getLogger(__name__)

Size = tuple[int, int]
"""Height and width."""

FORMATS = ("PNG", "JPEG", "TIFF", "PPM")
"""Formats that Pillow may open; it refuses a file of any other, whatever its suffix."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
"""Suffixes of the files that are read from folders."""

MAX_PIXELS = 2**26
"""Largest number of pixels of an image: a file of some kilobytes can decompress to any number."""

MAX_TRIED = 100
"""Number of files tried in search of a readable one, which says what the others must be like."""

TOO_LARGE = f"it has more than {MAX_PIXELS:,} pixels; cut it into tiles, shrink it or leave it out"


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
    """

    root: Path
    names: Sequence[str]
    size: Size | None
    color: str | None
    image_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    example: str

    def __len__(self) -> int:
        return len(self.names)

    def ids(self, start: int, stop: int) -> list[str]:
        """Return the paths of images `start` to `stop - 1` below the folder."""
        return list(self.names[start:stop])

    def read(self, start: int, stop: int) -> Array:
        """Decode images `start` to `stop - 1`; see `Source.read`."""
        images = np.empty((stop - start, *self.image_shape), self.dtype)
        errors: list[str] = []
        for i, name in enumerate(self.names[start:stop]):
            try:
                images[i] = self._read_one(name)
            except IngestError as error:
                errors.append(str(error))
        if errors:
            raise BadImagesError(errors)
        return images

    def _read_one(self, name: str) -> Array:
        pixels = read_image(self.root / name, self.size, self.color)
        if pixels.shape != self.image_shape or pixels.dtype != self.dtype:
            advice = "pass --size HxW to resize all" if self.size is None else ""
            if self.color is None and pixels.shape[2:] != self.image_shape[2:]:
                advice = "pass --color gray or rgb to convert all"
            raise IngestError(
                f"{self.root / name} is {describe_images(pixels.shape, pixels.dtype)}, but "
                f"{self.example} is {describe_images(self.image_shape, self.dtype)}; "
                f"{advice}{' or ' if advice else ''}leave it out"
            )
        return pixels


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
        The file cannot be opened or decoded, or has colours that need `color`.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:  # the header says so: nothing is decoded
                raise IngestError(TOO_LARGE)
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise IngestError(f"it holds {frames} images; split it into one file per image")
            return _convert(ImageOps.exif_transpose(image), size, color)
    except IngestError as error:
        raise IngestError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise IngestError(
            f"{path} is not an image that dnmf reads ({', '.join(FORMATS)}); leave it out"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise IngestError(f"{path}: {TOO_LARGE}") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise IngestError(f"{path} cannot be read ({error}); mend it or leave it out") from error


def convert_array(image: Array, size: Size | None, color: str | None) -> Array:
    """Convert and resize an image that is an array of shape (h, w) or (h, w, channels)."""
    try:
        return _convert(Image.fromarray(image), size, color)
    except TypeError as error:
        raise IngestError(
            f"images of {describe_images(image.shape, image.dtype)} cannot be resized or "
            "converted; do it before, without --size and --color"
        ) from error


def describe_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """Write shape and dtype of an image, such as ``28 x 28 uint8``."""
    return f"{format_shape(shape)} {dtype}"


def _convert(image: Image.Image, size: Size | None, color: str | None) -> Array:
    """Convert and resize a decoded image; 16-bit and floating-point grey keep their dtype."""
    deep = image.mode.startswith("I") or image.mode == "F"
    if color == "rgb":
        if deep:
            raise IngestError(f"mode {image.mode} has no colours; pass --color gray")
        image = image.convert("RGB")
    elif color == "gray" and not deep:
        image = image.convert("L")
    if not deep and image.mode not in ("L", "RGB"):
        raise IngestError(f"mode {image.mode} is neither grey nor RGB; pass --color gray or rgb")
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BOX)
    pixels = np.asarray(image)
    if pixels.dtype.kind == "i":  # Pillow widens 16-bit PGM to 32 bits
        if pixels.min() < 0 or pixels.max() > 65535:
            raise IngestError("pixels do not fit 16 bits; save them as a .npy file")
        pixels = pixels.astype(np.uint16)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


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
    """Yield the files below a folder, in order.

    Links must not lead out of the folder: it may belong to somebody else, and a link in it may lead
    to a file that only its reader may see. A path that the caller has named may lead anywhere.
    """
    top = folder.resolve()
    for file in sorted(folder.rglob("*")):
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
