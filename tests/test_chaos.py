"""Faults of clusters, made for real: a fit ends with the same bits, or with an error that says how on.

Workers and schedulers are processes that are killed or stopped; no test waits for a time.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import ExitStack

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
from processes import PATIENCE, fit_command, scheduler, started, wait_until, worker
from test_signals import committed, same, whole, workers_of

import dnmf
from dnmf.errors import ClusterError, TaskError

QUIET = {"dashboard_address": "127.0.0.1:0", "silence_logs": "CRITICAL"}
QUICK = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}
OPTIONS = {"random_state": 0, "tol": 0}


class TestTheSameBits:
    """Shapes of clusters: processes, threads of each, whether nannies watch them."""

    @pytest.fixture(scope="class")
    def expected(self, corpus):
        with dask.config.set(scheduler="synchronous"):
            return whole(corpus, 6)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_on_threads_of_this_process(self, corpus, expected, threads):
        with dask.config.set(scheduler="threads", num_workers=threads):
            assert same(whole(corpus, 6), expected)

    @pytest.mark.parametrize(
        ("workers", "flags"),
        [
            (1, ("--nthreads", 1)),
            (1, ("--nthreads", 2, "--no-nanny")),
            (4, ("--nthreads", 1)),
            (2, ("--nthreads", 2)),
        ],
        ids=lambda flags: str(flags),
    )
    def test_on_workers(self, corpus, expected, tmp_path, workers, flags):
        from distributed import Client

        if "--no-nanny" not in flags:
            flags = (*flags, "--nworkers", workers)
        with (
            scheduler(tmp_path) as (_, address),
            worker(address, *flags),
            Client(address) as client,
        ):
            client.wait_for_workers(workers, timeout=PATIENCE)
            assert same(whole(corpus, 6), expected)
            assert set(map(tuple, blas_threads(corpus))) == {(1,)}


def blas_threads(corpus):
    """Ask the tasks of a pass on how many threads BLAS would run."""
    from dnmf.inputs import blocks_of

    return blocks_of(corpus).map_parts(_blas_threads, range(corpus.n_blocks))


def _blas_threads(block):
    from threadpoolctl import threadpool_info

    # NumPy's own: SciPy brings another, which dnmf does not multiply with.
    return [lib["num_threads"] for lib in threadpool_info() if "numpy.libs" in lib["filepath"]]


class TestKilledWorkers:
    def test_one_every_second_changes_nothing(self, corpus, tmp_path):
        model, rng = tmp_path / "model", random.Random(0)
        with started(*fit_command(corpus, model, "--workers", 2, "--max-iter", 100)) as fit:
            fit.wait_for_pass(1)
            killed, ended = 0, threading.Event()
            while fit.process.poll() is None:
                family = psutil.Process(fit.pid).children(recursive=True)
                workers = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
                if workers:
                    rng.choice(workers).kill()
                    killed += 1
                ended.wait(rng.expovariate(1))
            assert fit.end() == 0, fit.log
        assert killed >= 3
        assert same(dnmf.load(model), whole(corpus, 100))

    def test_all_of_them_and_then_others_come(self, corpus, tmp_path):
        model = tmp_path / "model"
        with scheduler(tmp_path) as (_, address):
            command = fit_command(corpus, model, "--scheduler", address, "--max-iter", 30)
            with worker(address), started(*command) as fit:
                fit.wait_for_pass(3)
                os.kill(fit.pid, signal.SIGSTOP)  # so that it is not done before they are gone
                stack = ExitStack().enter_context(ExitStack())
