"""Write tables, pictures, bars and curves as HTML, for what objects show in a notebook.

All text is escaped. Lines and text have the colour of the text around them, so that they can be
read on a light page and on a dark one. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

ORANGE = "#d55e00"
"""Colour of what is recommended, or too much: distinct from blue and grey with every colour vision
(Okabe and Ito, Color universal design, 2008), and readable on white and on black."""

THUMBNAIL = 80
"""Room for one of several pictures side by side, in pixels."""

CURVE = (480, 150)
"""Width and height of a curve, in pixels."""

MARGINS = (56, 14, 12, 34)
"""Margins of a curve on the left, the right, at the top and at the bottom, in pixels."""


class Point(NamedTuple):
    """A point of a curve: the name below it, its height, and half the height of its error bar."""

    name: str
    height: float
    spread: float = 0.0


def format_html(facts: Mapping[str, str]) -> str:
    """Write facts as an HTML table with a row for each."""
    return _table([f"{_cell('th', name)}{_cell('td', fact)}" for name, fact in facts.items()])


def format_html_rows(rows: Sequence[Sequence[str]], bold: int, text: str) -> str:
    """Write rows of text as an HTML table, and a paragraph below it.

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


def format_html_pictures(pictures: Iterable[tuple[str, str]], width: int = THUMBNAIL) -> str:
    """Write pictures, given by URL and name, side by side in HTML, each over its name.

    Names are cut off at the width of the picture, in pixels; the whole name is the tooltip.
    """
    align = "center" if width == THUMBNAIL else "left"
    figures = "".join(
        f"<figure style='margin:4px;width:{width}px;text-align:{align}'>"
        f"<img src='{html.escape(url)}' alt='' style='max-width:{width}px'>"
        "<figcaption style='font-size:9px;overflow:hidden;text-overflow:ellipsis;"
        f"white-space:nowrap' title='{html.escape(name)}'>{html.escape(name)}</figcaption></figure>"
        for url, name in pictures
    )
    return f"<div style='display:flex;flex-wrap:wrap;max-width:576px'>{figures}</div>"


def format_html_bar(share: float, text: str) -> str:
    """Write a bar that is filled to a share of its length, orange from 1 on, beside a text."""
    colour = ORANGE if share > 1 else "currentColor"
    return (
        "<div style='display:flex;align-items:center;margin:4px 0'>"
        "<div style='width:240px;height:12px;border:1px solid currentColor;margin-right:8px'>"
        f"<div style='width:{100 * min(share, 1):.1f}%;height:100%;background:{colour};"
        f"opacity:0.6'></div></div>{html.escape(text)}</div>"
    )


def format_html_curve(points: Sequence[Point], marked: int, title: str) -> str:
    """Write a curve as SVG: points at even distances, with error bars, joined by lines.

    Parameters
    ----------
    points : sequence of Point
        A point whose height is NaN is left out.
    marked : int
        Number of the point to mark.
    title : str
        What the heights are.
    """
    (width, height), (left, right, top, bottom) = CURVE, MARGINS
    known = [i for i, point in enumerate(points) if math.isfinite(point.height)]
    if not known:
        return ""
    low = min(points[i].height - points[i].spread for i in known)
    high = max(points[i].height + points[i].spread for i in known)
    step = (width - left - right) / max(len(points) - 1, 1)

    def y(value: float) -> float:
        return height - bottom - (value - low) / ((high - low) or 1) * (height - top - bottom)

    line = " ".join(f"{left + i * step:.1f},{y(points[i].height):.1f}" for i in known)
    shapes = [f"<polyline points='{line}' fill='none' stroke='currentColor' opacity='0.7'/>"]
    for i, (name, value, spread) in enumerate(points):
        colour, x = ORANGE if i == marked else "currentColor", left + i * step
        if i in known:
            ends = f"y1='{y(value - spread):.1f}' y2='{y(value + spread):.1f}'"
            shapes.append(f"<line x1='{x:.1f}' x2='{x:.1f}' {ends} stroke='{colour}'/>")
            shapes.append(f"<circle cx='{x:.1f}' cy='{y(value):.1f}' r='3.5' fill='{colour}'/>")
        shapes.append(_svg_text(x, height - bottom + 14, name, colour))
    labels = {f"{value:.4g}": y(value) + 3 for value in (high, low)}
    shapes += [_svg_text(left - 8, at, text, anchor="end") for text, at in labels.items()]
    shapes.append(_svg_text((left + width - right) / 2, height - 6, title))
    return (
        f"<svg width='{width}' height='{height}' role='img' style='font:10px sans-serif'>"
        f"{''.join(shapes)}</svg>"
    )


def _svg_text(
    x: float, y: float, text: str, colour: str = "currentColor", anchor: str = "middle"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}'>"
        f"{html.escape(text)}</text>"
    )


def _cell(kind: str, text: str) -> str:
    return f"<{kind} style='text-align:left'>{html.escape(text)}</{kind}>"


def _table(lines: Iterable[str]) -> str:
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
