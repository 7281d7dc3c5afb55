"""Compiled rounds: what they compute beside NumPy, and the same bits on any number of threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import SQUARED

from dnmf.engine.threads import one_blas_thread
from dnmf.errors import DataError
from dnmf.numerics import online, rounds
from dnmf.numerics.block import Block
from dnmf.numerics.nnls import GROUP, PANEL
from dnmf.numerics.online import MAX_UNITS, count_units, split_batches
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.rounds import descend, run_round

PENALISED = Quadratic(l1_W=20.0, l2_W=0.5, l1_H=0.01, l2_H=0.2)
FLOATS = [np.float32, np.float64]


def images(n=90, p=40, dtype=np.uint8):
    rng = np.random.default_rng(0)
    X = rng.random((n, 4)) @ rng.random((4, p)) + 0.2 * rng.random((n, p))
    return (200 * X / X.max()).astype(dtype)


def start(d, p, dtype=np.float64):
    return np.random.default_rng(1).random((d, p)).astype(dtype)


def run(objective, sample, H, threads=1, size=25):
    batches = split_batches(np.random.default_rng(2).permutation(len(sample)), size)
    keep = np.linspace(0.5, 0.9, len(batches))
    with one_blas_thread():
        return run_round(objective, H, sample, batches, keep, threads), batches, keep


def sweep(A, G, W):
    """Take the step to the minimum in each weight of all images, one after the other."""
    for j in range(len(A)):
        W[j] = np.maximum(W[j] + (A[j] - G[j] @ W) / G[j, j], 0)
    return W


def reference(objective, sample, H, batches, keep):
    """Make the same updates with exact weights, in NumPy."""
    d, p = H.shape
    S, T, total, eye = np.zeros((d, d)), np.zeros((d, p)), 0.0, np.eye(d)
    for rows, kept in zip(batches, keep, strict=True):
        X = sample.X[rows].astype(float)
        s = np.ones(len(X)) if sample.weights is None else sample.weights[rows]
        if not objective.has_penalties:
            lengths = np.linalg.norm(H, axis=1)
            H, S, T = H / lengths[:, None], S * np.outer(lengths, lengths), T * lengths[:, None]
        W = np.zeros((d, len(X)))
        for _ in range(2000):
            sweep(H @ X.T - objective.l1_W, H @ H.T + objective.l2_W * eye, W)
        S, T, total = kept * S + (s * W) @ W.T, kept * T + (s * W) @ X, kept * total + s.sum()
        H = sweep(T - total * objective.l1_H, S + total * objective.l2_H * eye, H.copy())
    return H


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 3, GROUP, GROUP + 1, PANEL, PANEL + 20]),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from(FLOATS),
    st.integers(0, 10**6),
)
def test_a_sweep_is_that_of_numpy(d, lanes, ridge, dtype, seed):
    rng = np.random.default_rng(seed)
    H, X = rng.random((d, d + 5)), rng.random((lanes, d + 5))
    A, G, W = H @ X.T, H @ H.T, rng.random((d, lanes)) * (rng.random((d, lanes)) < 0.5)
    w, room = W.astype(dtype), np.empty(d * lanes, dtype)
    steps = np.empty((GROUP, lanes), dtype)
    terms, ones = (A.astype(dtype), G.astype(dtype), dtype(ridge)), np.ones(lanes, dtype)
    gain, overlap = descend(*terms, w, ones, room, steps)
    ridged = G + ridge * np.eye(d)
    expected = sweep(A, ridged, W.copy())
    tight = dtype == np.float64
    scale = expected.max() + 1
    np.testing.assert_allclose(w, expected, rtol=0, atol=(1e-9 if tight else 1e-3) * scale)
    if tight:
        before, after = (0.5 * np.vdot(V, ridged @ V) - np.vdot(A, V) for V in (W, expected))
        if d <= PANEL:
            assert overlap == pytest.approx(-2 * before, rel=1e-6, abs=1e-9)
        assert 0 <= gain <= before - after + 1e-9 * abs(before)


@pytest.mark.parametrize("objective", [SQUARED, PENALISED], ids=["plain", "penalised"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("units", [1, 4])
def test_a_round_is_that_of_numpy(objective, weighted, units, monkeypatch):
    monkeypatch.setattr(rounds, "count_units", lambda *shape: units)
    X = images()
    weights = np.random.default_rng(3).integers(1, 4, len(X)) / 2 if weighted else None
    sample, H = Block(X, 0, None, weights), start(5, X.shape[1])
    mine, *rest = run(replace(objective, max_sweeps=2000, W_tolerance=0.0), sample, H, threads=2)
    np.testing.assert_allclose(mine, reference(objective, sample, H, *rest), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(70, 6), (40, 33), (1300, 20)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_results_do_not_depend_on_threads(shape, dtype, monkeypatch):
    monkeypatch.setattr(online, "UNIT_SIDE", 4)
    p, d = shape
    sample, H = Block(images(200, p)), start(d, p, dtype)
    assert count_units(25, d, p) > 1
    first, *others = (run(SQUARED, sample, H, threads)[0] for threads in (1, 2, 3, 8))
    assert all((first == other).all() for other in others)


def test_units_are_few_and_depend_on_the_problem_alone():
    assert count_units(192, 16, 64) == 1  # too little for threads
    assert count_units(192, 32, 784) == 2
    assert count_units(192, 32, 65_536) == MAX_UNITS
    assert count_units(1, 10**6, 10**6) == 1  # no unit is without images


@pytest.mark.parametrize("form", [np.uint16, np.int32, np.float16, np.float32, np.float64, ">u2"])
def test_the_form_of_the_pixels_changes_no_bits(form):
    X, H = images(), start(5, 40, np.float32)
    known = run(SQUARED, Block(X), H)[0]
    for other in (X.astype(form), np.asfortranarray(X.astype(form))):
        other.flags.writeable = False
        assert (run(SQUARED, Block(other), H)[0] == known).all()


def test_components_have_length_1_unless_penalties_determine_it():
    X, H = images(), start(5, 40)
    far = 1e3 * np.arange(1, 6)[:, None] * H
    np.testing.assert_allclose(
        run(SQUARED, Block(X), far)[0], run(SQUARED, Block(X), H)[0], rtol=1e-9
    )


def test_dark_images_and_unused_components_do_no_harm():
    X, H = images(), start(5, 40)
    X[::2], H[2] = 0, 0
    improved = run(SQUARED, Block(X), H)[0]
    assert np.isfinite(improved).all()
    assert (improved[2] == 0).all()
    assert np.isfinite(run(SQUARED, Block(np.zeros_like(X)), H)[0]).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_overflow_ends_all_threads(threads, monkeypatch):
    monkeypatch.setattr(online, "UNIT_SIDE", 4)
    with pytest.raises(DataError, match="too large"):
        run(SQUARED, Block(np.full((90, 40), 1e30, np.float32)), start(5, 40, np.float32), threads)


def test_a_failure_of_one_thread_ends_the_others(monkeypatch):
    def fail(G):
        raise KeyboardInterrupt

    monkeypatch.setattr(online, "UNIT_SIDE", 4)
    monkeypatch.setattr(rounds, "compute_ridge_inverse", fail)
    with pytest.raises(KeyboardInterrupt):
        run(SQUARED, Block(images()), start(5, 40), 2)
