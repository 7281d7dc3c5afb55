"""Where images come from: the one thing a new input format has to bring is a `Source`."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dnmf._typing import Array
from dnmf.errors import BadImagesError, IngestError
from dnmf.io.array_files import open_array

_log = logging.getLogger(__name__)
Size = tuple[int, int]
FORMATS = ("PNG", "JPEG", "TIFF", "PPM")
"""What Pillow may open: anything else, whatever its file name says, is refused unread."""

MOST_PIXELS = 2**26
"""Pixels of an image file: some kilobytes can promise, and inflate to, any number of them."""

TRIED = 100
"""Files of which one must be an image."""

TOO_LARGE = f"it has more than {MOST_PIXELS:,} pixels; cut it into tiles, shrink it or leave it out"
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
COLORS = ("gray", "rgb")


class Source(Protocol):
    """Images in a fixed order, read by range; picklable, so that any process can read.

    Attributes
    ----------
    image_shape : tuple of int
        (h, w), (h, w, channels) or (p,).
    dtype : numpy.dtype
    """

    @property
    def image_shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    def __len__(self) -> int: ...

    def ids(self, start: int, stop: int) -> list[str]:
        """Name images `start` to `stop - 1`."""
        ...

    def read(self, start: int, stop: int) -> Array:
        """Read images `start` to `stop - 1` as ``(stop - start,) + image_shape``.

        Raises
        ------
        IngestError
            An image cannot be read, or is not like the others.
        """
        ...


def open_source(
    paths: Sequence[str | os.PathLike[str]], *, size: Size | None = None, color: str | None = None
) -> Source:
    """Open image files, folders of them, or array files as one source.

    Parameters
    ----------
    paths : sequence of paths
        Folders (searched with their subfolders) and image files, in one list; or IDX (``.gz``
        too) and ``.npy`` files, one after the other.
    size : (h, w), optional
        Resize every image, averaging over areas.
    color : "gray" or "rgb", optional
        Convert every image; without it all must be alike.

    Raises
    ------
    IngestError
    """
    if color not in (None, *COLORS):
        raise IngestError(f"color is {color!r}; it must be 'gray' or 'rgb'")
    if size is not None and not (
        isinstance(size, tuple) and len(size) == 2 and all(isinstance(x, int) for x in size)
    ):
        raise IngestError(f"size is {size!r}; it must be (height, width)")
    if size is not None and min(size) < 1:
        raise IngestError(f"size is {size[0]}x{size[1]}; height and width must be at least 1")
    files = [Path(path).absolute() for path in paths]
    for path in files:
        if not path.exists():
            raise IngestError(f"{path} does not exist; give folders, image files, IDX or .npy")
    arrays = [path for path in files if path.is_file() and path.suffix.lower() not in SUFFIXES]
    if not arrays:
        return _image_files(files, size, color)
    if len(arrays) < len(files):
        raise IngestError(
            f"{arrays[0]} is an array file and {next(f for f in files if f not in arrays)} is not; "
            "ingest images and arrays into separate corpora"
        )
    return _stack([_array_file(path, size, color) for path in arrays])


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded by Pillow; see `Source`."""

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
        """Name images by their paths below the folder."""
        return list(self.names[start:stop])

    def read(self, start: int, stop: int) -> Array:
        """Decode some of the files; see `Source.read`."""
        out = np.empty((stop - start, *self.image_shape), self.dtype)
        errors: list[str] = []
        for i, name in enumerate(self.names[start:stop]):
            try:
                out[i] = self._read_one(name)
            except IngestError as error:
                errors.append(str(error))
        if errors:
            raise BadImagesError(errors)
        return out

    def _read_one(self, name: str) -> Array:
        pixels = read_image(self.root / name, self.size, self.color)
        if pixels.shape != self.image_shape or pixels.dtype != self.dtype:
            advice = "pass --size HxW to resize all" if self.size is None else ""
            if self.color is None and pixels.shape[2:] != self.image_shape[2:]:
                advice = "pass --color gray or rgb to convert all"
            raise IngestError(
                f"{self.root / name} is {_describe(pixels.shape, pixels.dtype)}, but "
                f"{self.example} is {_describe(self.image_shape, self.dtype)}; "
                f"{advice}{' or ' if advice else ''}leave it out"
            )
        return pixels


@dataclass(frozen=True)
class ArrayFile:
    """An IDX or ``.npy`` file of images; see `Source`."""

    path: Path
    size: Size | None
    color: str | None
    image_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n: int

    def __len__(self) -> int:
        return self.n

    def ids(self, start: int, stop: int) -> list[str]:
        """Name images by the file and their number in it."""
        stem = self.path.name.split(".")[0]
        return [f"{stem}:{i}" for i in range(start, stop)]

    def read(self, start: int, stop: int) -> Array:
        """Read some of the rows; see `Source.read`."""
        images = open_array(self.path)[start:stop]
        if self.size is None and self.color is None:
            return images.astype(self.dtype, copy=False)
        return np.stack([_conform_array(image, self.size, self.color) for image in images])


@dataclass(frozen=True)
class Stack:
    """Sources of like images, one after the other; see `Source`."""

    parts: Sequence[Source]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of every image."""
        return self.parts[0].image_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of every image."""
        return self.parts[0].dtype

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def ids(self, start: int, stop: int) -> list[str]:
        """Name images as their sources do."""
        return [name for part, a, b in self._pieces(start, stop) for name in part.ids(a, b)]

    def read(self, start: int, stop: int) -> Array:
        """Read across the parts; see `Source.read`."""
        return np.concatenate([part.read(a, b) for part, a, b in self._pieces(start, stop)])

    def _pieces(self, start: int, stop: int) -> list[tuple[Source, int, int]]:
        pieces, first = [], 0
        for part in self.parts:
            a, b = max(start - first, 0), min(stop - first, len(part))
            if a < b:
                pieces.append((part, a, b))
            first += len(part)
        return pieces


def read_image(path: Path, size: Size | None, color: str | None) -> Array:
    """Decode one image file, upright, to (h, w) or (h, w, 3).

    Raises
    ------
    IngestError
        It cannot be opened or decoded, or has colours that need `color` to say what to do.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _require_modest(image.size)
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise IngestError(f"it holds {frames} images; split it into one file per image")
            return _conform(ImageOps.exif_transpose(image), size, color)
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


def _require_modest(image_size: tuple[int, int]) -> None:
    """Refuse a header that promises too many pixels, before they are decoded."""
    if image_size[0] * image_size[1] > MOST_PIXELS:
        raise IngestError(TOO_LARGE)


def _conform(image: Image.Image, size: Size | None, color: str | None) -> Array:
    """Convert and resize a decoded image; 16-bit and floating grey stay what they are."""
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


def _conform_array(image: Array, size: Size | None, color: str | None) -> Array:
    try:
        return _conform(Image.fromarray(image), size, color)
    except TypeError as error:
        raise IngestError(
            f"images of {_describe(image.shape, image.dtype)} cannot be resized or converted; "
            "do it before, without --size and --color"
        ) from error


def _image_files(paths: Sequence[Path], size: Size | None, color: str | None) -> ImageFiles:
    root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))
    names: list[str] = []
    others: Counter[str] = Counter()
    for path in paths:
        for file in [path] if path.is_file() else _files_below(path):
            if file.name.startswith("."):
                continue
            if not stat.S_ISREG(file.stat().st_mode):
                others["that are no regular files"] += 1
            elif file.suffix.lower() in SUFFIXES:
                names.append(file.relative_to(root).as_posix())
            else:
                others[file.suffix.lower() or "without a suffix"] += 1
    left_out = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    if not names:
        raise IngestError(
            f"{', '.join(map(str, paths))}: no images found; looked for {' '.join(SUFFIXES)}"
            + (f", left out {left_out}" * bool(others))
            + "; give .npy and IDX files by their names"
        )
    if others:
        _log.warning("%d files left out, not images that dnmf reads: %s", others.total(), left_out)
    example, first = _first_readable(root, names, size, color)
    return ImageFiles(root, names, size, color, first.shape, first.dtype, example)


def _first_readable(
    root: Path, names: Sequence[str], size: Size | None, color: str | None
) -> tuple[str, Array]:
    """Read the image that all others must be like: not the first, if that is a bad one."""
    errors = []
    for name in names[:TRIED]:
        try:
            return name, read_image(root / name, size, color)
        except IngestError as error:
            errors.append(str(error))
    raise BadImagesError(errors)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield what is below a folder and no folder, in order; links may not lead out of it.

    A folder may be somebody else's, and a link in it lead to what only its reader may see. What is
    given by its name is followed wherever it leads.
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


def _array_file(path: Path, size: Size | None, color: str | None) -> ArrayFile:
    images = open_array(path)
    if 0 in images.shape:
        raise IngestError(f"{path} holds no images: its shape is {images.shape}")
    if images.ndim not in (2, 3, 4):
        raise IngestError(
            f"{path} holds an array of shape {images.shape}; images are (n, h, w), "
            "(n, h, w, channels) or (n, pixels)"
        )
    if images.dtype.kind not in "buif":
        raise IngestError(f"{path} holds {images.dtype}; pixels are integers or floats")
    first = images[0]
    if size is not None or color is not None:
        if images.ndim == 2:
            raise IngestError(f"{path} holds flat images; --size and --color need (n, h, w)")
        first = _conform_array(first, size, color)
    dtype = np.dtype("u1") if first.dtype == bool else first.dtype.newbyteorder("=")
    return ArrayFile(path, size, color, first.shape, dtype, len(images))


def _stack(parts: list[ArrayFile]) -> Source:
    for part in parts[1:]:
        if (part.image_shape, part.dtype) != (parts[0].image_shape, parts[0].dtype):
            raise IngestError(
                f"{part.path} holds images of {_describe(part.image_shape, part.dtype)}, but "
                f"{parts[0].path} of {_describe(parts[0].image_shape, parts[0].dtype)}; "
                "make them alike, or ingest them into separate corpora"
            )
    return parts[0] if len(parts) == 1 else Stack(parts)


def _describe(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{' x '.join(map(str, shape))} {dtype}"
