"""What dnmf 0.1.0 wrote is read, verified and resumed by the dnmf of today.

The archive holds ``images.npy`` (60 images of 6 x 6 pixels) and what 0.1.0 made of them: a corpus,
the model of a finished fit and its weights, an unfinished fit, a saved model and a sweep.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import dnmf
from dnmf.storage.checkpoint.checkpoint import open_checkpoint

ARCHIVE = Path(__file__).parent.parent / "data" / "dnmf-0.1.0.tar.gz"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def images(files):
    return np.load(files / "images.npy", allow_pickle=False)


@pytest.fixture(scope="module")
def corpus(files):
    return dnmf.open_corpus(files / "corpus.zarr")


@pytest.mark.parametrize(
    ("name", "kind", "blocks"),
    [
        ("corpus.zarr", "corpus", 3),
        ("weights.zarr", "weights", 3),
        ("checkpoint.model", "model", 0),
        ("unfinished.model", "model", 0),
        ("saved.model", "model", 0),
        ("sweep", "sweep", 0),
    ],
)
def test_all_are_intact(files, name, kind, blocks):
    found = dnmf.verify(files / name)
    assert (found.kind, found.blocks, found.findings) == (kind, blocks, [])


def test_the_corpus(corpus, images):
    assert corpus.shape == (60, 36)
    assert corpus.image_shape == (6, 6)
    assert corpus.dtype == np.uint8
    assert (corpus.block_rows, corpus.n_blocks) == (25, 3)
    assert corpus.codec == "lz4-bitshuffle"
    assert corpus.fingerprint == 431062564
    assert corpus.ids == [f"images:{i}" for i in range(60)]
    assert (corpus.images(slice(None)) == images).all()
    assert (corpus.to_dask().compute() == images.reshape(60, 36)).all()


def test_the_weights_are_those_of_the_model(files, corpus):
    weights = dnmf.open_weights(files / "weights.zarr")
    assert weights.shape == (60, 3)
    assert weights.dtype == np.float32
    assert weights.corpus_fingerprint == corpus.fingerprint
    expected = dnmf.load(files / "checkpoint.model").transform(corpus).compute()
    # Weights of 0.1.0 were solved to a larger tolerance.
    np.testing.assert_allclose(weights.to_dask().compute(), expected, rtol=1e-2, atol=0.1)


@pytest.mark.parametrize(
    ("name", "n_iter", "stop_reason"),
    [("checkpoint.model", 5, "max_iter"), ("unfinished.model", 2, "unfinished")],
)
def test_a_model_of_a_fit(files, corpus, images, name, n_iter, stop_reason):
    model, checkpoint = dnmf.load(files / name), open_checkpoint(files / name)
    assert model.components_.shape == (3, 36)
    assert (model.n_iter_, model.stop_reason_) == (n_iter, stop_reason)
    assert (model.beta_loss, model.solver, model.random_state) == ("frobenius", "cd", 0)
    W = np.concatenate([checkpoint.read_weights(block) for block in range(3)])
    assert (checkpoint.weights[:] == W).all()
    error = np.linalg.norm(images.reshape(60, 36) - W.astype(np.float64) @ model.components_)
    assert error == pytest.approx(model.reconstruction_err_, rel=1e-5)
    assert error**2 / 2 == pytest.approx(model.loss_history_[-1], rel=1e-5)
    solved = model.transform(corpus).compute()
    np.testing.assert_allclose(W, solved, atol=1e-3 * solved.max())  # solved to a tolerance


def test_a_saved_model(files, images):
    model = dnmf.load(files / "saved.model")
    X = images.reshape(60, 36).astype(np.float64)
    assert (model.beta_loss, model.solver) == ("kullback-leibler", "mu")
    assert (model.n_iter_, model.stop_reason_) == (5, "max_iter")
    assert open_checkpoint(files / "saved.model").weights is None
    Y = model.inverse_transform(model.transform(X))
    positive = X > 0
    divergence = (X[positive] * np.log(X[positive] / Y[positive])).sum() - X.sum() + Y.sum()
    assert divergence == pytest.approx(model.loss_history_[-1], rel=0.05)  # W is better solved now
    assert divergence == pytest.approx(model.reconstruction_err_**2 / 2, rel=0.05)


def test_an_unfinished_fit_goes_on_to_the_end_of_the_finished_one(files, corpus, tmp_path):
    path, whole = tmp_path / "model", dnmf.load(files / "checkpoint.model")
    shutil.copytree(files / "unfinished.model", path)
    options = {"tol": 0, "max_iter": 5, "random_state": 0, "checkpoint_every": 2}
    resumed = dnmf.NMF(3, checkpoint=path, **options).fit(corpus)
    assert resumed.n_iter_ == 5
    # Weights of 0.1.0 were solved to a larger tolerance.
    np.testing.assert_allclose(resumed.components_, whole.components_, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(resumed.loss_history_, whole.loss_history_, rtol=1e-4)
    assert dnmf.verify(path).findings == []


def test_the_sweep(files, images):
    sweep = dnmf.load_sweep(files / "sweep")
    assert [row["n_components"] for row in sweep.table] == [2, 3]
    assert sweep.best_n_components_ == 2
    for row in sweep.table:
        model = sweep.models_[row["n_components"]]
        assert model.components_.shape == (row["n_components"], 36)
        X = images.reshape(60, 36).astype(np.float64)
        error = np.linalg.norm(X - model.inverse_transform(model.transform(X)))
        assert error == pytest.approx(row["error"], rel=1e-3)
