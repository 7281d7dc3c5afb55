"""Dask clients: one from the flags of a command, the active one, and a computation on it."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psutil
from dask import config
from dask.base import annotate
from dask.utils import parse_timedelta

from dnmf.errors import ClusterError, ParameterError, TaskError
from dnmf.words import clock

if TYPE_CHECKING:
    from distributed import Client, KilledWorker, LocalCluster

log = logging.getLogger("dnmf")

ATTEMPTS = 5
"""Times that a computation is begun before the cluster counts as lost."""

SUSPICIONS = 2
"""Times that Dask gives a task up before it counts as what its workers died of. Each time so many
were lost as Dask's ``allowed-failures`` says, 4, but to random kills any task may lose some."""

LESS = (
    "mostly memory is short: give workers more (--memory-limit), or fewer threads, or take fewer "
    "components or blocks of fewer images (--block-rows of dnmf ingest)"
)

CLOSING = 10.0
"""Seconds that workers started here get to close: one that is stopped or stuck may never do."""

LONG = 5.0
"""Seconds without any worker after which that is said."""

GROUP = "dnmf"
"""First part of all keys, and what Dask's statistics call every pass. Without it each pass would
get a record of its own, which scheduler and workers keep for ever."""


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
                    f"no worker came in {clock(limit)} (distributed.scheduler.no-workers-timeout); "
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
        log.warning("a worker is there after %s: going on", clock(time.monotonic() - began))


def _require_scheduler(client: Client, error: BaseException) -> None:
    """Wait while the client tries to reach its scheduler again, which Dask bounds, or raise."""
    while client.status == "connecting":
        time.sleep(0.1)
    if client.status != "running":
        raise ClusterError(
            f"the Dask scheduler was lost ({error}); start it again, or another, then run the same "
            "again: a fit with a checkpoint goes on from its last commit"
        ) from error


def compute_with(
    client: Client,
    shared: Any,
    graph: Callable[..., list[Any]],
    apart: Sequence[Any] = (),
    name: Callable[[Any], str] = str,
) -> list[Any]:
    """Compute a graph around an object that every worker gets one copy of.

    The copy has a key of its own, so that the scheduler forgets the graph when the copy goes. It
    cannot be made again by the scheduler: when all workers that hold it are lost, the graph is
    computed anew, which is safe because its tasks are. So it is when Dask gives a task up, because
    workers that it was for died: it may not have been what they died of, unless that comes again.

    Parameters
    ----------
    client : Client
    shared : object
    graph : callable
        Makes the Delayed to compute from the futures of the object and of those apart. Their keys
        end in a number that is the same each time.
    apart : sequence
        Objects that some worker gets, each any.
    name : callable
        Names a task of the graph by its key, for errors.

    Raises
    ------
    ClusterError
        The scheduler, or the workers again and again, were lost.
    TaskError
        Workers die of one of the tasks.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    suspects: Counter[Any] = Counter()
    with _stepping_aside():
        for _ in range(ATTEMPTS):
            wait_for_workers(client)
            try:
                return _attempt(client, shared, graph, apart)
            except (CancelledError, CommClosedError) as error:
                _require_scheduler(client, error)
                log.warning("workers were lost, and with them results: the pass begins anew")
            except KilledWorker as error:
                key = error.task
                # One of ours has the same number in every attempt; others keep their names.
                suspect = key[-1] if isinstance(key, tuple) and key[0] == GROUP else key
                suspects[suspect] += 1
                if suspects[suspect] == SUSPICIONS:
                    raise TaskError(_deadly(error, name(key))) from error
                log.warning("%s lost its workers: the pass begins anew", name(key))
    raise ClusterError(
        f"workers were lost {ATTEMPTS} times in a row while a pass ran; their logs may say why; "
        + LESS
    )


def _deadly(error: KilledWorker, task: str) -> str:
    deaths = SUSPICIONS * (error.allowed_failures + 1)
    return (
        f"{task} lost all {deaths} workers that it was given to, the last at "
        f"{error.last_worker.address}, whose log may say why; {LESS}"
    )


def _attempt(
    client: Client, shared: Any, graph: Callable[..., list[Any]], apart: Sequence[Any]
) -> list[Any]:
    """Compute once; the futures go when it ends, however it ends, and with them the graph."""
    copies = scatter(client, [shared, *apart])
    with annotate(span={"name": (GROUP,), "ids": (GROUP,)}):
        futures = client.compute(graph(*copies))
    try:
        return list(client.gather(futures))
    except BaseException:
        client.cancel(futures)  # its tasks are not left running
        raise
    finally:
        del copies, futures  # a traceback that is kept would keep them


def scatter(client: Client, things: Sequence[Any]) -> list[Any]:
    """Put things on some worker each, under keys of the group; the futures of them in order.

    Tasks take them from there to theirs, and from then on there are more copies. Not by
    ``broadcast``: Dask 2026.8 tries for ever to reach a worker that dies in the middle of it.
    """
    from distributed.comm.core import CommClosedError

    try:
        return list(client.scatter({(GROUP, uuid4().hex): thing for thing in things}).values())
    except OSError as error:  # a worker died meanwhile: no task has run yet, so nothing else fails
        raise CommClosedError(str(error)) from error


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
