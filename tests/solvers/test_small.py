"""Fits of small arrays: sweeps over W and H in turn."""

from __future__ import annotations

import warnings
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from reference import loss, weights
from runs import SQUARED
from sklearn import decomposition
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import dnmf
from dnmf.engine.local import LocalBlocks
from dnmf.errors import DataError
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.block import PixelRules
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import State
from dnmf.solvers import small
from dnmf.solvers.small import FEW_IMAGES, SMALL, is_small, iterate


def low_rank(rng, n, p, d):
    return rng.gamma(1, 1, (n, d)) @ rng.gamma(0.5, 1, (d, p))


def states(X, H, tol=1e-4, max_iter=60, **more):
    return list(iterate(LocalBlocks(X, **more), SQUARED, State.at(H), tol, max_iter))


def fit(X, d, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return dnmf.NMF(d, random_state=0, **options).fit(X)


class TestWhatIsSmall:
    def test_arrays_in_memory_that_are_observed_and_without_penalties(self, digits):
        assert is_small(LocalBlocks(digits), SQUARED, 1e-4)
        assert not is_small(LocalBlocks(digits), SQUARED, 0.0)
        assert is_small(LocalBlocks(digits, np.ones(len(digits))), SQUARED, 1e-4)
        assert is_small(blocks_of(scipy.sparse.csr_array(digits)), SQUARED, 1e-4)
        assert not is_small(blocks_of(da.from_array(digits, chunks=(100, -1))), SQUARED, 1e-4)
        assert not is_small(LocalBlocks(digits, masks=digits > 200), MaskedQuadratic(), 1e-4)
        assert not is_small(LocalBlocks(digits), Quadratic(l1_W=1.0), 1e-4)
        marked = PixelRules(nan_is_missing=True)
        assert not is_small(LocalBlocks(digits.astype(float), rules=marked), SQUARED, 1e-4)

    @pytest.mark.parametrize(
        ("shape", "yes"),
        [
            ((SMALL // 64, 64), True),
            ((SMALL // 64 + 1, 64), False),
            ((FEW_IMAGES, 2**14), True),
            ((FEW_IMAGES + 1, 2**14), False),
            ((FEW_IMAGES, 2**14 + 1), False),
        ],
    )
    def test_sizes(self, shape, yes):
        assert is_small(LocalBlocks(np.broadcast_to(np.uint8(1), shape)), SQUARED, 1e-4) == yes

    def test_sparse_arrays_count_what_is_stored(self):
        wide = scipy.sparse.random_array((5000, 5000), density=1e-3, format="csr", rng=0)
        assert is_small(LocalBlocks(wide), SQUARED, 1e-4)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    p=st.integers(1, 30),
    d=st.integers(1, 12),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_losses_never_rise_and_end_where_exact_weights_are(seed, n, p, d, dtype):
    rng = np.random.default_rng(seed)
    X = (low_rank(rng, n, p, d) + 0.1 * rng.random((n, p))).astype(dtype)
    H = rng.random((d, p))
    found = states(X, H)
    losses = found[-1].losses
    assert len(losses) == len(found)
    assert all(now <= before * (1 + 1e-3) for before, now in pairwise(losses))
    assert (found[-1].H >= 0).all()
    exact = loss(X, weights(X, found[-1].H), found[-1].H)
    floor = 1e-9 * float((X.astype(float) ** 2).sum())
    assert exact <= losses[-1] * (1 + 1e-2) + floor  # float32 sums
    assert exact <= loss(X, weights(X, H), H) * (1 + 1e-3) + floor


@pytest.mark.parametrize("d", [4, 16, 64, 80])
def test_ends_at_or_below_scikit_learn(d):
    X = load_digits().data[:400].astype(np.float32)
    mine = fit(X, d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = decomposition.NMF(d, init="random", random_state=0).fit(X)
    assert mine.reconstruction_err_ <= 1.005 * theirs.reconstruction_err_
    error = np.sqrt(2 * loss(X, mine.transform(X), mine.components_))
    assert mine.reconstruction_err_ == pytest.approx(error, rel=1e-3)


def test_sparse_arrays_take_the_same_way(digits):
    X = np.where(digits > 100, digits, 0)[:200].astype(float)
    H = np.random.default_rng(0).random((5, 784))
    dense = states(X, H, tol=0, max_iter=5)[-1]
    for kind in (scipy.sparse.csr_array, scipy.sparse.csr_matrix):
        sparse = states(kind(X), H, tol=0, max_iter=5)[-1]
        np.testing.assert_allclose(sparse.H, dense.H, rtol=1e-6, atol=1e-9 * dense.H.max())
        np.testing.assert_allclose(sparse.losses, dense.losses, rtol=1e-9)


def test_a_sparse_array_is_not_made_dense_on_the_way(monkeypatch):
    X = scipy.sparse.random_array((300, 400), density=0.02, format="csr", rng=0)
    H = np.random.default_rng(0).random((3, 400))
    monkeypatch.setattr(type(X), "toarray", lambda self: pytest.fail("made dense"))
    assert len(states(X, H, max_iter=3)) == 3


def test_weights_do_what_repeated_images_do(digits):
    X, counts = digits[:60].astype(float), np.arange(60) % 4
    H = np.random.default_rng(0).random((4, 784))
    weighted = states(X, H, tol=0, max_iter=4, weights=counts.astype(float))[-1]
    repeated = states(np.repeat(X, counts, axis=0), H, tol=0, max_iter=4)[-1]
    np.testing.assert_allclose(weighted.H, repeated.H, rtol=1e-6, atol=1e-9 * repeated.H.max())
    np.testing.assert_allclose(weighted.losses, repeated.losses, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 2.0**40])
def test_losses_too_small_for_float32_are_found_in_float64(scale):
    X = (scale * low_rank(np.random.default_rng(0), 80, 40, 3)).astype(np.float32)
    model = fit(X, 3, tol=1e-6, max_iter=500)
    error = np.sqrt(2 * loss(X, model.transform(X), model.components_))
    norm = np.linalg.norm(X.astype(float))
    assert error < 1e-5 * norm
    assert model.reconstruction_err_ == pytest.approx(error, rel=1e-3, abs=1e-7 * norm)


class TestTheEnd:
    def test_a_smaller_tol_ends_later_and_lower(self, digits):
        ends = [fit(digits[:200], 8, tol=tol) for tol in (1e-1, 1e-2, 1e-3, 1e-4)]
        iterations = [end.n_iter_ for end in ends]
        errors = [end.reconstruction_err_ for end in ends]
        assert iterations == sorted(iterations)
        assert iterations[0] < iterations[-1] < 200
        assert errors == sorted(errors, reverse=True)
        assert all(end.stop_reason_ == "converged" for end in ends)

    def test_max_iter(self, digits):
        with pytest.warns(ConvergenceWarning, match="Maximum number of iterations 2 reached"):
            model = dnmf.NMF(4, max_iter=2, random_state=0).fit(digits)
        assert (model.n_iter_, model.stop_reason_) == (2, "max_iter")
        assert len(model.loss_history_) == 2
        assert model.n_reads_ == 3  # the weights of the last H

    def test_dark_images(self):
        model = fit(np.zeros((5, 6)), 2)
        assert model.reconstruction_err_ == 0
        assert (model.components_ == 0).all()

    def test_every_iteration_is_reported(self, digits):
        seen = []
        model = fit(digits[:100], 3, on_pass=seen.append)
        assert [state.n_iter for state in seen] == list(range(1, model.n_iter_ + 1))
        assert seen[-1].error == pytest.approx(model.reconstruction_err_, rel=1e-2)
        norm = np.linalg.norm(digits[:100].astype(float))
        assert seen[0].relative_error == pytest.approx(seen[0].error / norm)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
def test_an_invalid_pixel_is_named(digits, kind, value):
    X = digits[:20].astype(float)
    X[7, 300] = value
    with pytest.raises(DataError, match=r"at pixel 300 of image 7"):
        dnmf.NMF(2).fit(kind(X))


def test_what_makes_passes_over_blocks(digits, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "dnmf.solvers.loop.iterate", lambda *args: calls.append(1) or small.iterate(*args)
    )
    fit(digits, 2)
    fit(digits, 2, n_init=2)
    assert len(calls) == 3
    fit(digits, 2, checkpoint=tmp_path / "m")
    fit(digits, 2, tol=0, max_iter=2)
    fit(da.from_array(digits, chunks=(100, -1)), 2)
    assert len(calls) == 3
