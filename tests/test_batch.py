"""The scripts of Slurm, PBS and LSF keep one contract; the programs they call are replaced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from processes import PATIENCE, kill_tree, wait_until

DEPLOY = Path(__file__).parents[1] / "deploy"
SCRIPTS = [DEPLOY / name for name in ("slurm/fit.sbatch", "slurm/ingest.sbatch", "batch/fit.sh")]
SCRIPTS += [DEPLOY / name / f"{job}.{name}" for name in ("pbs", "lsf") for job in ("fit", "ingest")]

SYSTEMS = {
    "slurm": {"SLURM_JOB_ID": "7", "SLURM_TASKS_PER_NODE": "2(x2)", "SLURM_MEM_PER_CPU": "3000"},
    "pbs": {"PBS_JOBID": "7", "DNMF_MEMORY_MIB": "3000"},
    "lsf": {"LSB_JOBID": "7", "DNMF_MEMORY_MIB": "3000"},
}
"""What each batch system sets, for two workers on each of two nodes."""

NOTE = 'echo "$(basename "$0") $*" >> "$STUBS/calls"'
STUBS = {
    "sleep": '[ "$1" -gt 100 ] && exec /bin/sleep "$1"; exec /bin/sleep 0.02',
    "scontrol": f"""if [ "$1" = show ]; then echo " Command=$SCRIPT a b"; echo "$SAYS"
        [ ! -e "$STUBS/first" ] || touch "$STUBS/asked"; touch "$STUBS/first"; exit; fi
        {NOTE}; exit "$REFUSES" """,
    "qrerun": f'{NOTE}; exit "$REFUSES"',
    "srun": f'{NOTE}; while [ "$1" != bash ]; do shift; done; exec "$@"',
    "pbsdsh": f'{NOTE}; shift; exec "$@"',
    "blaunch": f'{NOTE}; shift; exec "$@"',
    "dask": f"""{NOTE}
        if [ "$1" = worker ]; then kill -USR1 $$; [ -z "$WORKERS_DIE" ] || exit 3; fi
        [ "$1" = worker ] || echo address > "$3"
        exec /bin/sleep 60""",
    "dnmf": f"""{NOTE}; [ -z "$STATUS" ] || exit "$STATUS"
        trap 'exit 75' TERM USR1; touch "$STUBS/fits"; while :; do /bin/sleep 0.02; done""",
}


class Job:
    """One run of a script: its status, what it printed, and the programs that it called."""

    def __init__(self, system, folder, send=None, after="fits", **env):
        for name, text in STUBS.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        (folder / "hosts").write_text("one\none\ntwo\ntwo\n")
        script = next((DEPLOY / system).glob("fit.*"))
        known = {
            "PATH": f"{folder}:/usr/bin:/bin",
            "STUBS": str(folder),
            "SCRIPT": str(script),
            "PBS_O_WORKDIR": str(folder),
            "PBS_NODEFILE": str(folder / "hosts"),
            "LSB_DJOB_HOSTFILE": str(folder / "hosts"),
            "FIT": "c m 6 --tol 0",
            "DNMF_DEPLOY": "" if system == "slurm" else str(DEPLOY),
            **dict.fromkeys(("SAYS", "WORKERS_DIE", "STATUS"), ""),
            **{"REFUSES": "0", **SYSTEMS[system], **env},
        }
        words = ["c", "m", "6", "--tol", "0"] if system == "slurm" else []
        with (folder / "log").open("w") as log:
            job = subprocess.Popen(
                ["bash", script, *words], cwd=folder, env=known, stdout=log, stderr=log
            )
        try:
            if send is not None:
                wait_until(lambda: (folder / after).exists() or job.poll() is not None, "a fit")
                job.send_signal(send)
            self.status = job.wait(PATIENCE)
        finally:
            kill_tree(job.pid)
        self.log = (folder / "log").read_text()
        self.calls = (folder / "calls").read_text().splitlines()
        self.requeued = [line for line in self.calls if line.startswith(("scontrol", "qrerun"))]
        assert not list(folder.glob(".dnmf-*")), "nothing is left"

    def memory(self):
        (words,) = {line for line in self.calls if line.startswith("dask worker")}
        return words.split("--memory-limit ")[1].split()[0]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", script], check=True)
    if checker := shutil.which("shellcheck"):
        done = subprocess.run(
            [checker, "-x", "-P", DEPLOY.parent, script], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("system", SYSTEMS)
class TestContract:
    def test_when_time_is_up_the_job_is_requeued(self, system, tmp_path):
        job = Job(system, tmp_path, send=signal.SIGUSR1)
        assert job.status == 75, job.log  # LSF requeues for this status, by `#BSUB -Q 75`
        asked = {"slurm": ["scontrol requeue 7"], "pbs": ["qrerun 7"], "lsf": []}
        assert job.requeued == asked[system]
        assert "not requeued" not in job.log
        assert next(line for line in job.calls if line.startswith("dnmf")).startswith(
            "dnmf fit c m -k 6 --grace 90 --scheduler-file "
        )
        assert job.memory() == "2000MiB", "a third of the node is of scheduler and driver"

    def test_a_cancelled_job_ends_for_good(self, system, tmp_path):
        job = Job(system, tmp_path, send=signal.SIGTERM)
        assert job.status == 143, job.log
        assert not job.requeued

    def test_a_job_whose_workers_die_fails(self, system, tmp_path):
        job = Job(system, tmp_path, WORKERS_DIE="yes")
        assert job.status == 1, job.log
        assert "all workers have ended: the fit stops" in job.log
        assert not job.requeued


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_a_refused_requeue_is_no_success(system, tmp_path):
    job = Job(system, tmp_path, send=signal.SIGUSR1, REFUSES="1")
    assert (job.status, len(job.requeued)) == (75, 1), job.log
    assert "not requeued: submit the same again to continue m" in job.log


@pytest.mark.parametrize(
    ("status", "end"),
    [("0", 0), ("1", 1), ("75", 75)],
)
def test_the_status_of_the_fit_is_that_of_the_job(status, end, tmp_path):
    job = Job("slurm", tmp_path, STATUS=status)
    assert job.status == end, job.log
    assert job.requeued == (["scontrol requeue 7"] if end == 75 else [])


def test_a_preempted_job_is_left_to_slurm(tmp_path):
    """It waits for the SIGTERM that Slurm sends with the requeue; an earlier end would count."""
    says = "   PreemptEligibleTime=2026-11-27T04:38:23 PreemptTime=2026-11-27T04:38:26"
    job = Job("slurm", tmp_path, send=signal.SIGTERM, after="asked", WORKERS_DIE="yes", SAYS=says)
    assert "preempted: the batch system requeues the job" in job.log
    assert not job.requeued


GIB = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""MiB of this machine."""


@pytest.mark.parametrize(
    ("tasks", "given", "least", "most"),
    [
        ("4", {"SLURM_MEM_PER_NODE": "10000"}, 2000, 2000),
        ("2,3(x2),1", {"SLURM_MEM_PER_NODE": "9000"}, 2000, 2000),
        ("1", {"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_PER_TASK": "4"}, 2000, 2000),
        ("1", {"SLURM_MEM_PER_GPU": "4000", "SLURM_GPUS_ON_NODE": "2"}, 4000, 4000),
        ("3", {}, GIB // 4 - 3, GIB // 4),
        ("3", {"SLURM_MEM_PER_NODE": "0"}, GIB // 4 - 3, GIB // 4),
    ],
)
def test_workers_leave_memory_for_scheduler_and_driver(tasks, given, least, most, tmp_path):
    none = dict.fromkeys(("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_GPU"), "")
    job = Job("slurm", tmp_path, STATUS="0", SLURM_TASKS_PER_NODE=tasks, **{**none, **given})
    assert job.status == 0, job.log
    assert least <= int(job.memory().removesuffix("MiB")) <= most
