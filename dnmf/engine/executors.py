"""One BLAS thread while dnmf computes.

Blocks are already spread over threads or processes, and a BLAS that splits a product over threads
rounds differently from one that does not: with one thread the bits do not depend on the machine's
core count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client
import threading
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache
from itertools import islice
from typing import TypeVar

import threadpoolctl
from dask.system import CPU_COUNT

from dnmf.engine.retry import scatter

__all__ = ["CPU_COUNT", "map_on_threads", "one_blas_thread"]
Result = TypeVar("Result")
_lock = threading.Lock()
_depth = 0
_limiter = None


@cache
def _controller() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()  # takes milliseconds: once per process


def _take_control() -> None:
    """Let this thread set OpenBLAS's limit, which is the process's.

    From threadpoolctl 3.8 on the first thread to set it keeps the right to, and what other threads
    set is silently ignored: a task in a worker's thread would compute on all cores.
    """
    openblas: Any = getattr(threadpoolctl, "OpenBLASController", None)
    if hasattr(openblas, "clear_controlling_thread"):
        openblas.clear_controlling_thread(force=True)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread; nests, and may be entered from many threads at once.

    The setting belongs to the process, so the first to enter sets it and the last to leave puts it
    back: restoring it earlier would change the bits of whoever is still inside.
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
            if _depth == 0 and _limiter is not None:
                _take_control()
                _limiter.restore_original_limits()
                _take_control()


def map_on_threads(function: Callable[[Any], Result], items: Sequence[Any]) -> Iterator[Result]:
    """Apply a function to each item on threads, and yield the results in order.

    The context of the caller, such as `numpy.errstate`, holds on the threads too. A single item
    needs no thread. When the caller stops, calls that have not begun are cancelled.
    """
    return map(function, items) if len(items) == 1 else _map_on_pool(function, items)


def _map_on_pool(function: Callable[[Any], Result], items: Sequence[Any]) -> Iterator[Result]:
    contexts = [copy_context() for _ in items]
    with ThreadPoolExecutor(min(len(items), CPU_COUNT)) as pool:
        yield from pool.map(lambda context, item: context.run(function, item), contexts, items)


def active_client() -> Client | None:
    """Return the distributed client that Dask would compute on, or None."""
    if "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, Client) else None


def each_block(
    task: Callable[[Any, int], Result], shared: Any, n_blocks: int
) -> Iterator[tuple[int, Result]]:
    """Yield each block's number and what ``task(shared, number)`` returns, as it is done.

    A bounded number of tasks is under way, on the active Dask client if there is one, else on
    threads. After an error those are waited for, not cancelled: one may be writing, and what it
    writes to is about to be removed.

    Parameters
    ----------
    task : callable
        Picklable, and safe to repeat.
    shared : object
        Reaches each worker once, not with every task: it may hold a million file names.
    n_blocks : int
    """
    client = active_client()
    pool: Executor
    if client is None:
        pool, threads = ThreadPoolExecutor(CPU_COUNT), CPU_COUNT
    else:
        pool, threads = client.get_executor(pure=False), sum(client.nthreads().values())
        shared = scatter(client, [shared])[0]
    blocks = iter(range(n_blocks))
    under_way: dict[Future[Result], int] = {}
    with pool:
        try:
            while True:
                for index in islice(blocks, 4 * threads - len(under_way)):
                    under_way[pool.submit(task, shared, index)] = index
                if not under_way:
                    return
                for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(done), done.result()
        finally:
            wait(under_way)
