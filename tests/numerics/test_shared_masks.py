"""Runs of images with equal masks: weights as of each image alone, and batches of a sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from dnmf.numerics import masked
from dnmf.numerics.block import Block
from dnmf.numerics.holdout import GROUPS, Holdout
from dnmf.numerics.masked import MIN_IMAGES_PER_MASK, MaskedQuadratic
from dnmf.numerics.objective import Projection
from dnmf.numerics.statistics import Basis
from dnmf.solvers.warm_start import _share_masks, _shuffled

P = 30

seeds = st.integers(0, 10**6)


def groups_of_images(seed, n_groups=3, rows=10):
    """Draw images in groups, with a mask for each group that shows about two pixels in three."""
    rng = np.random.default_rng(seed)
    X, seen = rng.random((n_groups * rows, P)), rng.random((n_groups, P)) > 1 / 3
    return X, seen.repeat(rows, axis=0)


def exact_weights(x, H, l1, l2):
    """Compute exact weights of an image, with penalties as additional equations."""
    d, root = len(H), np.sqrt(l2)
    A = np.vstack([H.T, root * np.eye(d)])
    return nnls(A, np.concatenate([x, np.full(d, -l1 / root if l1 else 0.0)]))[0]


def weights_of(X, seen, H, make_basis=Basis.for_pixels, in_runs=True, **penalties):
    """Solve for weights in runs or image by image, and check that this is how it is done."""
    calls = []

    class Recorded(MaskedQuadratic):
        def _solve_runs(self, *args):
            calls.append(True)
            return super()._solve_runs(*args)

    with pytest.MonkeyPatch.context() as patch:
        if not in_runs:
            patch.setattr(masked, "MIN_IMAGES_PER_MASK", 10**9)
        basis = make_basis(H, X.dtype)
        block = Block(X * seen, 0, seen)
        W = Projection(Recorded(max_sweeps=20_000, W_tolerance=1e-13, **penalties), basis).weights(
            block
        )
    assert bool(calls) == in_runs
    return W


@pytest.mark.parametrize("make_basis", [Basis.from_H, Basis.for_pixels])
@given(seeds, st.integers(1, 5), st.sampled_from([(0, 0), (0, 0.5), (0.3, 0.5)]))
def test_weights_are_exact(make_basis, seed, d, penalty):
    l1, l2 = penalty
    X, seen = groups_of_images(seed)
    H = np.random.default_rng(seed + 1).random((d, P))
    W = weights_of(X, seen, H, make_basis, l1_W=l1, l2_W=l2)
    exact = [exact_weights(x[m], H[:, m], l1, l2) for x, m in zip(X, seen, strict=True)]
    np.testing.assert_allclose(W, exact, atol=1e-5)
    separate = weights_of(X, seen, H, make_basis, in_runs=False, l1_W=l1, l2_W=l2)
    np.testing.assert_allclose(W, separate, atol=1e-5)


@given(seeds)
def test_weights_with_an_l1_penalty_are_optimal(seed):
    X, seen = groups_of_images(seed)
    H, l1 = np.random.default_rng(seed + 1).random((3, P)), 0.3
    W = weights_of(X, seen, H, l1_W=l1)
    slopes = ((W @ H - X) * seen) @ H.T + l1
    assert (W >= 0).all()
    assert (slopes > -1e-5).all()
    assert (np.abs(slopes[W > 0]) < 1e-5).all()


@pytest.mark.parametrize("make_basis", [Basis.from_H, Basis.for_pixels])
@pytest.mark.parametrize("penalties", [{}, {"l1_W": 0.1}, {"l2_W": 0.1}])
def test_hidden_components_have_zero_weights(make_basis, penalties):
    X, seen = groups_of_images(0)
    H = np.random.default_rng(1).random((4, P))
    H[2, 5:] = 0
    seen[10:20, :5] = False  # hides component 2 in the second group
    seen[20:] = False  # hides all of the last group
    W = weights_of(X, seen, H, make_basis, **penalties)
    assert (W[10:20, 2] == 0).all()
    assert (W[20:] == 0).all()
    assert (W[:10, 2] > 0).any()
    known = weights_of(X, seen, np.delete(H, 2, axis=0), make_basis, **penalties)
    np.testing.assert_allclose(np.delete(W[10:], 2, axis=1), known[10:], atol=1e-5)


def test_nearly_hidden_components_have_zero_weights():
    X, seen = groups_of_images(0, 1)
    H = np.random.default_rng(1).random((2, P))
    seen[:, 0], seen[:, 1:] = False, True
    H[1] = [1, *[1e-6] * (P - 1)]
    assert (weights_of(X, seen, H)[:, 1] == 0).all()


def test_uint8_images_and_float32_components():
    X, seen = groups_of_images(3)
    X = (255 * X).astype(np.uint8)
    H = np.random.default_rng(4).random((4, P)).astype(np.float32)
    W = weights_of(X, seen, H)
    assert W.dtype == np.float32
    exact = [nnls(H[:, m].T.astype(float), x[m])[0] for x, m in zip(X, seen, strict=True)]
    np.testing.assert_allclose(W, exact, rtol=1e-2, atol=0.1)


@pytest.mark.parametrize("rows", [MIN_IMAGES_PER_MASK, MIN_IMAGES_PER_MASK - 1])
def test_short_runs_are_solved_image_by_image(rows):
    X, seen = groups_of_images(0, 3, rows)
    weights_of(X, seen, np.ones((1, P)), in_runs=rows >= MIN_IMAGES_PER_MASK)


class TestBatchesOfASample:
    @given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 40), seeds)
    def test_are_a_permutation_of_few_parts_each(self, lengths, size, seed):
        parts = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
        batches = _shuffled(parts, size, np.random.default_rng(seed))
        rows = np.concatenate(batches)
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(range(sum(lengths)))
        if len(batches) > 1 or sum(lengths) >= size:
            assert sum(lengths) - len(rows) < size  # all but a last batch that is too small
            assert all(size <= len(batch) for batch in batches)
        else:
            assert len(rows) == sum(lengths)
        assert all(len(batch) < 3 * size for batch in batches)
        part_of = np.repeat(np.arange(len(lengths)), lengths)
        fewest = min(size, *lengths)
        for batch in batches:
            assert len(set(part_of[batch])) <= -(-size // fewest)

    def test_of_one_part_have_all_rows(self):
        (one,) = _shuffled([np.arange(7)], 10, np.random.default_rng(0))
        assert sorted(one) == list(range(7))
        batches = _shuffled([np.arange(50)], 20, np.random.default_rng(0))
        assert [len(batch) for batch in batches] == [25, 25]
        assert sorted(np.concatenate(batches)) == list(range(50))
        assert not (np.concatenate(batches) == range(50)).all()

    def test_are_different_each_time(self):
        parts, rng = np.split(np.arange(1000), 10), np.random.default_rng(0)
        first, second = (_shuffled(parts, 50, rng) for _ in range(2))
        assert len(first) == len(second) == 20
        assert [batch[0] // 100 for batch in first] != [batch[0] // 100 for batch in second]
        assert not (np.sort(np.concatenate(first[:10])) == np.arange(500)).all()

    def test_parts_are_images_with_equal_masks(self):
        X = np.ones((GROUPS * 40, P), np.uint8)
        shown = Holdout(0, 0.2)(Block(X)).visible
        parts = _share_masks(shown)
        assert len(parts) == GROUPS
        assert (np.concatenate(parts) == np.arange(len(X))).all()
        for rows in parts:
            assert (shown.observed[rows] == shown.observed[rows[0]]).all()

    def test_short_runs_are_one_part(self):
        few = Holdout(0, 0.2)(Block(np.ones((100, P), np.uint8))).visible
        own = Block(np.ones((50, P)), 0, np.random.default_rng(0).random((50, P)) > 0.5)
        plain = Block(np.ones((50, P)))
        for block in (few, own, plain):
            (rows,) = _share_masks(block)
            assert (rows == np.arange(len(block))).all()
