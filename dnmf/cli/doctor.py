"""The command ``dnmf doctor``: checks of a machine or a cluster before a long run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from dnmf.cli.options import Number, cluster_options, json_option
from dnmf.cli.progress import print_line
from dnmf.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

OK, WARNING, ERROR = "ok", "warning", "error"
"""Statuses of a finding; only an error changes the exit status."""


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes
    ----------
    check : str
        Name of the check.
    status : str
        `OK`, `WARNING` or `ERROR`.
    found : str
    advice : str
        What to do; empty if all is well.
    """

    check: str
    status: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.status:8}{self.check:10}{self.found}{advice}"


@dataclass
class Case:
    """What is looked at.

    Attributes
    ----------
    client : Client or None
        None, if what computes is the threads of this process.
    seconds : float
        Time that each check may take.
    """

    client: Client | None
    seconds: float

    def __post_init__(self) -> None:
        self.addresses: list[str] = []
        if self.client is not None:
            self.addresses = list(self.client.scheduler_info(n_workers=-1)["workers"])


def check_versions(case: Case) -> Finding:
    """Compare the versions of all libraries that matter with those of this process."""
    from dnmf.engine.ask import REQUIRED, describe_differences, own_versions, worker_versions

    own, name = own_versions(), "versions"
    listed = ", ".join(f"{library} {version}" for library, version in own.items())
    if case.client is None:
        return Finding(name, OK, listed)
    answers = worker_versions(case.client, case.addresses, case.seconds)
    known = {a: each for a, each in answers.items() if not isinstance(each, BaseException)}
    silent = [address for address in answers if address not in known]
    if clauses := describe_differences(own, known, own):
        is_refused = describe_differences(own, known, REQUIRED)
        status = ERROR if is_refused else WARNING
        return Finding(name, status, "; ".join(clauses), "install the same everywhere")
    if silent:
        return Finding(name, ERROR, f"no answer from {', '.join(silent)}", "see to these workers")
    return Finding(name, OK, f"{listed}, on {len(known)} workers as here")


CHECKS: tuple[Callable[[Case], Finding], ...] = (check_versions,)
"""All checks, in the order of their lines."""


@click.command(short_help="Check a machine or a cluster before a long run.")
@click.option(
    "--timeout",
    type=Number(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds that each check may take.",
)
@json_option
@cluster_options
def doctor(timeout: float, as_json: bool, where: dict[str, Any]) -> None:
    """Check what a long run needs: one line for each check, ok, warning or error.

    Exit status 1 means that there is an error.
    """
    from dask import config

    from dnmf.engine.client import cluster
    from dnmf.engine.executors import active_client

    findings = []
    names = ("distributed.scheduler.no-workers-timeout", "distributed.comm.timeouts.connect")
    limits = dict.fromkeys(names, f"{timeout} s")
    with ExitStack() as stack:
        try:
            with config.set(limits):
                print_line(f"checking {stack.enter_context(cluster(**where))}")
        except ClusterError as error:
            findings.append(Finding("cluster", ERROR, str(error)))
        case = Case(active_client(), timeout)
        findings += [check(case) for check in CHECKS]
    failed = any(finding.status == ERROR for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(f) for f in findings]}))
    else:
        click.echo("\n".join(map(str, findings)))
    sys.exit(failed)
