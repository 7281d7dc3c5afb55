"""All of a cluster has the same dnmf and Python: else an error says who has not, before a read."""

from __future__ import annotations

import logging
import re
import time
from contextlib import contextmanager

import dask.array as da
import numpy as np
import pytest
from distributed import Client
from processes import fit_command, scheduler, started, worker

import dnmf
from dnmf.engine.ask import own_versions
from dnmf.engine.client import cluster
from dnmf.engine.executors import each_block
from dnmf.errors import ClusterError

IMAGES = np.random.default_rng(0).random((240, 30), dtype="f4")
OPTIONS = {"random_state": 0, "max_iter": 2, "tol": 0}


def unread(*_, **__):
    raise AssertionError("a block was read")


@contextmanager
def one_worker_with(client, what, version):
    """Let one of the workers say that it has another version, and give its address."""

    def say(what, version):
        import distributed.versions as dask

        import dnmf

        def changed(packages):
            found = true(packages)
            found["packages"][what] = version
            return found

        true = dask.get_versions
        dask.kept = (true, dnmf.__version__)
        if what == "dnmf":
            dnmf.__version__ = version
        else:
            dask.get_versions = changed

    def say_the_truth():
        import distributed.versions as dask

        import dnmf

        dask.get_versions, dnmf.__version__ = dask.kept

    address = min(client.nthreads())
    client.run(say, what, version, workers=[address])
    try:
        yield address
    finally:
        client.run(say_the_truth, workers=[address])


@pytest.mark.parametrize("what", ["dnmf", "python"])
@pytest.mark.parametrize("work", ["fit", "ingest", "plan"])
def test_another_version_is_an_error_before_a_block_is_read(client, tmp_path, what, work):
    X = da.from_array(IMAGES, chunks=(40, 30)).map_blocks(unread, dtype="f4")
    calls = {
        "fit": lambda: dnmf.NMF(2, **OPTIONS).fit(X),
        "ingest": lambda: dnmf.ingest(IMAGES.reshape(-1, 5, 6), tmp_path / "c"),
        "plan": lambda: dnmf.NMF(2, **OPTIONS).plan(X, trial=False),
    }
    with one_worker_with(client, what, "0.9") as address, pytest.raises(ClusterError) as error:
        calls[work]()
    assert str(error.value) == (
        f"{what} is {own_versions()[what]} here and 0.9 on {address}: install the same for the "
        "scheduler and all workers"
    )
    assert not (tmp_path / "c").exists()


def test_a_command_says_it_too(client, local_cluster):
    with (
        one_worker_with(client, "dnmf", "0.9"),
        pytest.raises(ClusterError, match=r"dnmf is .* here and 0.9 on"),
        cluster(scheduler=local_cluster.scheduler_address),
    ):
        unread()


@pytest.mark.parametrize("what", ["numpy", "scipy", "numba"])
def test_another_version_of_a_library_that_computes_is_a_warning(client, caplog, what):
    with one_worker_with(client, what, "1.99") as address, caplog.at_level(logging.WARNING, "dnmf"):
        dnmf.NMF(2, **OPTIONS).fit(da.from_array(IMAGES, chunks=(40, 30)))
    (line,) = caplog.messages
    assert line.startswith(
        f"{what} is {own_versions()[what]} here and 1.99 on {address}: last bits"
    )


def test_versions_of_a_sound_cluster_are_asked_for_once(client, monkeypatch):
    X = da.from_array(IMAGES, chunks=(40, 30))
    dnmf.NMF(2, **OPTIONS).fit(X)
    monkeypatch.setattr(client, "run_on_scheduler", unread)
    dnmf.NMF(2, **OPTIONS).fit(X)


@pytest.fixture
def without_dnmf(tmp_path):
    """What `dask scheduler` and `dask worker` load so as to have no dnmf."""
    file = tmp_path / "without.py"
    file.write_text("import sys\nsys.modules['dnmf'] = None\n")
    return ("--preload", file)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["scheduler", "worker", "a worker that comes later"])
def test_no_dnmf(corpus, tmp_path, without_dnmf, where):
    first = without_dnmf if where == "worker" else ()
    with (
        scheduler(tmp_path, *(without_dnmf if where == "scheduler" else ())) as (_, address),
        worker(address, "--no-nanny", *first),
        started(
            *fit_command(corpus, tmp_path / "m", "--scheduler", address, "--max-iter", 100_000)
        ) as fit,
    ):
        if "later" in where:
            fit.wait_for_pass(2)
            with worker(address, "--no-nanny", *without_dnmf):
                assert fit.end() == 1, fit.log
        else:
            assert fit.end() == 1, fit.log
            assert not (tmp_path / "m").exists()
    (line,) = [line for line in fit.lines if line.startswith("Error: ")]
    who = "the Dask scheduler" if where == "scheduler" else r"tcp://\S+"
    assert re.match(rf"Error: dnmf is \S+ here and missing on {who}: install the same", line)


@pytest.mark.slow
def test_no_dnmf_on_a_worker_that_comes_during_an_ingest(tmp_path, without_dnmf):
    with (
        scheduler(tmp_path) as (_, address),
        worker(address, "--no-nanny"),
        Client(address),
    ):
        calls = each_block(lambda seconds, number: time.sleep(seconds), 0.1, 3000)
        next(calls)
        with (
            worker(address, "--no-nanny", *without_dnmf),
            pytest.raises(ClusterError, match=r"dnmf is \S+ here and missing on tcp://"),
        ):
            list(calls)
