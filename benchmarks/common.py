"""What the benchmarks share: the MNIST images, what a run ran on, and equal threads for all.

Not a benchmark of its own.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import threadpoolctl
from dask.system import CPU_COUNT

from dnmf.engine.threads import one_blas_thread
from dnmf.io.ingest import ingest
from dnmf.numerics.block import compute_dtype
from dnmf.numerics.quadratic import Quadratic
from dnmf.solvers.loop import ModelRun
from dnmf.solvers.warm_start import start
from dnmf.storage.checkpoint.spec import FitSpec

PACKAGES = (
    "dnmf",
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "dask",
    "torch",
    "nmf-torch",
    "torchnmf",
)
SIDE = 2048
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def load(folder: Path) -> np.ndarray:
    """Read all 70,000 x 784 pixels, uint8."""
    files = [folder / f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k")]
    with TemporaryDirectory() as scratch:
        return np.asarray(ingest(files, f"{scratch}/mnist.zarr", codec="lz4"))


def about() -> dict[str, object]:
    """Name what a figure depends on besides the code: the machine, its threads and the versions."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": CPU_COUNT,
        "pools": ", ".join(sorted(_pools())),
        "load average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        **dict(_versions()),
    }


def best_of(run: Callable[[], object], times: int = 5) -> float:
    """Give the shortest of some runs, in seconds, after one that is not timed."""
    run()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def sgemm_flops(threads: int) -> float:
    """Multiply square matrices, one pair per thread at the same time; flops per second of all."""
    A = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        together = best_of(lambda: list(pool.map(lambda _: A @ A, range(threads))))
    return threads * 2 * SIDE**3 / together


def pin(threads: int) -> None:
    """Start the script again on so many CPUs, unless it has just these.

    BLAS, OpenMP, torch and Dask count the CPUs of the process when they are imported: so every
    package has the same threads, and none has to be told.
    """
    if not hasattr(os, "sched_setaffinity"):
        if threads != os.cpu_count():
            sys.exit(f"{platform.system()} cannot pin a process: use --threads {os.cpu_count()}")
        return
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < threads:
        sys.exit(f"--threads {threads}, but this process may use {len(cpus)} CPUs")
    wanted = dict.fromkeys(POOLS, str(threads))
    if len(cpus) == threads and wanted.items() <= os.environ.items():
        return
    os.sched_setaffinity(0, cpus[:threads])
    os.environ.update(wanted)
    os.execv(sys.executable, sys.orig_argv)


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _pools() -> set[str]:
    pools = threadpoolctl.threadpool_info()
    return {f"{pool['internal_api']} {pool['num_threads']}" for pool in pools}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())


def started(blocks: Any, d: int, seed: int) -> ModelRun:
    """Return a run for squared error that has its first state, as `NMF(d)` starts."""
    X = {"compute_dtype": str(compute_dtype(blocks.dtype))}
    run = ModelRun(FitSpec(d, seed, X, {"init": "random"}), Quadratic())
    (run,) = start(blocks, [run], seed, 1e-4)
    return run
