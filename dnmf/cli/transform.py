"""The commands that apply a model: ``dnmf transform`` and ``dnmf reconstruct``."""

from __future__ import annotations

from typing import Any

import click

import dnmf
from dnmf.cli.options import Rows, cluster_options, force_option, mask_option, open_images


@click.command()
@click.argument("model")
@click.argument("corpus")
@click.argument("weights")
@mask_option
@force_option
@cluster_options
def transform(
    model: str, corpus: str, weights: str, mask: str | None, force: bool, where: dict[str, Any]
) -> None:
    """Compute the weights of CORPUS into a Zarr array WEIGHTS of shape (images, components)."""
    from dnmf.engine.client import cluster
    from dnmf.io.export import write_weights

    fitted = dnmf.load(model)
    images, pixel_mask = open_images(corpus, mask)
    with cluster(**where):
        n_images = write_weights(fitted, images, weights, mask=pixel_mask, force=force)
    click.echo(f"{weights}: weights of {n_images:,} images, {fitted.n_components_} components")


@click.command()
@click.argument("model")
@click.argument("corpus")
@click.argument("out", required=False)
@click.option("--png", metavar="DIR", help="Write PNG files into a folder instead.")
@click.option("--rows", type=Rows(), help="Images for --png.  [default: 0:25]")
@mask_option
@force_option
@cluster_options
def reconstruct(
    model: str,
    corpus: str,
    out: str | None,
    png: str | None,
    rows: slice | None,
    mask: str | None,
    force: bool,
    where: dict[str, Any],
) -> None:
    """Reconstruct CORPUS from MODEL: into the corpus OUT, or some of it as PNG files."""
    from dnmf.engine.client import cluster
    from dnmf.io.export import write_pngs, write_reconstruction

    if (out is None) == (png is None):
        raise click.UsageError("give either OUT, a new corpus, or --png DIR")
    if rows is not None and png is None:
        raise click.UsageError("--rows is for --png; OUT gets all images")
    fitted = dnmf.load(model)
    images, pixel_mask = open_images(corpus, mask)
    if png is not None:
        rows = rows or slice(0, 25)
        n_images = write_pngs(fitted, images, rows, png, mask=pixel_mask, force=force)
        click.echo(f"{png}: {n_images} PNG files")
        return
    with cluster(**where):
        result = write_reconstruction(fitted, images, out or "", mask=pixel_mask, force=force)
    click.echo(repr(result)[1:-1])
