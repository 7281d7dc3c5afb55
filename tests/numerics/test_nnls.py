"""Non-negative least squares for many images at once, against SciPy's for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import weights

from dnmf.numerics.active_set import finish_nnls
from dnmf.numerics.nnls import LANES, solve_nnls
from dnmf.numerics.objective import W_SWEEPS, W_TOLERANCE
from dnmf.numerics.quadratic import W_RELAXATION
from dnmf.numerics.statistics import compute_ridge_inverse, gram

PIXELS = 160
STARTS = {
    "zero": lambda A, G: np.zeros_like(A),
    "ridge": lambda A, G: np.maximum(compute_ridge_inverse(G) @ A, 0),
}


def images(n, d, seed, dtype=np.float64):
    """Draw noisy images of a few sparse components.

    One image and one component are zero, and two components are collinear.
    """
    rng = np.random.default_rng(seed)
    H = rng.random((d, PIXELS)) * (rng.random((d, PIXELS)) < 0.1)
    if d > 2:
        H[1], H[-1] = 0, 2 * H[0]
    X = rng.random((n, d)) * (rng.random((n, d)) < 0.4) @ H + 0.1 * rng.random((n, PIXELS))
    X[n // 2] = 0
    return X.astype(dtype), H.astype(dtype)


def solved(X, H, start, tolerance=W_TOLERANCE, sweeps=W_SWEEPS):
    A, G = np.ascontiguousarray(H @ X.T), gram(H)
    W = STARTS[start](A, G)
    energy = 0.5 * (X.astype(float) ** 2).sum(axis=1)
    ends = np.empty(len(X)), np.empty(len(X), bool)
    solve_nnls(A, G, energy, W, *ends, tolerance, sweeps, W_RELAXATION)
    assert W.dtype == X.dtype
    assert (W >= 0).all()
    return np.ascontiguousarray(W.T)


def losses(X, W, H):
    return 0.5 * ((X.astype(float) - W.astype(float) @ H.astype(float)) ** 2).sum(axis=1)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 24, 40])  # multiples of 8 and others
class TestAgainstSciPy:
    @pytest.mark.parametrize("n", [3, LANES - 1, LANES + 1, 1300])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_close_at_the_default_tolerance(self, n, d, start, dtype):
        X, H = images(n, d, n + d, dtype)
        W = solved(X, H, start)
        some = np.unique(np.linspace(0, n - 1, 150, dtype=int))  # not all: SciPy is slow
        best = losses(X[some], weights(X[some], H), H)
        assert losses(X[some], W[some], H).sum() <= (1 + 1e-4) * best.sum()
        assert (W[n // 2] == 0).all()
        assert d < 3 or not W[:, 1].any()

    def test_exact_at_a_small_tolerance(self, d, start):
        X, H = images(LANES + 100, d, d)
        W = solved(X, H, start, 1e-14, 200_000)
        best = losses(X, weights(X, H), H)
        np.testing.assert_allclose(losses(X, W, H), best, rtol=1e-8, atol=1e-12)


@settings(max_examples=30)
@given(
    d=st.integers(1, 40),
    n=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    start=st.sampled_from(sorted(STARTS)),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_any_size_and_scale(d, n, seed, start, scale):
    X, H = images(n, d, seed)
    best = losses(X, weights(X, H), H)
    exact = losses(X, scale * solved(X / scale, H, start, 1e-14, 200_000), H)
    np.testing.assert_allclose(exact, best, rtol=1e-8, atol=1e-12)
    X, H = X.astype(np.float32), H.astype(np.float32)
    rough = losses(X, scale * solved((X / scale).astype(np.float32), H, start), H)
    assert rough.sum() <= 1.001 * best.sum() + 1e-10


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
class TestOtherImages:
    """The weights of an image do not depend on the images it is solved with."""

    N, D = 1300, 13

    def pairs(self, dtype, *how):
        """Yield weights from one batch with those in another order, and of some images alone."""
        X, H = images(self.N, self.D, 0, dtype)
        order = np.random.default_rng(1).permutation(self.N)
        together, other = solved(X, H, *how), np.empty((self.N, self.D), dtype)
        other[order] = solved(X[order], H, *how)
        few = np.arange(0, self.N, 9)
        alone = np.vstack([solved(X[i : i + 1], H, *how) for i in few])
        yield X, H, together, other
        yield X[few], H, together[few], alone

    @pytest.mark.parametrize("sweeps", [1, 2, 6])
    def test_do_not_change_the_path_of_an_image(self, start, dtype, sweeps):
        """Without convergence only rounding differs."""
        for _, _, together, other in self.pairs(dtype, start, 0.0, sweeps):
            size = together.max(axis=1, keepdims=True)
            limit = 1e-4 if dtype == np.float32 else 1e-11
            assert (np.abs(other - together) <= limit * size).all()

    def test_do_not_change_where_an_image_converges(self, start, dtype):
        """Except for gains within rounding of the tolerance, where it may need one more sweep."""
        for X, H, together, other in self.pairs(dtype, start):
            size = together.max(axis=1, keepdims=True)
            assert (np.abs(other - together) <= 1e-4 * size).all(axis=1).mean() > 0.99
            known = losses(X, together, H)
            np.testing.assert_allclose(losses(X, other, H), known, rtol=W_TOLERANCE, atol=1e-9)


def test_slow_images_among_fast_ones():
    """One image in 50 needs many sweeps; the others converge at once."""
    rng = np.random.default_rng(2)
    X, H = images(LANES, 12, 2)
    H[3] = H[4] + 1e-2 * rng.random(PIXELS)
    easy = rng.random((LANES, 1)) * H[6]
    hard = np.arange(LANES) % 50 == 7
    X = np.where(hard[:, None], X, easy)
    W = solved(X, H, "zero", 1e-12, 100_000)
    np.testing.assert_allclose(losses(X, W, H), losses(X, weights(X, H), H), rtol=1e-6, atol=1e-9)


def test_weights_of_zero_components_are_kept():
    """As in the H update: a component that no image uses is not changed."""
    G, A = np.diag([1.0, 0.0]), np.array([[2.0], [0.0]])
    W = np.array([[0.5], [3.0]])
    solve_nnls(A, G, np.array([2.0]), W, np.empty(1), np.empty(1, bool), 1e-14, 1000, 1.0)
    np.testing.assert_allclose(W, [[2.0], [3.0]])


class TestRidgeInverse:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(
        "H",
        [
            np.zeros((3, 5)),
            np.ones((300, 5)),
            np.outer(np.arange(200.0), np.arange(40.0)),
            np.random.default_rng(0).random((60, 7)),
            np.diag([1.0, 0, 1e-8, 1e8]),
            np.diag([1.0, 1e-22, 1e-30]),
        ],
        ids=["zero", "equal", "collinear", "more than pixels", "of many sizes", "almost nothing"],
    )
    def test_is_finite_and_symmetric(self, H, dtype):
        G = gram(H.astype(dtype))
        inverse = compute_ridge_inverse(G)
        assert inverse.dtype == dtype
        assert np.isfinite(inverse).all()
        assert (inverse == inverse.T).all()
        assert (inverse[G.diagonal() == 0] == 0).all()

    @settings(max_examples=25)
    @given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))
    def test_is_ridge_regression(self, d, p, seed):
        rng = np.random.default_rng(seed)
        H = rng.random((d, p)) * 10.0 ** rng.integers(-3, 4, (d, 1))
        G = gram(H)
        ridge = np.linalg.inv(G + 0.01 * np.diag(G.diagonal()))
        np.testing.assert_allclose(
            compute_ridge_inverse(G), ridge, rtol=1e-6, atol=1e-9 * np.abs(ridge).max()
        )

    def test_saves_sweeps(self, digits):
        X, H = digits[:512].astype(float), digits[-12:].astype(float)
        best = losses(X, solved(X, H, "zero", 1e-14, 10_000), H).sum()
        excess = [losses(X, solved(X, H, start, 0.0, 2), H).sum() / best - 1 for start in STARTS]
        assert excess[1] < 0.5 * excess[0]


class TestActiveSet:
    @pytest.mark.parametrize("start", ["zero", "all", "near"])
    def test_is_exact_from_any_start(self, start):
        """Components are much alike, so hundreds of sweeps would be needed."""
        rng = np.random.default_rng(0)
        H = 1 + 0.05 * rng.random((12, 40))
        X = (rng.random((20, 12)) * (rng.random((20, 12)) < 0.4)) @ H + 0.1 * rng.random((20, 40))
        exact = weights(X, H).T
        assert 0.2 < np.mean(exact == 0) < 0.8
        W = {"zero": 0 * exact, "all": 1 + exact, "near": exact + 1e-3 * (exact > 0.01)}[start]
        finish_nnls(H @ X.T, gram(H), 0.5 * (X**2).sum(axis=1), W)
        np.testing.assert_allclose(W, exact, atol=1e-7)

    def test_takes_equal_and_zero_components(self):
        H = np.repeat(np.eye(3), [2, 1, 1], axis=0)
        H[3] = 0
        X, W = np.array([[2.0, 3, 1]]), np.zeros((4, 1))
        finish_nnls(H @ X.T, gram(H), np.array([7.0]), W)
        np.testing.assert_allclose([W[0] + W[1], W[2], W[3]], [[2], [3], [0]], atol=1e-9)
