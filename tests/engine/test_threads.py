"""Threads follow the user, the batch system and the container; the bits do not depend on them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import dask.array as da
import numpy as np
import pytest
import threadpoolctl

import dnmf
from dnmf.engine import threads
from dnmf.engine.client import MALLOC, cluster
from dnmf.engine.executors import active_client
from dnmf.engine.threads import one_blas_thread, thread_count
from dnmf.errors import ParameterError
from dnmf.estimators.inputs import blocks_of


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch, tmp_path):
    """A machine of eight cores where nothing limits a process."""
    for name in (threads.VARIABLE, *threads.LIMITS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_core_count", lambda: 8)
    monkeypatch.setattr(threads, "_current_blas_threads", lambda: 8)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "OWN_CGROUPS", tmp_path / "own")
    assert thread_count() == 8


@pytest.mark.parametrize("name", threads.LIMITS)
def test_variables_limit_threads(monkeypatch, name):
    counts = {"3": 3, "1": 1, "100": 8, "": 8, "0": 8, "many": 8, "2,4": 2}
    for value, count in counts.items():
        monkeypatch.setenv(name, value)
        assert thread_count() == count


def test_the_own_variable_goes_before_all_others(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DNMF_NUM_THREADS", "5")
    assert thread_count() == 5
    for wrong in ("0", "-1", "2.5", "all"):
        monkeypatch.setenv("DNMF_NUM_THREADS", wrong)
        with pytest.raises(
            ParameterError, match=f"DNMF_NUM_THREADS is {wrong}; it must be a number"
        ):
            dnmf.NMF(1).fit(np.ones((3, 2)))


GROUPS = {  # the file that names the groups, quotas by file, cores
    "v2": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "v2, rounded up": ("0::/", {"cpu.max": "150000 100000"}, 2),
    "v2, less than a core": ("0::/", {"cpu.max": "20000 100000"}, 1),
    "v2, no limit": ("0::/", {"cpu.max": "max 100000"}, 8),
    "v2, nested": ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
    "v2, the outer is less": ("0::/a", {"a/cpu.max": "4 1", "cpu.max": "2 1"}, 2),
    "v2, beside v1": ("1:name=x:/\n0::/a", {"unified/a/cpu.max": "2 1"}, 2),
    "v1": (
        "5:cpu,cpuacct:/d",
        {"cpu,cpuacct/d/cpu.cfs_quota_us": "400000", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"},
        4,
    ),
    "v1, seen from inside": (
        "5:cpuacct,cpu:/docker/x",
        {"cpuacct,cpu/cpu.cfs_quota_us": "200000", "cpuacct,cpu/cpu.cfs_period_us": "100000"},
        2,
    ),
    "v1, no limit": (
        "5:cpu:/",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        8,
    ),
    "v1, of memory": ("5:memory:/", {"memory/cpu.cfs_quota_us": "1"}, 8),
    "damaged": ("0::/", {"cpu.max": "x"}, 8),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_control_groups_limit_threads(tmp_path, kind):
    groups, files, cores = GROUPS[kind]
    (tmp_path / "own").write_text(groups + "\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert thread_count() == cores


class TestOnThisMachine:
    @pytest.fixture(autouse=True)
    def this_machine(self, monkeypatch, eight_cores):
        monkeypatch.undo()
        for name in (threads.VARIABLE, *threads.LIMITS):
            monkeypatch.delenv(name, raising=False)

    def test_a_limit_of_threadpoolctl(self):
        before = thread_count()
        with threadpoolctl.threadpool_limits(1):
            assert thread_count() == 1
        with one_blas_thread():
            assert thread_count() == before, "its own limit is none of the user's"
        with threadpoolctl.threadpool_limits(1), one_blas_thread():
            assert thread_count() == 1

    def test_affinity(self):
        cores = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(cores)})
            assert thread_count() == 1
        finally:
            os.sched_setaffinity(0, cores)

    def test_workers_of_joblib_share_the_cores(self):
        from joblib import Parallel, delayed

        counts = Parallel(n_jobs=2)(delayed(thread_count)() for _ in range(2))
        assert counts == [max(thread_count() // 2, 1)] * 2


@pytest.mark.parametrize("source", [lambda X: X, lambda X: da.from_array(X, chunks=(100, -1))])
def test_bits_do_not_depend_on_threads(monkeypatch, digits, source):
    results = []
    for count in ("1", "3"):
        monkeypatch.setenv("DNMF_NUM_THREADS", count)
        model = dnmf.NMF(4, random_state=0, max_iter=2, tol=0).fit(source(digits))
        results.append((model.components_.tobytes(), model.loss_history_.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("source", [lambda X: X, lambda X: da.from_array(X, chunks=(40, -1))])
def test_no_more_threads_compute_than_may(monkeypatch, source):
    used = set()

    def note(block):
        used.add(threading.get_ident())
        time.sleep(0.002)
        return len(block)

    X = source(np.ones((1600, 4000), "f4"))
    for count in (1, 3):
        monkeypatch.setenv("DNMF_NUM_THREADS", str(count))
        used.clear()
        assert blocks_of(X).map_sum(note) == 1600
        assert len(used) <= count


@pytest.mark.slow
@pytest.mark.parametrize("said", [None, "1000000"])
def test_workers_that_a_command_starts_keep_freed_memory(monkeypatch, said):
    name = "MALLOC_TRIM_THRESHOLD_"
    # Dask leaves what it tells its workers in the environment of the process that starts them.
    monkeypatch.delenv(name, raising=False)
    if said is not None:
        monkeypatch.setenv(name, said)
    with cluster(workers=1):
        (found,) = active_client().run(os.environ.get, name).values()
    assert found == (said or str(MALLOC[name]))


def test_a_blas_that_is_loaded_after_the_first_look_has_one_thread_too():
    """That of SciPy: an ingest needs NumPy's alone, and a fit in the same process both."""
    script = """
import sys
import threadpoolctl
from dnmf.engine.threads import one_blas_thread, thread_count

thread_count()
assert "scipy.linalg.cython_blas" not in sys.modules
import dnmf.numerics.nnls

with one_blas_thread():
    pools = threadpoolctl.threadpool_info()
print({pool["num_threads"] for pool in pools if pool["user_api"] == "blas"})
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["{1}"]
