"""The command ``dnmf plan``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

import dnmf
from dnmf.cli.images import array_options, open_images
from dnmf.cli.options import (
    PATH,
    cluster_options,
    components_option,
    json_option,
    loss_option,
    mask_option,
    missing_option,
    tol_option,
)
from dnmf.cli.paths import IMAGES, Argument, check_arguments
from dnmf.cli.progress import print_line


@click.command(short_help="Predict the memory and the time of a fit.")
@click.argument("corpus", type=PATH)
@components_option
@tol_option
@loss_option
@mask_option
@missing_option
@array_options
@click.option(
    "--trial/--no-trial",
    default=True,
    help="Whether to run parts of the fit for about ten seconds, to predict its time.",
)
@json_option
@cluster_options
def plan(
    corpus: str,
    mask: str | None,
    part: dict[str, Any],
    trial: bool,
    as_json: bool,
    where: dict[str, Any],
    **parameters: Any,
) -> None:
    """Predict the memory, disk space, tasks, reads and time of a fit of CORPUS.

    Give the options for a cluster that you would give to fit. Exit status 1 means that memory is
    too small, and that fit would refuse.

    \b
    Example:
      dnmf plan faces.zarr -k 49 --workers 4
    """
    check_arguments(Argument("CORPUS", corpus, IMAGES))
    print_line(f"opening {corpus}")
    from dnmf.engine.client import cluster

    images, pixel_mask = open_images(corpus, mask, part)
    model = dnmf.NMF(random_state=0, **parameters)
    model.check_parameters()
    with cluster(**where) as place:
        if trial:
            print_line(f"running parts of a fit on {place}: about ten seconds")
        result = model.plan(images, pixel_mask, trial=trial)
    click.echo(json.dumps(result.as_dict()) if as_json else str(result))
    sys.exit(result.lack is not None)
