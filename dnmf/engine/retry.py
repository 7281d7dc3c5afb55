"""A computation on a cluster whose workers may die."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dask.base import annotate
from dask.task_spec import TaskRef

from dnmf.errors import ClusterError, TaskError

if TYPE_CHECKING:
    from distributed import Client, KilledWorker
from dnmf.engine.client import _require_scheduler, log, wait_for_workers

ATTEMPTS = 5
"""Times that a computation is begun before the cluster counts as lost."""

SUSPICIONS = 2
"""Times that Dask gives a task up before it counts as what its workers died of. Each time so many
were lost as Dask's ``allowed-failures`` says, 4, but to random kills any task may lose some."""

LESS = (
    "mostly memory is short: give workers more (--memory-limit), or fewer threads, or take fewer "
    "components or blocks of fewer images (--block-rows of dnmf ingest)"
)

GROUP = "dnmf"
"""First part of all keys, and what Dask's statistics call every pass. Without it each pass would
get a record of its own, which scheduler and workers keep for ever."""


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
        Makes the Delayed to compute from references to the object and to those apart. Their keys
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
    references = [TaskRef(copy.key) for copy in copies]
    with annotate(span={"name": (GROUP,), "ids": (GROUP,)}):
        futures = client.compute(graph(*references))
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
