"""`dnmf --version --verbose`: what a report of a fault needs, and nothing that is private."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner

import dnmf
from dnmf.cli import environment
from dnmf.cli.main import main


def run(*words, status=0):
    done = CliRunner().invoke(main, words)
    assert done.exit_code == status, done.output
    return done.output


@pytest.fixture(scope="module")
def found():
    return json.loads(run("--version", "--verbose", "--json"))


def test_the_plain_version_is_one_line():
    assert run("--version") == f"dnmf, version {dnmf.__version__}\n"
    assert json.loads(run("--json", "--version")) == {"dnmf": dnmf.__version__}


def test_everything_that_a_report_needs(found):
    assert found["libraries"]["numpy"] == version("numpy")
    assert found["libraries"]["dask"] == version("dask")
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["cores"] == os.cpu_count()
    assert found["memory"] >= found["memory_available"] > 0
    assert any("openblas" in name or "mkl" in name for name, _ in found["blas"])


@pytest.mark.parametrize("words", [("--version", "--verbose"), ("--verbose", "--version")])
def test_the_lines_say_the_same_in_any_order_of_flags(found, words):
    lines = run(*words).splitlines()
    assert lines[0] == f"dnmf, version {dnmf.__version__}"
    rows = dict(re.split(r": +", line, maxsplit=1) for line in lines[1:])
    assert rows["system"] == found["system"]
    for name, number in found["libraries"].items():
        assert f"{name} {number or '-'}" in rows["libraries"]


def test_packages_are_those_that_are_declared(monkeypatch):
    lines = ["numpy>=2.0", "nothing-of-this>=1; extra == 'all'", "ruff>=1; extra == 'dev'"]
    monkeypatch.setattr(environment, "requires", lambda _: lines)
    text = run("--version", "--verbose")
    assert f"numpy {version('numpy')}\n" in text
    assert re.search(r"^optional: +nothing-of-this -$", text, re.M)
    assert "ruff" not in text


def test_nothing_private_is_told(tmp_path):
    home = tmp_path / "home-of-somebody"
    (home / "cache").mkdir(parents=True)
    secrets = {"AWS_SECRET_ACCESS_KEY": "hush-1", "DASK_DISTRIBUTED__TOKEN": "hush-2"}
    private = {"HOME": str(home), "USERPROFILE": str(home), "NUMBA_CACHE_DIR": str(home / "cache")}
    line = [sys.executable, "-P", "-m", "dnmf", "--version", "--verbose"]
    environ = {**os.environ, **secrets, **private, "DNMF_NUM_THREADS": "none"}
    done = subprocess.run(line, env=environ, capture_output=True, text=True, check=True)
    assert "~" + os.sep + "cache" in done.stdout
    assert "unknown threads" in done.stdout
    for word in ("home-of-somebody", "hush-1", "hush-2", socket.gethostname()):
        assert not re.search(rf"\b{re.escape(word)}\b", done.stdout)


@pytest.mark.parametrize("flag", ["--verbose", "--json"])
def test_flags_of_the_version_before_a_command_are_wrong_usage(flag):
    assert f"{flag} before a command goes with --version" in run(flag, "info", "x", status=2)


def test_the_help_names_it():
    text = click.Context(main).get_help()
    assert "dnmf --version --verbose" in " ".join(text.split())
