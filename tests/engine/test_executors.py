"""Functions on threads: their order, their context, and one thread for BLAS."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import nullcontext

import dask
import dask.array as da
import numpy as np
import pytest
from processes import wait_until

import dnmf
from dnmf.engine.executors import map_on_threads
from dnmf.engine.threads import one_blas_thread
from dnmf.errors import ClusterError


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


class TestSchedulersOfDask:
    IMAGES = np.random.default_rng(0).random((240, 30), dtype="f4")

    def fit(self):
        X = da.from_array(self.IMAGES, chunks=(40, 30))
        return dnmf.NMF(2, random_state=0, tol=0, max_iter=2).fit(X).components_.tobytes()

    def test_an_asynchronous_client_is_refused_in_its_loop_and_serves_a_thread(self, local_cluster):
        from distributed import Client

        async def work():
            async with Client(local_cluster.scheduler_address, asynchronous=True):
                with pytest.raises(
                    ClusterError, match=r"`await asyncio\.to_thread\(nmf\.fit, X\)`"
                ):
                    self.fit()
                return await asyncio.to_thread(self.fit)

        assert asyncio.run(work()) == self.fit()

    @pytest.mark.slow
    def test_processes_give_the_same_bits(self):
        with dask.config.set(scheduler="processes", num_workers=2):
            found = self.fit()
        assert found == self.fit()
