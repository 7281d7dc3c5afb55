"""The commands that apply a model: ``dnmf transform`` and ``dnmf reconstruct``."""

from __future__ import annotations

import json
from typing import Any

import click

import dnmf
from dnmf.cli.images import array_options, open_images, open_pixel_mask
from dnmf.cli.options import (
    PATH,
    Rows,
    cluster_options,
    force_option,
    json_option,
    mask_option,
)
from dnmf.cli.paths import IMAGES, Argument, check_arguments, require_folder_of
from dnmf.cli.progress import print_line


@click.command(short_help="Compute the weights of a corpus.")
@click.argument("model", type=PATH)
@click.argument("corpus", type=PATH)
@click.argument("weights", type=PATH, required=False)
@click.option("--csv", type=PATH, metavar="FILE", help="Write the weights as a CSV table.")
@click.option("--parquet", type=PATH, metavar="FILE", help="Write the weights as a Parquet table.")
@mask_option
@array_options
@force_option
@json_option
@cluster_options
def transform(
    model: str,
    corpus: str,
    weights: str | None,
    csv: str | None,
    parquet: str | None,
    mask: str | None,
    part: dict[str, Any],
    force: bool,
    as_json: bool,
    where: dict[str, Any],
) -> None:
    """Compute the weights W of the images of CORPUS, and write them to WEIGHTS.

    WEIGHTS is a new Zarr store with the weights and the ids of the images. A table (CSV or Parquet)
    has a row for each image: its id, the columns of metadata that the corpus has, and a column for
    each component. With a table, WEIGHTS may be left out.

    CORPUS may also be an array in Zarr, HDF5 (file.h5::/path) or NumPy format, as for `dnmf fit`.

    \b
    Example:
      dnmf transform faces.model faces.zarr weights.zarr --csv weights.csv
    """
    if weights is None and csv is None and parquet is None:
        raise click.UsageError("give WEIGHTS, or a table with --csv FILE or --parquet FILE")
    outputs = [
        Argument("WEIGHTS", path, ("weights",), is_output=True, may_exist=force)
        for path in (weights,)
        if path is not None
    ]
    check_arguments(
        Argument("MODEL", model, ("model",)), Argument("CORPUS", corpus, IMAGES), *outputs
    )
    print_line(f"opening {model}")
    from dnmf.cli.describe import describe
    from dnmf.engine.client import cluster
    from dnmf.io.tables import Table, write_results

    tables = [
        Table(path, kind, force=force)
        for kind, path in (("csv", csv), ("parquet", parquet))
        if path is not None
    ]
    fitted = dnmf.load(model)
    images, pixel_mask = open_images(corpus, mask, part)
    with cluster(**where) as place:
        print_line(f"compute weights of {repr(images)[1:-1]} on {place}")
        n_images = write_results(fitted, images, weights, tables, mask=pixel_mask, force=force)
    names = [*([] if weights is None else [weights]), *(str(table.path) for table in tables)]
    if as_json:
        facts = {"path": names[0]} if weights is None else describe(weights)
        click.echo(json.dumps({**facts, "tables": [str(table.path) for table in tables]}))
        return
    for name in names:
        click.echo(f"{name}: weights of {n_images:,} images, {fitted.n_components_} components")


@click.command(short_help="Reconstruct a corpus from a model.")
@click.argument("model", type=PATH)
@click.argument("corpus", type=PATH)
@click.argument("out", type=PATH, required=False)
@click.option("--png", type=PATH, metavar="DIR", help="Write PNG files into this folder instead.")
@click.option("--rows", type=Rows(), help="Images A to B - 1 for --png.  [default: 0:25]")
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
    """Reconstruct the images of CORPUS from MODEL: all into the corpus OUT, or some as PNG files.

    \b
    Example:
      dnmf reconstruct faces.model faces.zarr --png again --rows 0:10
    """
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
