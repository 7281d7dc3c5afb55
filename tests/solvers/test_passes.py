"""Passes for several models: X is read once, and each model has the bits of a fit alone."""

from __future__ import annotations

from dataclasses import fields

import dask
import dask.array as da
import numpy as np
import pytest
from reference import counted
from runs import SQUARED, run_at, run_passes

import dnmf.solvers.loop
from dnmf.engine.local import LocalBlocks
from dnmf.engine.threads import one_blas_thread
from dnmf.engine.tree_reduce import even_ranges
from dnmf.errors import DataError
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block
from dnmf.numerics.holdout import BUCKETS, Holdout
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.statistics import Basis

N, P, ROWS = 90, 1100, 20


@pytest.fixture(autouse=True)
def _as_in_a_fit():
    with one_blas_thread():
        yield


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return (rng.random((N, 5)) @ rng.random((5, P)) * 40).astype(np.uint8)


def initial_H(d, seed=0):
    return np.random.default_rng(seed).random((d, P)) * 10


RUNS = {
    "whole": run_at(SQUARED, initial_H(3)),
    "larger": run_at(Quadratic(l1_W=0.1, l2_H=0.1), initial_H(5)),
    "part": run_at(MaskedQuadratic(), initial_H(3), holdout=Holdout(0, 0.1)),
    "same part": run_at(MaskedQuadratic(), initial_H(4), holdout=Holdout(0, 0.1)),
    "other part": run_at(MaskedQuadratic(), initial_H(3), holdout=Holdout(1, 0.1)),
    "another loss": run_at(BetaDivergence(1.0), initial_H(2), holdout=Holdout(1, 0.1)),
    "whole, too": run_at(BetaDivergence(1.0), initial_H(2)),
}


def local_blocks(X, **aligned):
    blocks = LocalBlocks(X, **aligned)
    blocks.ranges = even_ranges(N, ROWS)
    return blocks


ENGINES = {
    "memory": lambda X: local_blocks(X),
    "weights and a mask": lambda X: local_blocks(
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
def test_each_model_has_the_bits_of_a_pass_alone(engine, group, columns, X, monkeypatch):
    monkeypatch.setattr(dnmf.solvers.loop, "COLUMNS", columns)
    blocks = ENGINES[engine](X)
    names = [name for name in RUNS if "mask" not in engine or name not in ("whole", "larger")]
    with dask.config.set(scheduler="threads"):
        alone = {name: run_passes(blocks, [RUNS[name]], group)[0] for name in names}
        for order in (names, names[::-1], names[::2] + names[1::2]):
            steps = run_passes(blocks, [RUNS[name] for name in order], group)
            assert len(steps) == len(order)
            for name, step in zip(order, steps, strict=True):
                assert_same(step, alone[name])
    for name, step in alone.items():
        shown = RUNS[name].holdout is not None
        assert step.H.shape == RUNS[name].state.Y.shape
        assert step.held_out.shape == (BUCKETS * shown, 2)
        assert (step.held_out.sum() > 0) == shown


@pytest.mark.parametrize("columns", [2**16, 512])
def test_hidden_cells_are_counted_once(X, columns, monkeypatch):
    monkeypatch.setattr(dnmf.solvers.loop, "COLUMNS", columns)
    (step,) = run_passes(local_blocks(X), [RUNS["part"]])
    assert step.held_out[:, 1].sum() == N * P / 10
    resample, objective = RUNS["part"].holdout, RUNS["part"].objective
    known = 0
    for start in range(0, N, ROWS):
        block = Block(X[start : start + ROWS], start)
        basis = Basis.for_pixels(RUNS["part"].state.Y, X.dtype)
        shown = resample(block)
        _, W = objective.block_stats(shown.visible, basis)
        known = known + shown.held_out_sums(W, basis, 2.0)
    np.testing.assert_allclose(step.held_out, known, rtol=1e-12)


def test_the_total_weight_is_that_of_the_drawn_images(X):
    steps = run_passes(local_blocks(X), [RUNS["whole"], RUNS["part"], RUNS["other part"]])
    shown = [Holdout(seed, 0.1)(Block(X)).visible.weights.sum() for seed in (0, 1)]
    assert [step.total_weight for step in steps] == [N, *shown]


def test_X_is_read_once_for_all(X):
    counting, blocks = counted(X, ROWS)
    run_passes(blocks, list(RUNS.values()))
    assert (counting.reads == 1).all()


def test_weights_go_to_the_sink_of_their_model(X):
    stored = {}

    def sink_of(name):
        def sink(W, start):
            stored[name, start] = W
            return start + len(name)

        return sink

    runs = [run_at(SQUARED, initial_H(3)), run_at(SQUARED, initial_H(2)), RUNS["part"]]
    steps = run_passes(local_blocks(X), runs, sinks=[sink_of("a"), sink_of("bb"), None])
    starts = list(range(0, N, ROWS))
    assert sorted(stored) == [(name, start) for name in ("a", "bb") for start in starts]
    assert all(W.shape[1] == (3 if name == "a" else 2) for (name, _), W in stored.items())
    written = [[(start, start + length) for start in starts] for length in (1, 2)]
    assert [sorted(step.written) for step in steps] == [*written, []]


def test_an_invalid_pixel_is_named_even_if_it_is_hidden(X):
    bad = X.astype(np.int16)
    bad[33, 7] = -2
    with pytest.raises(DataError, match="-2 at pixel 7 of image 33"):
        run_passes(local_blocks(bad), [RUNS["part"], RUNS["other part"]])
