"""Dask clients: one from the flags of a command, the active one, and a computation on it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from dask import config
from dask.utils import parse_timedelta

from dnmf._format import format_duration
from dnmf.errors import ClusterError, ParameterError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster


log = logging.getLogger("dnmf")
CLOSING = 10.0
"""Seconds that workers started here get to close: one that is stopped or stuck may never do."""

LONG = 5.0
"""Seconds without any worker after which that is said."""


@contextmanager
def cluster(
    workers: int | None = None,
    memory_limit: str | None = None,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
) -> Iterator[str]:
    """Make the cluster that the flags ask for the active one.

    Parameters
    ----------
    workers : int, optional
        Start a cluster of so many single-threaded processes, on the loopback interface alone.
    memory_limit : str, optional
        Of each of those workers, with a unit (``2GB``).
    scheduler : str, optional
        Address of a running scheduler.
    scheduler_file : str, optional
        File in which a running scheduler has left its address.

    Yields
    ------
    str
        What computes, in words. Without any flag that is this process's threads.
    """
    given = [flag for flag in (workers, scheduler, scheduler_file) if flag is not None]
    if len(given) > 1:
        raise ParameterError(
            "--workers, --scheduler and --scheduler-file exclude each other; give one of them"
        )
    if memory_limit is not None:
        _check_memory_limit(memory_limit, workers)
    if not given:
        from dask.system import CPU_COUNT

        yield f"{CPU_COUNT} threads of this process"
        return

    from distributed import Client

    if workers is not None:
        with _local_cluster(workers, memory_limit) as local, Client(local):
            yield f"{workers} worker processes on this machine"
        return
    address = scheduler or _address_in(scheduler_file or "")
    try:
        client = Client(address)
    except (OSError, ValueError, TypeError) as error:  # the last: tls:// without certificates
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({error}); "
            "start one with `dask scheduler`, and workers with `dask worker`"
        ) from error
    with client:
        wait_for_workers(client)
        yield f"the cluster at {client.scheduler_info()['address']}"


@contextmanager
def _local_cluster(workers: int, memory_limit: str | None) -> Iterator[LocalCluster]:
    """Start workers here; in the end they are gone, even if Dask waits in vain for one to close."""
    from distributed import LocalCluster

    before = set(psutil.Process().children(recursive=True))
    local = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=memory_limit or "auto",
        dashboard_address="127.0.0.1:0",
        silence_logs="ERROR",
    )
    try:
        yield local
    finally:
        try:
            local.close(timeout=CLOSING)
        except TimeoutError:
            for process in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def _address_in(scheduler_file: str) -> str:
    try:
        return str(json.loads(Path(scheduler_file).read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"{scheduler_file} holds no scheduler's address ({error!r}); start "
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
    """Say for each worker how many threads it has, and at how many bytes Dask stops giving it work.

    Infinite where its memory is not limited. Its address comes last.
    """
    shares = (config.get(f"distributed.worker.memory.{name}", 0) for name in ("pause", "terminate"))
    share = next((share for share in shares if share), 1.0)
    known = client.scheduler_info(n_workers=-1)["workers"].items()
    return [
        (each["nthreads"], share * each["memory_limit"] or math.inf, address)
        for address, each in known
    ]


def wait_for_workers(client: Client) -> None:
    """Wait until a worker is there, and say so where that takes long.

    As long as it takes, or no longer than Dask's ``distributed.scheduler.no-workers-timeout``.

    Raises
    ------
    ClusterError
        The scheduler was lost, or the time is over.
    """
    limit = parse_timedelta(config.get("distributed.scheduler.no-workers-timeout")) or math.inf
    began, told = time.monotonic(), False
    while True:
        left = began + limit - time.monotonic()
        try:
            client.wait_for_workers(1, timeout=max(0.1, min(LONG, left)))
        except TimeoutError as error:
            if time.monotonic() - began >= limit:
                raise ClusterError(
                    f"no worker came in {format_duration(limit)} (distributed.scheduler.no-workers-timeout); "
                    "start workers, then run the same again"
                ) from error
            if not told:
                log.warning("the cluster has no workers: waiting for one to come; Ctrl-C ends it")
            told = True
        except OSError as error:
            _require_scheduler(client, error)
            time.sleep(0.1)
        else:
            break
    if told:
        log.warning(
            "a worker is there after %s: going on", format_duration(time.monotonic() - began)
        )


def _require_scheduler(client: Client, error: BaseException) -> None:
    """Wait while the client tries to reach its scheduler again, which Dask bounds, or raise."""
    while client.status == "connecting":
        time.sleep(0.1)
    if client.status != "running":
        raise ClusterError(
            f"the Dask scheduler was lost ({error}); start it again, or another, then run the same "
            "again: a fit with a checkpoint goes on from its last commit"
        ) from error
