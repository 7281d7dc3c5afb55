"""Functions on threads: their order, their context, and one thread for BLAS."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
from processes import wait_until

from dnmf.engine.executors import map_on_threads
from dnmf.engine.threads import one_blas_thread


def test_the_limit_is_restored_after_overlapping_use():
    from threadpoolctl import threadpool_info

    def threads():
        # NumPy's own: SciPy brings another, which dnmf does not use.
        return [lib["num_threads"] for lib in threadpool_info() if "numpy.libs" in lib["filepath"]]

    before, inside = threads(), []
    first, second = threading.Event(), threading.Event()

    def enter_first():
        with one_blas_thread():
            first.set()
            second.wait(10)

    thread = threading.Thread(target=enter_first)
    thread.start()
    first.wait(10)
    with one_blas_thread():
        second.set()
        thread.join()
        inside = threads()
    assert inside == [1]
    assert threads() == before

    # A thread that is not the main one can set it again.
    thread = threading.Thread(target=lambda: inside.extend(inside_the_limit(threads)))
    thread.start()
    thread.join()
    assert inside == [1, 1]
    assert threads() == before


def inside_the_limit(threads):
    with one_blas_thread():
        return threads()


class TestMapOnThreads:
    def test_results_come_in_order_with_the_context_of_the_caller(self):
        def divide(x):
            with np.errstate(all="raise") if x == 3 else nullcontext():
                return x, float(np.float64(x) / np.float64(0)), threading.get_ident()

        with np.errstate(divide="ignore"), pytest.raises(FloatingPointError):
            list(map_on_threads(divide, [1, 2, 3]))
        with np.errstate(divide="ignore"):
            results = list(map_on_threads(divide, [5, 4, 2, 1]))
        assert [x for x, *_ in results] == [5, 4, 2, 1]
        assert threading.get_ident() not in {ident for *_, ident in results}

    def test_a_single_item_is_computed_on_the_thread_of_the_caller(self):
        assert list(map_on_threads(lambda _: threading.get_ident(), [0])) == [threading.get_ident()]

    @pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 3)])
    def test_no_more_than_so_many_items_are_computed_ahead(self, threads, ahead):
        begun = []
        results = map_on_threads(begun.append, range(10), threads, ahead)
        for used, _ in enumerate(results):
            most = min(used + 1 + ahead, 10)
            wait_until(lambda most=most: len(begun) == most, "the items ahead")
            time.sleep(0.01)
            assert len(begun) == most
        assert sorted(begun) == list(range(10)), "two threads may begin in either order"
