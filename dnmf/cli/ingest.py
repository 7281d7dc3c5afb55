"""The command ``dnmf ingest``."""

from __future__ import annotations

import json
from typing import Any

import click

import dnmf
from dnmf.cli.options import AT_LEAST_1, PATH, Size, cluster_options, force_option, json_option
from dnmf.cli.paths import check_sources
from dnmf.cli.progress import BlockProgress, print_line
from dnmf.storage.codecs import CODECS


@click.command()
@click.argument("source", nargs=-1, type=PATH, metavar="SOURCE...")
@click.argument("corpus", type=PATH)
@click.option("--size", type=Size(), help="Resize every image, averaging over areas.")
@click.option("--color", type=click.Choice(["gray", "rgb"]), help="Convert every image.")
@click.option("--block-rows", type=AT_LEAST_1, help="Images per block [about 16 MiB].")
@click.option(
    "--codec",
    type=click.Choice(list(CODECS)),
    help="Compress pixels so [by a trial: what is soonest read and decoded].",
)
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Leave out image files that cannot be used, and record their names in the corpus.",
)
@force_option
@json_option
@cluster_options
def ingest(
    source: tuple[str, ...],
    corpus: str,
    size: tuple[int, int] | None,
    color: str | None,
    block_rows: int | None,
    codec: str | None,
    skip_bad: bool,
    force: bool,
    as_json: bool,
    where: dict[str, Any],
) -> None:
    """Turn images into a corpus.

    SOURCE is PNG, JPEG, TIFF and PGM files and folders of them, with their subfolders; or IDX
    (.gz too) and .npy files, each by its name. CORPUS is a new Zarr store. Images must be alike in
    size and colour unless --size and --color make them so.

    Files in a folder are taken in the natural order of their names, f2 before f10; those given by
    name in the order in which they are given.
    """
    if not source:
        raise click.UsageError(
            f"give the images and, after them, the new corpus: `dnmf ingest {corpus} NEW.zarr`"
        )
    check_sources(source, corpus, force=force)
    print_line(f"looking for images in {', '.join(source[:3])}{' ...' * (len(source) > 3)}")
    from dnmf.cli.describe import describe
    from dnmf.engine.client import cluster

    with cluster(**where), BlockProgress() as progress:
        result = dnmf.ingest(
            source,
            corpus,
            size=size,
            color=color,
            block_rows=block_rows,
            codec=codec,
            skip_bad=skip_bad,
            force=force,
            on_block=progress,
        )
    if as_json:
        click.echo(json.dumps(describe(corpus)))
        return
    click.echo(repr(result)[1:-1])
    for name, reason in result.skipped.items():
        click.echo(f"skipped {name}: {reason}", err=True)
    if result.skipped:
        click.echo(
            f"{len(result.skipped):,} images skipped; `dnmf info --json` lists them", err=True
        )
