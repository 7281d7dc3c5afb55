"""The command ``dnmf doctor``: checks of a machine or a cluster before a long run."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dnmf._format import format_duration
from dnmf.cli.images import array_options
from dnmf.cli.options import AT_LEAST_1, PATH, Number, cluster_options, json_option
from dnmf.cli.paths import IMAGES, Argument, check_arguments
from dnmf.cli.progress import print_line
from dnmf.errors import ClusterError, DnmfError

if TYPE_CHECKING:
    from dnmf.cli.checks import Case, Finding

MARGIN = 5.0
"""Seconds that a check may take in addition to the time limit of its questions."""


@click.command(short_help="Check a machine or a cluster before a long run.")
@click.argument("corpus", type=PATH, required=False)
@click.argument("model", type=PATH, required=False)
@click.option(
    "-k",
    "--components",
    "n_components",
    type=AT_LEAST_1,
    help="Number of components of the fit, to check that memory and disk are large enough.",
)
@array_options
@click.option(
    "--timeout",
    type=Number(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds that each check may take.",
)
@json_option
@cluster_options
def doctor(
    corpus: str | None,
    model: str | None,
    n_components: int | None,
    part: dict[str, Any],
    timeout: float,
    as_json: bool,
    where: dict[str, Any],
) -> None:
    """Check this machine or a cluster before a long fit of CORPUS into MODEL.

    Each check prints a line with `ok`, `warning` or `error`, what was found and what to do. It
    checks that workers answer, versions of libraries, BLAS and its threads, numba's cache, reading
    CORPUS and writing beside MODEL from each worker, memory and disk (with -k: compared with what a
    fit needs), clocks, and ports that other machines can reach. Exit status 1 means that there is
    an error.

    \b
    Example:
      dnmf doctor faces.zarr faces.model -k 49 --workers 4
    """
    if corpus is None and n_components is not None:
        raise click.UsageError("-k says what a fit of CORPUS takes; give CORPUS, too")
    check_arguments(
        *([] if corpus is None else [Argument("CORPUS", corpus, IMAGES)]),
        *([] if model is None else [Argument("MODEL", model, ("model", "sweep"), is_output=True)]),
    )
    from dnmf.cli.checks import ERROR

    findings = {}
    for name, finding in _findings(where, corpus, model, part, n_components, timeout):
        findings[name] = finding
        if not as_json:
            advice = f": {finding.advice}" if finding.advice else ""
            click.echo(f"{finding.status:8} {name:9} {finding.found}{advice}")
    failed = any(finding.status == ERROR for finding in findings.values())
    if as_json:
        listed = [{"check": name, **asdict(finding)} for name, finding in findings.items()]
        click.echo(json.dumps({"ok": not failed, "findings": listed}))
    sys.exit(failed)


def _findings(
    where: dict[str, Any],
    corpus: str | None,
    model: str | None,
    part: dict[str, Any],
    n_components: int | None,
    seconds: float,
) -> Iterator[tuple[str, Finding]]:
    """Yield the name of each check and what it has found, as they are made."""
    from dask import config

    from dnmf.cli.checks import CHECKS, ERROR, Case, Finding
    from dnmf.engine.client import cluster
    from dnmf.engine.executors import active_client

    names = ("distributed.scheduler.no-workers-timeout", "distributed.comm.timeouts.connect")
    with ExitStack() as stack:
        try:
            with config.set(dict.fromkeys(names, f"{seconds} s")):
                place = stack.enter_context(cluster(**where, any_versions=True))
            print_line(f"looking at {place}")
        except ClusterError as error:
            yield "cluster", Finding(ERROR, str(error))
            return
        case = Case(active_client(), seconds, corpus, model, part, n_components)
        needs = {"corpus": corpus, "output": model}
        for name, check in CHECKS.items():
            if needs.get(name, "") is not None:
                yield name, _run(check, case)


def _run(check: Callable[[Case], Finding], case: Case) -> Finding:
    """Return the finding of a check; an error if it raises one or does not end in time."""
    from dnmf.cli.checks import ERROR, Finding

    results: list[Finding | BaseException] = []

    def run() -> None:
        try:
            results.append(check(case))
        except BaseException as error:  # raised below
            results.append(error)

    # A read of a network disk may hang for ever; a daemon thread does not keep the process alive.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(case.seconds + MARGIN)
    if not results:
        return Finding(ERROR, f"did not end in {format_duration(case.seconds + MARGIN)}")
    (result,) = results
    if isinstance(result, Finding):
        return result
    if isinstance(result, click.ClickException) or not isinstance(result, Exception):
        raise result
    words = " ".join(str(result).split()) or "no reason is given"
    is_named = isinstance(result, (DnmfError, OSError))
    return Finding(ERROR, words if is_named else f"{type(result).__name__}: {words}")
