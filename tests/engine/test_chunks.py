"""Dask arrays: what their chunks really are, small ones joined, and what is sent to a cluster."""

from __future__ import annotations

import time

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse as sp
import sparse
import zarr

import dnmf
from dnmf.engine.chunks import join_ranges
from dnmf.errors import ClusterError, DataError
from dnmf.estimators.inputs import blocks_of

RNG = np.random.default_rng(0)
X = RNG.random((60, 3)) @ RNG.random((3, 10))
HIDDEN = RNG.random(X.shape) < 0.1
MASK = RNG.random(X.shape) < 0.1
WEIGHTS = RNG.integers(1, 3, len(X))
CHUNKS = (20, 10)


def lazy(array, chunks=CHUNKS):
    return da.from_array(array, chunks=chunks)


def model(**parameters):
    return dnmf.NMF(2, random_state=0, max_iter=1, tol=0, **parameters)


def fit(X, **arguments):
    fitted = model().fit(X, **arguments)
    return fitted.components_.tobytes(), fitted.loss_history_.tobytes()


def results(X, **mask):
    """Return what all methods make of X, and of its mask."""
    fitted = model().fit(X, **mask)
    swept = dnmf.rank_sweep(X, [2], model(), n_init=1, **mask)
    streamed = model().partial_fit(X, **mask)
    W, errors = fitted.transform(X, **mask), fitted.reconstruct_error(X, **mask)
    return [
        fitted.components_,
        fitted.loss_history_,
        np.asarray(W),
        np.asarray(errors),
        fitted.reconstruct_error(X, per="pixel", **mask),
        fitted.score(X, **mask),
        streamed.components_,
        swept.models_[2].components_,
    ]


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def convert(function, array=X):
    """Return a Dask array whose chunks are something else than it promises."""
    meta = np.empty((0,) * array.ndim, array.dtype)
    return lazy(array).map_blocks(function, dtype=array.dtype, meta=meta)


class TestMaskedChunks:
    spoiled = np.where(HIDDEN, 1000, X)
    masked = np.ma.array(spoiled, mask=HIDDEN)

    def test_their_mask_is_the_mask(self):
        expected = results(lazy(self.spoiled), mask=lazy(HIDDEN))
        assert same(results(lazy(self.masked)), expected)
        assert same(results(da.ma.masked_equal(lazy(self.spoiled), 1000)), expected)

    def test_of_an_array_in_memory(self):
        expected = results(self.spoiled, mask=HIDDEN)
        assert same(results(self.masked), expected)
        assert same(results(list(self.masked)), expected)

    @pytest.mark.parametrize("wrap", [np.asarray, lazy, lambda mask: zarr.array(mask)])
    def test_it_is_joined_with_the_mask_that_is_given(self, wrap):
        expected = fit(lazy(self.spoiled), mask=lazy(HIDDEN | MASK))
        assert fit(lazy(self.masked), mask=wrap(MASK)) == expected
        expected = fit(self.spoiled, mask=HIDDEN | MASK)
        assert fit(self.masked, mask=wrap(MASK)) == expected

    def test_nothing_masked_is_no_mask(self):
        assert fit(np.ma.array(X)) == fit(X)
        assert fit(np.ma.array(X, mask=np.zeros(X.shape, bool))) == fit(X)
        assert fit(convert(np.ma.array)) == fit(lazy(X))

    def test_masks_that_the_meta_does_not_announce(self):
        surprising = convert(lambda chunk: np.ma.masked_greater(chunk, 500), self.spoiled)
        with pytest.raises(DataError, match=r"images .* of X come in masked arrays.*meta="):
            model().fit(surprising)
        with pytest.raises(DataError, match="masked arrays"):
            model().fit(X).transform(surprising).compute()
        expected = fit(lazy(self.spoiled), mask=lazy(HIDDEN | MASK))
        assert fit(surprising, mask=lazy(MASK)) == expected

    @pytest.mark.parametrize("wrap", [lambda array: array, lambda array: lazy(array, 20)])
    def test_masked_masks_and_weights_are_refused(self, wrap):
        for name, array in (("mask", MASK), ("sample_weight", WEIGHTS)):
            hidden = wrap(np.ma.array(array, mask=np.arange(array.size).reshape(array.shape) == 7))
            for pixels in (X, lazy(X)):
                with pytest.raises(DataError, match="whose mask would be lost: fill"):
                    model().fit(pixels, **{name: hidden})


SPARSE = [sp.csr_matrix, sp.csc_array, sp.coo_matrix, sparse.COO, lambda x: sparse.GCXS(x)]


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_chunks_are_taken(kind):
    dark = np.where(np.median(X) > X, 0, X)
    expected = results(lazy(dark))
    assert same(results(convert(kind, dark)), expected)
    assert same(results(lazy(dark).map_blocks(kind)), expected), "with a meta that says so"
    assert fit(lazy(X), mask=convert(kind, MASK)) == fit(lazy(X), mask=lazy(MASK))
    assert fit(X, mask=convert(kind, MASK)) == fit(X, mask=MASK)


class Device:
    """An array on a device, as CuPy's: it does not become a NumPy array by itself."""

    def __init__(self, array):
        self.shape, self.dtype = array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


WRONG = {
    "Device": Device,
    "builtins.list": lambda x: x.tolist(),
    "shape (19, 10) and dtype float64": lambda x: x[1:],
    "shape (1, 10)": lambda x: x[:1],
    "shape (20, 9)": lambda x: x[:, 1:],
    "shape (20, 10) and dtype float32": lambda x: x.astype(np.float32),
    "dtype object": lambda x: x.astype(object),
    "shape (19, 10)": lambda x: sp.csr_matrix(x[1:]),
}


@pytest.mark.parametrize("words", WRONG)
class TestBrokenPromises:
    def wrong(self, words, array=X):
        """Return a Dask array of which the second chunk is not what it promises."""

        def change(chunk, block_id=None):
            return WRONG[words](chunk) if block_id[0] == 1 else chunk

        meta = np.empty((0,) * array.ndim, array.dtype)
        return lazy(array).map_blocks(change, dtype=array.dtype, meta=meta)

    def test_of_pixels_name_the_block(self, words):
        wrong, fitted = self.wrong(words), model().fit(X)
        for use in (
            lambda: model().fit(wrong),
            lambda: model().partial_fit(wrong),
            lambda: fitted.transform(wrong).compute(),
            lambda: fitted.score(wrong),
            lambda: dnmf.rank_sweep(wrong, [2], model()),
        ):
            with pytest.raises(DataError) as caught:
                use()
            assert "block 1 of X (images 20 to 39)" in str(caught.value)
            assert words in str(caught.value)

    @pytest.mark.parametrize("pixels", [X, lazy(X)])
    def test_of_masks_name_the_block(self, words, pixels):
        mask = np.zeros(X.shape, bool)
        with pytest.raises(DataError, match=r"block 1 of mask \(images 20 to 39\)"):
            model().fit(pixels, mask=self.wrong(words, mask))


@pytest.mark.parametrize("pixels", [X, lazy(X)])
@pytest.mark.parametrize(
    "change", [lambda w: w[1:], lambda w: w.astype("f4"), lambda w: w.tolist()]
)
def test_weights_that_are_not_what_they_promise(pixels, change):
    weights = lazy(WEIGHTS, 15).map_blocks(change, dtype=int, meta=np.empty(0, int))
    with pytest.raises(DataError, match=r"block \d of sample_weight \(images \d+ to \d+\)"):
        model().fit(pixels, sample_weight=weights)
    with pytest.raises(DataError, match=r"Sample weights must be .* complex128"):
        model().fit(pixels, sample_weight=da.ones(60, dtype=complex))


def test_weights_of_lazy_reconstructions_are_checked():
    fitted = model().fit(X)
    W = lazy(fitted.transform(X), (20, 2))
    expected = fitted.inverse_transform(W).compute()
    assert np.array_equal(fitted.inverse_transform(W.map_blocks(sp.csr_matrix)).compute(), expected)
    with pytest.raises(DataError, match=r"block \d of W .*shape \(19, 2\)"):
        fitted.inverse_transform(
            W.map_blocks(lambda x: x[1:], meta=np.empty((0, 0), W.dtype))
        ).compute()


def test_other_byte_orders_are_the_same_numbers():
    other = convert(lambda chunk: chunk.astype(">f8"))
    assert fit(other) == fit(lazy(X))
    assert fit(lazy(X.astype(">f8"))) == fit(lazy(X))


class TestSmallChunks:
    """A chunk per image, as readers of image folders make."""

    def test_they_are_joined_into_blocks(self):
        assert join_ranges([1] * 3200, 4096) == [(i, i + 200) for i in range(0, 3200, 200)]
        assert join_ranges([1] * 10**5, 2**20) == [
            (i, min(i + 16, 10**5)) for i in range(0, 10**5, 16)
        ]
        assert join_ranges([0, 3, 0, 2, 0], 8) == [(0, 3), (3, 5)], "so few stay as they are"

    def test_the_bits_are_those_of_the_blocks(self, client):
        images = RNG.random((320, 10), dtype="f4")
        mask = images > 0.9
        small, large = (lazy(images, (rows, 10)) for rows in (1, 20))
        assert list(blocks_of(small).ranges) == list(blocks_of(large).ranges)
        expected = fit(large, mask=mask)
        with dask.config.set(scheduler="synchronous"):
            assert fit(small, mask=lazy(mask, (1, 10))) == expected
        assert fit(small, mask=lazy(mask, (7, 3))) == expected, "on two workers"
        W = model().fit(X).transform(lazy(X, (1, 10)))
        assert W.chunks[0] == (3,) * 20

    def test_one_task_per_block(self, client):
        images = RNG.random((320, 10), dtype="f4")

        def read(block_id):
            return images[block_id[0] : block_id[0] + 1]

        X = da.map_blocks(read, chunks=((1,) * 320, (10,)), dtype="f4", meta=images[:0])
        blocks = blocks_of(X + 1)
        blocks.map_sum(len)
        before = tasks_done(client)
        blocks.map_sum(len)
        assert tasks_done(client) - before == 16 + 3 + 1, "sums of 8, 8 and 2, and what all need"

    def test_what_blocks_share_is_computed_once(self):
        calls = []

        def largest(x):
            calls.append(1)
            return x.max(keepdims=True)

        images = lazy(X, (1, 10))
        top = da.from_delayed(dask.delayed(largest)(X), (1, 1), X.dtype)
        calls.clear()
        blocks_of(images / top).map_sum(len)
        assert len(calls) == 1


def tasks_done(client):
    def count(dask_scheduler):
        prefixes = dask_scheduler.task_prefixes.values()
        return sum(prefix.state_counts["memory"] for prefix in prefixes)

    return client.run_on_scheduler(count)


def keep_records(dask_scheduler):
    return len(dask_scheduler.tasks)


class TestData:
    """What is in this process is sent to the workers once, and released at the end."""

    images = RNG.random((640, 256), dtype="f4")
    mask = images > 0.95
    weights = RNG.random(640)

    @pytest.fixture
    def sent(self, client, monkeypatch):
        """Bytes that the client sends, as one number in a list."""
        total = [0]

        def count(name, measured):
            method = getattr(client, name)

            def counted(data, *args, **kwargs):
                total[0] += len(cloudpickle.dumps(measured(data)))
                return method(data, *args, **kwargs)

            monkeypatch.setattr(client, name, counted)

        count("scatter", lambda data: data)
        count("compute", lambda data: [dict(each.__dask_graph__()) for each in data])
        return total

    @pytest.mark.parametrize("rows", [1, 80])
    @pytest.mark.parametrize("change", [lambda X: X, lambda X: X * np.float32(2)])
    def test_it_is_sent_once(self, client, sent, rows, change):
        X = change(lazy(self.images, (rows, 256)))
        model = dnmf.NMF(2, random_state=0, max_iter=8, tol=0)
        model.fit(X, mask=self.mask, sample_weight=self.weights)
        data = sum(each.nbytes for each in (self.images, self.mask, self.weights))
        assert data < sent[0] < 1.5 * data
        for _ in range(50):  # forgetting is asynchronous
            if not (left := client.run_on_scheduler(keep_records)):
                break
            time.sleep(0.1)
        assert left == 0

    def test_workers_that_lose_it_get_it_again(self, client, sent):
        def restart(state):
            if state.n_iter == 1:
                client.restart()

        X = lazy(self.images, (80, 256))
        options = {"random_state": 0, "max_iter": 3, "tol": 0}
        expected = dnmf.NMF(2, **options).fit(X)
        once = sent[0]
        again = dnmf.NMF(2, on_pass=restart, **options).fit(X)
        assert sent[0] - once > 2 * self.images.nbytes
        assert again.components_.tobytes() == expected.components_.tobytes()


class TestPersisted:
    def futures(self, client):
        half = client.scatter([X[:30], X[30:]])
        parts = [da.from_delayed(dask.delayed(each), (30, 10), X.dtype) for each in half]
        return da.concatenate(parts)

    def test_of_three_arrays_on_threads(self):
        arrays = (lazy(X), lazy(MASK), lazy(WEIGHTS, 15))
        expected = fit(arrays[0], mask=arrays[1], sample_weight=arrays[2])
        X_, mask, weights = dask.persist(*arrays)
        assert fit(X_, mask=mask, sample_weight=weights) == expected
        for changed in ((X_, MASK, weights), (X, mask, weights), (X_, mask, WEIGHTS)):
            fit(changed[0], mask=changed[1], sample_weight=changed[2])

    def test_of_three_arrays_on_a_cluster(self, client):
        arrays = (lazy(X), lazy(MASK), lazy(WEIGHTS, 15))
        expected = fit(arrays[0], mask=arrays[1], sample_weight=arrays[2])
        for persist in (dask.persist, lambda *arrays: client.persist(list(arrays))):
            X_, mask, weights = persist(*arrays)
            assert fit(X_, mask=mask, sample_weight=weights) == expected
            fitted = model().fit(X_, mask=mask)
            W = fitted.transform(X_, mask)
            assert np.array_equal(W.persist().compute(), fitted.transform(X, MASK))

    def test_arrays_of_futures(self, client):
        expected = fit(lazy(X, (30, 10)))
        assert fit(self.futures(client)) == expected
        shift = client.submit(lambda: 0.0)
        assert fit(lazy(X, (30, 10)).map_blocks(np.add, shift, dtype=X.dtype)) == expected
        assert fit(self.futures(client) * 1.0) == expected

    def test_a_cluster_that_is_not_the_active_one(self, client):
        kept = self.futures(client)
        with (
            dask.config.set(scheduler="threads"),
            pytest.raises(ClusterError, match=r"on a cluster .*connect a distributed.Client"),
        ):
            model().fit(kept)
