"""Steps on W and H in turn, for losses other than squared error."""

from __future__ import annotations

import numpy as np
import pytest

from dnmf.numerics import multiplicative
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block


def images(beta, n=60, p=15):
    rng = np.random.default_rng(0)
    X = rng.gamma(2, size=(n, 3)) @ rng.gamma(1, size=(3, p)) + 0.1 * rng.random((n, p))
    return X if beta <= 0 else X * (rng.random((n, p)) > 0.2)


def alternate(*args):
    """Return the last H."""
    return list(multiplicative.alternate(*args))[-1][0]


def loss(objective, block, H):
    basis = objective.project_onto(H, block.X.dtype).basis
    stats, _ = objective.block_stats(block, basis)
    return objective.known_loss(stats, H, H)[2]


@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("penalty", [0.0, 0.01])
@pytest.mark.parametrize("hide", [False, True])
def test_long_steps_end_no_worse_than_those_that_never_lose(beta, penalty, hide, monkeypatch):
    rng = np.random.default_rng(1)
    X = images(beta)
    seen = rng.random(X.shape) > 0.2 if hide else None
    weights = rng.random(len(X)) if hide else None
    block = Block(X if seen is None else X * seen, weights=weights, observed=seen)
    objective = BetaDivergence(beta, penalty, penalty, penalty, penalty)
    H = rng.random((3, X.shape[1])) + 0.1
    better = alternate(objective, H, block, 1e-5)
    monkeypatch.setattr(BetaDivergence, "relaxed_exponent", objective.exponent)
    safe = alternate(objective, H, block, 1e-5)
    assert loss(objective, block, better) <= 1.02 * loss(objective, block, safe)
    assert loss(objective, block, better) < 0.9 * loss(objective, block, H)


@pytest.mark.parametrize("beta", [0.0, 1.0, 1.5])
def test_a_scale_of_images_and_single_precision_change_nothing(beta):
    X, H = images(beta), np.random.default_rng(1).random((3, 15)) + 0.1
    objective = BetaDivergence(beta)
    plain = alternate(objective, H, Block(X), 1e-4)
    scaled = alternate(objective, 1e6 * H, Block((1e6 * X).astype(np.float32)), 1e-4)
    np.testing.assert_allclose(1e-6 * scaled, plain, rtol=1e-2, atol=1e-2 * plain.mean())


def test_blank_images_and_pixels_and_components_stay_finite():
    X = images(1.0)
    X[5], X[:, 2] = 0, 0
    H = np.random.default_rng(1).random((4, 15))
    H[3] = 0
    better = alternate(BetaDivergence(1.0), H, Block(X), 1e-4)
    assert np.isfinite(better).all()
    assert better[:, 2].max() <= 2e-4 * better.mean()
