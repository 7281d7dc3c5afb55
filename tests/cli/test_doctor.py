"""Checks before a long run: on this machine, on clusters, with workers that lack what they need."""

from __future__ import annotations

import json

import numpy
from command_line import run


def findings_of(*arguments, status=0):
    """Run the doctor; give its findings by the name of the check."""
    found = json.loads(run("doctor", "--json", *arguments, status=status).stdout)
    assert found["ok"] == (status == 0)
    return {finding.pop("check"): finding for finding in found["findings"]}


def test_this_machine():
    versions = findings_of()["versions"]
    assert versions["status"] == "ok"
    assert f"numpy {numpy.__version__}" in versions["found"]


def test_a_cluster(local_cluster):
    versions = findings_of("--scheduler", local_cluster.scheduler_address)["versions"]
    assert versions["status"] == "ok"
    assert "on 2 workers as here" in versions["found"]


def test_no_scheduler():
    found = findings_of("--scheduler", "tcp://127.0.0.1:1", "--timeout", 1, status=1)
    assert found["cluster"]["status"] == "error"
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in found["cluster"]["found"]
