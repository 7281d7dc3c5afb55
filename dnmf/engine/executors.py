"""Where functions run: on threads, with one BLAS thread, on the active Dask client."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import threadpoolctl
from dask.system import CPU_COUNT

from dnmf.engine.retry import scatter, wait_for_workers

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["CPU_COUNT", "active_client", "each_block", "map_on_threads", "one_blas_thread"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_depth = 0
_limiter: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread; may be nested, and entered from many threads at once.

    Blocks are already spread over threads or processes, and a BLAS that splits a product over
    threads rounds differently from one that does not. With one thread the bits do not depend on
    the number of cores.

    The limit belongs to the process, so the first to enter sets it and the last to leave restores
    it: restoring it earlier would change the bits of those who are still inside.
    """
    global _depth, _limiter
    with _lock:
        if _depth == 0:
            _take_control()
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


@cache
def _controller() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()  # takes milliseconds: once per process


def _take_control() -> None:
    """Let this thread set the limit of OpenBLAS.

    From threadpoolctl 3.8 on the first thread to set it keeps the right to, and what other threads
    set is silently ignored: a task in a worker's thread would compute on all cores.
    """
    openblas: Any = getattr(threadpoolctl, "OpenBLASController", None)
    if hasattr(openblas, "clear_controlling_thread"):
        openblas.clear_controlling_thread(force=True)


def map_on_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int = CPU_COUNT,
    ahead: int | None = None,
) -> Iterator[Result]:
    """Return an iterator of ``function(item)`` for each item, in order, computed on threads.

    Context variables of the caller, such as those of `numpy.errstate`, hold on the threads. A
    single item is computed on the thread of the caller.

    Parameters
    ----------
    function : callable
    items : sequence
    threads : int
    ahead : int, optional
        Number of items that are computed, or wait, while the caller uses a result; by default
        twice the number of threads.
    """
    if len(items) == 1:
        return map(function, items)
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
    """Return the distributed client that Dask would compute on, or None."""
    if "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
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
    if client is None:
        pool = ThreadPoolExecutor(CPU_COUNT)
    else:
        wait_for_workers(client)
        pool = client.get_executor(pure=False)
        (shared,) = scatter(client, [shared])
    numbers = iter(range(n_blocks))
    running: dict[Future[Result], int] = {}
    with pool:
        try:
            while True:
                threads = CPU_COUNT if client is None else sum(client.nthreads().values())
                for number in islice(numbers, max(4 * threads - len(running), 0 if running else 4)):
                    running[pool.submit(function, shared, number)] = number
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done.result()
        finally:
            wait(running)
