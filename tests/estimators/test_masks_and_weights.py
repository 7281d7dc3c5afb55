"""Masks and weights: missing pixels have no influence, an image of weight 2 counts twice."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import fit_of, loss
from scipy.optimize import nnls

import dnmf
from dnmf.errors import DataError
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import Projection
from dnmf.numerics.statistics import Basis

LOSSES = {"frobenius": "cd", "kullback-leibler": "mu"}


@pytest.fixture(scope="module")
def hidden():
    """Return a mask of three in ten pixels, of all of image 5 and of none of image 6."""
    mask = np.random.default_rng(0).random((700, 784)) < 0.3
    mask[5], mask[6] = True, False
    return mask


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 0.9), st.integers(1, 5))
def test_weights_are_the_minimum_over_observed_pixels(seed, share, d):
    rng = np.random.default_rng(seed)
    X, H = rng.random((6, 12)), rng.random((d, 12))
    seen = rng.random(X.shape) >= share
    projection = Projection(MaskedQuadratic(), Basis.from_H(H, np.dtype(float)))
    W = projection.weights(Block(X * seen, 0, seen))
    for x, w, m in zip(X, W, seen, strict=True):
        exact = nnls(H[:, m].T, x[m])[0] if m.any() else np.zeros(d)
        best, found = (loss(x[m][None], v[None], H[:, m]) for v in (exact, w))
        assert found <= best + 0.02 * loss(x[m][None], 0 * w[None], H[:, m]) + 1e-12


@pytest.mark.parametrize("objective", [MaskedQuadratic(), BetaDivergence(1.0), BetaDivergence(1.5)])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_H_step_lowers_the_masked_loss(objective, seed):
    rng = np.random.default_rng(seed)
    X, H = rng.random((20, 9)), rng.random((3, 9))
    seen = rng.random(X.shape) > 0.4
    block, basis = Block(X * seen, 0, seen), Basis.from_H(H, np.dtype(float))
    stats, W = objective.block_stats(block, basis)
    better = objective.update_H(H, stats)

    def value(H):
        _, strip = next(block.strips(np.dtype(float)))
        return objective.divergence(strip, W, H)[0].sum()

    assert stats.divergence == pytest.approx(value(H))
    assert value(better) <= value(H) * (1 + 1e-9)


@pytest.mark.parametrize("beta_loss", LOSSES)
def test_masked_values_have_no_influence(digits, hidden, beta_loss):
    options = {"beta_loss": beta_loss, "solver": LOSSES[beta_loss], "random_state": 0, "tol": 1e-2}
    other = digits.copy()
    other[hidden] = 255 - other[hidden]
    models = [dnmf.NMF(5, **options).fit(X, mask=hidden) for X in (digits, other)]
    assert (models[0].components_ == models[1].components_).all()
    W, again = models[0].transform(digits, hidden), models[0].transform(other, hidden)
    assert (again == W).all()
    assert (W[5] == 0).all()
    wild = np.where(hidden, -np.inf, digits.astype(np.float32))
    # Blocks of another size round otherwise, and weights are solved to a tolerance.
    assert np.allclose(models[0].transform(wild, hidden), W, rtol=5e-3, atol=1e-4 * W.max())


@pytest.mark.parametrize("beta_loss", LOSSES)
def test_missing_pixels_are_filled_in_better_than_by_zero(digits, hidden, beta_loss):
    options = {"beta_loss": beta_loss, "solver": LOSSES[beta_loss], "tol": 1e-2}
    blind = fit_of(np.where(hidden, 0, digits), 10, **options)
    mask = hidden.copy()
    model = dnmf.NMF(10, random_state=0, **options).fit(digits, mask=mask)
    X = digits.astype(float)

    def lost(model, W):
        return np.sqrt(np.mean((X - model.inverse_transform(W))[hidden] ** 2))

    filled = lost(model, model.transform(digits, mask))
    assert filled < 0.97 * lost(blind, blind.transform(np.where(hidden, 0, digits)))


def test_the_loss_is_that_over_observed_pixels(digits, hidden):
    model = dnmf.NMF(5, random_state=0, tol=1e-2).fit(digits, mask=hidden)
    W = model.transform(digits, hidden).astype(float)
    residual = np.where(hidden, 0, digits - W @ model.components_)
    assert model.reconstruction_err_ == pytest.approx(np.linalg.norm(residual), rel=1e-4)
    losses = model.reconstruct_error(digits, hidden)
    np.testing.assert_allclose(losses, 0.5 * (residual**2).sum(axis=1), rtol=1e-3, atol=1)
    maps = model.reconstruct_error(digits, hidden, per="pixel")
    expected = 0.5 * (residual**2).sum(axis=0) / (~hidden).sum(axis=0)
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-3)
    nowhere = hidden.copy()
    nowhere[:, 9] = True
    assert np.isnan(model.reconstruct_error(digits, nowhere, per="pixel")).sum() == 1
    assert model.score(digits, mask=hidden) == pytest.approx(-losses.mean())
    weights = np.arange(700.0)
    expected = -np.average(losses, weights=weights)
    assert model.score(digits, sample_weight=weights, mask=hidden) == pytest.approx(expected)


def test_an_empty_mask_changes_nothing(digits):
    plain = dnmf.NMF(5, random_state=0).fit(digits)
    masked = dnmf.NMF(5, random_state=0).fit(digits, mask=np.zeros(digits.shape, bool))
    assert masked.reconstruction_err_ == pytest.approx(plain.reconstruction_err_, rel=2e-3)


@pytest.mark.parametrize("beta_loss", LOSSES)
def test_nan_is_missing_on_request(digits, hidden, beta_loss):
    X = np.where(hidden, np.nan, digits)
    options = {"beta_loss": beta_loss, "solver": LOSSES[beta_loss], "random_state": 0, "tol": 1e-2}
    with pytest.raises(ValueError, match=r"NaN.*missing='ignore'"):
        dnmf.NMF(5, **options).fit(X)
    model = dnmf.NMF(5, missing="ignore", **options).fit(X)
    same = dnmf.NMF(5, **options).fit(digits.astype(float), mask=hidden)
    np.testing.assert_allclose(model.components_, same.components_, rtol=1e-6, atol=1e-9)
    assert np.isfinite(model.transform(X)).all()
    X[3, 4] = np.inf
    with pytest.raises(DataError, match="inf at pixel 4 of image 3"):
        model.transform(X)


KINDS = {
    "numpy": lambda A, folder: A,
    "list": lambda A, folder: A.tolist(),
    "dask": lambda A, folder: da.from_array(A, chunks=(100, *A.shape[1:])),
    "zarr": lambda A, folder: zarr.create_array(
        folder / "a.zarr", data=A, chunks=(90, *A.shape[1:])
    ),
}


@pytest.mark.parametrize("kind", KINDS)
class TestOfACorpus:
    def test_masks(self, corpus, digits, hidden, kind, tmp_path, client):
        mask = KINDS[kind](hidden, tmp_path)
        model = dnmf.NMF(4, random_state=0, tol=1e-2).fit(corpus, mask=mask)
        known = dnmf.NMF(4, random_state=0, tol=1e-2).fit(
            da.from_array(digits, chunks=(128, -1)), mask=hidden
        )
        assert (model.components_ == known.components_).all()
        if kind == "list":
            return
        W = model.transform(corpus, mask)
        assert isinstance(W, da.Array)
        expected = model.transform(digits, hidden)
        np.testing.assert_allclose(W.compute(), expected, rtol=1e-4, atol=1e-3)
        errors = model.reconstruct_error(corpus, mask).compute()
        np.testing.assert_allclose(errors, model.reconstruct_error(digits, hidden), rtol=1e-4)
        maps = model.reconstruct_error(corpus, mask, per="pixel")
        assert maps.shape == (28, 28)

    def test_weights(self, corpus, digits, kind, tmp_path):
        weights = np.random.default_rng(1).random(700)
        model = dnmf.NMF(4, random_state=0, tol=1e-2).fit(
            corpus, sample_weight=KINDS[kind](weights, tmp_path)
        )
        known = dnmf.NMF(4, random_state=0, tol=1e-2).fit(
            da.from_array(digits, chunks=(128, -1)), sample_weight=weights
        )
        assert (model.components_ == known.components_).all()


@pytest.mark.parametrize("beta_loss", LOSSES)
def test_weights_are_repetitions(beta_loss):
    rng = np.random.default_rng(2)
    X = rng.random((40, 4)) @ rng.random((4, 15)) + 0.1 * rng.random((40, 15))
    weights = rng.integers(0, 4, 40)
    options = {
        "beta_loss": beta_loss,
        "solver": LOSSES[beta_loss],
        "alpha_W": 1e-3,
        "l1_ratio": 0.5,
    }
    weighted = dnmf.NMF(3, random_state=0, **options).fit(X, sample_weight=weights)
    repeated = dnmf.NMF(3, random_state=0, **options).fit(X.repeat(weights, axis=0))
    # The warm start for other losses solves for weights until all images together gain little.
    rtol = 1e-6 if beta_loss == "frobenius" else 1e-1
    np.testing.assert_allclose(weighted.components_, repeated.components_, rtol=rtol)
    last = repeated.loss_history_[-1]
    assert weighted.loss_history_[-1] == pytest.approx(last, rel=max(0.01 * rtol, 1e-6))


class TestInvalid:
    def test_masks(self, digits, corpus, hidden):
        for X in (digits, corpus, da.from_array(digits, chunks=(100, -1))):
            with pytest.raises(DataError, match=r"mask.shape == \(700, 5\), expected \(700, 784\)"):
                dnmf.NMF(2).fit(X, mask=hidden[:, :5])

    def test_masks_that_are_not_boolean(self, digits, corpus, hidden):
        for mask in (hidden.astype(float), np.full(digits.shape, "x")):
            for X in (digits, corpus):
                with pytest.raises(DataError, match=r"mask has dtype .* it must be boolean"):
                    dnmf.NMF(2).fit(X, mask=mask)
        model = dnmf.NMF(2, random_state=0).fit(corpus)
        for mask, words in ((hidden[:, :5], "expected"), (hidden.astype(int), "boolean")):
            with pytest.raises(DataError, match=words):
                model.transform(corpus, mask)

    @pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
    def test_weights(self, digits, corpus, value):
        weights = np.ones(700)
        weights[300] = value
        for X in (digits, corpus):
            with pytest.raises(ValueError, match=r"sample_weight.*image 300 has"):
                dnmf.NMF(2).fit(X, sample_weight=weights)

    def test_all_weights_zero(self, digits, corpus):
        for X, weights in ((digits, np.zeros(700)), (corpus, da.zeros(700, chunks=128))):
            with pytest.raises(DataError, match="weights are zero"):
                dnmf.NMF(2).fit(X, sample_weight=weights)

    def test_everything_masked_is_all_zero(self, digits):
        model = dnmf.NMF(2, random_state=0).fit(digits, mask=np.ones(digits.shape, bool))
        assert model.reconstruction_err_ == 0
        assert np.isfinite(model.components_).all()
