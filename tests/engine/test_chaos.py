"""Faults of clusters, made for real: a fit ends with the same bits, or an error says how to go on.

Workers and schedulers are processes that are killed or stopped; no test waits for a time.
"""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

import dask
import numpy as np
import pytest
from processes import (
    PATIENCE,
    committed,
    fit_command,
    same,
    scheduler,
    started,
    wait_until,
    whole,
    worker,
    workers_of,
)

import dnmf
from dnmf.engine.retry import ATTEMPTS
from dnmf.errors import ClusterError, TaskError
from dnmf.estimators.inputs import blocks_of

pytestmark = pytest.mark.slow

QUIET = {"dashboard_address": "127.0.0.1:0", "silence_logs": "CRITICAL"}
QUICK = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}


@pytest.fixture(scope="module")
def expected(corpus):
    with dask.config.set(scheduler="synchronous"):
        return whole(corpus, 6)


class TestTheSameBits:
    """Shapes of clusters: processes, threads of each, whether nannies watch them."""

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
    """Return the number of threads of BLAS in each task of a pass."""

    def threads(block):
        from threadpoolctl import threadpool_info

        # NumPy's own: SciPy brings another, which dnmf does not multiply with.
        return [lib["num_threads"] for lib in threadpool_info() if "numpy.libs" in lib["filepath"]]

    return blocks_of(corpus).map_blocks(threads, range(corpus.n_blocks))


class TestWorkersDie:
    def test_one_every_few_seconds_changes_nothing(self, corpus, tmp_path):
        model, rng = tmp_path / "model", random.Random(0)
        passes = 400  # enough to go on while new workers grow old enough to be killed
        command = fit_command(corpus, model, "--workers", 2, "--max-iter", passes)
        with started(*command) as fit:
            for kills in range(4):
                # Dask gives a worker up that dies while it starts.
                grown = wait_until(lambda: grown_workers(fit), "a worker of some seconds")
                rng.choice(grown).kill()
                fit.wait_for_pass(10 * kills + 10)
            assert fit.end() == 0, fit.log
        assert same(dnmf.load(model), whole(corpus, passes))

    def test_all_of_them_and_another_comes(self, corpus, tmp_path):
        model = tmp_path / "model"
        with (
            scheduler(tmp_path) as (_, address),
            worker(address) as first,
            started(*fit_command(corpus, model, "--scheduler", address)) as fit,
        ):
            fit.wait_for_pass(3)
            first.kill()
            fit.wait_for("the cluster has no workers: waiting for one to come")
            with worker(address):
                assert fit.end() == 0, fit.log
        assert "a worker came after" in fit.log
        assert same(dnmf.load(model), whole(corpus, 60))

    def test_all_of_them_and_no_other_comes(self, corpus, tmp_path):
        env = {"DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "1s"}
        with scheduler(tmp_path) as (_, address), worker(address) as first:
            command = fit_command(corpus, tmp_path / "model", "--scheduler", address)
            with started(*command, env=env) as fit:
                fit.wait_for_pass(3)
                first.kill()
                assert fit.end() == 1
        assert "no worker came in 1 s (distributed.scheduler.no-workers-timeout)" in fit.log
        assert committed(tmp_path / "model") >= 3

    def test_a_stopped_one_is_replaced_after_its_time_to_live(self, corpus, tmp_path):
        model = tmp_path / "model"
        env = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s"}
        with started(*fit_command(corpus, model, "--workers", 2), env=env) as fit:
            fit.wait_for_pass(3)
            workers_of(fit)[0].suspend()
            assert fit.end() == 0, fit.log
        assert same(dnmf.load(model), whole(corpus, 60))


def grown_workers(fit):
    return [worker for worker in workers_of(fit) if time.time() - worker.create_time() > 4]


class TestTasksAndTheirWorkers:
    """A task whose worker dies may be innocent; one that is involved each time is not."""

    def run(self, corpus, read, failures):
        from distributed import Client, LocalCluster

        blocks = blocks_of(corpus)
        blocks.pixels = partial(read, blocks.pixels)
        options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "1GB", **QUIET}
        with (
            dask.config.set({"distributed.scheduler.allowed-failures": failures}),
            LocalCluster(**options) as cluster,
            Client(cluster),
        ):
            return blocks.map_sum(len)

    def test_one_that_dask_gives_up_is_tried_again(self, corpus, tmp_path, caplog):
        assert self.run(corpus, partial(die_once, tmp_path), failures=0) == 700
        assert len(list(tmp_path.iterdir())) == 1
        assert "the pass begins anew" in caplog.text

    def test_one_that_takes_too_much_memory_is_named(self, corpus, tmp_path):
        # Mostly a TaskError; the ClusterError where the only copy of H died with the worker.
        with pytest.raises(ClusterError) as caught:
            self.run(corpus, partial(take_all_memory, tmp_path), failures=0)
        words = str(caught.value)
        assert "memory is short: give workers more (--memory-limit)" in words
        if isinstance(caught.value, TaskError):
            assert "(images from " in words
        assert 2 <= len(list(tmp_path.iterdir())) <= ATTEMPTS, "deaths have a bound"


def die_once(folder, read, number):
    if number == 1 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return read(number)


def take_all_memory(folder, read, number):
    taken = []
    if number == 1:
        (folder / str(os.getpid())).touch()
        while True:  # until the nanny kills the worker
            taken.append(np.ones(2**22))
            time.sleep(0.05)
    return read(number)


class TestTheSchedulerDies:
    def test_the_fit_ends_with_an_error_and_goes_on_with_another(self, corpus, tmp_path):
        model = tmp_path / "model"
        with scheduler(tmp_path) as (first, address), worker(address):
            command = fit_command(corpus, model, "--scheduler", address)
            with started(*command, env=QUICK) as fit:
                fit.wait_for_pass(3)
                first.kill()
                began = time.monotonic()
                assert fit.end() == 1
                assert time.monotonic() - began < 60
        assert "Error: the Dask scheduler was lost" in fit.log
        assert "start it again, or another, then run the same again" in fit.log
        assert "Traceback" not in fit.log
        assert dnmf.load(model).stop_reason_ == "unfinished"
        further = committed(model) + 3
        assert further >= 6
        with scheduler(tmp_path) as (_, address), worker(address):
            command = fit_command(corpus, model, "--scheduler", address, "--max-iter", further)
            with started(*command) as fit:
                assert fit.end() == 0, fit.log
        assert same(dnmf.load(model), whole(corpus, further))

    def test_one_that_is_back_in_time_is_used(self, corpus, tmp_path):
        model = tmp_path / "model"
        with (
            scheduler(tmp_path) as (first, address),
            worker(address),
            started(*fit_command(corpus, model, "--scheduler", address)) as fit,
        ):
            fit.wait_for_pass(3)
            first.kill()
            port = address.rpartition(":")[2]
            with scheduler(tmp_path, "--port", port), worker(address):
                assert fit.end() == 0, fit.log
        assert same(dnmf.load(model), whole(corpus, 60))
