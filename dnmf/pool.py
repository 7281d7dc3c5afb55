"""A function of each block, on all threads or workers there are, as results come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

from dask.system import CPU_COUNT

from dnmf.cluster import active_client, scatter

Result = TypeVar("Result")


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
