"""Hidden cells and bootstrap samples: they depend on row and pixel numbers alone."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import kl_div
from scipy.stats import poisson

from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.block import Block
from dnmf.numerics.holdout import BUCKETS, GROUPS, Holdout
from dnmf.numerics.statistics import Basis
from dnmf.solvers.sample import take_sample

SHARES = [0.05, 0.1, 0.25, 0.3, 0.5]
seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from(SHARES)


def images(n, p, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (n, p)).astype(np.uint8)


def hidden_cells(resampled):
    """Return whether each cell is hidden, an array of shape (images, pixels)."""
    return resampled.hidden_pixels[resampled.groups]


def by_row_number(resampled, values):
    """Sort values of images by the row numbers of the images."""
    return values[np.argsort(resampled.whole.row_numbers)]


@st.composite
def images_in_blocks(draw):
    """Draw images and a partition of their rows into blocks, in any order."""
    n, p = draw(st.integers(1, 60)), draw(st.integers(1, 50))
    order = draw(st.permutations(range(n)))
    edges = sorted(draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
    return images(n, p, draw(st.integers(0, 99))), np.split(np.array(order), edges)


class TestHiddenCells:
    @given(images_in_blocks(), seeds, shares)
    def test_do_not_depend_on_blocks(self, cut, seed, share):
        X, parts = cut
        resample = Holdout(seed, share)
        whole = resample(Block(X))
        expected = {
            "hidden": by_row_number(whole, hidden_cells(whole)),
            "draws": by_row_number(whole, whole.visible.weights),
            "buckets": by_row_number(whole, whole.buckets),
            "X": by_row_number(whole, whole.visible.X),
        }
        for rows in parts:
            ascending = (np.diff(rows) == 1).all()
            block = Block(X[rows], rows[0]) if ascending else Block(X).with_row_numbers().take(rows)
            part = resample(block)
            assert sorted(part.whole.row_numbers) == sorted(rows)
            assert (part.visible.row_numbers == part.whole.row_numbers).all()
            assert (X[part.whole.row_numbers] == part.whole.X).all()
            found = (hidden_cells(part), part.visible.weights, part.buckets, part.visible.X)
            for values, known in zip(found, expected.values(), strict=True):
                assert (values == known[part.whole.row_numbers]).all()

    @given(images_in_blocks(), seeds)
    def test_do_not_depend_on_the_first_row_of_a_block(self, cut, seed):
        X, parts = cut
        resample, start = Holdout(seed, 0.25), 0
        whole = resample(Block(X))
        for rows in parts:
            part = resample(Block(X[start : start + len(rows)], start))
            for name in ("X", "observed", "weights"):
                known = by_row_number(whole, getattr(whole.visible, name))
                found = by_row_number(part, getattr(part.visible, name))
                assert (found == known[start : start + len(rows)]).all()
            start += len(rows)

    @given(st.integers(1, 300), seeds, shares)
    def test_are_the_same_share_of_every_image_and_pixel(self, p, seed, share):
        table = Holdout(seed, share).hidden_pixels(p)
        assert table.shape == (GROUPS, p)
        assert (np.abs(table.sum(axis=1) - share * p) < 1).all()
        assert (table.sum(axis=0) == round(share * GROUPS)).all()

    @given(st.integers(2, 19), seeds, shares)
    def test_are_never_all_pixels_of_an_image(self, p, seed, share):
        assert not Holdout(seed, share).hidden_pixels(p).all(axis=1).any()

    def test_depend_on_the_seed(self):
        X, p = images(2000, 400), 400
        one, other = (Holdout(seed, 0.2)(Block(X)) for seed in (3, 4))
        both = by_row_number(one, hidden_cells(one)) & by_row_number(other, hidden_cells(other))
        assert both.mean() == pytest.approx(0.04, abs=0.002)
        again = Holdout(3, 0.2)(Block(X))
        assert (hidden_cells(again) == hidden_cells(one)).all()
        assert not (one.hidden_pixels[0] == other.hidden_pixels[0]).all()
        # All groups of images have about the same size.
        counts = np.bincount(one.groups, minlength=GROUPS)
        assert (np.abs(counts - 100) < 5 * np.sqrt(100)).all()
        assert p == one.hidden_pixels.shape[1]

    @given(images_in_blocks(), seeds, shares)
    def test_have_no_influence_on_visible_ones(self, cut, seed, share):
        X, _ = cut
        resample = Holdout(seed, share)
        known = resample(Block(X))
        order = known.whole.row_numbers
        other = X.copy()
        other[order] = np.where(hidden_cells(known), 255 - X[order], X[order])
        found = resample(Block(other))
        assert (known.visible.X[hidden_cells(known)] == 0).all()
        for name in ("X", "observed", "weights"):
            assert (getattr(found.visible, name) == getattr(known.visible, name)).all()

    @given(images_in_blocks(), seeds, shares)
    def test_add_to_missing_pixels_and_weights(self, cut, seed, share):
        X, _ = cut
        rng = np.random.default_rng(seed)
        seen, weights = rng.random(X.shape) > 0.3, rng.random(len(X))
        plain = Holdout(seed, share)(Block(X))
        found = Holdout(seed, share)(Block(X * seen, 0, seen, weights))
        order = found.whole.row_numbers
        assert (order == plain.whole.row_numbers).all()
        assert (found.whole.observed == seen[order]).all()
        assert (found.whole.weights == weights[order]).all()
        assert (found.visible.observed == plain.visible.observed & seen[order]).all()
        assert (plain.visible.X * seen[order] == found.visible.X).all()
        assert (found.visible.weights == plain.visible.weights * weights[order]).all()


class TestBootstrapSample:
    N = 40_000

    def draws(self, seed):
        resampled = Holdout(seed, 0.1)(Block(np.zeros((self.N, 2), np.uint8)))
        return tuple(
            by_row_number(resampled, values)
            for values in (resampled.visible.weights, resampled.groups, resampled.buckets)
        )

    @pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
    def test_draws_have_a_poisson_distribution(self, seed):
        draws, *_ = self.draws(seed)
        assert draws.mean() == pytest.approx(1, abs=0.02)
        assert draws.var() == pytest.approx(1, abs=0.04)
        counts = np.bincount(draws.astype(int), minlength=5)[:5] / self.N
        np.testing.assert_allclose(counts, poisson.pmf(range(5), 1), atol=0.01)

    def test_draws_are_independent_of_other_seeds_and_of_groups(self):
        one, groups, buckets = self.draws(0)
        other, others, same = self.draws(1)
        for a, b in ((one, other), (one, groups), (one, buckets), (groups, others)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(self.N)
        assert (buckets == same).all()  # so that errors for several seeds can be compared
        assert np.bincount(buckets).shape == (BUCKETS,)
        assert (np.abs(np.bincount(buckets) - self.N / BUCKETS) < 5 * 25).all()


def divergence(x, y, beta):
    return 0.5 * (x - y) ** 2 if beta == 2 else kl_div(x, y)


class TestHeldOutSums:
    @given(
        images_in_blocks(), seeds, shares, st.sampled_from([1, 2]), st.floats(0.1, 2), st.booleans()
    )
    def test_match_their_definition(self, cut, seed, share, beta, brightness, masked):
        X, d = cut[0].astype(float), 3
        rng = np.random.default_rng(seed)
        H, W = rng.random((d, X.shape[1])) + 0.1, 100 * brightness * (rng.random((len(X), d)) + 0.1)
        seen, weights = np.ones(X.shape, bool), np.ones(len(X))
        if masked:
            seen, weights = rng.random(X.shape) > 0.3, rng.random(len(X))
        block = Block(X * seen, 0, seen, weights) if masked else Block(X)
        resampled = Holdout(seed, share)(block)
        order = resampled.whole.row_numbers
        found = resampled.held_out_sums(W[order], Basis.from_H(H, np.dtype(float)), beta)

        expected, cells = np.zeros((BUCKETS, 2)), hidden_cells(resampled)
        for i, hidden, bucket in zip(order, cells, resampled.buckets, strict=True):
            top = X[i, seen[i] & ~hidden].max(initial=0)
            for q in np.flatnonzero(hidden & seen[i]):
                y = min(W[i] @ H[:, q], top)
                # Kullback-Leibler needs reconstructions above 0, also where nothing is visible.
                y = max(y, 1e-7 * (X[i] * seen[i]).mean()) if beta == 1 else y
                expected[bucket] += weights[i] * divergence(X[i, q], y, beta), weights[i]
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_reconstructions_are_clipped_at_the_brightest_visible_pixel(self):
        X = np.array([[5.0] * 40, [7.0] * 40])
        resampled = Holdout(0, 0.1)(Block(X))
        sums = resampled.held_out_sums(
            np.full((2, 1), 1e9), Basis.from_H(np.ones((1, 40)), X.dtype), 2
        )
        assert sums.sum(axis=0).tolist() == [0, 8]

    @given(images_in_blocks(), seeds, st.sampled_from([1, 2]))
    def test_are_additive_over_blocks(self, cut, seed, beta):
        X, parts = cut
        resample, rng = Holdout(seed, 0.25), np.random.default_rng(seed)
        W, weights = rng.random((len(X), 2)), rng.random(len(X))
        basis = Basis.from_H(255 * rng.random((2, X.shape[1])), np.dtype(float))

        def sums(rows):
            part = resample(Block(X, 0, None, weights).with_row_numbers().take(rows))
            return part.held_out_sums(W[part.whole.row_numbers], basis, beta)

        whole = sums(np.arange(len(X)))
        np.testing.assert_allclose(sum(map(sums, parts)), whole, rtol=1e-5, atol=1e-9)


class TestRowNumbers:
    def test_are_kept_when_images_are_selected(self):
        block = Block(images(9, 3), 100)
        assert block.row_numbers.tolist() == list(range(100, 109))
        some = block.with_row_numbers().take([5, 2, 7]).take(np.array([True, False, True]))
        assert some.row_numbers.tolist() == [105, 107]
        assert (block.X[[5, 7]] == some.X).all()

    @pytest.mark.parametrize("rows", [30, 10**6])
    @pytest.mark.parametrize("in_memory", [True, False])
    @pytest.mark.parametrize("zero_weights", [True, False])
    def test_of_a_sample_are_those_of_its_images(self, rows, in_memory, zero_weights, monkeypatch):
        monkeypatch.setattr("dnmf.solvers.sample.SAMPLE_ROWS", rows)
        monkeypatch.setattr("dnmf.solvers.sample.SAMPLE_BLOCKS", 3)
        X = np.arange(100, dtype=np.uint8)[:, None] + np.zeros((1, 40), np.uint8)
        weights = np.arange(100) % 3 if zero_weights else None
        blocks = blocks_of(X if in_memory else da.from_array(X, chunks=(20, -1)), weights)
        sample, _ = take_sample(blocks, seed=2)
        assert len(sample) > 10
        assert (sample.row_numbers == sample.X[:, 0]).all()
        # The same cells are hidden from the warm-up as from the passes.
        resample = Holdout(5, 0.2)
        shown, whole = resample(sample), resample(Block(X, 0, None, weights))
        order = shown.visible.row_numbers
        for name in ("X", "observed", "weights"):
            known = by_row_number(whole, getattr(whole.visible, name))
            assert (getattr(shown.visible, name) == known[order]).all()
