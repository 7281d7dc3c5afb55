"""W is one function of X and H, and the reported error is true, for images that make it hard."""

import warnings

import dask.array as da
import numpy as np
import pytest
from reference import loss, weights
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls
from sklearn import decomposition
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import dnmf


def fit(X, d, seed=0, mask=None, **options):
    """Fit a model; any warning but that at max_iter is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        return dnmf.NMF(d, random_state=seed, **options).fit(X, mask=mask)


def error_of(X, W, H):
    return np.sqrt(2 * loss(X, W, np.asarray(H, float)))


def smooth_images(n=150, d=12, side=12, noise=0.01):
    """Make uint8 images of smooth parts, which overlap."""
    rng = np.random.default_rng(1)
    parts = np.array([gaussian_filter(rng.random((side, side)), 2) for _ in range(d)])
    parts = parts.reshape(d, -1) - parts.reshape(d, -1).min(axis=1, keepdims=True)
    X = rng.gamma(1, 1, (n, d)) @ parts
    X *= rng.normal(1, noise, X.shape)
    return (255 * X / X.max()).clip(0, 255).astype(np.uint8)


def images_over(background, amplitude, dtype, n=300):
    """Make integer images of four parts on a bright background."""
    rng = np.random.default_rng(0)
    X = rng.gamma(1, 1, (n, 4)) @ rng.gamma(0.3, 1, (4, 48))
    X = background + amplitude * X / X.std() / 4 + rng.normal(0, amplitude / 20 + 0.3, X.shape)
    return X.clip(0, np.iinfo(dtype).max).astype(dtype)


def nearly_exact(share, dtype, n=250, p=40, d=4):
    """Make images of d parts, and noise that is about this share of them."""
    rng = np.random.default_rng(2)
    X = rng.gamma(1, 1, (n, d)) @ rng.gamma(0.3, 1, (d, p)) + 0.1
    X = X * (1 + share * rng.standard_normal(X.shape)).clip(0)
    return (60000 * X / X.max()).round().astype(dtype) if dtype == "u2" else X.astype(dtype)


HARD = {
    "smooth": (smooth_images(), 12),
    "bright background, uint8": (images_over(230, 6, np.uint8), 5),
    "bright background, uint16": (images_over(20000, 300, np.uint16), 5),
    "nearly as many components as pixels": (load_digits().data[:150], 48),
    "nearly exact": (nearly_exact(1e-4, "f4"), 4),
}
BY_IMAGES = pytest.mark.parametrize("name", HARD)


@BY_IMAGES
def test_weights_are_those_of_scipy(name):
    X, d = HARD[name]
    model = fit(X, d, max_iter=20)
    H, some = model.components_.astype(float), np.arange(0, len(X), 5)
    residuals = X[some] - model.transform(X).astype(float)[some] @ H
    exact = X[some] - weights(X[some], H) @ H
    limit = 1.001 * (exact**2).sum(axis=1) + 1e-13 * (X[some].astype(float) ** 2).sum(axis=1)
    assert ((residuals**2).sum(axis=1) <= limit).all()


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_penalised_weights_are_optimal(l1_ratio):
    X, d = HARD["smooth"]
    X = X / X.mean()
    model = fit(X, d, max_iter=5, alpha_W=1e-4, l1_ratio=l1_ratio)
    W, H = model.transform(X).astype(float), model.components_.astype(float)
    p = X.shape[1]
    slope = W @ (H @ H.T) - X @ H.T + 1e-4 * p * (l1_ratio + (1 - l1_ratio) * W)
    sizes = np.sqrt((X**2).sum(axis=1))[:, None] * np.sqrt((H**2).sum(axis=1))
    assert np.abs(np.where(W > 0, slope, np.minimum(slope, 0)) / sizes).max() < 1e-3


@pytest.mark.parametrize("shared", [True, False])
def test_masked_weights_are_those_of_scipy(shared):
    X, d = HARD["smooth"]
    mask = np.random.default_rng(3).random((1 if shared else len(X), X.shape[1])) < 0.3
    mask = np.broadcast_to(mask, X.shape)
    model = fit(X, d, max_iter=5, mask=mask)
    H, W = model.components_.astype(float), model.transform(X, mask=mask).astype(float)
    for i in range(0, len(X), 20):
        seen = ~mask[i]
        best = nnls(H[:, seen].T, X[i, seen].astype(float))[1]
        assert np.linalg.norm(X[i, seen] - W[i] @ H[:, seen]) <= 1.001 * best


@BY_IMAGES
def test_transform_has_the_error_that_the_fit_reports(name):
    X, d = HARD[name]
    model = fit(X, d)
    found = error_of(X, model.transform(X), model.components_)
    assert found <= 1.001 * model.reconstruction_err_
    assert -2 * len(X) * model.score(X) == pytest.approx(found**2, rel=1e-3)


@pytest.mark.parametrize("beta", [-1.0, 0.0, 1.0, 1.5])
def test_scores_are_those_that_fits_of_other_losses_report(beta):
    X = nearly_exact(0.1, "f4") + 1e-3
    model = fit(X, 5, solver="mu", beta_loss=beta, max_iter=20)
    assert -len(X) * model.score(X) == pytest.approx(0.5 * model.reconstruction_err_**2, rel=1e-2)


@pytest.mark.parametrize("n", [150, 250])  # without a warm-up, and with one
@pytest.mark.parametrize("dtype", ["u2", "f4", "f8"])
@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6])
def test_the_reported_error_is_true(share, dtype, n):
    X = nearly_exact(share, dtype, n)
    model = fit(X, 6)
    found = error_of(X, model.transform(X), model.components_)
    floor = 2e-7 * np.linalg.norm(X.astype(float))  # the rounding of float32 components
    assert model.reconstruction_err_ == pytest.approx(found, rel=1e-3, abs=floor)


@pytest.mark.parametrize("name", [name for name in HARD if name.startswith("bright")])
def test_integers_are_fitted_as_well_as_the_same_numbers_in_float64(name):
    X, d = HARD[name]
    found, exact = (
        min(
            error_of(A, model.transform(A), model.components_)
            for model in (fit(A, d, seed, tol=1e-3) for seed in range(2))
        )
        for A in (X, X.astype(float))
    )
    assert found <= 1.05 * exact


def test_passes_of_a_small_tol_are_not_thrown_away():
    X, d, accepted = load_digits().data[:300], 40, []
    model = fit(X, d, tol=0, max_iter=40, on_pass=lambda state: accepted.append(state.accepted))
    assert accepted.count(False) < 10
    W = weights(X, model.components_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        further = decomposition.NMF(d, init="custom", tol=0, max_iter=100)
        further.fit(X, W=W, H=model.components_.copy())
    assert further.reconstruction_err_ >= 0.99 * model.reconstruction_err_


def few_lit(kind, n):
    rng = np.random.default_rng(n)
    if kind == "one pixel":
        return ((np.arange(16) == 3) * rng.integers(1, 256, (n, 1))).astype(np.uint8)
    if kind == "booleans":
        return rng.random((n, 4)) < 0.5
    return ((rng.random((n, 30)) < 0.02) * rng.random((n, 1))).astype("f4")


@pytest.mark.parametrize("kind", ["one pixel", "booleans", "sparse"])
@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("d", [2, 16])
def test_surplus_components_are_no_error(kind, n, d):
    X = few_lit(kind, n)
    for seed in range(2):
        model = fit(X, d, seed, max_iter=20)
        found = error_of(X, model.transform(X), model.components_)
        floor = 1e-5 * np.linalg.norm(X.astype(float))
        assert found == pytest.approx(model.reconstruction_err_, rel=1e-2, abs=floor)


class TestZeroComponents:
    X = nearly_exact(0.05, "f8", n=400, d=5)

    def start(self):
        rng = np.random.default_rng(0)
        return rng.random((400, 5)), rng.random((5, 40)) * (np.arange(5) != 2)[:, None]

    @pytest.mark.parametrize("with_W", [True, False])
    def test_of_a_custom_start_are_replaced(self, with_W):
        W, H = self.start()
        given = {"H": H, "W": W if with_W else None}
        model = dnmf.NMF(5, init="custom").fit(self.X, **given)
        assert model.components_.any(axis=1).all()
        assert model.reconstruction_err_ <= 1.1 * fit(self.X, 5).reconstruction_err_
        assert dnmf.NMF(5, init="custom", solver="mu").fit(self.X, **given).components_[2].any()

    def test_that_penalties_or_the_given_W_leave_out_stay(self):
        W, H = self.start()
        W[:, 2] = 0
        model = dnmf.NMF(5, init="custom").fit(self.X, H=H, W=W)
        assert not model.components_[2].any()
        model = dnmf.NMF(5, init="custom", alpha_H=1e-3).fit(self.X, H=H)
        assert not model.components_[2].any()

    def test_come_back_in_the_warm_up_if_they_lower_the_objective(self):
        rng = np.random.default_rng(44)
        X = rng.gamma(1, 1, (206, 3)) @ rng.gamma(0.3, 1, (3, 14))
        X *= rng.normal(1, 0.05, X.shape).clip(0) * (rng.random(X.shape) < 0.3)
        X /= X.mean()
        penalties = {"alpha_W": 0.003, "alpha_H": 0.1, "l1_ratio": 1.0}
        model = fit(X, 3, tol=1e-8, max_iter=500, **penalties)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            theirs = decomposition.NMF(3, init="random", random_state=0, **penalties)
            W = theirs.fit_transform(X)
        H = theirs.components_
        least = loss(X, W, H) + 0.003 * 14 * W.sum() + 0.1 * 206 * H.sum()
        assert model.loss_history_[-1] <= 1.01 * least

    def test_of_a_penalty_without_which_nothing_is_left(self):
        model = fit(self.X, 5, alpha_W=20.0, l1_ratio=1.0)
        nothing = 0.5 * np.sum(self.X**2)
        assert model.loss_history_[-1] <= 1.001 * nothing
        assert not model.components_.any()


@pytest.mark.parametrize("tol", [0, 1e-6])
def test_components_stay_bounded_where_nearly_all_is_masked(tol):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X = rng.gamma(1, 1, (43, 4)) @ rng.gamma(0.4, 1, (4, 22))
        mask = rng.random(X.shape) < (0.99, 0.95)[seed % 2]
        largest = []
        options = {"tol": tol, "max_iter": 200, "mask": mask}
        fit(X, 5, seed, on_pass=lambda s, seen=largest: seen.append(s.Y.max()), **options)
        assert max(largest) < 1e4


def test_an_exact_fit_ends():
    X = np.random.default_rng(0).random((15, 30))
    for kind in (X, da.from_array(X, chunks=(5, -1))):
        model = fit(kind, 30, tol=1e-12, max_iter=1000)
        assert model.stop_reason_ == "converged"
        assert model.n_iter_ < 500
