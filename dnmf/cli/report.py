"""The command ``dnmf report``."""

from __future__ import annotations

import json

import click

import dnmf
from dnmf.cli.options import PATH, force_option, json_option
from dnmf.cli.paths import Argument, check_arguments, require_folder_of
from dnmf.cli.progress import print_line


@click.command(short_help="Describe a model in one HTML page.")
@click.argument("model", type=PATH)
@click.option(
    "--corpus",
    type=PATH,
    metavar="CORPUS",
    help="Show weights of images of this corpus, and the best and worst reconstructions, too.",
)
@click.option(
    "--sweep",
    type=PATH,
    metavar="SWEEP",
    help="Show the scores of the sweep that the number of components was chosen by, too.",
)
@click.option("--out", type=PATH, required=True, metavar="HTML", help="HTML file to write.")
@force_option
@json_option
def report(
    model: str, corpus: str | None, sweep: str | None, out: str, force: bool, as_json: bool
) -> None:
    """Describe MODEL in one HTML page: the fit, its loss, components and costs.

    The page is one file of less than 3 MB that needs no network. MODEL may also be a sweep that
    `dnmf rank` made. Then the page describes the model with the recommended number of components.

    \b
    Example:
      dnmf report faces.model --corpus faces.zarr --out faces.html
    """
    given = {"--corpus": (corpus, "corpus"), "--sweep": (sweep, "sweep")}
    check_arguments(
        Argument("MODEL", model, ("model", "sweep")),
        *(Argument(name, path, (kind,)) for name, (path, kind) in given.items() if path),
    )
    require_folder_of(out)
    print_line(f"opening {model}")
    from dnmf.model_selection.sweep_store import FORMAT
    from dnmf.plot.page.report import require_free_page, write_report
    from dnmf.storage.atomic import format_at
    from dnmf.storage.paths import normalize_path

    require_free_page(out, force=force)
    if format_at(normalize_path(model)) == FORMAT:
        if sweep is not None:
            raise click.UsageError(f"{model} is a sweep itself: leave out --sweep")
        sweep = model
    compared = None if sweep is None else dnmf.load_sweep(sweep)
    fitted = compared.best_model_ if compared is not None and sweep == model else dnmf.load(model)
    images = None if corpus is None else dnmf.open_corpus(corpus)
    path = write_report(fitted, out, images, compared, path=model, force=force)
    click.echo(json.dumps({"path": str(path)}) if as_json else str(path))
