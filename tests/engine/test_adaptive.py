"""Clusters that start workers when there is work, from none, and stop idle ones."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import dask
import dask.array as da
import numpy as np
import pytest
from processes import fit_command, started, wait_until

import dnmf

IMAGES = np.random.default_rng(0).random((240, 30), dtype="f4")
OPTIONS = {"random_state": 0, "max_iter": 3, "tol": 0}


@pytest.fixture(scope="module")
def adaptive():
    from distributed import LocalCluster

    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": "ERROR", "processes": False}
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        cluster = LocalCluster(n_workers=0, threads_per_worker=1, **options)
        cluster.adapt(minimum=0, maximum=2, interval="50ms", wait_count=2)
        yield cluster
        with suppress(KeyError):  # Dask's own, where a worker has just gone
            cluster.close()
        cluster.close()


@pytest.fixture
def client(adaptive):
    from distributed import Client

    with Client(adaptive) as client:
        wait_for_none(client)
        yield client


def wait_for_none(client):
    for _ in range(200):
        if not client.nthreads():
            return
        time.sleep(0.05)
    raise AssertionError("workers stay, though there is no work")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptive")
    np.save(folder / "x.npy", IMAGES.reshape(-1, 5, 6))
    corpus = dnmf.ingest(folder / "x.npy", folder / "c", block_rows=40)
    return {"dask": da.from_array(IMAGES, chunks=(40, 30)), "corpus": corpus}


@pytest.fixture(scope="module")
def fitted():
    return dnmf.NMF(2, **OPTIONS).fit(IMAGES)


WORK = {
    "fit": lambda X, fitted, folder: dnmf.NMF(2, **OPTIONS).fit(X).loss_history_,
    "partial_fit": lambda X, fitted, folder: dnmf.NMF(2, **OPTIONS).partial_fit(X).components_,
    "score": lambda X, fitted, folder: fitted.score(X),
    "transform": lambda X, fitted, folder: fitted.transform(X).compute(),
    "error": lambda X, fitted, folder: fitted.reconstruct_error(X, per="pixel"),
    "sweep": lambda X, fitted, folder: dnmf.rank_sweep(X, [2], dnmf.NMF(**OPTIONS)).table[0],
    "checkpoint": lambda X, fitted, folder: (
        dnmf.NMF(2, checkpoint=folder / f"m{time.time_ns()}", **OPTIONS).fit(X).loss_history_
    ),
}


@pytest.mark.parametrize(
    ("work", "source"), [("fit", "dask"), *((work, "corpus") for work in WORK)]
)
def test_work_starts_a_worker(client, sources, fitted, tmp_path, work, source):
    found = WORK[work](sources[source], fitted, tmp_path)
    with dask.config.set(scheduler="threads"):
        expected = WORK[work](sources[source], fitted, tmp_path)
    assert repr(found) == repr(expected)


def test_ingest_starts_a_worker(client, tmp_path):
    np.save(tmp_path / "x.npy", IMAGES.reshape(-1, 5, 6))
    corpus = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c", block_rows=10)
    assert np.array_equal(corpus.to_dask().compute(), IMAGES)
    wait_for_none(client)
    assert not dnmf.verify(tmp_path / "c").findings


def test_a_plan_is_made_for_the_worker_that_comes(client, sources):
    plan = dnmf.NMF(2).plan(sources["corpus"], trial=False)
    assert plan.workers == 1
    assert plan.worker_memory > 0


def test_memory_is_checked_when_a_worker_is_there(client, sources):
    huge = da.zeros((2**14, 2**24), chunks=(2**13, 2**24), dtype="f4")
    with pytest.raises(dnmf.errors.CapacityError, match="on a worker of 1 thread"):
        dnmf.NMF(2).fit(huge)


@pytest.mark.parametrize("source", ["dask", "corpus"])
def test_workers_that_go_during_a_fit_cost_no_bits(client, sources, source):
    seen = []

    def wait_until_fewer(state):
        for _ in range(60):
            seen.append(len(client.nthreads()))
            if seen[-1] <= (source == "dask"):
                return
            time.sleep(0.05)

    found = dnmf.NMF(2, on_pass=wait_until_fewer, **OPTIONS).fit(sources[source])
    expected = dnmf.NMF(2, **OPTIONS).fit(sources[source])
    assert found.components_.tobytes() == expected.components_.tobytes()
    assert min(seen) == (source == "dask"), "data of this process keep one worker"


@pytest.mark.slow
def test_processes_that_come_and_go_during_a_fit_cost_no_bits(sources):
    """As a queue grants and takes them: from none to three, to none and to two."""
    from distributed import Client, LocalCluster

    counts, seen = {1: 3, 3: 0, 4: 2}, []
    options = {
        "threads_per_worker": 1,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": "CRITICAL",
    }

    def scale(state):
        seen.append(len(client.nthreads()))
        if state.n_iter in counts:
            cluster.scale(counts[state.n_iter])
            wait_until(lambda: len(client.nthreads()) == counts[state.n_iter], "workers")
        if state.n_iter == 3:
            threading.Timer(0.5, cluster.scale, [1]).start()  # the fit waits for it

    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as client:
        nmf = dnmf.NMF(2, random_state=0, tol=0, max_iter=6, on_pass=scale)
        found = nmf.fit(sources["corpus"])
    with dask.config.set(scheduler="threads"):
        expected = dnmf.NMF(2, random_state=0, tol=0, max_iter=6).fit(sources["corpus"])
    assert found.components_.tobytes() == expected.components_.tobytes()
    assert {1, 2, 3} <= set(seen)


@pytest.mark.slow
def test_a_command_starts_workers_of_a_cluster_that_adapts(sources, tmp_path):
    from distributed import LocalCluster

    options = {
        "threads_per_worker": 1,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": "CRITICAL",
    }
    with LocalCluster(n_workers=0, **options) as cluster:
        cluster.adapt(minimum=0, maximum=2)
        command = fit_command(sources["corpus"], tmp_path / "m")
        with started(*command, "--scheduler", cluster.scheduler_address) as fit:
            assert fit.end() == 0, fit.log
    assert dnmf.load(tmp_path / "m").n_iter_ == 60
