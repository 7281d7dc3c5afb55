"""Energies of components, and their shares of the reconstruction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import fit_of
from runs import SQUARED, run_pass

import dnmf.solvers.loop
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.statistics import Basis

OBJECTIVES = [
    SQUARED,
    Quadratic(l1_W=0.1, l2_H=0.2),
    MaskedQuadratic(),
    BetaDivergence(2.0),
    BetaDivergence(1.0),
    BetaDivergence(1.5),
    BetaDivergence(0.5),
    BetaDivergence(3.0),
]


def id_of(objective):
    return f"{type(objective).__name__} {objective.beta} {objective.l1_W}"


def energies(W, H, beta, weights=1.0, seen=1.0):
    """Compute ``<w_j h_j, Y^(beta - 1)>`` one component at a time."""
    Y = W @ H
    rows = np.broadcast_to(np.expand_dims(weights, -1), Y.shape)
    return [
        np.sum(rows * seen * np.outer(w, h) * Y ** (beta - 1)) for w, h in zip(W.T, H, strict=True)
    ]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=id_of)
@given(seed=st.integers(0, 10**6), d=st.integers(1, 5), weighted=st.booleans())
def test_energies_match_their_definition(objective, seed, d, weighted):
    rng = np.random.default_rng(seed)
    X, H = rng.random((20, 12)) + 0.1, rng.random((d, 12)) + 0.1
    weights, seen = (rng.random(20), rng.random(X.shape) > 0.2) if weighted else (np.ones(20), 1)
    masked = weighted and type(objective) is not Quadratic
    seen = seen if masked else 1
    block = Block(X * seen, 0, seen if masked else None, weights if weighted else None)
    stats, W = objective.block_stats(block, Basis.for_pixels(H, X.dtype))
    found = objective.energies(stats, H)
    # For squared error, missing pixels count with their reconstructions.
    included = seen if isinstance(objective, BetaDivergence) else 1
    np.testing.assert_allclose(found, energies(W, H, objective.beta, weights, included), rtol=1e-6)
    total = np.sum(np.expand_dims(weights, -1) * included * (W @ H) ** objective.beta)
    assert found.sum() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES[:3] + OBJECTIVES[4:6], ids=id_of)
def test_energies_of_a_pass_belong_to_the_H_of_its_loss(objective, monkeypatch):
    rng = np.random.default_rng(0)
    X, Y = rng.random((40, 1300)) + 0.1, rng.random((3, 1300))
    blocks = blocks_of(X)
    whole = run_pass(blocks, objective, Y)
    _, W = objective.block_stats(Block(X), Basis.for_pixels(Y, X.dtype))
    known = whole.H if objective.exact else Y
    np.testing.assert_allclose(whole.energies, energies(W, known, objective.beta), rtol=1e-6)
    monkeypatch.setattr(dnmf.solvers.loop, "COLUMNS", 512)
    np.testing.assert_allclose(run_pass(blocks, objective, Y).energies, whole.energies, rtol=1e-9)


class TestShares:
    @pytest.mark.parametrize(
        ("beta_loss", "beta"), [("frobenius", 2), ("kullback-leibler", 1), (1.5, 1.5)]
    )
    def test_shares_are_in_the_order_of_the_components(self, digits, beta_loss, beta):
        X = digits[:200].astype(float)
        solver = "cd" if beta == 2 else "mu"
        model = fit_of(X, 5, beta_loss=beta_loss, solver=solver, max_iter=20, tol=1e-3)
        assert model.energy_shares_.shape == (5,)
        assert model.energy_shares_.sum() == pytest.approx(1)
        known = np.array(energies(model.transform(X), model.components_, beta))
        np.testing.assert_allclose(model.energy_shares_, known / known.sum(), rtol=0.02)
        assert len(set(model.energy_shares_.round(4))) == 5  # so that the order is tested

    def test_shares_include_missing_pixels_for_squared_error(self, digits):
        X, hidden = digits[:200].astype(float), np.random.default_rng(0).random((200, 784)) < 0.2
        model = dnmf.NMF(4, random_state=0, tol=1e-2).fit(X, mask=hidden)
        known = np.array(energies(model.transform(X, hidden), model.components_, 2))
        np.testing.assert_allclose(model.energy_shares_, known / known.sum(), rtol=0.02)

    def test_shares_of_empty_components_are_zero(self):
        X = np.outer(np.arange(1.0, 30), np.arange(1.0, 9))
        model = fit_of(X, 3, max_iter=50, init="nndsvd")
        assert model.energy_shares_.max() == pytest.approx(1)
        dark = fit_of(np.zeros((20, 6)), 2)
        assert dark.energy_shares_.tolist() == [0, 0]
