"""The command that compares numbers of components."""

from __future__ import annotations

import json as json_
import time
from typing import Any

import click

from dnmf.cli.options import (
    CLUSTER,
    Ranks,
    cluster_options,
    fit_options,
    force_option,
    grace_option,
    json_option,
    mask_option,
    solver_of,
)


@click.command()
@click.argument("corpus")
@click.argument("out")
@click.option(
    "-k",
    "--components",
    "n_components",
    type=Ranks(),
    required=True,
    help="Numbers of components to try: 9,25,49 or 4-12.",
)
@click.option(
    "--seeds",
    "n_init",
    type=int,
    default=3,
    show_default=True,
    help="Starts, and hidden shares of the cells, for each number.",
)
@click.option(
    "--holdout",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of the cells to hide from half of the models; 0 hides none.",
)
@fit_options
@mask_option
@grace_option
@force_option
@json_option
@cluster_options
def rank(
    corpus: str,
    out: str,
    n_components: list[int],
    mask: str | None,
    grace: float,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare numbers of components for CORPUS, in the reads of one fit, and recommend one.

    OUT is a folder for the models; `dnmf plot OUT --corpus CORPUS` draws them, and each in it, like
    OUT/k0025-whole-0, is a model for the other commands. A rerun of the same line continues an
    interrupted sweep and ends with the same bits; with other numbers it adds to those there.
    SIGTERM and SIGUSR1 end it as they end a fit.
    """
    from dnmf import open_corpus, rank_sweep
    from dnmf.cli.progress import SweepReport, end_live, resumable, say
    from dnmf.cli.signals import StopRequest
    from dnmf.engine.client import cluster
    from dnmf.estimators.inputs import open_mask

    began = time.monotonic()
    where = {name: options.pop(name) for name in CLUSTER}
    images = open_corpus(corpus)
    stop = StopRequest(grace)
    hidden = open_mask(mask, images.shape) if mask is not None else None
    with stop, cluster(**where) as place:
        say(f"fit {repr(images)[1:-1]} to {_listed(n_components)} components on {place}")
        with resumable(out, force=force):
            stop.check()
            sweep = rank_sweep(
                images,
                n_components,
                solver=solver_of(options["beta_loss"]),
                mask=hidden,
                checkpoint=out,
                force=force,
                on_pass=stop.after(SweepReport()),
                **options,
            )
    end_live()
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        click.echo(json_.dumps({"path": out, **sweep.as_dict(), "seconds": seconds}))
        return
    click.echo(f"{sweep}\n\n{out}: {sweep.n_reads_:.3g} reads of the corpus for all models")


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))
