"""The commands that apply a model: ``dnmf transform`` and ``dnmf reconstruct``."""

from __future__ import annotations

import json
from typing import Any

import click

import dnmf
from dnmf.cli.images import open_pixel_mask
from dnmf.cli.options import (
    PATH,
    Rows,
    cluster_options,
    force_option,
    json_option,
    mask_option,
)
from dnmf.cli.paths import Argument, check_arguments, require_folder_of
from dnmf.cli.progress import print_line


@click.command(short_help="Compute the weights of a corpus.")
@click.argument("model", type=PATH)
@click.argument("corpus", type=PATH)
@click.argument("weights", type=PATH)
@mask_option
@force_option
@json_option
@cluster_options
def transform(
    model: str,
    corpus: str,
    weights: str,
    mask: str | None,
    force: bool,
    as_json: bool,
    where: dict[str, Any],
) -> None:
    """Compute the weights of CORPUS into a Zarr array WEIGHTS of shape (images, components)."""
    check_arguments(
        Argument("MODEL", model, ("model",)),
        Argument("CORPUS", corpus, ("corpus",)),
        Argument("WEIGHTS", weights, ("weights",), is_output=True, may_exist=force),
    )
    print_line(f"opening {model}")
    from dnmf.cli.describe import describe
    from dnmf.engine.client import cluster
    from dnmf.io.export import write_weights

    fitted = dnmf.load(model)
    images = dnmf.open_corpus(corpus)
    pixel_mask = open_pixel_mask(mask, images.shape)
    with cluster(**where) as place:
        print_line(f"compute weights of {repr(images)[1:-1]} on {place}")
        n_images = write_weights(fitted, images, weights, mask=pixel_mask, force=force)
    if as_json:
        click.echo(json.dumps(describe(weights)))
        return
    click.echo(f"{weights}: weights of {n_images:,} images, {fitted.n_components_} components")


@click.command(short_help="Reconstruct a corpus from a model.")
@click.argument("model", type=PATH)
@click.argument("corpus", type=PATH)
@click.argument("out", type=PATH, required=False)
@click.option("--png", type=PATH, metavar="DIR", help="Write PNG files into a folder instead.")
@click.option("--rows", type=Rows(), help="Images for --png.  [default: 0:25]")
@mask_option
@force_option
@json_option
@cluster_options
def reconstruct(
    model: str,
    corpus: str,
    out: str | None,
    png: str | None,
    rows: slice | None,
    mask: str | None,
    force: bool,
    as_json: bool,
    where: dict[str, Any],
) -> None:
    """Reconstruct CORPUS from MODEL: into the corpus OUT, or some of it as PNG files."""
    if (out is None) == (png is None):
        raise click.UsageError("give either OUT, a new corpus, or --png DIR")
    if rows is not None and png is None:
        raise click.UsageError("--rows is for --png; OUT gets all images")
    check_arguments(
        Argument("MODEL", model, ("model",)),
        Argument("CORPUS", corpus, ("corpus",)),
        *(
            []
            if out is None
            else [Argument("OUT", out, ("corpus",), is_output=True, may_exist=force)]
        ),
    )
    if png is not None:
        require_folder_of(png)
    print_line(f"opening {model}")
    from dnmf.cli.describe import describe
    from dnmf.engine.client import cluster
    from dnmf.io.export import write_pngs, write_reconstruction

    fitted = dnmf.load(model)
    images = dnmf.open_corpus(corpus)
    pixel_mask = open_pixel_mask(mask, images.shape)
    if png is not None:
        rows = rows or slice(0, 25)
        n_images = write_pngs(fitted, images, rows, png, mask=pixel_mask, force=force)
        facts = {"path": png, "files": n_images}
        click.echo(json.dumps(facts) if as_json else f"{png}: {n_images} PNG files")
        return
    with cluster(**where) as place:
        print_line(f"reconstruct {repr(images)[1:-1]} on {place}")
        result = write_reconstruction(fitted, images, out or "", mask=pixel_mask, force=force)
    click.echo(json.dumps(describe(result.path)) if as_json else repr(result)[1:-1])
