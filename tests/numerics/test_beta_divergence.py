"""Beta divergences against dense references and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import fit_of, multiplicative_weights, objective_value
from scipy.optimize import minimize
from sklearn.decomposition._nmf import _beta_divergence

import dnmf
from dnmf.errors import DataError
from dnmf.numerics.beta import FLOOR, divergences
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block
from dnmf.numerics.objective import Projection
from dnmf.numerics.statistics import Basis

BETAS = [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0]


def positive(rng, n, p, beta):
    """Draw images, with zeros where the divergence allows them."""
    X = rng.random((n, p)) + 0.1
    return X if beta <= 0 else X * (rng.random((n, p)) > 0.3)


def solved(X, H, objective, **arrays):
    return Projection(objective, Basis.from_H(H, np.dtype(float))).weights(Block(X, **arrays))


@pytest.mark.parametrize("beta", BETAS)
def test_divergences_are_scikit_learns(beta):
    rng = np.random.default_rng(0)
    X, W, H = positive(rng, 7, 12, beta), rng.random((7, 3)), rng.random((3, 12))
    images, pixels = divergences(X, W @ H, np.full(7, 1e-9), beta)
    expected = _beta_divergence(X, W, H, beta)
    assert images.sum() == pytest.approx(expected, rel=1e-6)
    assert pixels.sum() == pytest.approx(expected, rel=1e-6)
    one = divergences(X[3:4], W[3:4] @ H, np.full(1, 1e-9), beta)[0]
    assert images[3] == pytest.approx(one[0])


def test_pixels_that_are_zero_in_both_add_nothing():
    zero = np.zeros((2, 3))
    for beta in BETAS:
        assert (divergences(zero, zero, np.ones(2), beta)[0] == 0).all()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 2), st.floats(0, 2), st.booleans())
def test_kullback_leibler_weights_are_optimal(seed, d, l1, l2, hide):
    rng = np.random.default_rng(seed)
    X, H = positive(rng, 3, 15, 1), rng.random((d, 15)) * (rng.random((d, 15)) > 0.4)
    seen = rng.random(X.shape) > 0.3 * hide
    X = X * seen
    W = solved(X, H, BetaDivergence(1.0, l1, l2), observed=seen)
    for x, w, m in zip(X, W, seen, strict=True):

        def loss(v, x=x, m=m):
            y = np.maximum(v @ H, FLOOR * x[m].mean())
            fit = np.sum((y - x + x * np.log(np.where(x > 0, x / y, 1)))[m])
            return fit + l1 * v.sum() + 0.5 * l2 * v @ v

        best = min(
            minimize(loss, begin, bounds=[(0, None)] * d, method="L-BFGS-B").fun
            for begin in (w, np.full(d, 0.5))
        )
        assert loss(w) <= best + 1e-3 * (abs(best) + x.sum())


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.5, 3.0])
def test_weights_are_as_good_as_many_multiplicative_steps(beta):
    rng = np.random.default_rng(1)
    X, H = positive(rng, 20, 15, beta), rng.random((4, 15))
    W = solved(X, H, BetaDivergence(beta))
    plain = multiplicative_weights(X, H, beta, steps=400)
    assert _beta_divergence(X, W, H, beta) <= 1.01 * _beta_divergence(X, plain, H, beta)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_update_H_never_raises_the_objective(beta, penalty):
    rng = np.random.default_rng(2)
    X, H = positive(rng, 30, 12, beta), rng.random((3, 12)) + 0.01
    objective = BetaDivergence(beta, penalty, penalty, penalty, penalty)
    basis = Basis.from_H(H, np.dtype(float))
    stats, W = objective.block_stats(Block(X), basis)
    better = objective.update_H(H, stats)

    def value(H):
        penalties = penalty * W.sum() + penalty / 2 * (W**2).sum()
        on_H = 30 * (penalty * H.sum() + penalty / 2 * (H**2).sum())
        return _beta_divergence(X, W, H, beta) + penalties + on_H

    assert objective.known_loss(stats, H, better)[2] == pytest.approx(value(H), rel=1e-5)
    assert value(better) <= value(H) * (1 + 1e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_weights_do_not_depend_on_the_other_images(beta):
    rng = np.random.default_rng(3)
    X, H = positive(rng, 40, 12, beta), rng.random((3, 12))
    together = solved(X, H, BetaDivergence(beta))
    alone = np.vstack([solved(x[None], H, BetaDivergence(beta)) for x in X])
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_divergence_does_not_depend_on_the_scale(beta, scale, dtype):
    rng = np.random.default_rng(4)
    X = positive(rng, 60, 16, beta)
    solver = "cd" if beta == 2 else "mu"
    errors = []
    for factor in (1.0, scale):
        model = fit_of((X * factor).astype(dtype), 3, solver=solver, beta_loss=beta)
        assert np.isfinite(model.components_).all()
        Y = model.inverse_transform(model.transform((X * factor).astype(dtype))) / factor
        errors.append(_beta_divergence(X, Y.astype(float), np.eye(16), beta))
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0])
def test_blank_pixels_blank_images_and_one_bright_pixel(beta):
    rng = np.random.default_rng(5)
    X = positive(rng, 50, 12, 1)
    X[:, 3] = 0
    X[7] = 0
    X[9, 5] = 1e6
    model = fit_of(X, 3, solver="mu", beta_loss=beta)
    W = model.transform(X)
    assert np.isfinite(W).all()
    assert (W[7] == 0).all()
    assert model.components_[:, 3].max() <= 1e-6 * model.components_.max()


def test_itakura_saito_refuses_zeros_as_scikit_learn_does(digits):
    model = dnmf.NMF(2, solver="mu", beta_loss="itakura-saito")
    with pytest.raises(ValueError, match="When beta_loss <= 0 and X contains zeros") as info:
        model.fit(digits)
    assert "pixel 0 of image 0" in str(info.value)
    assert isinstance(info.value, DataError)


@pytest.mark.parametrize(
    ("solver", "beta"), [("cd", 2.0), *(("mu", beta) for beta in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5))]
)
@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.0, 0.0), (1e-3, 0.0), (1e-3, 1.0)])
def test_the_objective_is_as_low_as_that_of_scikit_learn(solver, beta, alpha, l1_ratio):
    from sklearn import decomposition

    rng = np.random.default_rng(6)
    X = np.abs(rng.standard_normal((60, 30))) + 0.01
    W, H = (np.abs(rng.standard_normal(shape)) / 2 for shape in ((60, 5), (5, 30)))
    options = {"solver": solver, "beta_loss": beta, "alpha_W": alpha, "l1_ratio": l1_ratio}

    def value(kind, **start):
        weights = (model := kind(5, random_state=0, **options, **start)).fit_transform(X, **given)
        return objective_value(X, weights, model.components_, beta, alpha, l1_ratio)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"W": W, "H": H}
        same = value(dnmf.NMF, init="custom"), value(decomposition.NMF, init="custom")
        given = {}
        own = value(dnmf.NMF), value(decomposition.NMF, init="random")
    assert same[0] <= 1.06 * same[1]  # both are at a local optimum; which one is chance
    assert own[0] <= 1.002 * own[1]
