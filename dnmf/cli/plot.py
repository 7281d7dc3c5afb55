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
    help="Draw images of this corpus, their reconstructions and the residuals, too.",
)
@click.option("--rows", type=Rows(), help="Images A to B - 1 of the corpus.  [default: 12]")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder for the PNG files.")
@json_option
def plot(model: str, corpus: str | None, rows: slice | None, out: str, as_json: bool) -> None:
    """Draw the components and the loss of MODEL and, with --corpus, reconstructions of images.

    MODEL may also be a sweep that `dnmf rank` made. Then errors and stability are drawn against the
    number of components, and components and reconstructions for each number.

    \b
    Example:
      dnmf plot faces.model --corpus faces.zarr --out pictures
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
