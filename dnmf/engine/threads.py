"""How many threads a fit may use, and the one thread that BLAS has in each of them."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
import threadpoolctl

from dnmf.errors import ParameterError

VARIABLE = "DNMF_NUM_THREADS"
"""Environment variable that sets the number of threads, whatever else limits them."""

LIMITS = ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")
"""Environment variables that limit the number of threads."""

MOST_OF_BLAS = 64
"""Number of threads that BLAS libraries are built for at most: this many are no limit of the
user."""

CGROUPS = Path("/sys/fs/cgroup")
"""Folder of the control groups, which containers and batch systems limit a process by."""

OWN_CGROUPS = Path("/proc/self/cgroup")
"""File that names the control groups of this process."""

_lock = threading.Lock()
_depth = 0
_limiter: Any = None
_threads_before = 0


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread; may be nested, and entered from many threads at once.

    Blocks are already spread over threads or processes, and a BLAS that splits a product over
    threads rounds differently from one that does not. With one thread the bits do not depend on
    the number of cores.

    The limit holds for the whole process. The first thread that enters sets it, and the last that
    leaves restores it: restoring it earlier would change the bits of threads that are still inside.
    """
    global _depth, _limiter, _threads_before
    with _lock:
        if _depth == 0:
            _take_control()
            _threads_before = _current_blas_threads()
            _limiter = _controller().limit(limits=1, user_api="blas")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _take_control()
                _limiter.restore_original_limits()
                _take_control()


def _controller() -> threadpoolctl.ThreadpoolController:
    """Return what controls the BLAS libraries of this process."""
    # SciPy brings a BLAS of its own, on which the compiled loops compute. An ingest does not load
    # it: what was found during one is not all that a fit uses.
    return _find_libraries("scipy.linalg.cython_blas" in sys.modules)


@cache
def _find_libraries(scipy_is_loaded: bool) -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()  # takes milliseconds, so it is not done every time


def _take_control() -> None:
    """Let this thread set the limit of OpenBLAS.

    From threadpoolctl 3.8 on the first thread to set it keeps the right to, and what other threads
    set is silently ignored: a task in a worker's thread would compute on all cores.
    """
    openblas: Any = getattr(threadpoolctl, "OpenBLASController", None)
    if hasattr(openblas, "clear_controlling_thread"):
        openblas.clear_controlling_thread(force=True)


def _current_blas_threads() -> int:
    """Return the number of threads of BLAS, the least where there are several libraries."""
    libraries = _controller().select(user_api="blas").lib_controllers
    return min((library.num_threads for library in libraries), default=MOST_OF_BLAS)


def thread_count() -> int:
    """Return the number of threads that may compute in this process now.

    That is what `DNMF_NUM_THREADS` says, else the least of: the cores that the process may run on,
    the quota of its control groups, ``OMP_NUM_THREADS``, ``SLURM_CPUS_PER_TASK``, and the threads
    that BLAS has, which `threadpoolctl.threadpool_limits` sets, and joblib in its workers.

    Raises
    ------
    ParameterError
        `DNMF_NUM_THREADS` is no positive integer.
    """
    own = os.environ.get(VARIABLE, "").strip()
    if own:
        if not own.isdecimal() or not int(own):
            raise ParameterError(f"{VARIABLE} is {own}; it must be a number of threads, 1 or more")
        return int(own)
    cores = _core_count()
    with _lock:
        blas = _threads_before if _depth else _current_blas_threads()
    counts = [cores, cgroup_cores(), blas if blas < min(cores, MOST_OF_BLAS) else cores]
    for name in LIMITS:
        first = os.environ.get(name, "").partition(",")[0].strip()  # OpenMP has one for each level
        counts.append(int(first) if first.isdecimal() and int(first) else cores)
    return min(counts)


def _core_count() -> int:
    """Return the number of cores that this process may run on."""
    process = psutil.Process()  # on some systems it does not know
    affinity = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None
    return len(affinity or ()) or os.cpu_count() or 1


def cgroup_cores() -> int:
    """Return the cores that the control groups of this process allow, rounded up."""
    quotas = [math.inf]
    with suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                quotas += _quotas(controllers, PurePosixPath(path))
    least = min(quotas)
    return max(math.ceil(least), 1) if least < math.inf else _core_count()


def _quotas(controllers: str, path: PurePosixPath) -> Iterator[float]:
    """Yield the quota of a group and of those around it, in cores."""
    for group in (path, *path.parents):
        inside = str(group).lstrip("/")
        # A group of version 2, which has no controllers in the list, or of version 1.
        mounts = (controllers, "cpu", "cpu,cpuacct") if controllers else ("", "unified")
        names = ["cpu.cfs_quota_us", "cpu.cfs_period_us"] if controllers else ["cpu.max"]
        for folder in (CGROUPS / mount / inside for mount in mounts):
            with suppress(OSError, ValueError):  # there is no such group, or it has no limit
                text = " ".join((folder / name).read_text() for name in names)
                quota, period = map(int, text.split())
                if quota > 0 and period > 0:
                    yield quota / period
