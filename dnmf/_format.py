"""Write numbers, bytes, shapes and durations for people."""

from __future__ import annotations

from collections.abc import Iterable


def format_bytes(n_bytes: float) -> str:
    """Write a number of bytes with a decimal unit, such as ``1.5 GB``."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if n_bytes >= 10**power:
            return f"{n_bytes / 10**power:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def format_count(n: int, noun: str) -> str:
    """Write a number of things, such as ``1 block`` or ``8 blocks``."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def format_shape(shape: Iterable[int]) -> str:
    """Write the shape of an array, such as ``28 x 28``."""
    return " x ".join(map(str, shape))


def shorten(text: str, width: int) -> str:
    """Shorten text to a number of characters, if need be with ``…`` in its middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3  # ends of paths differ more than beginnings
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def visible(text: str) -> str:
    """Write characters that are not seen, or that reorder text around them, as in Python's code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name_components(n: int) -> list[str]:
    """Return names of components for files and tables, padded to three digits or more."""
    return [f"component-{j:03d}" for j in range(n)]


def format_duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours, such as ``12 s``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_share(share: float) -> str:
    """Write a share as a percentage with two digits; zero only where there is nothing."""
    percent = 100 * share
    if percent == 0 or percent >= 9.95:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"
