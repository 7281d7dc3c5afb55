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


@click.command(short_help="Estimate what a fit takes: memory, reads and time.")
@click.argument("corpus", type=PATH)
@components_option
@tol_option
@loss_option
@mask_option
@missing_option
@array_options
@click.option("--trial/--no-trial", default=True, help="Run parts of it, to predict its time.")
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
    """Estimate what a fit of CORPUS takes: memory, tasks, reads and, after ten seconds, time.

    Options for the cluster are those of fit. Exit status 1 means that memory is too small: fit
    would refuse.
    """
    check_arguments(Argument("CORPUS", corpus, IMAGES))
    print_line(f"opening {corpus}")
    from dnmf.engine.client import cluster

    images, pixel_mask = open_images(corpus, mask, part)
    model = dnmf.NMF(random_state=0, **parameters)
    model.check_parameters()
    with cluster(**where) as place:
        if trial:
            print_line(f"running parts of a fit on {place}: some ten seconds")
        result = model.plan(images, pixel_mask, trial=trial)
    click.echo(json.dumps(result.as_dict()) if as_json else str(result))
    sys.exit(result.lack is not None)
