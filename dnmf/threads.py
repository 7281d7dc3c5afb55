"""One BLAS thread while dnmf computes.

Blocks are already spread over threads or processes, and a BLAS that splits a product over threads
rounds differently from one that does not: with one thread the bits do not depend on the machine's
core count.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

import threadpoolctl
from dask.system import CPU_COUNT

__all__ = ["CPU_COUNT", "one_blas_thread", "side_by_side"]

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


def side_by_side(run: Callable[[Any], Result], things: Sequence[Any]) -> Iterator[Result]:
    """Yield what a function makes of each thing, in order, made on threads.

    What holds where it is called, such as `numpy.errstate`, holds there too; of a single thing it
    is called where this is. When the caller goes, what has not begun is left.
    """
    if len(things) == 1:
        yield run(things[0])
        return
    contexts = [copy_context() for _ in things]
    with ThreadPoolExecutor(min(len(things), CPU_COUNT)) as pool:
        yield from pool.map(lambda context, thing: context.run(run, thing), contexts, things)
