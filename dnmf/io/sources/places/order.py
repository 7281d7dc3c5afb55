"""The natural order of file names, f2 before f10, also of more names than memory holds."""

from __future__ import annotations

import heapq
import json
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
    parts: list[Any] = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def sort_flat(items: Iterable[Item], key: Callable[[Item], Any]) -> Iterator[Item]:
    """Yield items in the order of their keys, in memory that does not grow with their number.

    Parameters
    ----------
    items : iterable
        Of JSON types; tuples may come out as lists.
    key : callable
    """
    left = iter(items)
    batch = sorted(islice(left, IN_MEMORY), key=key)
    if len(batch) < IN_MEMORY:
        yield from batch
        return
    runs: list[IO[str]] = []
    try:
        while batch:
            runs.append(_spill(batch))
            batch = sorted(islice(left, IN_MEMORY), key=key)
        yield from heapq.merge(*map(_read, runs), key=key)
    finally:
        for run in runs:
            run.close()


def _spill(items: list[Item]) -> IO[str]:
    file = tempfile.TemporaryFile("w+", prefix="dnmf-")  # noqa: SIM115 - `sort_flat` closes it
    file.writelines(f"{json.dumps(item)}\n" for item in items)
    file.seek(0)
    return file


def _read(file: IO[str]) -> Iterator[Any]:
    return map(json.loads, file)
