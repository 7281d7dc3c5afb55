"""The interface of a source of images, and how paths become one."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from dnmf._typing import Array
from dnmf.engine.executors import map_on_threads
from dnmf.errors import BadImagesError, IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.columns import ColumnTypes
from dnmf.io.sources.entries import Entry, write_entries
from dnmf.io.sources.facts import axes_of, coords_of, facts_of
from dnmf.io.sources.files import FileImages, file_name, open_one, open_rows
from dnmf.io.sources.formats.registry import all_suffixes
from dnmf.io.sources.image_array import ImageRows
from dnmf.io.sources.places.archives import Archive, is_archive
from dnmf.io.sources.places.folder import open_local
from dnmf.io.sources.places.place import Listed, Place, Reject
from dnmf.io.sources.places.remote import open_remote
from dnmf.io.sources.places.tables import LISTS, open_table
from dnmf.io.sources.prepare import prepare
from dnmf.storage.paths import is_url, normalize_path

MAX_TRIED = 1000
"""Number of files tried in search of a readable one, whose size and dtype all others must have."""

OPENED_AT_ONCE = 1024
"""Number of files whose images are counted together."""


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
        """Return the ids of images `start` to `stop - 1`."""
        ...

    def read(self, start: int, stop: int) -> Array:
        """Read images `start` to `stop - 1` as ``(stop - start,) + image_shape``.

        Raises
        ------
        IngestError
            An image cannot be read, or is not like the others.
        """
        ...


@dataclass(frozen=True)
class _Found:
    """A file that is listed, and the place where it lies."""

    place: int
    listed: Listed


def open_source(
    paths: Sequence[str | os.PathLike[str]],
    choices: Choices,
    scratch: str,
    known: Container[str] | None = None,
) -> tuple[FileImages, list[Reject]]:
    """List the image files behind paths, and return them as one source.

    Parameters
    ----------
    paths : sequence of paths
        Folders (searched with their subfolders), files, patterns, archives, tables and URLs;
        ``::name`` after a path names an array in the file.
    choices : Choices
    scratch : str
        Folder in which the list of files is kept.
    known : container of str, optional
        Ids of files that are left out without a message.

    Returns
    -------
    source : FileImages
    rejects : list of Reject
        Files that cannot be used, as far as listing them has shown it.

    Raises
    ------
    IngestError
        A path does not exist, or no image can be read.
    """
    plain, choices = _split_keys(list(map(normalize_path, paths)), choices)
    return source_of(places_of(plain), choices, scratch, known)


def source_of(
    places: Sequence[Place],
    choices: Choices,
    scratch: str,
    known: Container[str] | None = None,
) -> tuple[FileImages, list[Reject]]:
    """List the image files of places, and return them as one source; see `open_source`."""
    rejects: list[Reject] = []
    types = ColumnTypes()
    files = _listed(places, rejects)
    if known is not None:
        files = _only_new(places, files, known)
    tried, rows = _first_readable(places, files, choices, rejects)
    several = len(rows) > 1 or choices.axis is not None or choices.patches is not None
    everything = chain(tried, files)
    counted = (
        _count(places, everything, choices, rejects)
        if several
        else (_entry(found) for found in everything)
    )
    entries = write_entries(scratch, _observed(counted, types))
    if not len(entries):
        raise IngestError(_nothing_found(places, rejects))
    pixels = prepare(rows.read(0, 1), rows.colors, choices)
    source = FileImages(
        places=tuple(places),
        entries=entries,
        choices=choices,
        image_shape=pixels.shape[1:],
        dtype=pixels.dtype,
        example=rows.source.name,
        columns=types.dtypes(),
        axes=axes_of(rows, pixels.shape[1:]),
        coords=coords_of(rows, pixels.shape[1:]),
        facts={"order": "natural", **facts_of(rows, len(entries))},
        version=uuid4().hex,
    )
    return source, rejects


def places_of(paths: Sequence[str]) -> list[Place]:
    """Return the places where the files behind paths lie.

    Raises
    ------
    IngestError
        A path does not exist.
    """
    kinds = [(_kind(path), path) for path in paths]
    several = len(kinds) > 1
    places: list[Place] = []
    for kind, group in groupby(kinds, key=lambda item: item[0]):
        named = [path for _, path in group]
        if kind == "local":
            places.append(open_local(named))
        elif kind == "remote":
            places.append(open_remote(named))
        elif kind == "table":
            places += map(open_table, map(_existing, named))
        else:
            places += [
                Archive(path, f"{os.path.basename(path)}/" * several)
                for path in map(_existing, named)
            ]
    return places


def _kind(path: str) -> str:
    if is_archive(path):
        return "archive"
    if path.lower().endswith(LISTS):
        return "table"
    return "remote" if is_url(path) else "local"


def _existing(path: str) -> str:
    if is_url(path):
        return path
    if not os.path.exists(path):
        raise IngestError(f"{path} does not exist; give folders, files, patterns or URLs")
    return os.path.abspath(path)


def _split_keys(paths: list[str], choices: Choices) -> tuple[list[str], Choices]:
    """Split ``file::name`` into the path and the name of an array, which is one for all paths."""
    plain, keys = [], {choices.array}
    for path in paths:
        whole, mark, key = path.rpartition("::")
        if mark and not os.path.lexists(path):
            plain.append(whole)
            keys.add(key)
        else:
            plain.append(path)
    names = sorted(key for key in keys if key is not None)
    if len(names) > 1:
        raise IngestError(
            f"{', '.join(names)} are different arrays; ingest them into separate corpora"
        )
    return plain, replace(choices, array=names[0] if names else None)


def _listed(places: Sequence[Place], rejects: list[Reject]) -> Iterator[_Found]:
    """Yield the files of all places, and collect what cannot be used."""
    for number, place in enumerate(places):
        for item in place.list_files():
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                yield _Found(number, item)


def _only_new(
    places: Sequence[Place], files: Iterator[_Found], known: Container[str]
) -> Iterator[_Found]:
    """Yield files whose ids are not known; raise IngestError if there are files, but none such."""
    n_known = n_new = 0
    for found in files:
        if found.listed.id in known:
            n_known += 1
        else:
            n_new += 1
            yield found
    if n_known and not n_new:
        names = ", ".join(_describe(place) for place in places)
        raise IngestError(f"{names}: the corpus has all {n_known:,} of these files already")


def _first_readable(
    places: Sequence[Place], files: Iterator[_Found], choices: Choices, rejects: list[Reject]
) -> tuple[list[_Found], ImageRows]:
    """Return all files up to the first that can be read, and the images of that one."""
    tried: list[_Found] = []
    errors: list[str] = []
    for found in files:
        tried.append(found)
        try:
            rows = open_rows(open_one(places[found.place], found.listed.name), choices)
            prepare(rows.read(0, 1), rows.colors, choices)
            return tried, rows
        except IngestError as error:
            errors.append(str(error))
        if len(tried) >= MAX_TRIED:
            break
    if not tried:
        raise IngestError(_nothing_found(places, rejects))
    raise BadImagesError(errors)


def _nothing_found(places: Sequence[Place], rejects: Sequence[Reject]) -> str:
    names = ", ".join(_describe(place) for place in places)
    refused = ""
    if rejects:
        first = rejects[0]
        refused = f"; {len(rejects):,} refused, the first: {first.path} {first.reason}"
    return (
        f"{names}: no images found; looked for {' '.join(all_suffixes())}{refused}; give files "
        "with other names by name"
    )


def _describe(place: Place) -> str:
    targets = getattr(place, "targets", ())
    return ", ".join(targets) or getattr(place, "path", getattr(place, "table", "the table"))


def _entry(found: _Found, count: int = 1) -> Entry:
    return Entry(found.listed.name, found.place, found.listed.id, count, found.listed.values)


def _count(
    places: Sequence[Place], files: Iterable[_Found], choices: Choices, rejects: list[Reject]
) -> Iterator[Entry]:
    """Yield files with the number of their images, for which each is opened."""
    left = iter(files)
    while batch := [found for found, _ in zip(left, range(OPENED_AT_ONCE), strict=False)]:
        counts = map_on_threads(partial(_count_one, places, choices), batch)
        for found, count in zip(batch, counts, strict=True):
            if isinstance(count, Reject):
                rejects.append(count)
            elif count:
                yield _entry(found, count)


def _count_one(places: Sequence[Place], choices: Choices, found: _Found) -> int | Reject:
    place, name = places[found.place], found.listed.name
    try:
        return len(open_rows(open_one(place, name), choices))
    except IngestError as error:
        return Reject(file_name(place, _entry(found)), str(error))


def _observed(entries: Iterable[Entry], types: ColumnTypes) -> Iterator[Entry]:
    for entry in entries:
        types.add(entry.values)
        yield entry
