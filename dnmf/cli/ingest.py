"""The command ``dnmf ingest``."""

from __future__ import annotations

from typing import Any

import click

import dnmf
from dnmf.cli.options import Size, cluster_options, force_option
from dnmf.cli.progress import BlockProgress


@click.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("corpus")
@click.option("--size", type=Size(), help="Resize every image, averaging over areas.")
@click.option("--color", type=click.Choice(["gray", "rgb"]), help="Convert every image.")
@click.option("--block-rows", type=click.IntRange(min=1), help="Images per block [about 16 MiB].")
@force_option
@cluster_options
def ingest(
    source: tuple[str, ...],
    corpus: str,
    size: tuple[int, int] | None,
    color: str | None,
    block_rows: int | None,
    force: bool,
    where: dict[str, Any],
) -> None:
    """Turn images into a corpus.

    SOURCE is PNG, JPEG, TIFF and PGM files and folders of them, with their subfolders; or IDX
    (.gz too) and .npy files, each by its name. CORPUS is a new Zarr store. Images must be alike in
    size and colour unless --size and --color make them so.
    """
    from dnmf.engine.client import cluster

    with cluster(**where), BlockProgress() as progress:
        result = dnmf.ingest(
            source,
            corpus,
            size=size,
            color=color,
            block_rows=block_rows,
            force=force,
            on_block=progress,
        )
    click.echo(repr(result)[1:-1])
