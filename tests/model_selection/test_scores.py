"""Scores and recommendation: held-out errors, the table, the choice and its reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnmf.model_selection.recommend import choose
from dnmf.model_selection.scores import (
    HeldOutErrors,
    RankFits,
    Score,
    held_out_errors,
    score_ranks,
)
from dnmf.model_selection.stability import silhouettes
from dnmf.numerics.holdout import BUCKETS
from dnmf.numerics.state import State


def sums_of(rng, ranks=4, folds=3, buckets=BUCKETS):
    """Return divergences and numbers of held-out cells; the latter are equal for all ranks."""
    cells = rng.integers(50, 100, (folds, buckets)).astype(float)
    errors = rng.gamma(5, size=(ranks, folds, buckets)) * cells
    return np.stack([errors, np.broadcast_to(cells, errors.shape)], axis=-1)


class TestHeldOut:
    @given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))
    def test_means_and_standard_errors_by_hand(self, seed, ranks, folds):
        sums = sums_of(np.random.default_rng(seed), ranks, folds)
        found = HeldOutErrors.from_sums(sums)
        per_fold = [
            [sums[k, f, :, 0].sum() / sums[k, f, :, 1].sum() for f in range(folds)]
            for k in range(ranks)
        ]
        means = [sum(row) / folds for row in per_fold]
        best = means.index(min(means))
        assert found.lowest == best
        np.testing.assert_allclose(found.means, means)
        in_a_bucket = sums[0, :, :, 1].sum() / folds / BUCKETS
        for k in range(ranks):
            differences = [
                sum(sums[k, f, b, 0] - sums[best, f, b, 0] for f in range(folds))
                / (folds * in_a_bucket)
                for b in range(BUCKETS)
            ]
            variance = np.var(differences, ddof=1) / BUCKETS
            if folds > 1:
                others = [a - b for a, b in zip(per_fold[k], per_fold[best], strict=True)]
                variance += np.var(others, ddof=1) / folds
            assert found.standard_errors[k] == pytest.approx(np.sqrt(variance))
        assert found.standard_errors[best] == 0

    def test_the_standard_error_is_that_of_the_difference(self):
        """Variation between images that is the same for both ranks does not count."""
        rng, n = np.random.default_rng(0), 300
        cells = np.full((1, 1, BUCKETS), 100.0)
        found = []
        for _ in range(n):
            images = 50 * rng.gamma(5, size=BUCKETS)
            both = images + rng.normal(0, [[10], [20]], (2, BUCKETS)) + [[0], [30]]
            sums = np.stack([both[:, None], np.broadcast_to(cells, (2, 1, BUCKETS))], axis=-1)
            found.append(HeldOutErrors.from_sums(sums))
        spread = np.std([one.means[1] - one.means[0] for one in found])
        predicted = np.mean([one.standard_errors.max() for one in found])
        assert predicted == pytest.approx(spread, rel=0.15)

    @pytest.mark.parametrize(
        ("means", "errors", "chosen"),
        [
            ([5, 4, 3, 4], [0.1, 0.1, 0, 0.1], 2),
            ([5, 3.1, 3, 4], [0.1, 0.2, 0, 0.1], 1),
            ([3.2, 3.1, 3, 3], [0.1, 0.1, 0, 0.1], 1),  # within its own error
            ([3.05, 5, 3, 3], [0.1, 0.1, 0, 0.1], 0),
            ([3, 3, 3], [0, 0, 0], 0),
        ],
    )
    def test_the_fewest_within_one_standard_error(self, means, errors, chosen):
        assert HeldOutErrors(np.array(means), np.array(errors)).chosen == chosen


def state_of(H, loss=1.0, held_out=None):
    state = State(H, H, H, losses=(2 * loss, loss), divergence=loss)
    return state if held_out is None else State(**{**vars(state), "held_out": held_out})


class TestTable:
    def fits(self, rng, rank, folds=(0, 1)):
        full = {seed: state_of(rng.random((rank, 9)), 5.0 - seed % 2) for seed in range(3)}
        sums = sums_of(rng, 1, 5)[0]
        return RankFits(
            full, {i: state_of(rng.random((rank, 9)), 9.0, sums[i]) for i in folds}, 450
        )

    def test_has_a_row_for_each_number(self):
        rng = np.random.default_rng(0)
        fits = [self.fits(rng, 2), self.fits(rng, 3)]
        held_out = held_out_errors(fits)
        rows = score_ranks([2, 3], fits, held_out)
        for i, (row, rank_fits) in enumerate(zip(rows, fits, strict=True)):
            assert row.n_components == i + 2
            assert row.seed == rank_fits.best_seed == 1
            assert row.passes == 2
            assert row.error == pytest.approx(np.sqrt(8))
            assert row.error_per_cell == pytest.approx(np.sqrt(8 / 450))
            assert row.held_out_error == pytest.approx(np.sqrt(2 * held_out.means[i]))
            # A step of the mean divergence by its error moves the root by the error of the root.
            step = 1e-4 * held_out.standard_errors[i]
            moved = np.sqrt(2 * (held_out.means[i] + step)) - row.held_out_error
            assert row.standard_error == pytest.approx(1e4 * moved, rel=1e-3, abs=1e-12)
            H = [rank_fits.full[seed].H for seed in (1, 0, 2)]
            values = silhouettes([*H, *(state.H for state in rank_fits.with_holdout.values())])
            assert row.stability == pytest.approx(values.mean())
            assert row.least_stable == pytest.approx(values.min())
        assert rows[0].as_dict()["held_out_error"] == rows[0].held_out_error

    def test_only_hidden_cells_that_all_ranks_have_count(self):
        rng = np.random.default_rng(0)
        fits = [self.fits(rng, 2, (0, 1, 2)), self.fits(rng, 3, (1, 2, 4))]
        common = np.array(
            [[rank_fits.with_holdout[i].held_out for i in (1, 2)] for rank_fits in fits]
        )
        assert (held_out_errors(fits).means == HeldOutErrors.from_sums(common).means).all()
        apart = [self.fits(rng, 2, (0,)), self.fits(rng, 3, (1,))]
        assert held_out_errors(apart) is None

    def test_without_hidden_cells_or_other_fits(self):
        H = np.ones((2, 5))
        fits = [RankFits({7: state_of(H)}, {}, 10)]
        assert held_out_errors(fits) is None
        (row,) = score_ranks([2], fits, None)
        assert (row.held_out_error, row.standard_error, row.stability) == (None, None, None)
        assert (row.least_stable, row.seed) == (None, 7)

    def test_of_a_perfect_fit(self):
        sums = np.stack([np.zeros((1, 1, BUCKETS)), np.ones((1, 1, BUCKETS))], axis=-1)
        held_out = HeldOutErrors.from_sums(sums)
        (row,) = score_ranks([2], [RankFits({0: state_of(np.ones((2, 5)), 0.0)}, {}, 10)], held_out)
        assert (row.error, row.held_out_error, row.standard_error) == (0, 0, 0)


def score(n_components, stability=0.95, least_stable=None, held_out_error=0.5):
    least = stability if least_stable is None else least_stable
    return Score(n_components, 10.0, 0.1, held_out_error, 0.01, stability, least, 9, 0)


def choice(means, errors, ranks=(2, 3, 4, 5), stability=None):
    """Return the choice for given errors and pairs of mean and least stability."""
    stability = stability or [(0.95, 0.9)] * len(ranks)
    scores = [score(k, *stable) for k, stable in zip(ranks, stability, strict=True)]
    return choose(scores, HeldOutErrors(np.array(means, float), np.array(errors, float)))


FALLS, TURNS, FLAT = [9, 7, 5, 3], [9, 3, 5, 6], [9, 3.1, 3, 3.2]


class TestChoice:
    """Whole reasons, so that they are read as a user reads them."""

    def check(self, found, n_components, lowest, clear, reason):
        assert (found.n_components, found.lowest, found.clear) == (n_components, lowest, clear)
        assert found.reason == reason

    def test_clear(self):
        self.check(
            choice(TURNS, [2, 0, 0.1, 0.1]),
            3,
            3,
            True,
            "3 components: their error on held-out cells is the lowest; that of 2 is 3.0 standard "
            "errors above it. From other starts and samples all components come out the same "
            "(stability 0.95, of the least stable 0.90).",
        )

    def test_the_smallest_there_is(self):
        self.check(
            choice([3, 5], [0, 1], (1, 2), [(0.97, 0.97)] * 2),
            1,
            1,
            True,
            "1 component: its error on held-out cells is the lowest. From other starts and samples "
            "it comes out the same (stability 0.97).",
        )

    def test_fewer_within_one_standard_error(self):
        self.check(
            choice(FLAT, [2, 0.2, 0, 0.2], stability=[(0.95, 0.6)] * 4),
            3,
            4,
            True,
            "3 components: the fewest whose error on held-out cells is within one standard "
            "error of "
            "the lowest, which is that of 4; the error of 2 is 3.0 standard errors above it. From "
            "other starts and samples most components come out the same (stability 0.95, of the "
            "least stable 0.60).",
        )

    def test_components_that_are_stable_in_part(self):
        found = choice(TURNS, [2, 0, 0.1, 0.1], stability=[(0.6, 0.1)] * 4)
        assert not found.clear
        assert found.reason.endswith(
            "But some components differ from fit to fit (the least stable 0.10)."
        )

    def test_a_smaller_number_that_is_stable(self):
        stability = [(0.9, 0.9), (0.95, 0.1), (0.6, 0.1), (0.6, 0.1)]
        found = choice(TURNS, [2, 0, 0.1, 0.1], stability=stability)
        assert (found.n_components, found.clear) == (3, False)
        assert found.reason.endswith("0.10), while those of 2 all come out the same.")

    def test_the_largest_tried(self):
        self.check(
            choice(FALLS, [1, 1, 1, 0]),
            5,
            5,
            False,
            "No clear answer. 5 components: their error on held-out cells is the lowest; that of 4 "
            "is 2.0 standard errors above it. But the error still falls at 5, the largest number "
            "tried: try larger ones; if it never stops falling, the number is a trade-off between "
            "error and cost.",
        )

    def test_fewer_than_the_largest_which_is_lowest(self):
        self.check(
            choice([9, 3.1, 3.05, 3], [1, 0.2, 0.2, 0]),
            3,
            5,
            False,
            "No clear answer. 3 components: the fewest whose error on held-out cells is within one "
            "standard error of the lowest, which is that of 5; the error of 2 is 6.0 standard "
            "errors above it. But the lowest is that of the largest number tried: try larger ones.",
        )

    @pytest.mark.parametrize("lowest", [0, 1])
    def test_the_smallest_tried(self, lowest):
        means = [3, 4, 5, 6] if lowest == 0 else [3.1, 3, 5, 6]
        found = choice(means, [0.2, 0.2, 1, 1])
        assert (found.n_components, found.lowest, found.clear) == (2, 2 + lowest, False)
        assert found.reason.startswith("No clear answer. 2 components: the")
        assert found.reason.endswith(". But 2 is the smallest number tried: try smaller ones.")

    def test_a_single_number(self):
        self.check(
            choice([3], [0], (4,)),
            4,
            4,
            False,
            "No clear answer. 4 components: their error on held-out cells is 0.5. But no "
            "other number"
            " was tried.",
        )

    def test_components_that_differ(self):
        self.check(
            choice(TURNS, [2, 0, 0.1, 0.1], stability=[(0.31, 0.1)] * 4),
            3,
            3,
            False,
            "No clear answer. 3 components: their error on held-out cells is the lowest; "
            "that of 2 is"
            " 3.0 standard errors above it. But the components differ from fit to fit (stability "
            "0.31): take them as a basis, not as parts of the images.",
        )

    def test_several_doubts(self):
        found = choice([3, 4], [0, 1], (2, 3), [(0.2, 0.1)] * 2)
        assert "try smaller ones; and the components differ from fit to fit" in found.reason

    def test_only_what_is_chosen_need_be_stable(self):
        stability = [(0.1, 0.1), (0.9, 0.9), (0.1, 0.1), (0.1, 0.1)]
        assert choice(TURNS, [2, 0, 0.1, 0.1], stability=stability).clear

    def test_nothing_is_said_of_stability_that_is_not_known(self):
        scores = [Score(k, 1.0, 1.0, 1.0, 1.0, None, None, 9, 0) for k in (2, 3, 4)]
        found = choose(scores, HeldOutErrors(np.array([9.0, 3, 5]), np.array([1.0, 0, 1])))
        assert found.clear
        assert "stability" not in found.reason


class TestChoiceByStability:
    check = TestChoice.check

    def choice(self, stability, ranks=(2, 3, 4, 5)):
        return choose([score(k, *s) for k, s in zip(ranks, stability, strict=True)], None)

    def test_the_most_that_are_stable(self):
        self.check(
            self.choice([(0.99, 0.98), (0.6, 0.2), (0.95, 0.9), (0.9, 0.3)]),
            4,
            None,
            True,
            "4 components: the largest number whose components are all the same from every start "
            "(stability of the least stable 0.90). No cells were held out.",
        )

    def test_the_largest_tried(self):
        self.check(
            self.choice([(0.99, 0.98), (0.6, 0.2), (0.9, 0.3), (0.95, 0.9)]),
            5,
            None,
            False,
            "No clear answer. 5 components: the largest number whose components are all the same "
            "from every start (stability of the least stable 0.90). No cells were held out. But 5 "
            "is the largest number tried: try larger ones.",
        )

    def test_none_is_stable(self):
        self.check(
            self.choice([(0.5, 0.1), (0.61, 0.2), (0.6, 0.3), (0.4, 0.1)]),
            3,
            None,
            False,
            "No clear answer. 3 components: the highest mean stability, 0.61. No cells were "
            "held out. But with every number, some components differ from start to start.",
        )

    @pytest.mark.parametrize("least", [0.9, 0.0])
    def test_a_single_number(self, least):
        self.check(
            self.choice([(0.95, least)], (4,)),
            4,
            None,
            False,
            f"No clear answer. 4 components: stability 0.95, of the least stable {least:.2f}. No "
            "cells were held out. But no other number was tried.",
        )
