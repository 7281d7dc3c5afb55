"""Plans of fits: memory and times are predicted, peaks agree, too large fits are refused."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import dnmf
from dnmf.cli.main import main
from dnmf.errors import CapacityError
from dnmf.solvers.memory_model import FitMemory, largest_fitting, resident_bytes

PEAKS = """
import json, os, sys, warnings
import numpy as np, zarr
import dnmf

def peak(pid):
    lines = open(f"/proc/{pid}/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def main(path, workers, d, loss):
    X = zarr.open_array(path, mode="r")
    X = X if int(workers) else X[:]
    solver = "cd" if loss == "frobenius" else "mu"
    model = dnmf.NMF(int(d), solver=solver, beta_loss=loss, random_state=0, max_iter=2, tol=0.01)
    pids, rows = [], []
    if int(workers):
        from distributed import Client, LocalCluster
        cluster = LocalCluster(
            n_workers=int(workers), threads_per_worker=1, memory_limit="4GB",
            dashboard_address="127.0.0.1:0",
        )
        client = Client(cluster)
        pids = list(client.run(os.getpid).values())
    plan = model.plan(X, trial=False)
    warnings.simplefilter("ignore")
    model.fit(X)
    rows = [(plan.driver_memory, peak(os.getpid()))]
    rows += [(plan.worker_memory, peak(pid)) for pid in pids]
    print(json.dumps(rows), flush=True)
    os._exit(0)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Make 3,000 images of 128 x 128, in blocks of 2 MiB."""
    rng = np.random.default_rng(0)
    parts = rng.random((20, 128 * 128), np.float32) ** 8
    path = tmp_path_factory.mktemp("faces") / "X.zarr"
    X = zarr.create_array(path, shape=(3000, 128 * 128), chunks=(125, 128 * 128), dtype="u1")
    X[:] = rng.random((3000, 20), np.float32) @ parts * 25
    return path


@pytest.fixture(scope="module")
def peaks(faces, tmp_path_factory):
    """Return predicted and measured peaks of fits in their own processes, kernels compiled."""
    script = tmp_path_factory.mktemp("peaks") / "peaks.py"
    script.write_text(PEAKS)

    def measure(*arguments):
        line = [sys.executable, script, faces, *map(str, arguments)]
        ran = subprocess.run(line, capture_output=True, text=True, timeout=300, check=True)
        return json.loads(ran.stdout.splitlines()[-1])

    for loss in ("frobenius", "kullback-leibler"):
        measure(1, 4, loss)
    return measure


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peaks from /proc")
@pytest.mark.slow
class TestMemory:
    @pytest.mark.parametrize(
        ("workers", "d", "loss"),
        [
            (1, 48, "frobenius"),
            (2, 16, "frobenius"),
            (0, 48, "frobenius"),
            (1, 16, "kullback-leibler"),
        ],
    )
    def test_peaks_are_at_most_a_quarter_below_the_prediction(self, peaks, workers, d, loss):
        rows = peaks(workers, d, loss)
        assert len(rows) == 1 + workers
        for predicted, peak in rows:
            assert 0.75 * predicted <= peak <= predicted, rows


OF_ARRAYS = """
import json, os, sys, warnings
import dask.array as da, numpy as np, scipy.sparse as sp
import dnmf

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

warnings.simplefilter("ignore")
n, p, rows, dtype, kind, loss = json.loads(sys.argv[1])
X, mask = da.random.default_rng(0).random((n, p), chunks=(rows, p)), None
if kind == "mask":
    mask = X < 0.1
X = (255 * X if dtype == "u1" else X).astype(dtype)
if kind.startswith("sparse"):
    def tenth(block_id=(0, 0)):
        rng, count = np.random.default_rng(block_id), p // 10
        columns = rng.integers(0, p, n * count, dtype="i4")
        values = rng.random(n * count, dtype=dtype)
        return sp.csr_matrix((values, columns, np.arange(0, n * count + 1, count)), (n, p))
    meta = sp.csr_matrix((0, 0), dtype=dtype)
    X = da.map_blocks(tenth, chunks=((n,), (p,)), dtype=dtype, meta=meta)
if kind == "memory":
    X = np.random.default_rng(0).random((n, p), dtype=dtype)
if kind == "sparse in memory":
    X = tenth()
solver = "cd" if loss == 2 else "mu"
options = {"solver": solver, "beta_loss": loss, "random_state": 0, "max_iter": 2, "tol": 0}
model = dnmf.NMF(4, **options)
predicted = model.plan(X, mask, trial=False).driver_memory
model.fit(X, mask=mask)
print(json.dumps([predicted, peak()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peaks from /proc")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "p", "rows", "dtype", "kind", "loss"),
    [
        (40_000, 1000, 40_000, "f4", "one block", 2),
        (40_000, 1000, 10_000, "f4", "few blocks", 2),
        (40_000, 1000, 40_000, "f8", "one block", 2),
        (40_000, 1000, 40_000, "f4", "mask", 2),
        (40_000, 1000, 40_000, "f4", "sparse", 2),
        (20_000, 1000, 20_000, "f4", "one block", 1),
        (400, 200_000, 400, "f4", "wide", 2),
        (40_000, 1000, 40_000, "f4", "memory", 2),
        (40_000, 1000, 40_000, "f4", "sparse in memory", 2),
    ],
)
def test_peaks_of_arrays_are_near_the_prediction(tmp_path, n, p, rows, dtype, kind, loss):
    (tmp_path / "fit.py").write_text(OF_ARRAYS)
    line = [sys.executable, tmp_path / "fit.py", json.dumps([n, p, rows, dtype, kind, loss])]
    ran = subprocess.run(line, capture_output=True, text=True, check=True)
    predicted, peak = json.loads(ran.stdout)
    assert predicted / 2.5 < peak <= predicted


class TestRefusal:
    def test_a_worker_lacks_memory(self, faces, tmp_path):
        from distributed import Client, LocalCluster

        options = {"dashboard_address": "127.0.0.1:0", "memory_limit": "700MB"}
        with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster, Client(cluster):
            X = zarr.open_array(faces, mode="r")
            model = dnmf.NMF(2000, checkpoint=tmp_path / "m")
            with pytest.raises(CapacityError) as refused:
                model.fit(X)
            found = str(refused.value)
            assert "a worker of 1 thread, which may take 560.0 MB" in found
            plan = model.plan(X)
            assert plan.lack is not None
            assert plan.lack in found
            assert plan.trial is None
            assert "lacking" in str(plan)
            most = int(found.split("at most ")[1].split(" ")[0])
            assert model.set_params(n_components=most).plan(X, trial=False).lack is None
            assert model.set_params(n_components=most + 1).plan(X, trial=False).lack is not None
        assert not (tmp_path / "m").exists()

    def test_this_process_lacks_memory(self, tmp_path):
        X = zarr.create_array(tmp_path / "X", shape=(500, 10**6), chunks=(1, 10**6), dtype="u1")
        with pytest.raises(CapacityError, match=r"TB in this process, and there are .* for it"):
            dnmf.NMF(400_000).fit(X)

    def test_on_the_command_line(self, faces, tmp_path):
        np.save(tmp_path / "x.npy", zarr.open_array(faces)[:500].reshape(-1, 128, 128))
        dnmf.ingest(tmp_path / "x.npy", tmp_path / "c.zarr")
        where = ["--workers", "1", "--memory-limit", "500MB"]
        run = CliRunner().invoke
        fit = run(main, ["fit", f"{tmp_path}/c.zarr", f"{tmp_path}/m", "-k", "9000", *where])
        assert fit.exit_code == 1
        assert "Error: a fit of 9,000 components needs about" in fit.output
        assert "500.0 MB" not in fit.output.split("may take")[0]
        plan = run(main, ["plan", f"{tmp_path}/c.zarr", "-k", "9000", "--json", *where])
        assert plan.exit_code == 1
        facts = json.loads(plan.stdout)
        assert facts["worker_memory"] > facts["worker_limit"] == 400e6


class TestPlan:
    def test_attributes_and_a_trial(self, digits):
        model = dnmf.NMF(8, random_state=0, on_pass=threading.Lock().acquire)
        plan = model.plan(digits)
        n, p = digits.shape
        assert (plan.images, plan.pixels, plan.components) == (n, p, 8)
        assert plan.flops_per_pass == 4 * n * p * 8
        assert plan.bytes_per_pass == digits.nbytes
        assert plan.tasks * plan.blocks_per_task >= plan.blocks
        assert plan.reads == 1
        assert plan.workers == 0
        trial = plan.trial
        assert trial is not None
        assert trial.gemm_seconds > 0
        assert trial.read_seconds > 0
        assert 0 < trial.start_seconds[0] <= trial.start_seconds[1]
        assert "images/s" in str(plan)
        assert not hasattr(model, "n_features_in_")  # nothing is fitted

    def test_the_command(self, tmp_path, digits):
        np.save(tmp_path / "x.npy", digits.reshape(len(digits), 28, -1))
        dnmf.ingest(tmp_path / "x.npy", tmp_path / "c.zarr", block_rows=100)
        ran = CliRunner().invoke(main, ["plan", f"{tmp_path}/c.zarr", "-k", "5", "--no-trial"])
        assert ran.exit_code == 0, ran.output
        words = [line.split()[0] for line in ran.stdout.splitlines()]
        assert words == ["fit", "pass", "driver", "disk"]
        ran = CliRunner().invoke(
            main, ["plan", f"{tmp_path}/c.zarr", "-k", "5", "--workers", "1", "--json"]
        )
        facts = json.loads(ran.stdout)
        assert facts["workers"] == facts["threads"] == 1
        assert facts["lack"] is None
        assert facts["trial"]["pass_seconds"] > 0

    @pytest.mark.parametrize("loss", ["kullback-leibler", "itakura-saito"])
    def test_other_losses(self, digits, loss):
        X = digits[:200].astype(np.float32) + 1
        plan = dnmf.NMF(4, solver="mu", beta_loss=loss).plan(X)
        assert plan.trial is not None
        assert plan.trial.start_seconds[0] == plan.trial.start_seconds[1] > 0

    def test_larger_sizes_need_more_memory(self, digits):
        from runs import SQUARED

        from dnmf.estimators.inputs import blocks_of

        memory = replace(FitMemory.from_blocks(blocks_of(digits), SQUARED, 8), n_tasks=4)
        for name in (
            "p",
            "d",
            "block_rows",
            "pixel_bytes",
            "float_bytes",
            "solve_arrays",
            "stats_arrays",
        ):
            more = replace(memory, **{name: 4 * getattr(memory, name) + 1})
            assert more.task >= memory.task
            assert more.worker(0, 2) > memory.worker(0, 1)
            assert more.driver(0, 1) >= memory.driver(0, 1)

    @pytest.mark.parametrize("threads", ["1", "8", "64"])
    def test_one_large_block_is_in_one_task_at_a_time(self, monkeypatch, threads):
        monkeypatch.setenv("DNMF_NUM_THREADS", threads)
        X = da.zeros((40_000, 1000), chunks=-1, dtype="f4")  # 160 MB
        needed = dnmf.NMF(4).plan(X, trial=False).driver_memory - resident_bytes()
        assert 3 * X.nbytes < needed < 6 * X.nbytes

    @given(st.integers(0, 10**6), st.integers(1, 10**6))
    def test_the_largest_number_that_fits(self, limit, more):
        assert largest_fitting(lambda d: d <= limit, limit + more) == limit


def test_a_notebook_shows_a_table():
    plan = dnmf.NMF(2).plan(np.ones((20, 9)), trial=False)
    page = plan._repr_html_()
    assert page.startswith("<table>")
    assert page.count("<tr>") == len(str(plan).splitlines())
    assert "20 images of 9 pixels" in page
