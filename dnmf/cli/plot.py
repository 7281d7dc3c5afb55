"""The command ``dnmf plot``."""

from __future__ import annotations

import click

import dnmf


@click.command()
@click.argument("model")
@click.option("--corpus", metavar="CORPUS", help="Draw originals over reconstructions from it.")
@click.option("--out", required=True, metavar="DIR", help="Folder for the PNG files.")
def plot(model: str, corpus: str | None, out: str) -> None:
    """Draw components, loss and, with --corpus, originals over reconstructions.

    MODEL may also be what `dnmf rank` made: then errors and stability by number of components, and
    all that for each.
    """
    from dnmf.model_selection.sweep_store import FORMAT
    from dnmf.plot.model import write_plots
    from dnmf.plot.sweep import write_sweep_plots
    from dnmf.storage.atomic import format_at
    from dnmf.storage.paths import normalize_path

    images = dnmf.open_corpus(corpus) if corpus is not None else None
    if format_at(normalize_path(model)) == FORMAT:
        paths = write_sweep_plots(dnmf.load_sweep(model), out, images)
    else:
        paths = write_plots(dnmf.load(model), out, images)
    for path in paths:
        click.echo(path)
