"""Compute a graph on a cluster whose workers may die."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dnmf._format import format_duration
from dnmf.errors import ClusterError, TaskError

if TYPE_CHECKING:
    from dask.task_spec import TaskRef
    from distributed import Client, Future, KilledWorker

    from dnmf.engine.dask_graph import Graph

log = logging.getLogger("dnmf")

ATTEMPTS = 5
"""Number of times that a computation is tried before the cluster counts as lost."""

SUSPICIONS = 2
"""Number of times that Dask gives up a task before the task counts as the cause of its workers'
deaths. Each time stands for as many workers as Dask's ``allowed-failures`` says, but where workers
are killed at random, any task may lose some."""

WAIT_UNNOTICED = 5.0
"""Seconds without any worker after which a warning says so."""

ADVICE = (
    "mostly memory is short: give workers more (--memory-limit) or fewer threads, or take fewer "
    "components or blocks of fewer images (--block-rows of dnmf ingest)"
)

SPAN = "dnmf"
"""Name and id under which Dask keeps statistics. One for each graph would fill its memory."""


class Kept:
    """Objects that workers keep from one computation to the next.

    They are released with this object.

    Parameters
    ----------
    objects : dict
        Objects by number.
    """

    def __init__(self, objects: Mapping[int, Any]) -> None:
        self.objects = objects
        self._futures: dict[int, Future[Any]] = {}
        self._client: Client | None = None

    def references(self, client: Client, name: str) -> dict[int, TaskRef]:
        """Return references to the objects, which are scattered unless workers have them.

        Parameters
        ----------
        client : Client
        name : str
            See `scatter`.
        """
        from dask.task_spec import TaskRef

        lost = any(future.status != "finished" for future in self._futures.values())
        if lost or client is not self._client:
            self.forget()
        if not self._futures and self.objects:
            futures = scatter(client, list(self.objects.values()), name)
            self._futures = dict(zip(self.objects, futures, strict=True))
            self._client = client
        return {number: TaskRef(future.key) for number, future in self._futures.items()}

    def forget(self) -> None:
        """Release what workers have."""
        self._futures, self._client = {}, None


def compute_with(
    client: Client, objects: Sequence[Any], build: Callable[..., Graph], kept: Kept, name: str
) -> list[Any]:
    """Compute a graph whose tasks need some objects, of which each worker gets one copy.

    The objects are scattered and not part of the graph, so the scheduler cannot make them again.
    When all workers that hold an object are lost, the whole graph is computed again, which is safe
    because its tasks may be repeated. The graph is also computed again when Dask gives up a task
    because workers that had it died. Only if that happens several times to one task, the task
    counts as the cause.

    Parameters
    ----------
    client : Client
    objects : sequence
    build : callable
        Builds the graph from references to what is kept and to the objects, the same one each
        time but for its keys.
    kept : Kept
        What workers keep for further computations.
    name : str
        Name of the tasks that read blocks; see `scatter`.

    Returns
    -------
    list
        Results of the graph.

    Raises
    ------
    ClusterError
        The scheduler was lost, or workers again and again.
    TaskError
        A task is the cause of its workers' deaths.
    """
    from dask.task_spec import TaskRef
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    from dnmf.engine.shared_options import options_on_workers
    from dnmf.engine.versions import require_same_versions

    suspects: Counter[str] = Counter()
    with _seceded(), options_on_workers(client):
        for _ in range(ATTEMPTS):
            wait_for_workers(client)
            try:
                references = kept.references(client, name)
                futures = scatter(client, objects, name)
                graph = build(references, *(TaskRef(future.key) for future in futures))
                results = _gather(client, graph)
                require_same_versions(client)
                return results
            except (CancelledError, CommClosedError) as error:
                kept.forget()
                _require_scheduler(client, error)
                log.warning("workers were lost, and with them results: the pass begins anew")
            except KilledWorker as error:
                kept.forget()
                task = graph.describe(error.task)
                suspects[task] += 1
                if suspects[task] == SUSPICIONS:
                    raise TaskError(_deadly(error, task)) from error
                log.warning("%s lost its workers: the pass begins anew", task)
            except Exception:
                require_same_versions(client)  # a worker that came meanwhile cannot unpickle a task
                raise
            finally:
                futures = []  # a traceback that is kept would keep them
    raise ClusterError(
        f"workers were lost {ATTEMPTS} times in a row while a pass ran; their logs may say why; "
        + ADVICE
    )


def _deadly(error: KilledWorker, task: str) -> str:
    deaths = SUSPICIONS * (error.allowed_failures + 1)
    return (
        f"{task} lost all {deaths} workers that it was given to, the last at "
        f"{error.last_worker.address}, whose log may say why; {ADVICE}"
    )


def _gather(client: Client, graph: Graph) -> list[Any]:
    """Compute the results of a graph; afterwards the scheduler may forget it."""
    from dask.base import annotate

    with annotate(span={"name": (SPAN,), "ids": (SPAN,)}):
        futures = client.compute(graph.results())
    try:
        return list(client.gather(futures))
    except BaseException:
        client.cancel(futures)  # its tasks are not left running
        raise
    finally:
        del futures  # a traceback that is kept would keep them


def scatter(client: Client, objects: Sequence[Any], name: str) -> list[Future[Any]]:
    """Scatter each object to one arbitrary worker, and return their futures in order.

    They have the name of the tasks that need them. Else these would be of a group that needs few
    others: root tasks, which the scheduler hands out one by one, and its work for a task would grow
    from 0.2 to 0.5 ms (measured with ``benchmarks/scheduler.py``).

    Workers whose tasks need an object copy it from there, then from each other. ``broadcast=True``
    is not used: with it Dask 2026.8 tries for ever to reach a worker that dies meanwhile.
    """
    from distributed.comm.core import CommClosedError

    try:
        return list(client.scatter({(name, uuid4().hex): each for each in objects}).values())
    except OSError as error:  # a worker died meanwhile: no task has run yet, so nothing else fails
        raise CommClosedError(str(error)) from error


@contextmanager
def _seceded() -> Iterator[None]:
    """Leave the thread of the task that this runs in, if any, to the tasks that it waits for."""
    from distributed import rejoin, secede

    try:
        secede()
        in_task = True
    except ValueError:  # not called on a worker
        in_task = False
    try:
        yield
    finally:
        if in_task:
            rejoin()


def wait_for_workers(client: Client) -> None:
    """Wait until there is a worker as `wait_for_a_worker` does, and check the versions of all."""
    from dnmf.engine.versions import require_same_versions

    wait_for_a_worker(client)
    require_same_versions(client)


def wait_for_a_worker(client: Client) -> None:
    """Wait until there is a worker, and log a warning if that takes long.

    An adaptive cluster may have no worker, and starts one for a task. So a task is submitted.
    Dask's ``distributed.scheduler.no-workers-timeout`` limits the time; by default nothing does.

    Raises
    ------
    ClusterError
        The scheduler was lost, or the time is over.
    """
    from dask import config
    from dask.utils import parse_timedelta

    limit = parse_timedelta(config.get("distributed.scheduler.no-workers-timeout")) or math.inf
    began, warned = time.monotonic(), False
    knock: Future[int] | None = None
    while True:
        left = began + limit - time.monotonic()
        try:
            if knock is None and not client.nthreads():
                knock = client.submit(int, key=("ask-for-a-worker", uuid4().hex))
            client.wait_for_workers(1, timeout=max(0.1, min(WAIT_UNNOTICED, left)))
        except TimeoutError as error:
            if time.monotonic() - began >= limit:
                raise ClusterError(
                    f"no worker came in {format_duration(limit)} "
                    "(distributed.scheduler.no-workers-timeout); start workers, then run the same "
                    "again"
                ) from error
            if not warned:
                log.warning("the cluster has no workers: waiting for one to come; Ctrl-C ends it")
            warned = True
        except OSError as error:
            _require_scheduler(client, error)
            time.sleep(0.1)
        else:
            break
    if warned:
        seconds = time.monotonic() - began
        log.warning("a worker came after %s: continuing", format_duration(seconds))


def _require_scheduler(client: Client, error: BaseException) -> None:
    """Raise ClusterError unless the client still has its scheduler, or reaches it again.

    Dask limits the time for which the client tries to.
    """
    while client.status == "connecting":
        time.sleep(0.1)
    if client.status != "running":
        raise ClusterError(
            f"the Dask scheduler was lost ({error}); start it again, or another, then run the same "
            "again: a fit with a checkpoint continues from its last pass"
        ) from error
