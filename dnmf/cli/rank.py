"""The command ``dnmf rank``."""

from __future__ import annotations

import json
import time
from typing import Any

import click

import dnmf
from dnmf.cli.images import array_options, open_images
from dnmf.cli.options import (
    AT_LEAST_1,
    PATH,
    Number,
    Ranks,
    cluster_options,
    fit_options,
    force_option,
    grace_option,
    json_option,
    mask_option,
    watch_options,
)
from dnmf.cli.paths import IMAGES, Argument, check_arguments
from dnmf.cli.progress import SweepProgress, end_live_line, explain_resume, print_line
from dnmf.cli.signals import StopRequest


@click.command(short_help="Compare numbers of components, and recommend one.")
@click.argument("corpus", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "-k",
    "--components",
    "n_components",
    type=Ranks(),
    required=True,
    help="Numbers of components to try, like 9,25,49 or 4-12.",
)
@click.option(
    "--seeds",
    "n_init",
    type=AT_LEAST_1,
    default=3,
    show_default=True,
    help="Number of random starts, and of held-out sets of cells, for each number.",
)
@click.option(
    "--holdout",
    type=Number(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the cells (entries of X) that half of the models do not see; 0: none.",
)
@fit_options
@mask_option
@array_options
@watch_options
@grace_option
@force_option
@json_option
@cluster_options
def rank(
    corpus: str,
    out: str,
    n_components: list[int],
    n_init: int,
    holdout: float,
    mask: str | None,
    part: dict[str, Any],
    log: str | None,
    metrics: str | None,
    grace: float,
    force: bool,
    as_json: bool,
    where: dict[str, Any],
    **parameters: Any,
) -> None:
    """Compare numbers of components for CORPUS in the reads of one fit, and recommend one.

    OUT is a folder for the models. `dnmf plot OUT --corpus CORPUS` draws them. Each model in it,
    such as OUT/k0025-whole-0, can be given to the other commands. The same line again continues an
    interrupted sweep, and ends with the same bits; with other numbers it adds them to OUT. SIGTERM
    and SIGUSR1 stop it as they stop a fit.

    \b
    Example:
      dnmf rank faces.zarr faces.sweep -k 9,25,49
    """
    began = time.monotonic()
    check_arguments(
        Argument("CORPUS", corpus, IMAGES), Argument("OUT", out, ("sweep",), is_output=True)
    )
    print_line(f"opening {corpus}")
    from dnmf.engine.client import cluster
    from dnmf.io.pass_log import PassLog

    images, pixel_mask = open_images(corpus, mask, part)
    stop = StopRequest(grace)
    passes = PassLog(log, metrics, name=out, n_images=len(images))
    with stop, passes, cluster(**where) as place:
        ranks = ", ".join(map(str, n_components))
        print_line(f"fit {repr(images)[1:-1]} to {ranks} components on {place}")
        with explain_resume(out, overwrite=force):
            stop.raise_if_requested()
            sweep = dnmf.rank_sweep(
                images,
                n_components,
                dnmf.NMF(**parameters),
                n_init=n_init,
                holdout=holdout,
                mask=pixel_mask,
                checkpoint=out,
                force=force,
                on_pass=stop.wrap(SweepProgress(), passes),
            )
    end_live_line()
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        click.echo(json.dumps({"path": out, **sweep.as_dict(), "seconds": seconds}))
        return
    click.echo(f"{sweep}\n\n{out}: {sweep.n_reads_:.3g} reads of the corpus for all models")
