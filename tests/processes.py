"""Real schedulers, workers and fits in processes of their own, none of which outlives its test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

import dnmf
from dnmf.storage.checkpoint.checkpoint import open_checkpoint

PATIENCE = 120
"""Seconds after which something that is waited for counts as never happening, on a busy machine."""

LOOPBACK = ("--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0")
"""Options of Dask's programs for the loopback interface; with ``--no-dashboard`` alone they would
open the port of the dashboard on all interfaces."""


def wait_until(happened, what, patience=PATIENCE):
    """Wait for a condition and give what it was; not for a time."""
    end = time.monotonic() + patience
    while not (value := happened()):
        assert time.monotonic() < end, f"{what} did not happen in {patience} s"
        time.sleep(0.02)
    return value


class Started:
    """A process whose output is read as it comes, so that lines of it can be waited for."""

    def __init__(self, *command, env=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            # A shell's background jobs ignore Ctrl-C, and so would what the tests start from one.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.pid = self.process.pid
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def log(self):
        return "".join(self.lines)

    def wait_for(self, words):
        """Wait for words in the output."""

        def said():
            if words in self.log:
                return True
            assert self.process.poll() is None, f"ended before {words!r}:\n{self.log}"
            return False

        wait_until(said, words)

    def wait_for_pass(self, n):
        self.wait_for(f"pass {n:3d} ")

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, patience=PATIENCE):
        """Wait for its end, and give its exit status."""
        status = self.process.wait(patience)
        self.reader.join(patience)
        return status

    def kill(self):
        """Kill it and what it started, and wait until all are gone."""
        kill_tree(self.pid)
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()


def kill_tree(pid):
    try:
        family = [(process := psutil.Process(pid)), *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:  # a nanny before its worker, or it would start another
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[1:], PATIENCE)


@contextmanager
def started(*command, env=None) -> Iterator[Started]:
    process = Started(*command, env=env)
    try:
        yield process
    finally:
        process.kill()


def fit_command(corpus, model, *more):
    """Give what `started` takes for a fit of 60 passes."""
    return ("dnmf", "fit", corpus.path, model, "-k", 6, "--tol", 0, "--max-iter", 60, *more)


@contextmanager
def scheduler(folder, *more, env=None) -> Iterator[tuple[Started, str]]:
    """Start a Dask scheduler; give its process and its address."""
    file = folder / f"scheduler-{time.monotonic_ns()}.json"
    command = ("distributed.cli.dask_scheduler", "--scheduler-file", file)
    where = LOOPBACK
    if not any(str(word).startswith("--port") for word in more):
        where += ("--port", 0)
    with started(*command, *where, *more, env=env) as process:
        # The file is there before all of it is.
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), "a scheduler")
        yield process, json.loads(file.read_text())["address"]


@contextmanager
def worker(address, *more, env=None) -> Iterator[Started]:
    """Start `dask worker` with one thread."""
    where = (*LOOPBACK, "--nthreads", 1)
    with started("distributed.cli.dask_worker", address, *where, *more, env=env) as process:
        yield process


def workers_of(fit):
    """Find the workers of ``--workers N`` that live."""
    family = psutil.Process(fit.pid).children(recursive=True)
    return [one for one in family if is_worker(one)]


def is_worker(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def whole(corpus, passes):
    """Fit without interruption."""
    return dnmf.NMF(6, random_state=0, tol=0, max_iter=passes).fit(corpus)


def same(model, other):
    return (
        model.components_.tobytes() == other.components_.tobytes()
        and model.loss_history_.tobytes() == other.loss_history_.tobytes()
    )


def committed(model):
    return open_checkpoint(model).state.n_iter
