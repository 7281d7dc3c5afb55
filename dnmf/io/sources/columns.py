"""Columns of metadata of images, and their types, which are found while a table is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import IngestError

MOST_COLUMNS = 500
"""Largest number of columns; a table with more is probably a table of pixels, or a mistake."""

_INTEGERS = range(-(2**63), 2**63)


class ColumnTypes:
    """Types of columns, from all values that `add` has seen."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}
        self._n_rows = 0

    def add(self, values: Mapping[str, Any]) -> None:
        """Look at the values of an image."""
        for name, value in values.items():
            known = self._kinds.setdefault(name, {"missing"} if self._n_rows else set())
            known.add(_kind(value))
        if len(self._kinds) > MOST_COLUMNS:
            raise IngestError(
                f"there are more than {MOST_COLUMNS:,} columns of metadata; leave most of them out"
            )
        for name in self._kinds.keys() - values.keys():
            self._kinds[name].add("missing")
        self._n_rows += 1

    def dtypes(self) -> dict[str, str]:
        """Return the type of each column: ``bool``, ``int64``, ``float64`` or ``str``."""
        return {name: _dtype(kinds) for name, kinds in self._kinds.items()}


def to_columns(rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]) -> dict[str, Array]:
    """Return the values of images as one array for each column; missing ones are NaN or empty."""
    return {name: _array((row.get(name) for row in rows), dtype) for name, dtype in dtypes.items()}


def _array(values: Iterable[Any], dtype: str) -> Array:
    if dtype == "str":
        return np.array(["" if value is None else str(value) for value in values], dtype=object)
    if dtype == "float64":
        return np.array([math.nan if v in (None, "") else float(v) for v in values], np.float64)
    return np.array([int(value) for value in values], np.dtype(dtype))


def _dtype(kinds: set[str]) -> str:
    if kinds == {"bool"}:
        return "bool"
    if kinds == {"int"}:
        return "int64"
    return "float64" if kinds & {"int", "float"} and kinds <= {"int", "float", "missing"} else "str"


def _kind(value: Any) -> str:
    """Return the kind of a value; of text that is written like a number, as in CSV, a number."""
    if value is None or value == "":
        return "missing"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if value in _INTEGERS else "str"
    if isinstance(value, float):
        return "float"
    return _kind_of_text(value) if isinstance(value, str) else "str"


def _kind_of_text(text: str) -> str:
    try:
        # Text like 007 or 1_000 is a name: as a number it could not be written again.
        if str(int(text)) == text:
            return "int" if int(text) in _INTEGERS else "str"
        return "str"
    except ValueError:
        pass
    try:
        float(text)
    except ValueError:
        return "str"
    return "float" if "_" not in text else "str"
