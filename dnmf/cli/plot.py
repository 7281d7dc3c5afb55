"""The command ``dnmf plot``."""

from __future__ import annotations

import json

import click

import dnmf
from dnmf.cli.options import PATH, Rows, json_option
from dnmf.cli.paths import Argument, check_arguments, require_folder_of
from dnmf.cli.progress import print_line


@click.command(short_help="Draw a model or a sweep.")
@click.argument("model", type=PATH)
@click.option(
    "--corpus",
    type=PATH,
    metavar="CORPUS",
    help="Draw originals over reconstructions from it.",
)
@click.option("--rows", type=Rows(), help="Images of it to draw.  [default: 12 of them]")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder for the PNG files.")
@json_option
def plot(model: str, corpus: str | None, rows: slice | None, out: str, as_json: bool) -> None:
    """Draw components, loss and, with --corpus, originals, reconstructions and residuals.

    MODEL may also be what `dnmf rank` made: then errors and stability by number of components, and
    all that for each.
    """
    if rows is not None and corpus is None:
        raise click.UsageError("--rows are images of --corpus CORPUS; give both")
    drawn = [] if corpus is None else [Argument("--corpus", corpus, ("corpus",))]
    check_arguments(Argument("MODEL", model, ("model", "sweep")), *drawn)
    require_folder_of(out)
    print_line(f"opening {model}")
    from dnmf.model_selection.sweep_store import FORMAT
    from dnmf.plot.model import write_plots
    from dnmf.plot.sweep import write_sweep_plots
    from dnmf.storage.atomic import format_at
    from dnmf.storage.paths import normalize_path

    images = dnmf.open_corpus(corpus) if corpus is not None else None
    if format_at(normalize_path(model)) == FORMAT:
        paths = write_sweep_plots(dnmf.load_sweep(model), out, images, rows=rows)
    else:
        paths = write_plots(dnmf.load(model), out, images, rows=rows)
    if as_json:
        click.echo(json.dumps({"path": out, "files": list(map(str, paths))}))
        return
    for path in paths:
        click.echo(path)
