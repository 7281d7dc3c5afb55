"""Dask clients: one from the flags of a command, the active one, and a computation on it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnmf.errors import ClusterError, ParameterError

if TYPE_CHECKING:
    from distributed import Client

ATTEMPTS = 5
"""Times that a computation is begun before the cluster counts as lost."""


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

    from distributed import Client, LocalCluster

    if workers is not None:
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=memory_limit or "auto",
                dashboard_address="127.0.0.1:0",
                silence_logs="ERROR",
            ) as local,
            Client(local),
        ):
            yield f"{workers} worker processes on this machine"
        return
    address = scheduler or _address_in(scheduler_file or "")
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({error}); "
            "start one with `dask scheduler`, and workers with `dask worker`"
        ) from error
    with client:
        client.wait_for_workers(1)
        yield f"the cluster at {client.scheduler_info()['address']}"


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


def active_client() -> Client | None:
    """Return the distributed client that Dask would compute on, or None."""
    if "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, Client) else None


def workers_of(client: Client) -> list[tuple[int, float, str]]:
    """Say for each worker how many threads it has, and at how many bytes Dask stops giving it work.

    Infinite where its memory is not limited. Its address comes last.
    """
    from dask import config

    shares = (config.get(f"distributed.worker.memory.{name}", 0) for name in ("pause", "terminate"))
    share = next((share for share in shares if share), 1.0)
    known = client.scheduler_info(n_workers=-1)["workers"].items()
    return [
        (each["nthreads"], share * each["memory_limit"] or math.inf, address)
        for address, each in known
    ]


def compute_with(
    client: Client, shared: Any, graph: Callable[..., list[Any]], apart: Sequence[Any] = ()
) -> list[Any]:
    """Compute a graph around an object that every worker gets one copy of.

    The copy has a key of its own, so that the scheduler forgets the graph when the copy goes. It
    cannot be made again by the scheduler: when all workers that hold it are lost, the graph is
    computed anew, which is safe because its tasks are.

    Parameters
    ----------
    client : Client
    shared : object
    graph : callable
        Makes the Delayed to compute from the futures of the object and of those apart.
    apart : sequence
        Objects that some worker gets, each any.

    Raises
    ------
    ClusterError
        The scheduler, or the workers again and again, were lost.
    """
    from distributed import CancelledError

    with _stepping_aside():
        for _ in range(ATTEMPTS):
            client.wait_for_workers(1)
            try:
                return _attempt(client, shared, graph, apart)
            except CancelledError as error:
                if client.status != "running":
                    raise ClusterError(f"the Dask scheduler was lost ({error})") from error
    raise ClusterError(
        f"all workers were lost {ATTEMPTS} times in a row while a pass ran; look at their logs, "
        "and give them more memory or blocks of fewer images"
    )


def _attempt(
    client: Client, shared: Any, graph: Callable[..., list[Any]], apart: Sequence[Any]
) -> list[Any]:
    """Compute once; the futures go when it ends, however it ends, and with them the graph."""
    copies = client.scatter([shared], broadcast=True, hash=False)
    if apart:
        copies += client.scatter(list(apart), hash=False)
    futures = client.compute(graph(*copies))
    try:
        return list(client.gather(futures))
    except BaseException:
        client.cancel(futures)  # its tasks are not left running
        raise
    finally:
        del copies, futures  # a traceback that is kept would keep them


@contextmanager
def _stepping_aside() -> Iterator[None]:
    """Inside a task, leave its thread to other tasks: those that it is about to wait for."""
    from distributed import rejoin, secede

    try:
        secede()
        inside = True
    except ValueError:  # no worker: this is not a task
        inside = False
    try:
        yield
    finally:
        if inside:
            rejoin()
