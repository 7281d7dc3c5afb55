"""The contract of every engine: a block is read once, and the bits do not depend on workers."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from functools import partial
from types import SimpleNamespace

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from reference import counted
from runs import SQUARED

import dnmf
from dnmf.engine.dask_graph import DaskBlocks, Graph
from dnmf.engine.local import LocalBlocks
from dnmf.engine.threads import one_blas_thread
from dnmf.engine.tree_reduce import (
    FAN_IN,
    MOST_TASKS,
    Outcome,
    add,
    blocks_per_task,
    even_ranges,
    tree_reduce,
)
from dnmf.errors import BlockError, DataError
from dnmf.estimators import inputs
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.statistics import Basis

ROWS = 128  # of a block of the `corpus` fixture
H = np.random.default_rng(1).random((6, 784))


MASK = np.random.default_rng(2).random((700, 784)) < 0.2
WEIGHTS = np.random.default_rng(3).integers(0, 3, 700)
OBJECTIVES = [
    SQUARED,
    MaskedQuadratic(l1_W=3.0, l2_H=0.5),
    BetaDivergence(1.0),
    BetaDivergence(1.5),
]


def stats_of(block, *, basis, objective):
    return objective.block_stats(block, basis)[0]


def rows_of(block):
    return len(block)


def list_starts(block):
    return [block.start]


def run_pass(blocks, dtype=np.float32, objective=SQUARED):
    task = partial(stats_of, basis=Basis.from_H(H, np.dtype(dtype)), objective=objective)
    return blocks.map_sum(task)


def in_memory(digits, weights=None, mask=None):
    blocks = LocalBlocks(digits, weights, mask)
    blocks.ranges = even_ranges(len(digits), ROWS)
    return blocks


SOURCES = {
    "numpy": lambda digits, corpus, folder: in_memory(digits),
    "corpus": lambda digits, corpus, folder: blocks_of(corpus),
    "dask": lambda digits, corpus, folder: blocks_of(da.from_array(digits, chunks=(ROWS, -1))),
    "zarr": lambda digits, corpus, folder: blocks_of(
        zarr.create_array(folder / "x.zarr", data=digits, chunks=(ROWS, 784))
    ),
    "numpy, masked": lambda digits, corpus, folder: in_memory(digits, WEIGHTS, MASK),
    "corpus, masked": lambda digits, corpus, folder: blocks_of(
        corpus, WEIGHTS, zarr.create_array(folder / "m.zarr", data=MASK, chunks=(100, 300))
    ),
    "dask, masked": lambda digits, corpus, folder: blocks_of(
        da.from_array(digits, chunks=(ROWS, -1)),
        da.from_array(WEIGHTS, chunks=50),
        da.from_array(MASK, chunks=(300, 300)),
    ),
}


@pytest.fixture(params=SOURCES)
def blocks(request, digits, corpus, tmp_path, monkeypatch):
    # A Zarr array as small as this one is otherwise read in larger steps than its chunks.
    monkeypatch.setattr(inputs, "choose_block_rows", lambda n, image_bytes: ROWS)
    blocks = SOURCES[request.param](digits, corpus, tmp_path)
    assert list(blocks.ranges) == in_memory(digits).ranges
    return blocks


@pytest.fixture(scope="session")
def known(digits):
    """Sums of a pass in this process for each mask, objective and dtype."""
    with one_blas_thread():
        return {
            (masked, objective, dtype): run_pass(
                in_memory(digits, *((WEIGHTS, MASK) if masked else ())), dtype, objective
            )
            for masked in (False, True)
            for objective in OBJECTIVES
            for dtype in (np.float32, np.float64)
        }


@pytest.fixture
def expected(known, blocks):
    masked = blocks.masks is not None
    return {key[1:]: stats for key, stats in known.items() if key[0] == masked}


class TestEveryEngine:
    """Runs on threads of this process, on Dask's threads, and in worker processes."""

    def check(self, blocks, expected):
        for (objective, dtype), known in expected.items():
            stats = run_pass(blocks, dtype, objective)
            for name, value in vars(known).items():
                assert np.array_equal(getattr(stats, name), value), (objective, dtype, name)

    def test_same_bits_here(self, blocks, expected):
        self.check(blocks, expected)

    def test_same_bits_without_threads(self, blocks, expected):
        with dask.config.set(scheduler="synchronous"):
            self.check(blocks, expected)

    def test_same_bits_on_two_processes(self, blocks, expected, client):
        self.check(blocks, expected)

    def test_every_block_once_in_order(self, blocks):
        assert blocks.map_sum(list_starts) == [start for start, _ in blocks.ranges]
        assert blocks.map_sum(rows_of) == 700

    def test_a_selection_of_blocks(self, blocks):
        assert blocks.map_sum(list_starts, only=[1, 4]) == [ROWS, 4 * ROWS]

    def test_shape_and_type(self, blocks):
        assert blocks.shape == (700, 784)
        assert blocks.dtype == np.uint8


def test_local_bits_do_not_depend_on_threads(digits, known):
    one, three = in_memory(digits), in_memory(digits)
    one.threads, three.threads = 1, 3
    assert (run_pass(one).T == run_pass(three).T).all()
    assert (run_pass(one).T == known[False, SQUARED, np.float32].T).all()


def test_a_pass_reads_every_row_exactly_once(digits):
    counting, blocks = counted(digits, ROWS)
    run_pass(blocks)
    assert (counting.reads == 1).all()


def test_a_fit_reads_what_it_says(digits):
    from runs import solve, start

    counting, blocks = counted(digits, ROWS)
    state = start(blocks, SQUARED, 4, seed=0)
    state, _ = solve(blocks, state, tol=0, max_iter=5)
    assert state.n_reads == counting.reads.mean() == 6


def test_a_dask_array_is_read_once_per_pass(digits):
    reads = []

    def read(block_id):
        reads.append(block_id)
        return digits[block_id[0] * ROWS : (block_id[0] + 1) * ROWS]

    sizes = tuple(b - a for a, b in in_memory(digits).ranges)
    X = da.map_blocks(read, chunks=(sizes, (784,)), dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    run_pass(blocks_of(X))
    assert sorted(reads) == [(i, 0) for i in range(len(sizes))]


def test_a_persisted_array_is_fitted_as_the_same_array(digits, client):
    cut = (slice(0, 300), slice(300, 400))
    X, mask = (da.from_array(part[cut], chunks=(ROWS, -1)) for part in (digits, MASK))
    weights = da.from_array(WEIGHTS[:300], chunks=50)

    def fit(X, mask, weights):
        model = dnmf.NMF(3, random_state=0, max_iter=1, tol=0)
        model.fit(X, mask=mask, sample_weight=weights)
        return model.components_.tobytes(), model.loss_history_.tobytes()

    assert fit(X.persist(), None, None) == fit(X, None, None)
    assert fit(*client.persist((X, mask, weights))) == fit(X, mask, weights)


def test_the_scheduler_forgets_every_pass(corpus, client):
    def records(dask_scheduler):
        return len(dask_scheduler.tasks)

    blocks = blocks_of(corpus)
    for _ in range(4):
        run_pass(blocks)
    for _ in range(50):  # forgetting is asynchronous
        if not (left := client.run_on_scheduler(records)):
            break
        threading.Event().wait(0.1)
    assert left == 0


def test_one_task_per_block_beside_the_tree(corpus, client):
    def finished(dask_scheduler):
        return sum(
            prefix.state_counts["memory"] for prefix in dask_scheduler.task_prefixes.values()
        )

    before = client.run_on_scheduler(finished)
    run_pass(blocks_of(corpus))
    added = client.run_on_scheduler(finished) - before
    assert added == corpus.n_blocks + 2  # one sum of six, and H itself


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 200])
def test_streamed_sum_is_the_same_tree_as_the_graph(n):
    values = np.random.default_rng(0).random(n) * 10.0 ** np.arange(n)
    parts = [np.float64(v) for v in values]
    while len(parts) > 1:
        parts = [sum(parts[i + 1 : i + FAN_IN], parts[i]) for i in range(0, len(parts), FAN_IN)]
    assert tree_reduce((Outcome(v) for v in values), add).value == parts[0]


def fit_slowly(folder):
    def read(block_id):
        (folder / str(block_id[0])).touch()
        time.sleep(0.2)
        return np.random.default_rng(block_id[0]).random((50, 20))

    X = da.map_blocks(read, chunks=((50,) * 12, (20,)), dtype=float, meta=np.empty((0, 0)))
    return dnmf.NMF(3, random_state=0, max_iter=2, tol=0).fit(X).loss_history_.tolist()


@pytest.mark.slow
def test_a_fit_inside_a_task_does_not_wait_for_itself(tmp_path, client):
    futures = [client.submit(fit_slowly, tmp_path, pure=False) for _ in range(2)]  # all threads
    assert futures[0].result(timeout=60) == futures[1].result(timeout=60)


@pytest.mark.slow
def test_the_only_worker_is_killed_and_comes_back(tmp_path, caplog):
    from distributed import Client, LocalCluster

    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": "CRITICAL"}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster,
        Client(cluster) as client,
    ):
        (pid,) = client.run(os.getpid).values()

        def kill():
            while not (tmp_path / "9").exists():
                time.sleep(0.01)
            os.kill(pid, signal.SIGKILL)

        threading.Thread(target=kill).start()
        losses = fit_slowly(tmp_path)
    assert losses == fit_slowly(tmp_path)


class TestGraphs:
    """What a scheduler gets: it has no images, and little memory for each task."""

    def test_they_can_be_unpickled_without_the_corpus(self, digits, tmp_path):
        np.save(tmp_path / "x.npy", digits)
        corpus = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c.zarr", block_rows=100)
        model = dnmf.NMF(3, max_iter=1, tol=0).fit(digits)
        graphs = [model.transform(corpus).__dask_graph__(), graph_of(blocks_of(corpus), 1)]
        sent = [cloudpickle.dumps(dict(graph)) for graph in graphs]
        (tmp_path / "c.zarr").rename(tmp_path / "elsewhere")
        for graph, message in zip(graphs, sent, strict=True):
            assert pickle.loads(message).keys() == dict(graph).keys()

    @pytest.mark.parametrize("group", [1, 5])
    def test_tasks_are_small(self, group):
        n = 10_000
        blocks = DaskBlocks((n, 4), np.dtype("u1"), even_ranges(n, 1), np.zeros)
        tasks = graph_of(blocks, group)
        assert n / group <= len(tasks) <= 8 / 7 * n / group + FAN_IN
        assert len(cloudpickle.dumps(tasks)) < (100 + 10 * group) * len(tasks)

    def test_groups_grow_with_a_corpus_of_very_many_blocks(self):
        few, many = (
            SimpleNamespace(shape=(n, 784), ranges=range(n), dtype=np.dtype("u1"))
            for n in (10**5, 10**7)
        )
        for blocks in (few, many):
            blocks.ranges = Ranges(len(blocks.ranges), 20_000)
        few, many = blocks_per_task(few, 64), blocks_per_task(many, 64)
        assert few < 10
        assert 10**7 / many <= MOST_TASKS


class Ranges:
    """Ranges of very many blocks, computed when they are asked for."""

    def __init__(self, count, rows):
        self.count, self.rows = count, rows

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return i * self.rows, (i + 1) * self.rows


def graph_of(blocks, group):
    graph = Graph("read-len")
    graph.sum(blocks._add_leaves(graph, graph.put(None), range(len(blocks.ranges)), group))
    return graph.nodes


class TestBadInput:
    def bad(self, digits):
        X = digits.astype(np.float32)
        X[300, 7] = -1
        X[600, 9] = np.nan
        return X

    def test_the_first_bad_image_is_named(self, digits):
        X = da.from_array(self.bad(digits), chunks=(ROWS, -1))
        for blocks in (blocks_of(self.bad(digits)), blocks_of(X)):
            with pytest.raises(DataError, match=r"Negative values .* -1 at pixel 7 of image 300;"):
                run_pass(blocks)

    def test_a_bad_image_of_a_corpus_is_named_by_its_id(self, digits, tmp_path, client):
        path = tmp_path / "c.zarr"
        np.save(tmp_path / "faces.npy", digits[:300].astype(np.float32))
        corpus = dnmf.ingest(tmp_path / "faces.npy", path, block_rows=100)
        blocks = blocks_of(corpus)
        blocks.pixels = partial(read_with_nan, blocks.pixels, 1)
        with pytest.raises(
            DataError, match=r"NaN .* nan at pixel 5 of image 103 \(faces\.npy:103\)"
        ):
            run_pass(blocks)

    def test_a_lost_block_reaches_the_caller(self, digits, tmp_path, client):
        np.save(tmp_path / "x.npy", digits)
        corpus = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c.zarr", block_rows=100)
        (tmp_path / "c.zarr/pixels/c/2/0").unlink()
        with pytest.raises(BlockError, match=r"block 2 \(images 200 to 299\) is missing"):
            run_pass(blocks_of(corpus))

    def test_columns_in_chunks_are_refused_with_the_remedy(self, digits):
        with pytest.raises(
            DataError, match=r"each row of X is in 8 chunks.*X\.rechunk\(\{1: -1\}\)"
        ):
            blocks_of(da.from_array(digits, chunks=(100, 100)))

    def test_empty_chunks_are_no_blocks(self, digits):
        X = da.from_array(digits, chunks=(100, -1))
        blocks = blocks_of(da.concatenate([X[:100], X[:0], X[100:]]))
        assert blocks.ranges == blocks_of(X).ranges

    def test_unknown_chunks_are_refused_with_the_remedy(self, digits):
        X = da.from_array(digits, chunks=(100, -1))
        with pytest.raises(DataError, match="compute_chunk_sizes"):
            blocks_of(X[X[:, 0] < 1])

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            (da.zeros((4, 5, 6)), "dim 3"),
            (da.zeros((4, 5), dtype=complex), "complex128"),
            (da.zeros((0, 5)), "at least one image"),
        ],
    )
    def test_arrays_that_are_no_matrix_of_pixels_are_refused(self, X, message):
        with pytest.raises(DataError, match=message):
            blocks_of(X)


def read_with_nan(read, block, number):
    X = read(number)
    if number == block:
        X[3, 5] = np.nan
    return X


def test_sharded_zarr_is_read_by_shards(tmp_path):
    z = zarr.create_array(
        tmp_path / "s.zarr", shape=(1000, 4096), chunks=(10, 4096), shards=(200, 4096), dtype="u1"
    )
    assert {start % 200 for start, _ in blocks_of(z).ranges} == {0}
