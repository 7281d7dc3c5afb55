"""The command ``dnmf fit``."""

from __future__ import annotations

import json
import time
import warnings
from typing import Any

import click
from click.core import ParameterSource

import dnmf
from dnmf.cli.images import array_options, open_images
from dnmf.cli.options import (
    AT_LEAST_1,
    PATH,
    cluster_options,
    fit_options,
    force_option,
    grace_option,
    json_option,
    mask_option,
    watch_options,
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
@click.option(
    "-k",
    "--components",
    "n_components",
    type=AT_LEAST_1,
    help="Number of components.  [required, unless --continue]",
)
@fit_options
@click.option(
    "--init",
    type=click.Choice(INITS),
    default="random",
    show_default=True,
    help="Components that the warm start begins with.",
)
@click.option(
    "--n-init",
    type=AT_LEAST_1,
    default=1,
    show_default=True,
    help="Number of random starts; the best fit is kept.",
)
@mask_option
@array_options
@click.option(
    "--continue",
    "earlier",
    type=PATH,
    metavar="MODEL",
    help="Start from the components of this model, with its loss, penalties and --tol.",
)
@click.option(
    "--new-images",
    is_flag=True,
    help="With --continue: read only the images that were appended since, once.",
)
@click.option(
    "--checkpoint-every",
    type=AT_LEAST_1,
    default=1,
    show_default=True,
    help="Write the weights W after every so many passes.",
)
@click.option(
    "--checkpoint-keep",
    type=AT_LEAST_1,
    default=2,
    show_default=True,
    help="Number of passes to keep in MODEL.",
)
@click.option(
    "--resume-from",
    type=AT_LEAST_1,
    metavar="PASS",
    help="Continue from this pass, if the last is damaged; later passes are removed.",
)
@watch_options
@grace_option
@force_option
@json_option
@cluster_options
def fit(
    corpus: str,
    model: str,
    mask: str | None,
    part: dict[str, Any],
    earlier: str | None,
    new_images: bool,
    log: str | None,
    metrics: str | None,
    grace: float,
    force: bool,
    as_json: bool,
    where: dict[str, Any],
    **parameters: Any,
) -> None:
    """Fit a model to CORPUS: factorise it, and write MODEL after each pass.

    CORPUS may also be an array in Zarr, HDF5 (file.h5::/path) or NumPy format whose first axis (or
    --axis) counts the images. It is not copied.

    The same line again continues an interrupted fit, and ends with the same bits. With a smaller
    --tol or a larger --max-iter it continues a finished fit. SIGTERM and SIGUSR1 stop a fit after
    the current pass, or at once after --grace seconds or a second signal. The exit status is then
    75.

    After `dnmf ingest --append`, --continue OLD.model starts from the components of that model,
    which stays as it is.

    \b
    Example:
      dnmf fit faces.zarr faces.model -k 49
    """
    began = time.monotonic()
    given = _given(parameters, earlier, new_images)
    check_arguments(
        Argument("CORPUS", corpus, ("corpus",) if new_images else IMAGES),
        Argument("MODEL", model, ("model",), is_output=True, may_exist=force or not new_images),
        *([] if earlier is None else [Argument("--continue", earlier, ("model",))]),
    )
    print_line(f"opening {corpus}")
    from dnmf.cli.describe import describe
    from dnmf.engine.client import cluster
    from dnmf.io.pass_log import PassLog

    images, pixel_mask = open_images(corpus, mask, part)
    stop = StopRequest(grace)
    nmf = dnmf.NMF(**parameters) if earlier is None else _open_earlier(earlier, images, given)
    progress = PassProgress(len(images), nmf.tol, nmf.max_iter)
    if not new_images:
        nmf.set_params(checkpoint=model)
    nmf.check_parameters()
    passes = PassLog(
        log, metrics, name=model, n_images=len(images), tol=nmf.tol, max_iter=nmf.max_iter
    )
    with stop, passes, cluster(**where) as place:
        stop.raise_if_requested()
        if new_images:
            n_new = _learn(nmf, images, pixel_mask, model, force, str(place))
        else:
            nmf.set_params(on_pass=stop.wrap(progress, passes))
            _fit(nmf, images, pixel_mask, force, str(place), is_continued=earlier is not None)
    end_live_line()
    facts = {**describe(model), "seconds": round(time.monotonic() - began, 3)}
    if as_json:
        click.echo(json.dumps({**facts, "new_images": n_new} if new_images else facts))
    elif new_images:
        click.echo(f"{model}: {nmf.n_components_} components, improved on {n_new:,} new images")
    else:
        click.echo(summary_of_fit(facts))


def _given(parameters: dict[str, Any], earlier: str | None, new_images: bool) -> dict[str, Any]:
    """Return the parameters that were typed; raise UsageError if they contradict each other."""
    ctx = click.get_current_context()
    typed = [n for n in parameters if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    if earlier is None:
        if new_images:
            raise click.UsageError("--new-images needs --continue OLD.model, the model to improve")
        if parameters["n_components"] is None:
            raise click.UsageError("Missing option '-k' / '--components'.")
    elif wrong := {"n_components", "init", "n_init", "random_state"}.intersection(typed):
        flags = {"n_components": "-k", "random_state": "--seed", "n_init": "--n-init"}
        name = min(wrong)
        raise click.UsageError(
            f"{flags.get(name, f'--{name}')} is for a new fit; with --continue, components and "
            "seed are those of the earlier model"
        )
    return {name: parameters[name] for name in typed}


def _open_earlier(path: str, images: Any, given: dict[str, Any]) -> dnmf.NMF:
    """Return an earlier model, whose components a fit of these images starts from."""
    nmf = dnmf.load(path)
    nmf._require_pixels_of(images)
    nmf.set_params(**given)
    return nmf


def _fit(
    nmf: dnmf.NMF, images: Any, mask: Any, force: bool, place: str, *, is_continued: bool
) -> None:
    from dnmf.estimators.continued import start_of

    H, d = None, nmf.n_components
    if is_continued:
        H, d = start_of(nmf, images.dtype), nmf.n_components_
        nmf.set_params(init="custom", n_init=1)
    print_line(f"fit {repr(images)[1:-1]} to {d} components on {place}")
    with explain_resume(str(nmf.checkpoint), overwrite=force), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the last line says why the fit stopped
        nmf.fit(images, H=H, mask=mask, overwrite=force)


def _learn(nmf: dnmf.NMF, images: Any, mask: Any, path: str, force: bool, place: str) -> int:
    """Improve a model on images that were appended, save it, and return their number."""
    from dnmf.estimators.continued import learn_new_images

    print_line(f"learn from new images of {repr(images)[1:-1]} on {place}")
    n_new = learn_new_images(nmf, images, mask)
    nmf.save(path, force=force)
    return n_new
