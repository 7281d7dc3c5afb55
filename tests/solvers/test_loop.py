"""The loop over passes: the loss never rises, fits stop for a reason and go on from any state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import counted, loss, weights
from runs import SQUARED, run_pass, solve, start
from sklearn import datasets, decomposition

from dnmf.errors import DataError
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.objective import RESOLVED, HUpdate
from dnmf.numerics.state import (
    BETA,
    BETA_DECAY,
    CONVERGED,
    EXACT,
    LEAST_W_TOLERANCE,
    MAX_ITER,
    State,
    advance,
    objective_of_pass,
    stop_reason,
)


def run(X, d=5, seed=0, **limits):
    blocks = blocks_of(X)
    return solve(blocks, start(blocks, SQUARED, d, seed), **{"tol": 0, "max_iter": 10, **limits})


def equal(a: State, b: State) -> bool:
    names = vars(a).keys() - {"seconds", "memory"}
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 8), st.integers(0, 99), st.booleans())
def test_the_loss_never_rises_and_is_the_loss(n, p, d, seed, sparse):
    rng = np.random.default_rng(seed)
    X = rng.random((n, p)) * (rng.random((n, p)) > 0.7 * sparse)
    state, _ = run(X, d, seed)
    assert all(b <= a for a, b in zip(state.losses, state.losses[1:], strict=False))
    assert np.isfinite(state.H).all()
    assert (state.H >= 0).all()
    # The weights of the pass were those of the point before H: exact ones can only be better.
    assert loss(X, weights(X, state.H), state.H) <= state.losses[-1] * (1 + 1e-6) + 1e-9


def test_the_loss_of_scikit_learn_is_reached_in_fewer_iterations(digits):
    ours, reason = run(digits, 16, tol=1e-4, max_iter=200)
    theirs = decomposition.NMF(16, init="random", random_state=0, max_iter=800).fit(digits)
    assert ours.error <= 1.001 * theirs.reconstruction_err_
    assert reason == CONVERGED
    assert ours.n_iter < 20


def low_rank():
    """Return images of twenty sparse components with 5 % noise."""
    rng = np.random.default_rng(0)
    W, H = (rng.random(shape) * (rng.random(shape) < 0.3) for shape in ((3000, 20), (20, 200)))
    X = W @ H
    return np.abs(X + 0.05 * np.sqrt(np.mean(X**2)) * rng.standard_normal(X.shape))


CORPORA = {
    "digits, few components": (lambda: datasets.load_digits().data, 16),
    "digits, many components": (lambda: datasets.load_digits().data, 40),
    "low rank": (low_rank, 20),
}


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_reads_reach_the_loss_of_hundreds_of_passes(name, dtype):
    """A fit that has converged is within a thousandth of the error after 200 passes."""
    make, d = CORPORA[name]
    X = make().astype(dtype)
    counting, blocks = counted(X, rows=300)
    first = start(blocks, SQUARED, d, seed=0)
    state, reason = solve(blocks, first, tol=1e-4, max_iter=200)
    assert state.n_reads == counting.reads.mean() == counting.reads.max() <= 8
    assert reason == CONVERGED
    converged, _ = solve(blocks_of(X), first, tol=0, max_iter=200)
    assert converged.n_iter == 200
    assert state.error <= 1.001 * converged.error
    # The loss that a fit reports is that of its H: exact weights are hardly better.
    assert loss(X, weights(X, state.H), state.H) >= (1 - 1e-3) * state.losses[-1]


def test_exact_factors_are_found():
    rng = np.random.default_rng(0)
    X = rng.random((200, 3)) @ rng.random((3, 30))
    state, _ = run(X, 3, tol=0, max_iter=100)
    assert state.relative_error < 1e-4


def test_tol_zero_runs_all_passes(digits):
    state, reason = run(digits, 3, tol=0, max_iter=40)
    assert (state.n_iter, reason) == (40, MAX_ITER)


def test_a_fit_stops_when_a_pass_gains_little(digits):
    state, reason = run(digits, 5, tol=1e-2, max_iter=200)
    assert reason == CONVERGED
    before, now = state.losses[-2:]
    assert before - now <= 1e-2 * before


@pytest.mark.parametrize("passes", [1, 2, 7])
def test_a_fit_goes_on_from_a_state_with_the_same_bits(digits, passes):
    blocks = blocks_of(digits)
    whole, _ = run(digits, max_iter=12)
    part, _ = solve(blocks, start(blocks, SQUARED, 5, 0), tol=0, max_iter=passes)
    rest, _ = solve(blocks, part, tol=0, max_iter=12)
    assert equal(rest, whole)


def test_a_pass_that_raises_the_loss_is_rejected(digits):
    blocks = blocks_of(digits)
    state, _ = run(digits, 20, max_iter=2)
    wild = State(**{**vars(state), "Y": np.ones_like(state.Y)})
    stepped, _ = solve(blocks, wild, tol=0, max_iter=3)
    assert not stepped.accepted
    assert stepped.losses[-1] == state.losses[-1]
    assert (stepped.H == state.H).all()
    assert (stepped.Y == state.H).all()
    assert stepped.beta < state.beta
    assert stop_reason(stepped, tol=1e-4, max_iter=200) is None
    better, _ = solve(blocks, stepped, tol=0, max_iter=4)
    assert better.losses[-1] < state.losses[-1]


def test_two_rejected_passes_in_a_row_end_a_fit():
    state = State(*[np.ones((1, 1))] * 3, losses=(3.0, 2.0, 2.0, 2.0), accepted=False)
    assert stop_reason(state, tol=1e-4, max_iter=200) == CONVERGED
    assert stop_reason(state, tol=0, max_iter=200) is None


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((5, 4)),
        np.ones((6, 4)),
        np.eye(4)[:1],
        np.vstack([np.zeros((3, 5)), np.ones((1, 5))]),
        np.hstack([np.zeros((6, 2)), np.random.default_rng(0).random((6, 2))]),
    ],
    ids=["zero", "constant", "one image", "blank images", "blank pixels"],
)
def test_degenerate_images(X):
    state, reason = run(X, 3, tol=1e-4, max_iter=50)
    assert np.isfinite(state.H).all()
    assert state.relative_error < 0.3
    assert reason in (CONVERGED, MAX_ITER)


def test_a_seed_repeats_its_bits_and_others_differ(digits):
    first, again, other = (run(digits, seed=seed, max_iter=2)[0] for seed in (1, 1, 2))
    assert equal(first, again)
    assert first.losses != other.losses


def test_pixels_beyond_the_range_of_float32_are_refused():
    X = np.full((4, 3), 1e30, np.float32)
    with np.errstate(all="ignore"), pytest.raises(DataError, match="multiply X by"):
        run(X, 2)


def test_advance_is_pure(digits):
    state, _ = run(digits, max_iter=1)
    H, Y = state.H.copy(), state.Y.copy()
    advance(SQUARED, state, run_pass(blocks_of(digits), SQUARED, Y))
    assert (state.H == H).all()
    assert (state.Y == Y).all()


def state_after(*losses, **values):
    """Return a state with three different matrices."""
    H, Y, Z = (np.full((1, 2), value) for value in (1.0, 2.0, 3.0))
    return State(H, Y, Z, losses=losses, **{"xx": 1.0, "divergence": losses[-1], **values})


@pytest.mark.parametrize(
    ("losses", "tolerance"),
    [
        ((3.0,), 1e-6),
        ((3.0, 2.0), 1e-6),
        ((1 + 1e-7, 1.0), 1e-8),
        ((3.0, 2.0, 2.0), 1e-7),
        ((3.0, 2.0, 2.0, 2.0), 1e-8),
        ((1 + 1e-7, 1.0, 1.0), 1e-9),
        ((3.0, *[2.0] * 30), LEAST_W_TOLERANCE),
    ],
)
def test_weights_are_as_exact_as_the_last_gain_demands(losses, tolerance):
    """They are ten times as exact as the gain, and ten times more after each rejected pass."""
    found = objective_of_pass(SQUARED, state_after(*losses)).W_tolerance
    assert found == pytest.approx(tolerance, rel=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(0.6, True), (1.0, True), (1.1, False)])
def test_sums_are_in_float64_where_float32_has_no_digits_for_the_loss(share, expected):
    state = state_after(0.5 * share * RESOLVED * 7, xx=7.0)
    assert objective_of_pass(SQUARED, state).in_float64 == expected
    assert not objective_of_pass(SQUARED, State.at(state.H)).in_float64


def test_a_loss_of_rounding_ends_a_fit_whatever_it_gains():
    lost = 0.9 * EXACT
    assert stop_reason(state_after(1.0, lost), tol=1e-4, max_iter=9) == CONVERGED
    assert stop_reason(state_after(1.0, lost, xx=0.5), tol=1e-4, max_iter=9) is None
    assert stop_reason(state_after(1.0, lost), tol=0, max_iter=9) is None


@pytest.mark.parametrize("objective", [SQUARED, BetaDivergence(1.0)])
def test_how_a_pass_moves_the_state(objective):
    def after(state, loss):
        return advance(objective, state, HUpdate(np.full((1, 2), 4.0), 0, loss, 9, 1, np.ones(1)))

    state = state_after(5.0)
    rejected = after(state, 5.1)
    assert (rejected.H == state.H).all()
    assert (rejected.Y == rejected.Z).all()
    assert (rejected.Z == state.Z).all()
    assert rejected.beta == BETA / BETA_DECAY
    # The bound of beta is what was too much. It grows again, but not above 1.
    assert rejected.beta_max == BETA < after(rejected, 5.0).beta_max < 1
    accepted = after(state, 4.9)
    np.testing.assert_array_equal(accepted.H, accepted.Z if objective.exact else state.Y)
    assert (accepted.Z == 4).all()
    np.testing.assert_allclose(accepted.Y, 4 + BETA * (4 - 3))
    assert BETA < accepted.beta < accepted.beta_max == 1
