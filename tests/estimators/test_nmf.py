"""`NMF` as a scikit-learn estimator, on every kind of X."""

from __future__ import annotations

import os
import pickle
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from reference import loss
from sklearn import decomposition
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import dnmf
from dnmf.errors import DataError, ParameterError


@parametrize_with_checks(
    [
        dnmf.NMF(),
        dnmf.NMF(3, tol=1e-3),
        dnmf.NMF(3, solver="mu", beta_loss="kullback-leibler", alpha_W=1e-3, l1_ratio=0.5),
        dnmf.MiniBatchNMF(2, init="nndsvda"),
    ]
)
def test_scikit_learns_estimator_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn's own checks and skips
        check(estimator)


@pytest.fixture(scope="module")
def model(corpus):
    return dnmf.NMF(8, random_state=0).fit(corpus)


KINDS = {
    "numpy": lambda digits, corpus, folder: digits,
    "list": lambda digits, corpus, folder: digits.tolist(),
    "corpus": lambda digits, corpus, folder: corpus,
    "dask": lambda digits, corpus, folder: da.from_array(digits, chunks=(128, -1)),
    "zarr": lambda digits, corpus, folder: zarr.create_array(
        folder / "x.zarr", data=digits, chunks=(128, 784)
    ),
    "zarr in columns": lambda digits, corpus, folder: zarr.create_array(
        folder / "x.zarr", data=digits, chunks=(128, 100)
    ),
}


@pytest.fixture(params=KINDS)
def X(request, digits, corpus, tmp_path):
    return KINDS[request.param](digits, corpus, tmp_path)


class TestEveryKindOfX:
    def test_fit(self, X, model):
        fitted = dnmf.NMF(8, random_state=0).fit(X)
        # Arrays in memory are fitted in another way, and sums over other blocks round differently.
        assert fitted.reconstruction_err_ == pytest.approx(model.reconstruction_err_, rel=5e-3)
        assert fitted.components_.shape == (8, 784)
        assert fitted.components_.dtype == (np.float64 if isinstance(X, list) else np.float32)
        assert fitted.n_features_in_ == 784

    def test_transform_and_back(self, X, model, digits):
        expected = model.transform(digits)
        W = model.transform(X)
        assert W.shape == (700, 8)
        assert W.dtype == (np.float64 if isinstance(X, list) else np.float32)
        assert isinstance(W, np.ndarray) == isinstance(X, (np.ndarray, list))
        Y = model.inverse_transform(W)
        assert Y.shape == (700, 784)
        assert type(Y) is type(W)
        np.testing.assert_allclose(np.asarray(W), expected, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(np.asarray(Y), expected @ model.components_, atol=0.5)

    def test_fit_transform_is_fit_then_transform(self, X):
        W = dnmf.NMF(3, random_state=0).fit_transform(X)
        again = dnmf.NMF(3, random_state=0).fit(X).transform(X)
        assert (np.asarray(W) == np.asarray(again)).all()


def test_the_error_of_bright_images_is_exact():
    X = np.random.default_rng(0).integers(200, 210, (5000, 64)).astype(np.uint8)
    model = dnmf.NMF(4, random_state=0).fit(X)
    W = model.transform(X).astype(float)
    assert model.reconstruction_err_ == pytest.approx(
        np.linalg.norm(X - W @ model.components_), rel=1e-3
    )


def test_attributes(model, digits):
    assert model.n_components_ == 8
    assert model.stop_reason_ == "converged"
    assert model.n_iter_ == len(model.loss_history_)
    assert model.n_reads_ == model.n_iter_ + 1
    assert model.reconstruction_err_ == pytest.approx(np.sqrt(2 * model.loss_history_[-1]))
    W = model.transform(digits)
    exact = loss(digits, W, model.components_)
    assert exact <= model.loss_history_[-1] * (1 + 1e-5)
    assert exact == pytest.approx(model.loss_history_[-1], rel=1e-2)
    assert model.image_shape_ == (28, 28)
    assert list(model.get_feature_names_out())[:2] == ["nmf0", "nmf1"]


def test_the_tutorials_calls_run_and_are_no_worse_than_scikit_learns(digits):
    X = digits[:300]
    for d in (4, 20):
        ours = dnmf.NMF(n_components=d, init="random", random_state=0)
        theirs = decomposition.NMF(d, init="random", random_state=0, max_iter=800)
        W = ours.fit_transform(X)
        theirs.fit(X)
        assert ours.inverse_transform(W).shape == X.shape
        assert ours.reconstruction_err_ <= 1.005 * theirs.reconstruction_err_


def test_only_workers_read_blocks(tmp_path, client):
    def read(folder, block_id):
        with (folder / str(block_id[0])).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return np.random.default_rng(block_id[0]).random((50, 20))

    X = da.map_blocks(
        read, tmp_path, chunks=((50,) * 12, (20,)), dtype=float, meta=np.empty((0, 0))
    )
    W = dnmf.NMF(3, random_state=0, max_iter=2, tol=0).fit(X).transform(X)
    assert isinstance(W, da.Array)
    assert W.numblocks == (12, 1)
    readers = [file.read_text().split() for file in tmp_path.iterdir()]
    assert [len(pids) for pids in readers] == [3] * 12  # the sample and two passes
    assert str(os.getpid()) not in {pid for pids in readers for pid in pids}


def test_a_lazy_transform_is_one_task_per_block(model, corpus):
    (W,) = dask.optimize(model.transform(corpus))
    assert len(dict(W.__dask_graph__())) == corpus.n_blocks + 1  # and H, which they share


def test_a_lazy_transform_names_the_bad_image(model, digits):
    X = digits.astype(np.float32)
    X[300, 2] = -3
    W = model.transform(da.from_array(X, chunks=(128, -1)))
    with pytest.raises(DataError, match="-3 at pixel 2 of image 300"):
        W.compute()


def test_float64_is_kept(digits):
    model = dnmf.NMF(3, random_state=0).fit(digits.astype(np.float64))
    assert model.components_.dtype == model.transform(digits / 1.0).dtype == np.float64


class TestParameters:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"n_components": 0}, "n_components is 0; it must be an int >= 1"),
            ({"n_components": 2.5}, "n_components is 2.5"),
            ({"n_components": "many"}, "n_components is 'many'"),
            ({"n_components": True}, "n_components is True"),
            ({"init": "svd"}, "init is 'svd'; it must be None, 'random', 'nndsvd', 'nndsvda', "),
            ({"missing": "drop"}, "missing is 'drop'; it must be 'error' or 'ignore'"),
            ({"beta_loss": np.inf}, "beta_loss is inf; it must be a number or 'frobenius', "),
            ({"alpha_H": None}, "alpha_H is None; it must be a number >= 0 or 'same'"),
            ({"forget_factor": 1.5}, "forget_factor is 1.5; it must be a number from 0 to 1"),
            ({"batch_size": 0}, "batch_size is 0; it must be an int >= 1 or None"),
            ({"tol": -1}, "tol is -1; it must be a number >= 0"),
            ({"tol": float("nan")}, "tol is nan"),
            ({"max_iter": 0}, "max_iter is 0; it must be an int >= 1"),
            ({"checkpoint_every": 0}, "checkpoint_every is 0"),
            ({"random_state": -1}, "random_state is -1; it must be an int from 0"),
        ],
    )
    def test_invalid_values_are_named(self, digits, options, words):
        with pytest.raises(ParameterError, match=words.replace("(", r"\(")):
            dnmf.NMF(**{"n_components": 2} | options).fit(digits)

    def test_an_invalid_seed(self, digits):
        with pytest.raises(ValueError, match="seed"):
            dnmf.NMF(2, random_state="dice").fit(digits)

    def test_every_parameter_has_an_effect(self, digits, tmp_path, capsys):
        def fit(**options):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                return dnmf.NMF(**{"n_components": 3, "random_state": 0} | options).fit(digits)

        base, seen = fit(), []
        assert fit(n_components=4).components_.shape == (4, 784)
        assert fit(tol=0.5).n_iter_ < fit(tol=0, max_iter=20).n_iter_ == 20
        assert fit(max_iter=1).n_iter_ == 1
        assert not np.array_equal(fit(random_state=1).components_, base.components_)
        fit(verbose=1, on_pass=seen.append)
        assert f"iteration {len(seen)}: error" in capsys.readouterr().out
        each, more = (fit(checkpoint=tmp_path / f"{i}", checkpoint_every=i) for i in (1, 50))
        assert more.n_reads_ == each.n_reads_ + 1
        assert (fit(init="random").components_ == base.components_).all()
        # The rest have their tests in test_compatibility.py and test_masks_and_weights.py.
        ours = {"n_init", "missing", "warm_start", "forget_factor", "batch_size"}
        ours |= {"checkpoint", "checkpoint_every", "checkpoint_keep", "resume_from", "on_pass"}
        assert set(base.get_params()) == set(decomposition.NMF().get_params()) | ours

    def test_auto_components_are_the_pixels(self):
        X = np.random.default_rng(0).random((20, 5))
        assert dnmf.NMF(random_state=0).fit(X).components_.shape == (5, 5)

    def test_random_states(self, digits):
        def components(random_state):
            return dnmf.NMF(2, random_state=random_state).fit(digits).components_

        state = np.random.RandomState
        assert (components(state(3)) == components(state(3))).all()
        assert not np.array_equal(components(None), components(None))


def test_max_iter_warns_and_is_the_stop_reason(digits):
    with pytest.warns(ConvergenceWarning, match="Maximum number of iterations 1 reached"):
        model = dnmf.NMF(3, max_iter=1).fit(digits)
    assert model.stop_reason_ == "max_iter"


class TestBadX:
    @pytest.mark.parametrize(
        ("value", "words"), [(-1, "Negative values in data"), (np.nan, "NaN"), (np.inf, "infinity")]
    )
    @pytest.mark.parametrize("method", ["fit", "transform", "fit_transform"])
    def test_values(self, model, digits, value, words, method):
        X = digits.astype(float)
        X[690, 3] = X[17, 5] = value
        with pytest.raises(ValueError, match=rf"{words}.*pixel 5 of image 17;"):
            getattr(clone(model) if "fit" in method else model, method)(X)

    def test_shape(self, model, digits):
        for X in (digits[:, :5], da.from_array(digits[:, :5]), zarr.array(digits[:, :5])):
            with pytest.raises(ValueError, match="5 features, but NMF is expecting 784"):
                model.transform(X)
        with pytest.raises(ValueError, match="dim 3"):
            dnmf.NMF(2).fit(digits.reshape(-1, 28, 28))
        with pytest.raises(ValueError, match="dim 3"):
            dnmf.NMF(2).fit(da.from_array(digits.reshape(-1, 28, 28)))
        with pytest.raises(ValueError, match="dim 1"):
            dnmf.NMF(2).fit(da.zeros(5))
        with pytest.raises(DataError, match=r"\(n, 8\)"):
            model.inverse_transform(np.ones((3, 5)))

    @pytest.mark.parametrize(
        ("entry", "dtype", "words"),
        [(1j, complex, "Complex data"), ("cat", object, "convert"), ("cat", "U3", "Convert")],
    )
    def test_type(self, entry, dtype, words):
        with pytest.raises(ValueError, match=words):
            dnmf.NMF(2).fit(np.full((5, 5), entry, dtype))
        if dtype is not object:
            with pytest.raises(DataError, match="NMF needs integer, boolean or floating"):
                dnmf.NMF(2).fit(da.from_array(np.full((5, 5), entry, dtype)))

    def test_groups_are_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"a Group.*dnmf\.open_corpus"):
            dnmf.NMF(2).fit(zarr.create_group(tmp_path / "g"))

    def test_unfitted(self, digits):
        for method in ("transform", "inverse_transform", "save"):
            with pytest.raises(NotFittedError):
                getattr(dnmf.NMF(2), method)(digits)


class TestInScikitLearn:
    def test_clone_and_pickle(self, model, digits):
        assert clone(model).get_params() == model.get_params()
        again = pickle.loads(pickle.dumps(model))
        assert (again.transform(digits) == model.transform(digits)).all()

    def test_pipeline_and_grid_search(self, digits):
        from sklearn.linear_model import RidgeClassifier

        labels = (digits.sum(axis=1) > digits.sum(axis=1).mean()).astype(int)
        pipeline = make_pipeline(dnmf.NMF(4, random_state=0, tol=1e-2), RidgeClassifier())
        search = GridSearchCV(pipeline, {"nmf__n_components": [2, 5]}, cv=2).fit(digits, labels)
        assert search.best_score_ > 0.8

    def test_pandas_output(self, digits):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(digits[:50, 300:310], columns=[f"p{i}" for i in range(10)])
        W = dnmf.NMF(2, random_state=0).set_output(transform="pandas").fit_transform(frame)
        assert list(W.columns) == ["nmf0", "nmf1"]


class Labelled:
    """A lazy collection around a Dask array in `data`, as xarray's are."""

    def __init__(self, data):
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def __dask_graph__(self):
        return self.data.__dask_graph__()

    def __array__(self, *_, **__):
        pytest.fail("loaded as a whole")


def test_labelled_dask_arrays_stay_lazy(digits):
    lazy = da.from_array(digits, chunks=(100, -1))
    mask = np.random.default_rng(0).random(digits.shape) < 0.1
    lazy_mask = da.from_array(mask, chunks=(100, -1))
    plain = dnmf.NMF(4, random_state=0, max_iter=3, tol=0).fit(lazy, mask=lazy_mask)
    model = clone(plain).fit(Labelled(lazy), mask=Labelled(lazy_mask))
    assert (model.components_ == plain.components_).all()
    W = model.transform(Labelled(lazy))
    assert isinstance(W, da.Array)
    assert isinstance(model.inverse_transform(Labelled(W)), da.Array)


def test_dask_frames_are_refused_in_words():
    frame = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    lazy = frame.from_pandas(pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}), npartitions=1)
    with pytest.raises(DataError, match=r"to_dask_array\(lengths=True\)"):
        dnmf.NMF(1).fit(lazy)
