"""The first H: draws, the warm-up on a sample, and the sample itself."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from reference import loss, weights
from runs import SQUARED
from sklearn.decomposition._nmf import _initialize_nmf

from dnmf.engine.threads import one_blas_thread
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics import online
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.quadratic import Quadratic
from dnmf.solvers import warm_start
from dnmf.solvers.sample import mean_of, take_sample
from dnmf.solvers.warm_start import (
    EPOCHS,
    FINE_TOL,
    MAX_ROUNDS,
    MOST_COST,
    ROUGH,
    ROUGH_TOL,
    ROUND,
    SURE_ROUNDS,
    WORTH,
    custom_H,
    expected_gain,
    loss_of,
    online_round,
    random_H,
    revive,
    warm_up,
)


@pytest.fixture(autouse=True)
def _as_in_a_fit():
    with one_blas_thread():
        yield


@pytest.mark.parametrize("seed", [0, 7])
def test_random_H_equals_the_draw_of_scikit_learn(digits, seed):
    X = digits.astype(float)
    _, H = _initialize_nmf(X, 5, init="random", random_state=seed)
    np.testing.assert_allclose(random_H(Block(digits), 5, seed), H, rtol=1e-12)


def test_random_H_of_zeros_is_zero():
    assert (random_H(Block(np.zeros((3, 4))), 2, 0) == 0).all()


def test_the_warm_up_beats_many_passes_from_random(digits):
    from runs import solve

    from dnmf.numerics.state import State

    H = random_H(Block(digits), 16, 0)
    passes, _ = solve(blocks_of(digits), State.at(H), tol=0, max_iter=20)
    better = warm_up(SQUARED, H, Block(digits), 0, 1e-4, 70_000)
    losses = [loss_of(SQUARED, H, Block(digits)) for H in (better, passes.H, H)]
    assert losses == sorted(losses)
    assert losses[1] == pytest.approx(passes.losses[-1], rel=1e-3)


def test_the_loss_of_components_is_that_of_exact_weights(digits):
    X, H = digits[:200], digits[-8:].astype(float)
    exact = loss(X, weights(X, H), H)
    for objective in (SQUARED, MaskedQuadratic()):
        assert loss_of(objective, H, Block(X)) == pytest.approx(exact, rel=1e-4)
    penalised, penalty = Quadratic(l1_H=3.0, l2_H=2.0), 200 * (3 * H.sum() + (H**2).sum())
    assert loss_of(penalised, H, Block(X)) == pytest.approx(exact + penalty, rel=1e-4)


class TestRounds:
    @pytest.fixture
    def rounds(self, monkeypatch):
        """Record the number of updates of each round of a warm-up."""
        counted = []

        def counting(*args):
            counted.append(args[4])
            return online_round(*args)

        monkeypatch.setattr(warm_start, "online_round", counting)
        return counted

    def run(self, digits, tol, objective=SQUARED, d=10, seed=0, n=10**6):
        """Warm up on the digits as a sample of n images."""
        return warm_up(objective, random_H(Block(digits), d, 0), Block(digits), seed, tol, n)

    def test_a_large_tol_takes_one_short_round(self, digits, rounds):
        for tol in (ROUGH_TOL, 0.5):
            self.run(digits, tol)
        assert rounds == [ROUGH[0]] * 2

    def test_a_smaller_tol_takes_more_rounds(self, digits, rounds):
        counts = []
        for tol in (ROUGH_TOL, 1e-3, 1e-5):
            rounds.clear()
            self.run(digits, tol)
            counts.append(len(rounds))
        assert counts == sorted(counts)
        assert counts[0] == 1 < counts[1]
        assert counts[2] <= MAX_ROUNDS

    def test_rounds_go_on_while_the_loss_falls(self, digits, rounds, monkeypatch):
        falling = iter(np.geomspace(1, 0.5, MAX_ROUNDS + 1))
        monkeypatch.setattr(warm_start, "loss_of", lambda *args: next(falling))
        self.run(digits, 1e-4)
        assert len(rounds) == MAX_ROUNDS

    def test_the_length_of_rounds_follows_tol(self, digits, rounds):
        lengths = []
        for tol in (ROUGH_TOL, 5e-3, 2e-3, FINE_TOL, 1e-4):
            rounds.clear()
            self.run(digits, tol)
            lengths.append(rounds[0])
        assert lengths == sorted(lengths)
        assert ROUGH[0] == lengths[0] < lengths[1] < lengths[2] < lengths[3] == lengths[4] == ROUND

    @pytest.mark.parametrize("n", [10**6, 70_000, 10_000])
    def test_rounds_end_when_the_next_is_not_worth_a_pass(self, digits, rounds, monkeypatch, n):
        tol, cost = 1e-4, min(max(ROUND * 192 / n, 1), MOST_COST)
        losses = [1 / (1 - 0.5**r / 8) for r in range(2, 20)]
        last = next(r for r in range(2, 20) if expected_gain(losses[:r]) < WORTH * tol * cost)
        falling = iter(losses)
        monkeypatch.setattr(warm_start, "loss_of", lambda *args: next(falling))
        self.run(digits, tol, n=n)
        assert len(rounds) == max(last, SURE_ROUNDS)

    def test_few_images_make_short_rounds(self, digits, rounds):
        self.run(digits[:250], 1e-4, n=250)
        assert set(rounds) == {EPOCHS * 250 // 192}

    def test_the_best_round_is_returned(self, digits, monkeypatch):
        made, losses = [], iter([3, 1, 2])
        monkeypatch.setattr(
            warm_start, "online_round", lambda *args: made.append(args[1] + 1) or made[-1]
        )
        monkeypatch.setattr(warm_start, "loss_of", lambda *args: next(losses))
        H = self.run(digits, 1e-4)
        assert len(made) == SURE_ROUNDS
        assert (made[1] == H).all()

    def test_expensive_rounds_are_left_to_the_passes(self, digits, rounds, monkeypatch):
        monkeypatch.setattr(warm_start, "MAX_FLOPS", 1.0)
        self.run(digits, 1e-6)
        assert len(rounds) == 1

    @pytest.mark.parametrize(
        "objective",
        [SQUARED, MaskedQuadratic(), Quadratic(l1_W=5.0, l1_H=0.1), BetaDivergence(1.0)],
    )
    def test_a_seed_gives_the_same_bits(self, digits, objective):
        X = digits[:200]
        first, again, other = (self.run(X, 1e-2, objective, 5, seed) for seed in (3, 3, 4))
        assert (first == again).all()
        assert (first != other).any()
        assert (first >= 0).all()

    def test_the_number_of_threads_changes_no_bits(self, digits, monkeypatch):
        monkeypatch.setattr(online, "MIN_SPLIT_SIZE", 1)
        runs = []
        for threads in (1, 2):
            monkeypatch.setenv("DNMF_NUM_THREADS", str(threads))
            runs.append(self.run(digits, 1e-2))
        assert (runs[0] == runs[1]).all()

    def test_a_sample_smaller_than_a_batch(self, digits):
        few = digits[:3]
        H = self.run(few, 1e-4)
        assert np.isfinite(H).all()
        assert loss_of(SQUARED, H, Block(few)) < 1e-5 * loss(
            few, np.zeros((3, 1)), np.zeros((1, 784))
        )


def test_the_gain_expected_of_a_round():
    assert expected_gain([1.0]) == np.inf
    assert expected_gain([1.1, 1.0]) == pytest.approx(0.1 * 0.25)
    assert expected_gain([1.32, 1.1, 1.0]) == pytest.approx(0.1 * 0.5)
    assert expected_gain([1.11, 1.1, 1.0]) == pytest.approx(0.1)
    assert expected_gain([1.0, 1.1]) < 0
    assert expected_gain([3.0, 1.0, 2.0]) == 0
    assert expected_gain([1.0, 0.0]) == 0


def test_the_sample_holds_all_images_when_they_fit(digits):
    sample, reads = take_sample(blocks_of(digits), seed=0)
    assert reads == 1
    assert (digits == sample.X).all()


def test_an_array_in_memory_is_not_copied(digits):
    sample, _ = take_sample(blocks_of(digits), seed=0)
    assert np.shares_memory(sample.X, digits)


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_of_weight_zero_are_not_in_the_sample(digits, in_memory):
    weights = np.arange(700) % 3.0
    source = digits if in_memory else da.from_array(digits, chunks=(100, -1))
    sample, _ = take_sample(blocks_of(source, weights), seed=0)
    assert (digits[weights > 0] == sample.X).all()
    ratios = sample.weights / weights[weights > 0]
    assert (ratios == ratios[0]).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_is_that_of_observed_pixels_and_weighs_images(masked, weighted):
    rng = np.random.default_rng(0)
    X, seen, weights = rng.random((9, 5)), rng.random((9, 5)) > 0.4 * masked, np.arange(9.0)
    block = Block(X * seen, 0, seen if masked else None, weights if weighted else None)
    shares = seen * (weights[:, None] if weighted else 1)
    assert mean_of(block) == pytest.approx(np.average(X, weights=shares))


class TestPartOfACorpus:
    @pytest.fixture
    def blocks(self, digits, monkeypatch):
        monkeypatch.setattr("dnmf.solvers.sample.SAMPLE_ROWS", 100)
        monkeypatch.setattr("dnmf.solvers.sample.SAMPLE_BLOCKS", 5)
        with_row_numbers = np.arange(700, dtype=np.uint16)[:, None].repeat(3, axis=1)
        return blocks_of(da.from_array(with_row_numbers, chunks=(50, -1)))

    def test_is_random_rows_of_random_blocks(self, blocks):
        sample, reads = take_sample(blocks, seed=0)
        rows = sample.X[:, 0]
        assert len(rows) == len(set(rows)) == 100
        assert len(set(rows // 50)) == 5
        assert reads == pytest.approx(250 / 700)

    def test_depends_on_the_seed_alone(self, blocks):
        first, again = take_sample(blocks, seed=3), take_sample(blocks, seed=3)
        other = take_sample(blocks, seed=4)
        assert (first[0].X == again[0].X).all()
        assert set(first[0].X[:, 0]) != set(other[0].X[:, 0])

    def test_leaves_out_bad_images(self, monkeypatch):
        monkeypatch.setattr("dnmf.solvers.sample.SAMPLE_ROWS", 40)
        X = np.ones((60, 3))
        X[::2, 1] = np.nan
        sample, _ = take_sample(blocks_of(da.from_array(X, chunks=(30, -1))), seed=0)
        assert len(sample)
        assert (sample.X == 1).all()


class TestZeroComponents:
    """They are replaced by what the others do not reproduce of images."""

    H = np.array([[3.0, 4, 0, 0, 0, 0], [0] * 6, [0] * 6])

    def revived(self, seed, H=H):
        X = np.tile(H[0], (300, 1)) + 1e-3 * np.eye(6)[2]
        X[:2] = [[3, 4, 0, 0, 7, 0], [0, 0, 0, 0, 0, 9]]
        return revive(SQUARED, H, Block(X), np.random.default_rng(seed))

    @pytest.mark.parametrize("seed", range(3))
    def test_come_from_the_images_of_the_greatest_error(self, seed):
        H = self.revived(seed)
        assert (H[0] == self.H[0]).all()
        # They are as long as the components that were there.
        np.testing.assert_allclose(np.sort(H[1:].T)[4:], [[0, 5], [0, 5]], atol=1e-3)

    def test_stay_where_there_are_no_others(self):
        H = np.zeros((2, 6))
        assert revive(SQUARED, H, Block(np.ones((9, 6))), np.random.default_rng(0)) is H

    def test_stay_where_a_given_start_does_not_use_them(self):
        blocks, W = blocks_of(np.ones((9, 6))), np.ones((9, 3)) * [1, 0, 0]
        for objective, given in ((SQUARED, W), (Quadratic(l1_H=1.0), None)):
            H, reads = custom_H(blocks, objective, self.H, given, 0)
            assert (H is self.H, reads) == (True, 0)
