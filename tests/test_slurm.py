"""The scripts for Slurm on real daemons: what jobs commit, and which come back to the queue."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import read_digits
from processes import committed, same, wait_until, whole
from slurm import MISSING, running

import dnmf
from dnmf.io.ingest import finish_parts, plan_ingest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: no {', '.join(MISSING)}"),
]

SCRIPTS = Path(__file__).parents[1] / "deploy/slurm"
WITHOUT_END = 100_000
"""Passes of a fit that something else has to end."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    programs = tmp_path_factory.mktemp("programs")
    (programs / "dnmf").write_text(f'#!/bin/bash\nexec {sys.executable} -P -m dnmf "$@"\n')
    (programs / "dnmf").chmod(0o755)
    with running() as slurm:
        slurm.env["PATH"] = f"{programs}:{slurm.env['PATH']}"
        slurm.env["PYTHONPATH"] = str(Path(dnmf.__file__).parents[1])
        yield slurm


@pytest.fixture
def folder(slurm, tmp_path):
    """Folder of submission, in which no job leaves anything, nor any job in the queue."""
    yield tmp_path
    slurm.empty()
    assert not list(tmp_path.glob(".dnmf-*")), "scratch folders go with their job"


class Job:
    """A fit in the queue."""

    def __init__(self, slurm, folder, corpus, passes, *options):
        self.slurm, self.log_file, self.model = slurm, folder / "log", folder / "model"
        where = ["--chdir", folder, "--output", self.log_file, "--ntasks=2", "--nodes=2"]
        words = [corpus.path, self.model, 6, "--tol", 0, "--max-iter", passes]
        self.id = slurm.submit(*where, *options, SCRIPTS / "fit.sbatch", *words)

    @property
    def log(self):
        return self.log_file.read_text() if self.log_file.exists() else ""

    def passes(self):
        return [int(n) for n in re.findall(r"pass +(\d+) ", self.log)]

    def wait_for_passes(self, n):
        """Wait for passes after those that the log has."""
        before = len(self.passes())
        wait_until(lambda: len(self.passes()) >= before + n, f"{n} passes in {self.log}")

    def signal(self, *options):
        self.slurm.ask("scancel", *options, self.id)

    def wait_for(self, **facts):
        return self.slurm.wait_for(self.id, **facts)

    def check_bits(self, corpus):
        """Compare what is committed with a fit that nothing has interrupted."""
        assert same(dnmf.load(self.model), whole(corpus, committed(self.model)))


def listening(family):
    """Find the addresses other than loopback at which processes listen."""
    return [
        one.laddr.port
        for process in family
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.ip not in ("127.0.0.1", "::1")
    ]


def test_a_job_fits_and_listens_for_its_own_alone(slurm, folder, corpus):
    job = Job(slurm, folder, corpus, 40, "--mem=1000")
    job.wait_for_passes(2)
    family = slurm.processes_of(job.id)
    schedulers = [one for one in family if "scheduler" in one.cmdline()[1:]]
    assert len(set(listening(schedulers[-1:]))) == 1, "workers come to one port; no pages"
    workers = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
    assert [len(set(listening([one]))) for one in workers] == [1, 1]
    job.wait_for(JobState="COMPLETED", ExitCode="0:0")
    assert committed(job.model) == 40
    job.check_bits(corpus)
    assert "Memory:                 500.00 MiB" in job.log, "the other half is of the driver"


def test_a_job_whose_time_is_up_comes_back_until_it_is_cancelled(slurm, folder, corpus):
    """... and whoever cancels it need not do so twice."""
    job = Job(slurm, folder, corpus, WITHOUT_END, "--time=1", "--signal=B:USR1@50")
    job.wait_for_passes(1)
    job.wait_for(JobState="RUNNING", Restarts="1")
    assert "SIGUSR1: the fit ends after this pass" in job.log
    last = job.passes()[-1]
    job.wait_for_passes(2)
    assert last + 1 in job.passes(), "it goes on where it was"
    job.signal()
    assert job.wait_for(JobState="CANCELLED")["Restarts"] == "1"
    assert "run the same line again to continue" in job.log
    job.check_bits(corpus)


def test_a_signal_to_all_steps_kills_no_worker_and_one_to_the_job_brings_it_back(
    slurm, folder, corpus
):
    job = Job(slurm, folder, corpus, WITHOUT_END)
    job.wait_for_passes(2)
    job.signal("--signal=USR1")
    job.wait_for_passes(5)
    assert "Lost all workers" not in job.log
    job.signal("--signal=USR1", "--full")  # to the script, and to what it has started
    job.wait_for(JobState="RUNNING", Restarts="1")
    last = job.passes()[-1]
    job.wait_for_passes(2)
    assert last + 1 in job.passes(), "the signal came twice, and the pass was finished"
    slurm.ask("scontrol", "update", f"JobId={job.id}", "Requeue=0")
    job.signal("--signal=USR1", "--batch")
    job.wait_for(JobState="FAILED", ExitCode="75:0")
    assert "not requeued: submit the same again" in job.log
    job.check_bits(corpus)


def test_a_sigterm_to_the_script_ends_the_job_after_its_pass(slurm, folder, corpus):
    job = Job(slurm, folder, corpus, WITHOUT_END)
    job.wait_for_passes(2)
    job.signal("--signal=TERM", "--batch")
    job.wait_for(JobState="FAILED", ExitCode="143:0", Restarts="0")
    assert job.passes()[-1] == committed(job.model)
    job.check_bits(corpus)


def test_a_job_that_is_preempted_comes_back(slurm, folder, corpus):
    job = Job(slurm, folder, corpus, WITHOUT_END)
    job.wait_for_passes(2)
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null"]
    slurm.submit(*urgent, "--wrap", "sleep 1")
    job.wait_for(JobState="RUNNING", Restarts="1")
    last = job.passes()[-1]
    job.wait_for_passes(2)
    assert last + 1 in job.passes()
    job.signal("--signal=TERM", "--batch")
    job.wait_for(JobState="FAILED", ExitCode="143:0")
    job.check_bits(corpus)


def test_a_job_whose_workers_die_ends(slurm, folder, corpus):
    """... with an error: it would find the same again, and not after ten minutes of waiting."""
    job = Job(slurm, folder, corpus, WITHOUT_END)
    job.wait_for_passes(2)
    began = time.monotonic()
    slurm.ask("scancel", "--signal=KILL", f"{job.id}.0")
    job.wait_for(JobState="FAILED", ExitCode="1:0")
    assert time.monotonic() - began < 300, "Dask's wait for workers, of ten minutes"
    assert "all workers have ended" in job.log
    job.check_bits(corpus)


def test_an_array_ingests(slurm, folder):
    images = read_digits(700)
    np.save(folder / "x.npy", images)
    plan_ingest(folder / "x.npy", folder / "c", block_rows=100)
    where = ["--chdir", folder, "--output=%a.log", "--array=1-2", "--wait"]
    slurm.submit(*where, SCRIPTS / "ingest.sbatch", folder / "c")
    assert (finish_parts(folder / "c").images(slice(None)) == images).all()
