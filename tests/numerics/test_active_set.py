"""The active-set method for images on which coordinate descent is slow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import weights

from dnmf.numerics.active_set import finish_nnls


def finished(X, H, start):
    W = np.ascontiguousarray(start.T)
    finish_nnls(H @ X.T, H @ H.T, 0.5 * (X**2).sum(axis=1), W)
    return W.T


def losses(X, W, H):
    return 0.5 * ((X - W @ H) ** 2).sum(axis=1)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 20), st.sampled_from([0, 1, 1e6]))
def test_is_exact_from_any_start(seed, d, p, scale):
    rng = np.random.default_rng(seed)
    H, X = rng.gamma(0.3, 1, (d, p)), rng.random((5, p))
    if d > 2:
        H[1], H[2] = 0, 2 * H[0]  # a component that is zero, and two that are collinear
    W = finished(X, H, scale * rng.random((5, d)))
    assert (W >= 0).all()
    np.testing.assert_allclose(losses(X, W, H), losses(X, weights(X, H), H), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("alike", [1e-1, 1e-3])
def test_is_exact_for_components_that_are_much_alike(alike):
    rng = np.random.default_rng(0)
    H = 1 + alike * rng.random((8, 60))
    X = rng.gamma(0.5, 1, (50, 8)) @ H + alike**2 * rng.random((50, 60))
    W = finished(X, H, np.full((50, 8), 0.5))
    np.testing.assert_allclose(losses(X, W, H), losses(X, weights(X, H), H), rtol=1e-4)


def test_zero_images_have_zero_weights():
    W = finished(np.zeros((2, 6)), np.ones((3, 6)), np.ones((2, 3)))
    assert np.abs(W).max() < 1e-12


def test_what_is_not_finite_raises_no_error_of_python():
    finished(np.full((2, 6), np.inf), np.ones((3, 6)), np.ones((2, 3)))
    finished(np.ones((2, 6)), np.full((3, 6), np.nan), np.ones((2, 3)))
