"""A model whose `components_` a user has set, from a file or another tool, is a fitted model."""

from __future__ import annotations

import copy
import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
from reference import fit_of
from sklearn import decomposition
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import dnmf
from dnmf import NMF, MiniBatchNMF

BOTH = pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
OPTIONS = ({}, {"beta_loss": "kullback-leibler"}, {"missing": "ignore"}, {"alpha_W": 1e-3})


@pytest.fixture(scope="module")
def H():
    return np.random.default_rng(0).random((3, 30))


@pytest.fixture(scope="module")
def X(H):
    return np.random.default_rng(1).random((60, 3)) @ H


def model_of(H, kind=NMF, **options):
    model = kind(**options)
    model.components_ = H
    return model


@BOTH
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_does_what_a_fitted_model_does(H, X, kind, options):
    model = model_of(H, kind, **options)
    W = model.transform(X)
    Y = model.inverse_transform(W)
    if "alpha_W" not in options:
        np.testing.assert_allclose(Y, X, rtol=5e-2, atol=1e-2)
    assert model.score(X) == pytest.approx(-model.reconstruct_error(X).mean())
    assert model.reconstruct_error(X, per="pixel").shape == (30,)
    assert list(model.get_feature_names_out()) == [f"{kind.__name__.lower()}{i}" for i in range(3)]
    assert (model.n_components_, model.n_features_in_, model.image_shape_) == (3, 30, (30,))
    lazy = model.transform(da.from_array(X, chunks=(20, 30)))
    np.testing.assert_allclose(lazy.compute(), W, rtol=1e-4, atol=1e-5)


def test_weights_are_scikit_learns(H, X):
    theirs = decomposition.NMF(3, tol=1e-10, max_iter=5000)
    theirs.components_, theirs.n_components_ = H, 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.transform(X)
    model = NMF(3)
    model.components_, model.n_components_ = H, 3
    np.testing.assert_allclose(model.transform(X), expected, atol=2e-2)


@pytest.mark.parametrize("form", [np.float32, np.float16, np.int64, list], ids=str)
def test_components_of_other_types(H, X, form):
    H = np.round(20 * H)
    W = model_of(H.tolist() if form is list else H.astype(form)).transform(X)
    np.testing.assert_allclose(W, model_of(H).transform(X), rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_know_them_and_clones_do_not(H, X):
    model = model_of(H)
    for copied in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert (copied.transform(X) == model.transform(X)).all()
    unfitted = clone(model)
    for name in ("components_", "n_components_", "n_features_in_", "image_shape_"):
        assert not hasattr(unfitted, name)
    with pytest.raises(NotFittedError):
        unfitted.transform(X)


def test_a_model_without_components_is_not_fitted(X):
    model = NMF(3)
    model.n_components_ = 3
    for method in (model.transform, model.inverse_transform, model.score):
        with pytest.raises(NotFittedError):
            method(X)


@BOTH
def test_partial_fit_and_fit_go_on_from_them(H, X, kind):
    start = np.abs(H + 0.1 * np.random.default_rng(2).standard_normal(H.shape))
    model = model_of(start, kind, random_state=0)
    before = model.score(X)
    assert model.partial_fit(X).score(X) > before
    assert model.n_steps_ == 1
    warm = model_of(start, kind, n_components=3, warm_start=True).fit(X)
    assert warm.n_reads_ == warm.n_iter_ + 1  # for the last weights, but none for a sample
    assert model_of(H, kind, n_components=2, random_state=0).fit(X).components_.shape == (2, 30)


def test_some_of_the_components_of_a_fit(X):
    model = fit_of(X, 5)
    kept = [4, 2]
    model.components_ = model.components_[kept]
    W = model.transform(X)
    assert W.shape == (60, 2)
    assert model.n_components_ == 2
    assert model.inverse_transform(W).shape == X.shape
    assert len(model.get_feature_names_out()) == 2
    model.image_shape_ = (5, 6)
    assert dnmf.plot.components(model).axes
    model.set_params(n_components="auto").partial_fit(X)
    assert model.components_.shape == (2, 30)


def test_pictures(H, X):
    model = model_of(H)
    model.image_shape_ = (5, 6)
    assert dnmf.plot.components(model).axes
    assert dnmf.plot.reconstructions(model, X[:3]).axes


def test_components_that_are_no_matrix_of_numbers(H, X):
    for bad, words in (
        (-H, "components_ must be finite numbers >= 0"),
        (H * np.nan, "components_ must be finite"),
        (H.astype(complex), "components_ must be finite"),
        (H[0], r"components_ are of shape \(30,\)"),
        (H[:, :0], r"components_ are of shape \(3, 0\)"),
        (H[:, :5], "X has 30 features, but NMF is expecting 5 features as input"),
    ):
        with pytest.raises(ValueError, match=words):
            model_of(bad).transform(X)
    model = fit_of(X, 3)
    model.components_ = H[:, :5]
    with pytest.raises(ValueError, match="components_ have 5 pixels, and the model was fitted on"):
        model.transform(X)
