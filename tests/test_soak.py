"""Two thousand passes: the memory of the driver, the scheduler and the workers stays what it is."""

from __future__ import annotations

import os

import numpy as np
import psutil
import pytest
from conftest import read_digits
from processes import PATIENCE, scheduler, wait_until, worker
from scipy.stats import theilslopes

import dnmf

pytestmark = pytest.mark.slow

PASSES, WARM, EVERY = 2000, 500, 10

MOST = {"driver": 3, "scheduler": 8, "worker 0": 6, "worker 1": 6}
"""KiB that memory may grow by in a pass. Dask's statistics keep 3.3 of a pass on the scheduler;
what is above it, and on workers, is what allocators do."""

# Dask's own logs are bounded, by lengths that two thousand passes would not reach.
SHORT = {
    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "10",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__LOG_LENGTH": "10",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    np.save(folder / "x.npy", read_digits(300))
    return dnmf.ingest(folder / "x.npy", folder / "c.zarr", block_rows=100)


def test_two_thousand_passes_leave_nothing_behind(small, tmp_path):
    from distributed import Client

    rows = []

    def left(dask_scheduler):
        return len(dask_scheduler.tasks), len(dask_scheduler.task_groups)

    def records(dask_scheduler):
        return len(dask_scheduler.extensions["spans"].spans)

    def look(state):
        if state.n_iter >= WARM and state.n_iter % EVERY == 0:
            rows.append([state.n_iter, *(one.memory_info().rss for one in processes.values())])

    with (
        scheduler(tmp_path, env=SHORT) as (one, address),
        worker(address, "--nworkers", 2, env=SHORT),
        Client(address) as client,
    ):
        client.wait_for_workers(2, timeout=PATIENCE)
        pids = {"driver": os.getpid(), "scheduler": one.pid}
        pids |= {f"worker {i}": pid for i, pid in enumerate(client.run(os.getpid).values())}
        processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        dnmf.NMF(4, random_state=0, tol=0, max_iter=PASSES, on_pass=look).fit(small)
        wait_until(lambda: client.run_on_scheduler(left) == (0, 0), "an empty scheduler")
        assert client.run_on_scheduler(records) == 1
    passes, *memory = np.array(rows, float).T
    # The median of the slopes between all pairs: an allocator that takes a few MB once is no leak.
    slopes = {
        name: round(theilslopes(taken / 1024, passes).slope, 2)
        for name, taken in zip(processes, memory, strict=True)
    }
    assert all(slopes[name] <= most for name, most in MOST.items()), slopes
