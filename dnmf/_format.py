"""Write bytes, shapes and durations for people."""

from __future__ import annotations

from collections.abc import Iterable


def format_bytes(n_bytes: float) -> str:
    """Write a number of bytes with a decimal unit, such as ``1.5 GB``."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if n_bytes >= 10**power:
            return f"{n_bytes / 10**power:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def format_shape(shape: Iterable[int]) -> str:
    """Write the shape of an array, such as ``28 x 28``."""
    return " x ".join(map(str, shape))


def format_duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours, such as ``12 s``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
