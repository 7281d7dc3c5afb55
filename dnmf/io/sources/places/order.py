"""The natural order of file names, f2 before f10, also of more names than memory holds."""

from __future__ import annotations

import heapq
import pickle
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any, TypeVar

Item = TypeVar("Item")

IN_MEMORY = 2**17
"""Number of names that are sorted in memory; more of them are merged from temporary files."""


def natural(name: str) -> tuple[list[Any], str]:
    """Return a key that sorts names by their digits' value: f2 before f10."""
    parts = re.split("([0-9]+)", name)
    return [int(part) if part.isdecimal() else part for part in parts], name


def sort_flat(items: Iterable[Item], key: Callable[[Item], Any]) -> Iterator[Item]:
    """Yield items in the order of their keys, in memory that does not grow with their number."""
    left = iter(items)
    batch = sorted(islice(left, IN_MEMORY), key=key)
    if len(batch) < IN_MEMORY:
        yield from batch
        return
    runs: list[IO[bytes]] = []
    try:
        while batch:
            runs.append(_spill(batch))
            batch = sorted(islice(left, IN_MEMORY), key=key)
        yield from heapq.merge(*map(_read, runs), key=key)
    finally:
        for run in runs:
            run.close()


def _spill(items: list[Item]) -> IO[bytes]:
    file = tempfile.TemporaryFile(prefix="dnmf-")  # noqa: SIM115 - `sort_flat` closes it
    for start in range(0, len(items), 1024):
        pickle.dump(items[start : start + 1024], file)
    file.seek(0)
    return file


def _read(file: IO[bytes]) -> Iterator[Any]:
    while True:
        try:
            batch = pickle.load(file)  # written by this process, to a file without a name
        except EOFError:
            return
        yield from batch
