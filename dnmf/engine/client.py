"""The cluster that the flags of a command ask for, and what is known about its workers."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from dnmf.engine.retry import wait_for_a_worker, wait_for_workers
from dnmf.engine.threads import thread_count
from dnmf.errors import ClusterError, ParameterError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

CLOSE_TIMEOUT = 10.0
"""Seconds that workers started here have to close; one that is stopped or stuck never closes."""

MALLOC = {"MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TRIM_THRESHOLD_": 2**26}
"""Bytes up to which glibc keeps freed memory in workers started here. Dask's own setting gives it
back at once, and the system clears the same memory for each strip again."""


@contextmanager
def cluster(
    workers: int | None = None,
    memory_limit: str | None = None,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    *,
    any_versions: bool = False,
) -> Iterator[str]:
    """Make the cluster that the flags ask for the active one.

    Parameters
    ----------
    workers : int, optional
        Number of single-threaded worker processes to start, on the loopback interface alone.
    memory_limit : str, optional
        Memory of each of those workers, with a unit (``2GB``).
    scheduler : str, optional
        Address of a running scheduler.
    scheduler_file : str, optional
        Path of a file to which a running scheduler has written its address.
    any_versions : bool
        Whether the workers of a running scheduler may have other versions than this process.

    Yields
    ------
    str
        Description of what computes. Without any flag that is the threads of this process.
    """
    given = [flag for flag in (workers, scheduler, scheduler_file) if flag is not None]
    if len(given) > 1:
        raise ParameterError(
            "--workers, --scheduler and --scheduler-file exclude each other; give one of them"
        )
    if memory_limit is not None:
        _check_memory_limit(memory_limit, workers)
    if not given:
        yield f"{thread_count()} threads of this process"
        return

    from distributed import Client

    if workers is not None:
        with _local_cluster(workers, memory_limit) as local, Client(local) as client:
            yield f"{workers} worker processes on this machine, {_dashboard(client)}"
        return
    address = scheduler or _address_in(scheduler_file or "")
    try:
        client = Client(address)
    except (OSError, ValueError, TypeError) as error:  # the last: tls:// without certificates
        unset = (
            ", or unset DASK_SCHEDULER_ADDRESS"
            if address == os.getenv("DASK_SCHEDULER_ADDRESS")
            else ""
        )
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({error}); "
            f"start one with `dask scheduler`, and workers with `dask worker`{unset}"
        ) from error
    with client:
        (wait_for_a_worker if any_versions else wait_for_workers)(client)
        yield f"the cluster at {client.scheduler_info()['address']}"


def _dashboard(client: Client) -> str:
    if find_spec("bokeh") is None:
        return "without a dashboard, which takes bokeh"
    return f"dashboard at {client.dashboard_link}"


@contextmanager
def _local_cluster(workers: int, memory_limit: str | None) -> Iterator[LocalCluster]:
    """Start workers on this machine, and kill those that do not close at the end."""
    from distributed import LocalCluster

    before = set(psutil.Process().children(recursive=True))
    with _ctrl_c_ignored(), freed_memory_kept():
        local = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_limit or "auto",
            dashboard_address="127.0.0.1:0",
            silence_logs="CRITICAL",
        )
    try:
        yield local
    finally:
        try:
            local.close(timeout=CLOSE_TIMEOUT)
        except (TimeoutError, KeyError):  # the latter is Dask's own, where a worker has just died
            for process in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let workers that are started meanwhile keep freed memory.

    They are told before they start, because glibc takes no setting afterwards. Variables that the
    user has set stay as they are.
    """
    from dask import config

    prefix = "distributed.nanny.pre-spawn-environ"
    with config.set({f"{prefix}.{name}": value for name, value in MALLOC.items()}):
        yield


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Ignore Ctrl-C, and let processes that are started meanwhile ignore it for ever.

    A terminal sends Ctrl-C to all processes. Workers end with the process that has started them, so
    they need not react, and would only print tracebacks. Dask cannot end them while they start.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _address_in(scheduler_file: str) -> str:
    try:
        return str(json.loads(Path(scheduler_file).expanduser().read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"{scheduler_file} holds no scheduler's address "
            f"({getattr(error, 'strerror', None) or repr(error)}); start "
            f"`dask scheduler --scheduler-file {scheduler_file}` first"
        ) from error


def _check_memory_limit(memory_limit: str, workers: int | None) -> None:
    from dask.utils import parse_bytes

    if workers is None:
        raise ParameterError("--memory-limit is for the workers of --workers N; give both")
    try:
        valid = parse_bytes(memory_limit) > 0
    except ValueError:
        valid = False
    if not valid:
        raise ParameterError(
            f"--memory-limit is {memory_limit}; write a size with a unit, like 2GB"
        )


def workers_of(client: Client) -> list[tuple[int, float, str]]:
    """Return the number of threads, the bytes of memory and the address of each worker.

    The memory is what a worker uses when Dask stops giving it tasks; infinite without a limit.
    """
    from dask import config

    shares = (config.get(f"distributed.worker.memory.{name}", 0) for name in ("pause", "terminate"))
    share = next((share for share in shares if share), 1.0)
    known = client.scheduler_info(n_workers=-1)["workers"].items()
    return [
        (each["nthreads"], share * each["memory_limit"] or math.inf, address)
        for address, each in known
    ]
