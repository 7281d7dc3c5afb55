"""The command ``dnmf fit``."""

from __future__ import annotations

import json
import time
import warnings
from typing import Any

import click

import dnmf
from dnmf.cli.images import array_options, open_images
from dnmf.cli.options import (
    AT_LEAST_1,
    PATH,
    cluster_options,
    components_option,
    fit_options,
    force_option,
    grace_option,
    json_option,
    mask_option,
)
from dnmf.cli.paths import IMAGES, Argument, check_arguments
from dnmf.cli.progress import (
    PassProgress,
    end_live_line,
    explain_resume,
    print_line,
    summary_of_fit,
)
from dnmf.cli.signals import StopRequest

INITS = ("random", "nndsvd", "nndsvda", "nndsvdar")


@click.command(short_help="Factorise a corpus into a model.")
@click.argument("corpus", type=PATH)
@click.argument("model", type=PATH)
@components_option
@fit_options
@click.option(
    "--init", type=click.Choice(INITS), default="random", show_default=True, help="Start of H."
)
@click.option(
    "--n-init",
    type=AT_LEAST_1,
    default=1,
    show_default=True,
    help="Random starts; the best is kept.",
)
@mask_option
@array_options
@click.option(
    "--checkpoint-every",
    type=AT_LEAST_1,
    default=1,
    show_default=True,
    help="Passes between those that keep their weights.",
)
@click.option(
    "--checkpoint-keep",
    type=AT_LEAST_1,
    default=2,
    show_default=True,
    help="Passes to keep on disk.",
)
@click.option(
    "--resume-from",
    type=AT_LEAST_1,
    metavar="PASS",
    help="Go on from this pass, if the last is damaged; those after it are removed.",
)
@grace_option
@force_option
@json_option
@cluster_options
def fit(
    corpus: str,
    model: str,
    mask: str | None,
    part: dict[str, Any],
    grace: float,
    force: bool,
    as_json: bool,
    where: dict[str, Any],
    **parameters: Any,
) -> None:
    """Factorise CORPUS into MODEL, with a checkpoint after each pass.

    CORPUS may also be an array of Zarr, HDF5 (file.h5::/path) or NumPy, of images along its first
    axis or along --axis; it is read where it is.

    A rerun of the same line continues an interrupted fit and ends with the same bits; with a
    smaller --tol or a larger --max-iter it continues a finished one. SIGTERM or SIGUSR1 end it with
    the pass that runs, or without that after --grace or a second signal, and with exit status 75.
    """
    began = time.monotonic()
    check_arguments(
        Argument("CORPUS", corpus, IMAGES),
        Argument("MODEL", model, ("model",), is_output=True),
    )
    print_line(f"opening {corpus}")
    from dnmf.cli.describe import describe
    from dnmf.engine.client import cluster

    images, pixel_mask = open_images(corpus, mask, part)
    stop = StopRequest(grace)
    progress = PassProgress(len(images), parameters["tol"], parameters["max_iter"])
    nmf = dnmf.NMF(checkpoint=model, on_pass=stop.wrap(progress), **parameters)
    nmf.check_parameters()
    with stop, cluster(**where) as place:
        print_line(f"fit {repr(images)[1:-1]} to {nmf.n_components} components on {place}")
        with explain_resume(model, overwrite=force), warnings.catch_warnings():
            stop.raise_if_requested()
            warnings.simplefilter("ignore", UserWarning)  # the last line says why the fit stopped
            nmf.fit(images, mask=pixel_mask, overwrite=force)
    end_live_line()
    facts = {**describe(model), "seconds": round(time.monotonic() - began, 3)}
    click.echo(json.dumps(facts) if as_json else summary_of_fit(facts))
