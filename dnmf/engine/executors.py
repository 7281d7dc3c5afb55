"""Where functions run: on threads, and on the active Dask client."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from dnmf.engine.retry import scatter, wait_for_workers
from dnmf.engine.threads import thread_count
from dnmf.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int | None = None,
    ahead: int | None = None,
) -> Iterator[Result]:
    """Return an iterator of ``function(item)`` for each item, in order, computed on threads.

    Context variables of the caller, such as those of `numpy.errstate`, hold on the threads. A
    single item is computed on the thread of the caller.

    Parameters
    ----------
    function : callable
    items : sequence
    threads : int, optional
        Number of threads, by default as `thread_count` says.
    ahead : int, optional
        Number of items that are computed, or wait, while the caller uses a result; by default
        twice the number of threads.
    """
    if len(items) == 1:
        return map(function, items)
    threads = thread_count() if threads is None else threads
    return _map_in_pool(function, items, threads, 2 * threads if ahead is None else ahead)


def _map_in_pool(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int, ahead: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(copy_context().run, function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def active_client() -> Client | None:
    """Return the distributed client that Dask would compute on, or None.

    Raises
    ------
    ClusterError
        The client is asynchronous, and this is its event loop, which cannot wait for results.
    """
    if "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler
    from distributed import Client

    try:
        owner = getattr(get_scheduler(), "__self__", None)
    except RuntimeError as error:
        with suppress(ValueError):  # there is no client, which Dask's own error says
            if Client.current().asynchronous:
                raise ClusterError(
                    "the active Dask client is asynchronous, and dnmf waits for its results: call "
                    "it on a thread, as in `await asyncio.to_thread(nmf.fit, X)`"
                ) from error
        raise
    return owner if isinstance(owner, Client) else None


def each_block(
    function: Callable[[Any, int], Result], shared: Any, n_blocks: int
) -> Iterator[tuple[int, Result]]:
    """Yield the number of each block and ``function(shared, number)``, as they complete.

    A bounded number of calls runs at a time, on the active Dask client if there is one, else on
    threads. After an error those that run are awaited, not cancelled: one may be writing, and what
    it writes to is about to be removed.

    Parameters
    ----------
    function : callable
        Picklable, and safe to repeat.
    shared : object
        Sent to each worker once, not with each call: it may hold a million file names.
    n_blocks : int
    """
    client = active_client()
    pool: Executor
    options: AbstractContextManager[None] = nullcontext()
    if client is None:
        pool = ThreadPoolExecutor(thread_count())
    else:
        from dask.utils import funcname

        from dnmf.engine.shared_options import options_on_workers
        from dnmf.engine.versions import require_same_versions

        options = options_on_workers(client)
        wait_for_workers(client)
        pool = client.get_executor(pure=False)
        (shared,) = scatter(client, [shared], funcname(function))
    numbers = iter(range(n_blocks))
    running: dict[Future[Result], int] = {}
    with options, pool:
        try:
            while True:
                threads = thread_count() if client is None else sum(client.nthreads().values())
                for number in islice(numbers, max(4 * threads - len(running), 0 if running else 4)):
                    running[pool.submit(function, shared, number)] = number
                if not running:
                    return
                finished = wait(running, return_when=FIRST_COMPLETED).done
                if client is not None:
                    require_same_versions(client)  # workers may have come meanwhile
                for done in finished:
                    yield running.pop(done), done.result()
        finally:
            wait(running)
