"""Hidden cells and images drawn again: by numbers alone, and without a trace in what is left."""

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


def hidden_in(resampled):
    """The hidden cells, as rows of the table of all images."""
    return resampled.hidden_pixels[resampled.groups]


def in_order(resampled, values):
    """Values of images in the order of the numbers of these."""
    return values[np.argsort(resampled.whole.row_numbers)]


@st.composite
def cut_images(draw):
    """Images, and blocks that they are cut into, which need not be in order nor side by side."""
    n, p = draw(st.integers(1, 60)), draw(st.integers(1, 50))
    order = draw(st.permutations(range(n)))
    edges = sorted(draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
    return images(n, p, draw(st.integers(0, 99))), np.split(np.array(order), edges)


class TestWhatIsHidden:
    @given(cut_images(), seeds, shares)
    def test_does_not_depend_on_blocks(self, cut, seed, share):
        X, parts = cut
        resample = Holdout(seed, share)
        whole = resample(Block(X))
        expected = {
            "hidden": in_order(whole, hidden_in(whole)),
            "draws": in_order(whole, whole.visible.weights),
            "buckets": in_order(whole, whole.buckets),
            "X": in_order(whole, whole.visible.X),
        }
        for rows in parts:
            ascending = (np.diff(rows) == 1).all()
            block = Block(X[rows], rows[0]) if ascending else Block(X).with_row_numbers().take(rows)
            part = resample(block)
            assert sorted(part.whole.row_numbers) == sorted(rows)
            assert (part.visible.row_numbers == part.whole.row_numbers).all()
            assert (X[part.whole.row_numbers] == part.whole.X).all()
            found = (hidden_in(part), part.visible.weights, part.buckets, part.visible.X)
            for values, known in zip(found, expected.values(), strict=True):
                assert (values == known[part.whole.row_numbers]).all()

    @given(cut_images(), seeds)
    def test_nor_on_where_X_is_cut(self, cut, seed):
        X, parts = cut
        resample, start = Holdout(seed, 0.25), 0
        whole = resample(Block(X))
        for rows in parts:
            part = resample(Block(X[start : start + len(rows)], start))
            for name in ("X", "observed", "weights"):
                known = in_order(whole, getattr(whole.visible, name))
                found = in_order(part, getattr(part.visible, name))
                assert (found == known[start : start + len(rows)]).all()
            start += len(rows)

    @given(st.integers(1, 300), seeds, shares)
    def test_is_the_same_share_of_every_image_and_every_pixel(self, p, seed, share):
        table = Holdout(seed, share).hidden_pixels(p)
        assert table.shape == (GROUPS, p)
        assert (np.abs(table.sum(axis=1) - share * p) < 1).all()
        assert (table.sum(axis=0) == round(share * GROUPS)).all()

    @given(st.integers(2, 19), seeds, shares)
    def test_is_never_all_of_an_image(self, p, seed, share):
        assert not Holdout(seed, share).hidden_pixels(p).all(axis=1).any()

    def test_is_another_for_another_seed(self):
        X, p = images(2000, 400), 400
        one, other = (Holdout(seed, 0.2)(Block(X)) for seed in (3, 4))
        both = in_order(one, hidden_in(one)) & in_order(other, hidden_in(other))
        assert both.mean() == pytest.approx(0.04, abs=0.002)
        again = Holdout(3, 0.2)(Block(X))
        assert (hidden_in(again) == hidden_in(one)).all()
        assert not (one.hidden_pixels[0] == other.hidden_pixels[0]).all()
        # All groups of images are there, and none has more than its share by more than chance.
        counts = np.bincount(one.groups, minlength=GROUPS)
        assert (np.abs(counts - 100) < 5 * np.sqrt(100)).all()
        assert p == one.hidden_pixels.shape[1]

    @given(cut_images(), seeds, shares)
    def test_leaves_no_trace(self, cut, seed, share):
        X, _ = cut
        resample = Holdout(seed, share)
        known = resample(Block(X))
        order = known.whole.row_numbers
        other = X.copy()
        other[order] = np.where(hidden_in(known), 255 - X[order], X[order])
        found = resample(Block(other))
        assert (known.visible.X[hidden_in(known)] == 0).all()
        for name in ("X", "observed", "weights"):
            assert (getattr(found.visible, name) == getattr(known.visible, name)).all()

    @given(cut_images(), seeds, shares)
    def test_is_besides_what_is_missing(self, cut, seed, share):
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


class TestDraws:
    N = 40_000

    def draws(self, seed):
        resampled = Holdout(seed, 0.1)(Block(np.zeros((self.N, 2), np.uint8)))
        return tuple(
            in_order(resampled, values)
            for values in (resampled.visible.weights, resampled.groups, resampled.buckets)
        )

    @pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
    def test_follow_poissons_law(self, seed):
        draws, *_ = self.draws(seed)
        assert draws.mean() == pytest.approx(1, abs=0.02)
        assert draws.var() == pytest.approx(1, abs=0.04)
        counts = np.bincount(draws.astype(int), minlength=5)[:5] / self.N
        np.testing.assert_allclose(counts, poisson.pmf(range(5), 1), atol=0.01)

    def test_have_nothing_to_do_with_other_seeds_or_with_what_is_hidden(self):
        one, groups, buckets = self.draws(0)
        other, others, same = self.draws(1)
        for a, b in ((one, other), (one, groups), (one, buckets), (groups, others)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(self.N)
        assert (buckets == same).all()  # for errors of several seeds to be compared
        assert np.bincount(buckets).shape == (BUCKETS,)
        assert (np.abs(np.bincount(buckets) - self.N / BUCKETS) < 5 * 25).all()


def divergence(x, y, beta):
    return 0.5 * (x - y) ** 2 if beta == 2 else kl_div(x, y)


class TestHeldOut:
    @given(cut_images(), seeds, shares, st.sampled_from([1, 2]), st.floats(0.1, 2), st.booleans())
    def test_is_what_it_says(self, cut, seed, share, beta, bright, aside):
        X, d = cut[0].astype(float), 3
        rng = np.random.default_rng(seed)
        H, W = rng.random((d, X.shape[1])) + 0.1, 100 * bright * (rng.random((len(X), d)) + 0.1)
        seen, weights = np.ones(X.shape, bool), np.ones(len(X))
        if aside:
            seen, weights = rng.random(X.shape) > 0.3, rng.random(len(X))
        block = Block(X * seen, 0, seen, weights) if aside else Block(X)
        resampled = Holdout(seed, share)(block)
        order = resampled.whole.row_numbers
        found = resampled.held_out_sums(W[order], Basis.from_H(H, np.dtype(float)), beta)

        expected = np.zeros((BUCKETS, 2))
        for i, hidden, bucket in zip(order, hidden_in(resampled), resampled.buckets, strict=True):
            top = X[i, seen[i] & ~hidden].max(initial=0)
            for q in np.flatnonzero(hidden & seen[i]):
                y = min(W[i] @ H[:, q], top)
                # Where nothing is visible, Kullback-Leibler asks for more than 0.
                y = max(y, 1e-7 * (X[i] * seen[i]).mean()) if beta == 1 else y
                expected[bucket] += weights[i] * divergence(X[i, q], y, beta), weights[i]
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_the_cap_is_what_was_visible_of_the_image(self):
        X = np.array([[5.0] * 40, [7.0] * 40])
        resampled = Holdout(0, 0.1)(Block(X))
        wild = resampled.held_out_sums(
            np.full((2, 1), 1e9), Basis.from_H(np.ones((1, 40)), X.dtype), 2
        )
        assert wild.sum(axis=0).tolist() == [0, 8]

    @given(cut_images(), seeds, st.sampled_from([1, 2]))
    def test_adds_up_over_blocks(self, cut, seed, beta):
        X, parts = cut
        resample, rng = Holdout(seed, 0.25), np.random.default_rng(seed)
        W, weights = rng.random((len(X), 2)), rng.random(len(X))
        basis = Basis.from_H(255 * rng.random((2, X.shape[1])), np.dtype(float))

        def sums(rows):
            part = resample(Block(X, 0, None, weights).with_row_numbers().take(rows))
            return part.held_out_sums(W[part.whole.row_numbers], basis, beta)

        whole = sums(np.arange(len(X)))
        np.testing.assert_allclose(sum(map(sums, parts)), whole, rtol=1e-5, atol=1e-9)


class TestNumbers:
    def test_are_kept_by_images_that_are_selected(self):
        block = Block(images(9, 3), 100)
        assert block.row_numbers.tolist() == list(range(100, 109))
        some = block.with_row_numbers().take([5, 2, 7]).take(np.array([True, False, True]))
        assert some.row_numbers.tolist() == [105, 107]
        assert (block.X[[5, 7]] == some.X).all()

    @pytest.mark.parametrize("rows", [30, 10**6])
    @pytest.mark.parametrize("here", [True, False])
    @pytest.mark.parametrize("some_weigh_nothing", [True, False])
    def test_of_a_sample_are_those_of_its_images(self, rows, here, some_weigh_nothing, monkeypatch):
        monkeypatch.setattr("dnmf.solvers.sample.SAMPLE_ROWS", rows)
        monkeypatch.setattr("dnmf.solvers.sample.SAMPLE_BLOCKS", 3)
        X = np.arange(100, dtype=np.uint8)[:, None] + np.zeros((1, 40), np.uint8)
        weights = np.arange(100) % 3 if some_weigh_nothing else None
        blocks = blocks_of(X if here else da.from_array(X, chunks=(20, -1)), weights)
        sample, _ = take_sample(blocks, seed=2)
        assert len(sample) > 10
        assert (sample.row_numbers == sample.X[:, 0]).all()
        # The warm-up is shown the same cells as the passes.
        resample = Holdout(5, 0.2)
        shown, whole = resample(sample), resample(Block(X, 0, None, weights))
        order = shown.visible.row_numbers
        for name in ("X", "observed", "weights"):
            known = in_order(whole, getattr(whole.visible, name))
            assert (getattr(shown.visible, name) == known[order]).all()
