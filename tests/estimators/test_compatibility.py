"""Compatibility with scikit-learn's NMF and MiniBatchNMF: parameters, results and errors.

`docs/reference/compatibility.md` has a row for each of these tests, and
`test_every_row_has_its_test` holds the two together.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import zarr
from reference import fit_of
from sklearn import config_context, decomposition
from sklearn.base import clone
from sklearn.decomposition._nmf import _initialize_nmf
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import dnmf
from dnmf import NMF, MiniBatchNMF

DOC = Path(__file__).parents[2] / "docs" / "reference" / "compatibility.md"
BOTH = pytest.mark.parametrize("kind", [NMF, MiniBatchNMF])
MU = {"solver": "mu", "beta_loss": "kullback-leibler"}


def test_every_row_has_its_test():
    rows = re.findall(r"^\|.*\| `(test_\w+)` \|$", DOC.read_text(encoding="utf-8"), flags=re.M)
    tests = {name for name in globals() if name.startswith("test_")} - {
        "test_every_row_has_its_test",
        "test_every_parameter_of_scikit_learns_has_a_row",
    }
    assert set(rows) == tests


def test_every_parameter_of_scikit_learns_has_a_row():
    text = DOC.read_text(encoding="utf-8")
    for ours, theirs in ((NMF, decomposition.NMF), (MiniBatchNMF, decomposition.MiniBatchNMF)):
        names = set(theirs().get_params())
        assert names <= set(ours().get_params()) | {"shuffle"}
        for name in names:
            assert f"`{name}" in text


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return rng.random((60, 5)) @ rng.random((5, 24)) + 0.05 * rng.random((60, 24))


@pytest.fixture(scope="module")
def model(X):
    return fit_of(X, 4)


# Parameters


def test_defaults_are_the_same():
    for ours, theirs in ((NMF, decomposition.NMF), (MiniBatchNMF, decomposition.MiniBatchNMF)):
        mine, known = ours().get_params(), theirs().get_params()
        if "solver" in known:  # follows the loss here, and is theirs for the default loss
            assert (mine.pop("solver"), known.pop("solver")) == ("auto", "cd")
        for name, value in known.items():
            assert mine[name] == value


def test_the_solver_follows_the_loss(X):
    for loss, solver in (("frobenius", "cd"), (2, "cd"), ("kullback-leibler", "mu"), (1.5, "mu")):
        model = NMF(3, beta_loss=loss, random_state=0, max_iter=3, tol=0).fit(X)
        same = NMF(3, beta_loss=loss, solver=solver, random_state=0, max_iter=3, tol=0).fit(X)
        np.testing.assert_array_equal(model.components_, same.components_)
        np.testing.assert_array_equal(model.transform(X), same.transform(X))


def test_n_init(X):
    alone = [NMF(3, random_state=seed).fit(X) for seed in (0, 1)]
    best = min(alone, key=lambda model: model.loss_history_[-1])
    model = NMF(3, n_init=2, random_state=0).fit(X)
    np.testing.assert_array_equal(model.components_, best.components_)
    assert model.n_reads_ == max(one.n_reads_ for one in alone)


def test_n_components(X):
    assert (
        fit_of(X, "auto", tol=1e-2).n_components_ == fit_of(X, None, tol=1e-2).n_components_ == 24
    )
    assert fit_of(X, 30, tol=1e-2).components_.shape == (30, 24)  # more than pixels is fine
    H = np.ones((3, 24))
    model = NMF(init="custom", tol=1e-2).fit(X, H=H)
    assert model.n_components_ == 3
    with pytest.raises(ValueError, match=r"Expected 24, but got 3"):
        NMF(None, init="custom").fit(X, H=H)
    with pytest.raises(ValueError, match="init='custom' needs H"):
        NMF(init="custom").fit(X, W=np.ones((60, 3)))


@pytest.mark.parametrize("seed", [0, 5])
def test_init_random_is_the_same_draw(X, seed):
    from dnmf.numerics.block import Block
    from dnmf.solvers.warm_start import random_H

    _, H = _initialize_nmf(X, 5, init="random", random_state=seed)
    np.testing.assert_allclose(random_H(Block(X), 5, seed), H)


@pytest.mark.parametrize("init", ["nndsvd", "nndsvda"])
@pytest.mark.parametrize("columns", [None, 40])
def test_init_nndsvd_is_the_same_start(digits, init, columns, monkeypatch):
    from sklearn.decomposition import _nmf

    from dnmf.estimators.inputs import blocks_of
    from dnmf.solvers.nndsvd import nndsvd_H
    from dnmf.solvers.sample import take_sample

    def exact_svd(X, k, random_state):
        U, S, V = np.linalg.svd(X, full_matrices=False)
        return U[:, :k], S[:k], V[:k]

    # Its own singular vectors are approximate; those of a flat spectrum visibly so.
    names = ("_randomized_svd", "randomized_svd")  # of scikit-learn now, and before 1.8
    monkeypatch.setattr(_nmf, next(name for name in names if hasattr(_nmf, name)), exact_svd)
    images = digits.astype(float)[:, 200:400] if columns is None else digits.astype(float)[:40]
    _, H = _initialize_nmf(images, 8, init=init, random_state=0)
    blocks = blocks_of(da.from_array(images, chunks=(128, -1)))
    sample, _ = take_sample(blocks, 0)
    ours = nndsvd_H(blocks, sample, 8, 0, init)
    np.testing.assert_allclose(ours, H, rtol=1e-3, atol=1e-3 * H.max())


@pytest.mark.parametrize("kind", ["numpy", "dask"])
def test_init_nndsvd_takes_three_reads_and_is_exact(digits, kind):
    from dnmf.estimators.inputs import blocks_of
    from dnmf.solvers.nndsvd import singular_vectors
    from dnmf.solvers.sample import take_sample

    X = digits.astype(float)
    blocks = blocks_of(X if kind == "numpy" else da.from_array(X, chunks=(128, -1)))
    sample, _ = take_sample(blocks, 0)
    reads = []
    map_sum = blocks.map_sum
    blocks.map_sum = lambda *args, **kwargs: reads.append(1) or map_sum(*args, **kwargs)
    values, _, _ = singular_vectors(blocks, sample, 20, 0)
    assert len(reads) == 3
    np.testing.assert_allclose(values, np.linalg.svd(X, compute_uv=False)[:20], rtol=1e-6)


def test_init_nndsvdar_fills_zeros_at_random(digits):
    from dnmf.estimators.inputs import blocks_of
    from dnmf.numerics.block import Block
    from dnmf.solvers.nndsvd import nndsvd_H

    made = [nndsvd_H(blocks_of(digits), Block(digits), 5, s, "nndsvdar") for s in (0, 0, 1)]
    assert (made[0] > 0).all()
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()


def test_init_custom_starts_from_H(X):
    rng = np.random.default_rng(1)
    W, H = rng.random((60, 3)), rng.random((3, 24))
    once = fit_of(X, 3, init="random", max_iter=1)
    model = NMF(3, init="custom", tol=1e-3).fit(X, W=W, H=H)
    assert model.reconstruction_err_ < np.linalg.norm(X - W @ H)
    same = NMF(3, init="custom", tol=1e-3).fit(X, H=H)  # W follows from X and H
    assert (same.components_ == model.components_).all()
    assert not np.allclose(model.components_, once.components_)


@pytest.mark.parametrize("beta_loss", ["frobenius", "kullback-leibler", "itakura-saito", 0.5, 3])
def test_solver_and_beta_loss(X, beta_loss):
    model = fit_of(X, 4, solver="mu", beta_loss=beta_loss)
    theirs = decomposition.NMF(4, solver="mu", beta_loss=beta_loss, random_state=0, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(X)
    assert model.reconstruction_err_ <= 1.01 * theirs.reconstruction_err_


def test_tol_and_max_iter(X):
    assert NMF(4, tol=0.9, random_state=0).fit(X).n_iter_ == 2
    assert fit_of(X, 4, tol=0, max_iter=7).n_iter_ == 7
    with pytest.warns(
        ConvergenceWarning,
        match=r"Maximum number of iterations 1 reached\. Increase it to improve convergence\.",
    ):
        model = NMF(4, max_iter=1).fit(X)
    assert model.stop_reason_ == "max_iter"


def test_random_state(X):
    def components(random_state):
        return NMF(2, random_state=random_state).fit(X).components_

    state = np.random.RandomState
    assert (components(3) == components(3)).all()
    assert (components(state(3)) == components(state(3))).all()
    assert not np.array_equal(components(None), components(None))


@pytest.mark.parametrize("options", [{}, MU])
def test_alpha_and_l1_ratio(X, options):
    def fit(**penalty):
        return fit_of(X, 6, **options, **penalty)

    def zeros(model):
        return np.mean(model.transform(X) <= 1e-6)

    sizes = [np.linalg.norm(fit(alpha_W=a).transform(X)) for a in (1e-3, 1e-2, 1e-1)]
    assert sizes[0] > sizes[1] > sizes[2]
    much = 1.0 if options else 0.02
    assert zeros(fit(alpha_W=much, l1_ratio=1)) > zeros(fit(alpha_W=much, l1_ratio=0))
    assert np.allclose(
        fit(alpha_W=0.01, alpha_H="same").components_, fit(alpha_W=0.01, alpha_H=0.01).components_
    )
    plain, heavy = fit(), fit(alpha_W=0.05)
    assert heavy.loss_history_[-1] > 0.5 * heavy.reconstruction_err_**2 * (1 + 1e-6)
    assert plain.loss_history_[-1] == pytest.approx(0.5 * plain.reconstruction_err_**2)


def test_verbose(X, capsys):
    NMF(2, verbose=1, random_state=0).fit(X)
    assert "iteration 1: error" in capsys.readouterr().out


def test_shuffle_changes_nothing(X):
    assert (fit_of(X, 3, shuffle=True).components_ == fit_of(X, 3).components_).all()


def test_batch_size(X):
    steps = [NMF(2, batch_size=size).partial_fit(X).n_steps_ for size in (5, 20, 100)]
    assert steps == [12, 3, 1]


def test_forget_factor(digits):
    other = digits[:, ::-1]

    def after(forget):
        model = NMF(5, random_state=0, forget_factor=forget).partial_fit(digits)
        for _ in range(2):
            model.partial_fit(other)
        return model.score(digits)

    assert after(1.0) > after(0.1)


def test_mini_batch_parameters_without_effect(X):
    base = MiniBatchNMF(3, random_state=0).fit(X).components_
    for option in (
        {"max_no_improvement": None},
        {"fresh_restarts": True},
        {"fresh_restarts_max_iter": 2},
        {"transform_max_iter": 3},
    ):
        model = MiniBatchNMF(3, random_state=0, **option).fit(X)
        assert (model.components_ == base).all()


def test_mini_batch_is_nmf(X):
    for beta_loss in ("frobenius", 2, 1.5, "kullback-leibler"):
        solver = "cd" if beta_loss in ("frobenius", 2) else "mu"
        ours = MiniBatchNMF(3, random_state=0, beta_loss=beta_loss).fit(X)
        same = fit_of(X, 3, solver=solver, beta_loss=beta_loss)
        assert (ours.components_ == same.components_).all()


# Attributes


def test_n_steps(X):
    options = {"random_state": 0, "tol": 0, "max_iter": 4, "batch_size": 25}
    theirs = decomposition.MiniBatchNMF(3, max_no_improvement=None, **options).fit(X)
    model = MiniBatchNMF(3, **options).fit(X)
    assert model.n_steps_ == theirs.n_steps_ == 4 * 3  # of 25, 25 and 10 images
    assert model.partial_fit(X[:20]).partial_fit(X[:50]).n_steps_ == 12 + 1 + 2


@BOTH
def test_attributes(X, kind):
    theirs = getattr(decomposition, kind.__name__)(3, random_state=0)
    ours = kind(3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(X)
        ours.fit(X)
    names = {name for name in vars(theirs) if name.endswith("_") and not name.startswith("_")}
    for name in names:
        assert hasattr(ours, name)
        assert np.shape(getattr(ours, name)) == np.shape(getattr(theirs, name))
    assert ours.reconstruction_err_ == pytest.approx(
        np.linalg.norm(X - ours.transform(X) @ ours.components_), rel=1e-3
    )


def test_reconstruction_err_leaves_out_penalties(X):
    from sklearn.decomposition._nmf import _beta_divergence

    for options, beta in (({}, 2), (MU, 1)):
        model = fit_of(X, 3, alpha_W=0.01, **options)
        value = _beta_divergence(X, model.transform(X), model.components_, beta, square_root=True)
        assert model.reconstruction_err_ == pytest.approx(value, rel=5e-3)


def test_feature_names(X):
    import pandas as pd

    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(24)])
    model = NMF(3, random_state=0).fit(frame)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert list(model.get_feature_names_out()) == ["nmf0", "nmf1", "nmf2"]
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame[frame.columns[::-1]])


# Methods


@pytest.mark.parametrize("options", [{}, MU, {"solver": "mu", "beta_loss": 1.5}])
@pytest.mark.parametrize("penalty", [{}, {"alpha_W": 1e-3, "l1_ratio": 0.5}])
def test_fit_transform_is_transform(X, options, penalty):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        W = (model := NMF(4, random_state=0, **options, **penalty)).fit_transform(X)
    assert (model.transform(X) == W).all()
    np.testing.assert_allclose(model.transform(X[10:20]), W[10:20], rtol=1e-6, atol=1e-9)


def test_inverse_transform(model, X, tmp_path):
    W = model.transform(X)
    lazy = model.inverse_transform(zarr.create_array(tmp_path / "w.zarr", data=W, chunks=(20, 4)))
    assert isinstance(lazy, da.Array)
    np.testing.assert_allclose(lazy.compute(), W @ model.components_)
    np.testing.assert_allclose(model.inverse_transform(W), W @ model.components_)
    np.testing.assert_allclose(
        model.inverse_transform(scipy.sparse.csr_array(W)), W @ model.components_
    )


def test_sparse_input_is_taken(X):
    X = np.where(np.median(X) < X, X, 0)
    for options in ({}, MU):
        dense = fit_of(X, 3, **options)
        for sparse in (scipy.sparse.csr_array(X), scipy.sparse.csc_matrix(X)):
            model = fit_of(sparse, 3, **options)
            close = pytest.approx(dense.reconstruction_err_, rel=1e-3 if options == {} else 2e-2)
            assert model.reconstruction_err_ == close
            assert (model.transform(sparse) == model.transform(X)).all()
            assert model.score(sparse) == model.score(X)


@BOTH
def test_partial_fit(digits, kind):
    model = kind(8, random_state=0)
    for rows in np.array_split(np.arange(700), 7):
        model.partial_fit(digits[rows])
    assert model.n_steps_ == 7
    assert model.stop_reason_ == "partial_fit"
    assert not hasattr(model, "n_iter_")
    assert not hasattr(model, "reconstruction_err_")
    theirs = decomposition.MiniBatchNMF(8, random_state=0)
    for rows in np.array_split(np.arange(700), 7):
        theirs.partial_fit(digits[rows].astype(float))
    errors = [
        np.linalg.norm(digits - (m.transform(digits) @ m.components_)) for m in (model, theirs)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("options", [{}, MU, {"solver": "mu", "beta_loss": 0.5}])
def test_partial_fit_of_dark_images(X, options):
    dark, hidden = np.zeros((50, 24)), np.ones(X.shape, bool)
    model = NMF(4, random_state=0, **options).partial_fit(dark).partial_fit(X, mask=hidden)
    for _ in range(10):
        model.partial_fit(X)
    reached = model.score(X)
    assert reached > 1.5 * fit_of(X, 4, **options).score(X) - 0.5
    assert model.partial_fit(dark).score(X) == pytest.approx(reached)


@pytest.mark.parametrize("options", [{}, MU])
def test_partial_fit_goes_on_from_a_fit(X, options, tmp_path):
    def drift(forget):
        model = fit_of(X, 4, forget_factor=forget, **options)
        before = model.score(X)
        model.partial_fit(X[:3])
        assert model.n_steps_ == 1
        assert not hasattr(model, "reconstruction_err_")
        return before - model.score(X)

    assert drift(1.0) < drift(0.0)
    assert drift(1.0) < 0.02 * -fit_of(X, 4, **options).score(X)


def test_partial_fit_after_other_parameters(X):
    model = NMF(4, random_state=0).partial_fit(X)
    before = model.score(X)
    model.set_params(**MU).partial_fit(X)  # other sums: it goes on from H alone
    assert np.isfinite(model.components_).all()
    assert model.set_params(solver="cd", beta_loss=2).partial_fit(X).score(X) > 1.5 * before
    with pytest.raises(ValueError, match=r"n_components is 6, but partial_fit continues from 4"):
        model.set_params(n_components=6).partial_fit(X)
    with pytest.raises(ValueError, match="None for partial_fit"):
        NMF(4, checkpoint="model").partial_fit(X)


@pytest.mark.parametrize("beta_loss", [0, 0.5, 1, 1.5, 3])
def test_no_descent_is_left_to_scikit_learn(X, beta_loss):
    options = {"solver": "mu", "beta_loss": beta_loss, "max_iter": 300}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = NMF(5, random_state=0, tol=1e-6, **options).fit(X)
        start = {"W": model.transform(X), "H": model.components_}
        theirs = decomposition.NMF(5, init="custom", tol=1e-6, **options)
        theirs.fit_transform(X, **{name: A.copy() for name, A in start.items()})
    assert model.reconstruction_err_ <= 1.01 * theirs.reconstruction_err_


@pytest.mark.parametrize("beta_loss", [0.5, 1, 1.5, 2, 3])
def test_perfect_fits_have_no_negative_loss(beta_loss):
    for A in (np.outer(np.arange(1, 21), np.arange(1, 6.0)), np.ones((1, 4)), np.ones((4, 1))):
        model = fit_of(A, 1, solver="mu", beta_loss=beta_loss)
        assert 0 <= model.reconstruction_err_ <= 1e-2 * np.linalg.norm(A)
        assert (model.loss_history_ >= 0).all()
        assert model.score(A) <= 0


@pytest.mark.parametrize("beta_loss", [0.5, 1, 1.5, 2, 3])
def test_penalties_may_leave_nothing(X, beta_loss):
    model = fit_of(X, 4, solver="mu", beta_loss=beta_loss, alpha_W=1e6, l1_ratio=1.0)
    assert np.isfinite(model.components_).all()
    assert np.isfinite(model.transform(X)).all()


def test_score(model, X):
    losses = 0.5 * ((X - model.transform(X) @ model.components_) ** 2).sum(axis=1)
    assert model.score(X) == pytest.approx(-losses.mean(), rel=1e-6)
    np.testing.assert_allclose(model.reconstruct_error(X), losses, rtol=1e-6)


@BOTH
def test_set_output(X, kind):
    import pandas as pd

    model = kind(3, random_state=0).set_output(transform="pandas")
    W = model.fit_transform(X)
    assert isinstance(W, pd.DataFrame)
    assert list(W.columns) == [f"{kind.__name__.lower()}{i}" for i in range(3)]


def test_frames_are_not_made_of_lazy_weights(X):
    model = NMF(3, random_state=0).fit(X).set_output(transform="pandas")
    with pytest.raises(ValueError, match="would load the weights of all images"):
        model.transform(da.from_array(X, chunks=(20, -1)))


@BOTH
def test_clone_and_pickle(X, kind):
    model = kind(3, random_state=0, alpha_W=0.1).fit(X)
    assert clone(model).get_params() == model.get_params()
    again = pickle.loads(pickle.dumps(model))
    assert (again.transform(X) == model.transform(X)).all()


def test_metadata_routing(X):
    with config_context(enable_metadata_routing=True):
        nmf = NMF(3, random_state=0).set_fit_request(
            sample_weight=True, mask=False, W=False, H=False
        )
        nmf.set_transform_request(mask=False)
        weights = np.arange(60.0)
        pipeline = make_pipeline(nmf).fit(X, sample_weight=weights)
    plain = NMF(3, random_state=0).fit(X, sample_weight=weights)
    assert (pipeline[0].components_ == plain.components_).all()


def test_pipelines_and_grid_search(X):
    pipeline = make_pipeline(NMF(2, random_state=0))
    search = GridSearchCV(pipeline, {"nmf__n_components": [1, 4]}, cv=2).fit(X)
    assert search.best_params_ == {"nmf__n_components": 4}


def test_dask_ml_grid_search(X):
    from dask_ml.model_selection import GridSearchCV as DaskGridSearchCV

    search = DaskGridSearchCV(
        NMF(2, random_state=0), {"n_components": [1, 4]}, cv=2, scheduler="synchronous"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # dask-ml's own
        search.fit(X)
    assert search.best_params_ == {"n_components": 4}


def test_dask_ml_parallel_post_fit(X):
    from dask_ml.wrappers import ParallelPostFit

    wrapped = ParallelPostFit(NMF(3, random_state=0)).fit(X)
    lazy = wrapped.transform(da.from_array(X, chunks=(20, -1)))
    assert isinstance(lazy, da.Array)
    np.testing.assert_allclose(lazy.compute(), wrapped.estimator.transform(X), rtol=1e-6, atol=1e-9)


def test_dtypes(digits):
    digits = digits[:200] // 2
    for dtype, expected in (
        (np.uint8, np.float32),
        (np.uint16, np.float32),
        (np.int8, np.float32),
        (np.int16, np.float32),
        (bool, np.float32),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.int32, np.float64),
        (np.uint32, np.float64),
        (np.int64, np.float64),
    ):
        model = fit_of(digits.astype(dtype), 3)
        assert model.components_.dtype == model.transform(digits.astype(dtype)).dtype == expected
    single, double = (fit_of(digits.astype(t), 3) for t in (np.float32, np.float64))
    assert single.reconstruction_err_ == pytest.approx(double.reconstruction_err_, rel=1e-3)


@pytest.mark.parametrize("beta_loss", ["frobenius", "kullback-leibler"])
def test_wide_integers_are_float64(digits, beta_loss):
    wide = digits[:100].astype(np.int64) + 2**40  # float32 would hold none of the differences
    options = {"beta_loss": beta_loss, "tol": 1e-2}
    for X in (wide, scipy.sparse.csr_array(wide)):
        model, same = (fit_of(A, 3, **options) for A in (X, X.astype(float)))
        assert (model.components_ == same.components_).all()


def test_wide_integers_outside_memory_are_float32(digits):
    wide = digits[:100].astype(np.int64)
    assert fit_of(da.from_array(wide, chunks=(50, -1)), 3).components_.dtype == np.float32


def test_warm_start(X):
    model = NMF(4, random_state=0, warm_start=True, tol=1e-3).fit(X)
    first = model.reconstruction_err_
    assert model.fit(X).reconstruction_err_ <= first
    assert model.n_reads_ == model.n_iter_ + 1  # for the last weights, but none for a sample
    cold = NMF(4, random_state=0, tol=1e-3).fit(X)
    assert (cold.fit(X).components_ == NMF(4, random_state=0, tol=1e-3).fit(X).components_).all()
    with pytest.warns(UserWarning, match="warm_start finds components of shape"):
        model.set_params(n_components=5).fit(X)


def test_lazy_input_is_never_loaded_whole(digits):
    def block(block_id):
        return digits[100 * block_id[0] : 100 * block_id[0] + 100]

    X = da.map_blocks(block, chunks=((100,) * 7, (784,)), dtype=np.uint8, meta=np.empty((0, 0)))
    model = NMF(3, random_state=0, tol=1e-2)

    def refuse(*args, **kwargs):
        raise AssertionError("the whole array was asked for")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(da.Array, "__array__", refuse)
        patch.setattr(da.Array, "compute", refuse)
        W = model.fit_transform(X)
        model.partial_fit(X)
        errors = model.reconstruct_error(X)
        model.score(X)
    assert W.chunks == ((100,) * 7, (3,))
    assert errors.chunks == ((100,) * 7,)


# Errors


@BOTH
@pytest.mark.parametrize("init", [None, "nndsvd", "custom"])
def test_negative_values_at_fit(X, kind, init):
    X = X.copy()
    X[7, 3] = -1
    start = {"H": np.ones((3, 24))} if init == "custom" else {}
    with pytest.raises(ValueError, match=r"Negative values in data passed to NMF.*image 7"):
        kind(3, init=init).fit(X, **start)


@BOTH
def test_negative_values_at_every_transform_and_partial_fit(X, kind):
    bad = X.copy()
    bad[7, 3] = -1
    model = kind(3, random_state=0).partial_fit(X)
    for _ in range(2):
        for method in (model.transform, model.partial_fit, model.score, model.reconstruct_error):
            with pytest.raises(ValueError, match="Negative values in data passed to NMF"):
                method(bad)
        model.partial_fit(X)


def test_nan(X):
    X = X.copy()
    X[7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        NMF(3).fit(X)


def test_three_dimensions(digits):
    with pytest.raises(ValueError, match="Found array with dim 3"):
        NMF(3).fit(digits.reshape(-1, 28, 28))


@pytest.mark.parametrize("init", ["nndsvd", "nndsvda", "nndsvdar"])
def test_nndsvd_of_too_many(X, init):
    with pytest.raises(
        ValueError, match=f"init = '{init}' can only be used when n_components <= min"
    ):
        NMF(25, init=init).fit(X)


def test_cd_is_for_frobenius(X):
    with pytest.raises(
        ValueError, match="Invalid beta_loss parameter: solver 'cd' does not handle"
    ):
        NMF(3, solver="cd", beta_loss="kullback-leibler").fit(X)
    assert NMF(3, beta_loss=2.0, random_state=0).fit(X).components_.shape == (3, 24)


def test_zeros_with_beta_below_one(digits):
    with pytest.raises(ValueError, match="When beta_loss <= 0 and X contains zeros"):
        NMF(3, solver="mu", beta_loss=0).fit(digits)


def test_start_of_another_dtype(X):
    W, H = np.ones((60, 3), np.float32), np.ones((3, 24), np.float32)
    with pytest.raises(TypeError, match=r"H and W should have the same dtype as X\. Got H\.dtype"):
        NMF(3, init="custom").fit(X, W=W, H=H)
    with pytest.raises(TypeError, match=r"^H should have the same dtype as X\. Got H\.dtype"):
        dnmf.non_negative_factorization(X, H=H, update_H=False)
    with pytest.raises(TypeError, match=r"Got W\.dtype"):
        NMF(3, init="custom").fit(X, W=W, H=H.astype(float))


def test_start_of_another_shape_or_sign(X):
    H = np.ones((3, 24))
    for bad, words in (
        (H[:, :5], r"wrong second dimension passed to NMF \(input H\)\. Expected 24, but got 5\."),
        (H[:2], r"Array with wrong first dimension passed to NMF \(input H\)\. Expected 3"),
        (H[0], r"Expected 2D array passed to NMF \(input H\)"),
        (-H, r"Negative values in data passed to NMF \(input H\)"),
        (0 * H, r"Array passed to NMF \(input H\) is full of zeros"),
        (None, "needs H"),
    ):
        with pytest.raises(ValueError, match=words):
            NMF(3, init="custom").fit(X, H=bad)
    with pytest.raises(ValueError, match=r"wrong first dimension passed to NMF \(input W\)"):
        NMF(3, init="custom").fit(X, W=np.ones((3, 3)), H=H)


def test_start_without_custom_is_ignored(X):
    with pytest.warns(RuntimeWarning, match="provided W or H are ignored"):
        model = NMF(3, random_state=0).fit(X, H=np.ones((3, 24)))
    assert (model.components_ == fit_of(X, 3).components_).all()


@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 0},
        {"n_components": 1.5},
        {"init": "spam"},
        {"solver": "spam"},
        {"beta_loss": "spam"},
        {"tol": -1},
        {"max_iter": 0},
        {"alpha_W": -1},
        {"alpha_H": -1},
        {"alpha_H": "spam"},
        {"l1_ratio": 2},
        {"random_state": "dice"},
        {"verbose": -1},
        {"verbose": "much"},
        {"shuffle": "yes"},
    ],
    ids=str,
)
def test_bad_parameters(X, options):
    for kind in (NMF, decomposition.NMF):
        with pytest.raises(
            ValueError, match=next(iter(options)).replace("random_state", ".*")
        ) as info:
            kind(**options).fit(X)
        if next(iter(options)) != "random_state":
            assert isinstance(info.value, TypeError)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"forget_factor": 2},
        {"max_no_improvement": 0},
        {"fresh_restarts": 3},
        {"fresh_restarts_max_iter": 0},
        {"transform_max_iter": 0},
    ],
    ids=str,
)
def test_bad_mini_batch_parameters(X, options):
    for kind in (MiniBatchNMF, decomposition.MiniBatchNMF):
        with pytest.raises(ValueError, match=next(iter(options))):
            kind(**options).fit(X)


def test_wrong_width_or_not_fitted(model, X):
    with pytest.raises(ValueError, match="X has 5 features, but NMF is expecting 24"):
        model.transform(X[:, :5])
    with pytest.raises(NotFittedError):
        NMF().transform(X)


def test_mu_from_nndsvd_warns(X):
    with pytest.warns(UserWarning, match="cannot update zeros present in the initialization"):
        model = NMF(3, init="nndsvd", random_state=0, **MU).fit(X)
    # Here zeros are raised first, so the warning is all that comes of it.
    assert (
        model.reconstruction_err_ <= 1.01 * fit_of(X, 3, init="nndsvda", **MU).reconstruction_err_
    )


def test_early_stops_say_why(X):
    assert NMF(3, random_state=0).fit(X).stop_reason_ == "converged"
    assert fit_of(X, 3, max_iter=1).stop_reason_ == "max_iter"
    assert dnmf.NMF(3).partial_fit(X).stop_reason_ == "partial_fit"
