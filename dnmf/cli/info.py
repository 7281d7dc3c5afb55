"""The commands that describe and check a path: ``dnmf info`` and ``dnmf verify``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

import dnmf
from dnmf._format import format_shape
from dnmf.cli.options import PATH, Number, cluster_options, json_option
from dnmf.cli.paths import MADE_BY, Argument, check_arguments
from dnmf.cli.progress import count_progress, print_line


@click.command(short_help="Describe a corpus, weights, a model or a sweep.")
@click.argument("path", type=PATH)
@click.option("--watch", "is_watched", is_flag=True, help="Follow the fit that writes a model.")
@click.option(
    "--every",
    type=Number(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two reads with --watch.",
)
@json_option
def info(path: str, is_watched: bool, every: float, as_json: bool) -> None:
    """Describe a corpus, weights, a model or a sweep.

    --watch reads a model every few seconds while a fit writes it, and prints a line (with --json a
    JSON line) for each new pass. It ends with the fit, or with Ctrl-C.

    \b
    Example:
      dnmf info faces.model
    """
    if is_watched:
        check_arguments(Argument("PATH", path, ("model",)))
        from dnmf.cli.watch import watch

        watch(path, every, as_json=as_json)
        return
    check_arguments(Argument("PATH", path, tuple(MADE_BY)))
    from dnmf.cli.describe import describe

    facts = describe(path)
    if as_json:
        click.echo(json.dumps(facts))
    elif facts["kind"] == "sweep":
        click.echo(f"kind  sweep\npath  {path}\n\n{dnmf.load_sweep(path)}")
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            text = _WRITERS.get(name, _format_fact)(value)
            click.echo(f"{name.replace('_', ' '):{width}}  {text}")


@click.command(short_help="Check a corpus, weights, a model or a sweep for damage.")
@click.argument("path", type=PATH)
@json_option
@cluster_options
def verify(path: str, as_json: bool, where: dict[str, Any]) -> None:
    """Check every block of a corpus, of weights, of a model or of a sweep for damage.

    Exit status 0 means that nothing is damaged, 1 that something is. A line for each damage names
    the block, its images and the file to restore.

    \b
    Example:
      dnmf verify faces.zarr
    """
    check_arguments(Argument("PATH", path, tuple(MADE_BY)))
    print_line(f"reading {path}")
    from dnmf.engine.client import cluster

    with cluster(**where), count_progress("blocks") as progress:
        result = dnmf.verify(path, on_block=progress)
    click.echo(json.dumps(result.as_dict()) if as_json else str(result))
    sys.exit(bool(result.findings))


def _format_choices(choices: dict[str, Any]) -> str:
    """Write what was done to images as in Python, such as ``size=(64, 64), color='gray'``."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in choices.items()}
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _format_fact(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return format_shape(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return f"{len(value):,} images, " + ", ".join(list(value)[:3]) + " ..." * (len(value) > 3)
    if isinstance(value, float):
        return f"{value:,.8g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


_WRITERS: dict[str, Callable[[Any], str]] = {
    "choices": _format_choices,
    "columns": lambda columns: ", ".join(f"{name} ({kind})" for name, kind in columns.items()),
    "rows": lambda rows: f"{format_shape(rows['shape'])} ({', '.join(rows['axes'])})",
    "generations": lambda counts: ", ".join(f"{n:,}" for n in counts) + " images",
}
"""Functions that write facts which are not numbers, shapes or words."""
