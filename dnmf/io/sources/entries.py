"""The list of the files of an ingest: on disk, so that ten million names need no memory.

A line of a part is the JSON list ``[place, name, id, count, values]``: the number of the place
of the file, its name there, its id, the number of its images, and its row in a table.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, islice
from typing import Any

from dnmf.storage.store import ObjectStore

PART_ENTRIES = 4096
"""Number of files in a part of the list."""

PART_BYTES = 2**28
"""Largest part that is read."""


@dataclass(frozen=True)
class Entry:
    """A file of an ingest.

    Attributes
    ----------
    name : str
        Its name in its place.
    place : int
        Number of its place.
    id : str
        Id of its image, or beginning of the ids of its images.
    count : int
        Number of its images.
    values : mapping of str to object
        What a table says of it, by column, in JSON types.
    """

    name: str
    place: int = 0
    id: str = ""
    count: int = 1
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """Consecutive images of a file: those from `start` to `stop - 1`."""

    entry: Entry
    start: int
    stop: int


@dataclass(frozen=True)
class Entries:
    """The list of the files of an ingest, as `write_entries` has written it.

    Attributes
    ----------
    path : str
        Folder or URL of the store that holds the list.
    starts : tuple of int
        Number of the first image of each part, and then the number of all images.
    """

    path: str
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return self.starts[-1]

    def runs(self, start: int, stop: int) -> list[Run]:
        """List the files that hold images `start` to `stop - 1`, with the range in each."""
        runs: list[Run] = []
        part = bisect_right(self.starts, start) - 1
        while part < len(self.starts) - 1 and self.starts[part] < stop:
            entries, firsts = _read_part(self.path, part, self.starts)
            at = max(bisect_right(firsts, start) - 1, 0)
            while at < len(entries) and firsts[at] < stop:
                a, b = max(start - firsts[at], 0), min(stop - firsts[at], entries[at].count)
                if a < b:
                    runs.append(Run(entries[at], a, b))
                at += 1
            part += 1
        return runs


def write_entries(path: str, entries: Iterable[Entry]) -> Entries:
    """Write a list of files into a store, in parts; see `Entries`."""
    store, starts = ObjectStore(path), [0]
    left = iter(entries)
    while part := list(islice(left, PART_ENTRIES)):
        lines = (json.dumps([e.place, e.name, e.id, e.count, e.values], default=str) for e in part)
        store.set(_key(len(starts) - 1), "\n".join(lines).encode())
        starts.append(starts[-1] + sum(entry.count for entry in part))
    return Entries(path, tuple(starts))


def copy_entries(entries: Entries, path: str) -> Entries:
    """Copy a list of files into another store."""
    source, target = ObjectStore(entries.path), ObjectStore(path)
    for part in range(len(entries.starts) - 1):
        target.set(_key(part), source.get(_key(part), PART_BYTES))
    return Entries(path, entries.starts)


@lru_cache(maxsize=8)
def _read_part(
    path: str, part: int, starts: Sequence[int]
) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
    """Read a part of the list; return its files, and the number of the first image of each."""
    entries = tuple(_parse(ObjectStore(path).get(_key(part), PART_BYTES)))
    return entries, tuple(accumulate((e.count for e in entries), initial=starts[part]))


def _parse(content: bytes) -> Iterator[Entry]:
    for line in content.split(b"\n"):
        place, name, identity, count, values = json.loads(line)
        yield Entry(name, place, identity, count, values)


def _key(part: int) -> str:
    return f"plan/files/{part:06d}.json"
