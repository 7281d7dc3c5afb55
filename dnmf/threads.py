"""One BLAS thread while dnmf computes.

Blocks are already spread over threads or processes, and a BLAS that splits a product over threads
rounds differently from one that does not: with one thread the bits do not depend on the machine's
core count.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import threadpoolctl
from dask.system import CPU_COUNT

__all__ = ["CPU_COUNT", "one_blas_thread"]

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
