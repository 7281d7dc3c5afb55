"""Several models in one read of X: each as if it were alone."""

from __future__ import annotations

from dataclasses import fields

import dask
import dask.array as da
import numpy as np
import pytest
from reference import counted

import dnmf.numerics.h_update
from dnmf.engine.executors import one_blas_thread
from dnmf.engine.local import LocalBlocks
from dnmf.engine.tree_reduce import even_ranges
from dnmf.errors import DataError
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.holdout import BUCKETS, Holdout
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import SQUARED, Quadratic
from dnmf.numerics.statistics import Basis
from dnmf.solvers.passes import Point, run_passes

N, P, ROWS = 90, 1100, 20


@pytest.fixture(autouse=True)
def _as_in_a_fit():
    with one_blas_thread():
        yield


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return (rng.random((N, 5)) @ rng.random((5, P)) * 40).astype(np.uint8)


def start_of(d, seed=0):
    return np.random.default_rng(seed).random((d, P)) * 10


POINTS = {
    "whole": Point(SQUARED, start_of(3)),
    "larger": Point(Quadratic(l1_W=0.1, l2_H=0.1), start_of(5)),
    "part": Point(MaskedQuadratic(), start_of(3), resample=Holdout(0, 0.1)),
    "same part": Point(MaskedQuadratic(), start_of(4), resample=Holdout(0, 0.1)),
    "other part": Point(MaskedQuadratic(), start_of(3), resample=Holdout(1, 0.1)),
    "another loss": Point(BetaDivergence(1.0), start_of(2), resample=Holdout(1, 0.1)),
    "whole, too": Point(BetaDivergence(1.0), start_of(2)),
}


def local(X, **aside):
    blocks = LocalBlocks(X, **aside)
    blocks.ranges = even_ranges(N, ROWS)
    return blocks


ENGINES = {
    "here": lambda X: local(X),
    "weights and a mask": lambda X: local(
        X, weights=np.arange(N) % 3, masks=np.random.default_rng(0).random(X.shape) < 0.2
    ),
    "dask": lambda X: blocks_of(da.from_array(X, chunks=(ROWS, -1))),
}


def assert_same(step, other):
    for field in fields(step):
        one, two = getattr(step, field.name), getattr(other, field.name)
        assert np.array_equal(one, two), field.name


@pytest.mark.parametrize("columns", [2**16, 512])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_each_model_is_as_if_alone(engine, group, columns, X, monkeypatch):
    monkeypatch.setattr(dnmf.numerics.h_update, "COLUMNS", columns)
    blocks = ENGINES[engine](X)
    names = [name for name in POINTS if "mask" not in engine or name not in ("whole", "larger")]
    with dask.config.set(scheduler="threads"):
        alone = {name: run_passes(blocks, [POINTS[name]], group)[0] for name in names}
        for order in (names, names[::-1], names[::2] + names[1::2]):
            steps = run_passes(blocks, [POINTS[name] for name in order], group)
            assert len(steps) == len(order)
            for name, step in zip(order, steps, strict=True):
                assert_same(step, alone[name])
    for name, step in alone.items():
        shown = POINTS[name].resample is not None
        assert step.H.shape == POINTS[name].Y.shape
        assert step.held_out.shape == (BUCKETS * shown, 2)
        assert (step.held_out.sum() > 0) == shown


@pytest.mark.parametrize("columns", [2**16, 512])
def test_what_is_hidden_is_counted_once(X, columns, monkeypatch):
    monkeypatch.setattr(dnmf.numerics.h_update, "COLUMNS", columns)
    (step,) = run_passes(local(X), [POINTS["part"]])
    assert step.held_out[:, 1].sum() == N * P / 10
    resample, objective = POINTS["part"].resample, POINTS["part"].objective
    known = 0
    for start in range(0, N, ROWS):
        block = dnmf.numerics.block.Block(X[start : start + ROWS], start)
        basis = Basis.for_pixels(POINTS["part"].Y, X.dtype)
        shown = resample(block)
        _, W = objective.block_stats(shown.visible, basis)
        known = known + shown.held_out_sums(W, basis, 2.0)
    np.testing.assert_allclose(step.held_out, known, rtol=1e-12)


def test_the_images_that_are_drawn_are_as_many_as_they_weigh(X):
    steps = run_passes(local(X), [POINTS["whole"], POINTS["part"], POINTS["other part"]])
    shown = [
        Holdout(seed, 0.1)(dnmf.numerics.block.Block(X)).visible.weights.sum() for seed in (0, 1)
    ]
    assert [step.rows for step in steps] == [N, *shown]


def test_X_is_read_once_for_all(X):
    counting, blocks = counted(X, ROWS)
    run_passes(blocks, list(POINTS.values()))
    assert (counting.reads == 1).all()


def test_weights_go_to_the_sink_of_their_model(X):
    taken = {}

    def sink_of(name):
        def sink(W, start):
            taken[name, start] = W
            return start + len(name)

        return sink

    points = [Point(SQUARED, start_of(d), sink_of(name)) for name, d in (("a", 3), ("bb", 2))] + [
        POINTS["part"]
    ]
    steps = run_passes(local(X), points)
    starts = list(range(0, N, ROWS))
    assert sorted(taken) == [(name, start) for name in ("a", "bb") for start in starts]
    assert all(W.shape[1] == (3 if name == "a" else 2) for (name, _), W in taken.items())
    written = [[(start, start + length) for start in starts] for length in (1, 2)]
    assert [sorted(step.written) for step in steps] == [*written, []]


def test_a_bad_pixel_is_named_whatever_is_hidden(X):
    bad = X.astype(np.int16)
    bad[33, 7] = -2
    with pytest.raises(DataError, match="-2 at pixel 7 of image 33"):
        run_passes(local(bad), [POINTS["part"], POINTS["other part"]])
