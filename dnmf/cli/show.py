"""The command ``dnmf show``."""

from __future__ import annotations

import json

import click

import dnmf
from dnmf.cli.options import AT_LEAST_1, PATH, Rows, json_option
from dnmf.cli.paths import Argument, check_arguments, require_folder_of
from dnmf.cli.progress import print_line


@click.command(short_help="Draw images of a corpus with their names.")
@click.argument("corpus", type=PATH)
@click.option("--rows", type=Rows(), help="Images A to B - 1.  [default: 60 at even distances]")
@click.option(
    "--out",
    type=PATH,
    metavar="PNG",
    help="PNG file to write.  [default: NAME-sheet.png beside the corpus]",
)
@click.option(
    "--columns",
    type=AT_LEAST_1,
    help="Number of images side by side.  [default: as for a square sheet]",
)
@click.option(
    "--channel",
    metavar="C",
    help="Channel to draw, by name or number.  [default: three channels as red, green and blue, "
    "else the mean of all]",
)
@json_option
def show(
    corpus: str,
    rows: slice | None,
    out: str | None,
    columns: int | None,
    channel: str | None,
    as_json: bool,
) -> None:
    """Draw small copies of images of CORPUS, with their names, in one PNG file.

    \b
    Example:
      dnmf show faces.zarr --rows 0:100 --out faces.png
    """
    check_arguments(Argument("CORPUS", corpus, ("corpus",)))
    if out is not None:
        require_folder_of(out)
    print_line(f"opening {corpus}")
    from dnmf.plot.contact_sheet import write_contact_sheet

    images = dnmf.open_corpus(corpus)
    path = write_contact_sheet(images, out, rows=rows, columns=columns, channel=channel)
    click.echo(json.dumps({"path": str(path)}) if as_json else str(path))
