"""Images in files, wherever these lie: the `Source` of everything that is named by a path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.columns import to_columns
from dnmf.io.sources.entries import Entries, Entry, Run
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.formats.registry import open_image_file
from dnmf.io.sources.image_array import ImageRows, find_images, is_whole_image
from dnmf.io.sources.places.place import Place, Reject
from dnmf.io.sources.prepare import prepare


class _UnlikeError(IngestError):
    """An image can be read, but differs from the others in shape or dtype."""


@dataclass
class Batch:
    """Images that were read together, and those that could not be read.

    Attributes
    ----------
    images : ndarray of shape (rows,) + image_shape
    ids : list of str
    columns : dict of str to ndarray of shape (rows,)
    rejects : list of Reject
    """

    images: Array
    ids: list[str]
    columns: dict[str, Array] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)


@dataclass(frozen=True)
class FileImages:
    """Images of one shape and dtype in files.

    Attributes
    ----------
    places : tuple of Place
        Where the files lie.
    entries : Entries
        The files, in order.
    choices : Choices
        What is done to the images.
    image_shape : tuple of int
    dtype : numpy.dtype
    example : str
        Name of the file that has this shape and dtype.
    columns : mapping of str to str
        Type of each column of metadata.
    axes : tuple of str
        Names of the axes of an image; () if nothing names them.
    coords : mapping of str to list
        Numbers or names along axes of an image.
    facts : mapping of str to object
        What the corpus's record says of the order of the images.
    version : str
        Changes with each ingest, so that no process uses what it has opened for an earlier one.
    """

    places: tuple[Place, ...]
    entries: Entries
    choices: Choices
    image_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    example: str
    columns: Mapping[str, str]
    axes: tuple[str, ...]
    coords: Mapping[str, list[Any]]
    facts: Mapping[str, Any]
    version: str

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, start: int, stop: int) -> Batch:
        """Read images `start` to `stop - 1`, and say which of them cannot be used."""
        images = np.empty((stop - start, *self.image_shape), self.dtype)
        batch, values, count = Batch(images, []), [], 0
        row = start
        for run, file in self._files(start, stop):
            for part in self._read(run, file, row, batch.rejects):
                pixels, ids = part
                images[count : count + len(ids)] = pixels
                count += len(ids)
                batch.ids += ids
                values += [run.entry.values] * len(ids)
            row += run.stop - run.start
        batch.images = images[:count]
        batch.columns = to_columns(values, self.columns)
        return batch

    def _files(self, start: int, stop: int) -> Iterator[tuple[Run, ImageFile | IngestError | None]]:
        """Yield the files of images with their runs; None for files that stay open."""
        runs = self.entries.runs(start, stop)
        for (place, is_single), group in groupby(
            runs, key=lambda run: (run.entry.place, run.entry.count == 1)
        ):
            listed = list(group)
            if is_single:
                names = [run.entry.name for run in listed]
                yield from zip(listed, self.places[place].open_files(names), strict=True)
            else:
                yield from ((run, None) for run in listed)

    def _read(
        self, run: Run, file: ImageFile | IngestError | None, row: int, rejects: list[Reject]
    ) -> Iterator[tuple[Array, list[str]]]:
        """Yield pixels and ids of a run: all together, or one by one if some cannot be used."""
        try:
            yield self._pixels(run, file)
        except (IngestError, MemoryError) as error:
            if run.stop - run.start == 1:
                rejects.append(self._reject(run, row, error))
                return
            for i in range(run.start, run.stop):
                yield from self._read(Run(run.entry, i, i + 1), file, row + i - run.start, rejects)

    def _reject(self, run: Run, row: int, error: Exception) -> Reject:
        name = file_name(self.places[run.entry.place], run.entry)
        if run.entry.count > 1:
            name = f"{name}:{run.start}"
        return Reject(name, str(error), row, isinstance(error, _UnlikeError))

    def _pixels(self, run: Run, file: ImageFile | IngestError | None) -> tuple[Array, list[str]]:
        if isinstance(file, IngestError):
            raise file
        place, entry = self.places[run.entry.place], run.entry
        if file is None:
            rows = _open_and_keep(place, entry.name, self.choices, self.version)
        else:
            image = open_image_file(file, self.choices)
            if is_whole_image(image, self.choices):
                pixels = prepare(image.array[None], image.colors, self.choices)
                self._require_alike(pixels, image.name)
                return pixels, [entry.id]
            rows = find_images(image, self.choices)
        if len(rows) != entry.count:
            raise _UnlikeError(
                f"{rows.source.name} holds {len(rows)} images, where one was expected, as in "
                f"{self.example}; leave it out and add it afterwards with --append, or ingest it "
                "by itself"
            )
        pixels = prepare(rows.read(run.start, run.stop), rows.colors, self.choices)
        self._require_alike(pixels, rows.source.name)
        if entry.count == 1:
            return pixels, [entry.id]
        return pixels, [f"{entry.id}:{suffix}" for suffix in rows.ids(run.start, run.stop)]

    def _require_alike(self, pixels: Array, name: str) -> None:
        if (pixels.shape[1:], pixels.dtype) == (self.image_shape, self.dtype):
            return
        raise _UnlikeError(
            f"{name} is {describe_images(pixels.shape[1:], pixels.dtype)}, but {self.example} is "
            f"{describe_images(self.image_shape, self.dtype)}; {self._advise(pixels)}"
        )

    def _advise(self, pixels: Array) -> str:
        """Return the options that make images alike."""
        options = []
        if pixels.shape[1:3] != self.image_shape[:2]:
            options.append("--size HxW (or --crop, --pad, --patches)")
        if pixels.shape[3:] != self.image_shape[2:]:
            options.append("--color gray or rgb")
        if pixels.dtype != self.dtype:
            options.append("--dtype (numbers stay as they are: 255 remains 255)")
        return f"pass {' and '.join(options)} to make all alike, or leave it out"


def open_rows(file: ImageFile, choices: Choices) -> ImageRows:
    """Open a file as rows of images."""
    return find_images(open_image_file(file, choices), choices)


@lru_cache(maxsize=8)
def _open_and_keep(place: Place, name: str, choices: Choices, version: str) -> ImageRows:
    return open_rows(open_one(place, name), choices)


def open_one(place: Place, name: str) -> ImageFile:
    """Return a file of a place; raise IngestError if it cannot be opened."""
    (file,) = place.open_files([name])
    if isinstance(file, IngestError):
        raise file
    return file


def file_name(place: Place, entry: Entry) -> str:
    """Return what messages call a file."""
    base = next(
        (getattr(place, name) for name in ("root", "path", "table") if hasattr(place, name)), ""
    )
    return f"{base}/{entry.name}" if base else entry.name


def describe_images(shape: Sequence[int], dtype: np.dtype[Any]) -> str:
    """Write shape and dtype of an image, such as ``28 x 28 uint8``."""
    return f"{format_shape(tuple(shape))} {dtype}"
