"""Write bytes, shapes and durations for people."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

LIVE = {"live": True}
"""Mark of a record of the log that the next one may replace on a terminal."""


def format_bytes(n_bytes: float) -> str:
    """Write a number of bytes with a decimal unit, such as ``1.5 GB``."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if n_bytes >= 10**power:
            return f"{n_bytes / 10**power:,.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def format_shape(shape: Iterable[int]) -> str:
    """Write the shape of an array, such as ``28 x 28``."""
    return " x ".join(map(str, shape))


def shorten(text: str, width: int) -> str:
    """Shorten text to a number of characters, if need be with ``…`` in its middle."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3  # of paths, the ends differ more than the beginnings
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def name_components(n: int) -> list[str]:
    """Return names of components for files and tables, of one length up to a thousand."""
    return [f"component-{j:03d}" for j in range(n)]


def format_html(facts: Mapping[str, str]) -> str:
    """Write facts as an HTML table with a row for each, for notebooks."""
    return _table([f"{_cell('th', name)}{_cell('td', fact)}" for name, fact in facts.items()])


def format_html_rows(rows: Sequence[Sequence[str]], bold: int, text: str) -> str:
    """Write rows of text as an HTML table, and a paragraph below it, for notebooks.

    Parameters
    ----------
    rows : sequence of sequences of str
        The first is the head of the table.
    bold : int
        Number of the row to write in bold.
    text : str
    """
    kinds = ["th" if number in (0, bold) else "td" for number in range(len(rows))]
    lines = [
        "".join(_cell(kind, fact) for fact in row) for kind, row in zip(kinds, rows, strict=True)
    ]
    return f"{_table(lines)}<p>{html.escape(text)}</p>"


def format_html_pictures(pictures: Iterable[tuple[str, str]]) -> str:
    """Write pictures, given by URL and name, side by side in HTML, for notebooks.

    Names are cut off at the width of the picture; the whole name is the tooltip.
    """
    figures = "".join(
        "<figure style='margin:4px;width:80px;text-align:center'>"
        f"<img src='{html.escape(url)}' alt='' style='max-width:80px'>"
        "<figcaption style='font-size:9px;overflow:hidden;text-overflow:ellipsis;"
        f"white-space:nowrap' title='{html.escape(name)}'>{html.escape(name)}</figcaption></figure>"
        for url, name in pictures
    )
    return f"<div style='display:flex;flex-wrap:wrap;max-width:560px'>{figures}</div>"


def _cell(kind: str, text: str) -> str:
    return f"<{kind} style='text-align:left'>{html.escape(text)}</{kind}>"


def _table(lines: Iterable[str]) -> str:
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def format_duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours, such as ``12 s``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
