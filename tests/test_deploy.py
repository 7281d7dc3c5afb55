"""Files for Slurm parse, and use flags of dnmf and Dask that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dnmf
from dnmf.cli.main import main
from dnmf.io.ingest import finish_parts, plan_ingest

DEPLOY = Path(__file__).parents[1] / "deploy"
BATCH = (DEPLOY / "batch/fit.sh").read_text()
PRIVATE = re.search(r"^private=\((.*)\)$", BATCH, re.M)


def flags_of(command):
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}


def check_flags(arguments, command):
    used = {word.split("=")[0] for word in arguments if word.startswith("-")}
    assert used, "no flags found: nothing checked"
    assert used <= flags_of(command)


def dask_command(name):
    from dask.cli import cli

    if name not in cli.commands:
        from importlib.metadata import entry_points

        from dask.cli import _register_command_ep

        for entry in entry_points(group="dask_cli"):
            _register_command_ep(cli, entry)
    return cli.commands[name]


@pytest.mark.parametrize(
    ("pattern", "find"),
    [
        (r"^ *dnmf (fit) (.*)$", lambda name: main.commands[name]),
        (r"^dask (scheduler) (.*)$", dask_command),
        (r"dask (worker) (.*)$", dask_command),
    ],
)
def test_the_batch_scripts_flags_exist(pattern, find):
    joined = BATCH.replace("\\\n", " ").replace('"${private[@]}"', PRIVATE[1])
    name, arguments = re.search(pattern, joined, re.M).groups()
    words = re.sub(r'"[^"]*"|\$\(\(.*?\)\)', "x", arguments).split()
    check_flags(words, find(name))


def test_an_array_of_jobs_ingests(digits, tmp_path):
    np.save(tmp_path / "x.npy", digits.reshape(-1, 28, 28))
    plan_ingest(tmp_path / "x.npy", tmp_path / "c", block_rows=100)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "dnmf").write_text(f'#!/bin/bash\nexec {sys.executable} -P -m dnmf "$@"\n')
    (bin_ / "dnmf").chmod(0o755)
    for task in (3, 1, 2):
        env = {
            **os.environ,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(dnmf.__file__).parents[1]),
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_MAX": "3",
            "SLURM_CPUS_PER_TASK": "1",
        }
        script = DEPLOY / "slurm/ingest.sbatch"
        subprocess.run(["bash", script, tmp_path / "c"], check=True, env=env, capture_output=True)
    assert (finish_parts(tmp_path / "c").images(slice(None)) == digits.reshape(-1, 28, 28)).all()


@pytest.mark.parametrize("name", ["fit", "ingest"])
def test_the_batch_scripts_print_their_usage(name):
    done = subprocess.run(
        ["bash", DEPLOY / f"slurm/{name}.sbatch", "only-one"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
