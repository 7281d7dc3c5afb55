"""The command ``dnmf components``."""

from __future__ import annotations

import json

import click

import dnmf
from dnmf.cli.options import PATH, force_option, json_option
from dnmf.cli.paths import Argument, check_arguments, require_folder_of
from dnmf.cli.progress import print_line


@click.command(short_help="Write the components of a model as images.")
@click.argument("model", type=PATH)
@click.option("--out", type=PATH, required=True, metavar="DIR", help="New folder for the files.")
@click.option(
    "--corpus",
    type=PATH,
    metavar="CORPUS",
    help="Corpus of the model, for the wavelengths of spectra.",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["png", "tiff", "ome-zarr", "npy", "csv"]),
    help="PNG with 8 bits, TIFF or OME-Zarr with float32, one .npy file, or CSV for spectra.  "
    "[default: png, but csv for images without height and width]",
)
@click.option(
    "--scale",
    type=click.Choice(["each", "common"]),
    default="each",
    show_default=True,
    help="Whether white in PNG files is the maximum of each component, or of all components.",
)
@force_option
@json_option
def components(
    model: str,
    out: str,
    corpus: str | None,
    file_format: str | None,
    scale: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write the components of MODEL as images into a new folder: component-000.png and so on.

    With --format ome-zarr the folder is an OME-Zarr image with a channel for each component.

    \b
    Example:
      dnmf components faces.model --out parts --format tiff
    """
    named = [] if corpus is None else [Argument("--corpus", corpus, ("corpus",))]
    check_arguments(Argument("MODEL", model, ("model",)), *named)
    require_folder_of(out)
    print_line(f"opening {model}")
    from dnmf.io.components import write_components

    fitted = dnmf.load(model)
    names = write_components(
        fitted,
        out,
        corpus=None if corpus is None else dnmf.open_corpus(corpus),
        file_format=file_format,
        scale=scale,
        force=force,
    )
    if as_json:
        click.echo(json.dumps({"path": out, "files": names}))
        return
    click.echo(f"{out}: {fitted.n_components_} components in {names[0]}{' ...' * (len(names) > 1)}")
