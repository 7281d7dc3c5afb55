"""What earlier versions wrote is read, verified and resumed by the dnmf of today.

Each archive holds ``images.npy`` (60 images of 6 x 6 pixels) and what a version made of them: a
corpus, the model of a finished fit and its weights, an unfinished fit and a saved model; that of
0.1.0 also a sweep. ``docs/reference/formats.md`` says which formats they are of. The corpus of
format 2 was made of 40 images, and 20 were appended; it has a column of labels.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import dnmf
from dnmf.model_selection.sweep_store import VERSION as SWEEP_VERSION
from dnmf.storage.checkpoint import commit
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.corpus_writer import VERSION as CORPUS_VERSION
from dnmf.storage.weights import VERSION as WEIGHTS_VERSION

DATA = Path(__file__).parent.parent / "data"
OLD, NEW = "dnmf-0.1.0", "formats-2-3-5"
FORMATS = {
    OLD: {"corpus": 1, "weights": 2, "model": 4, "sweep": 1},
    NEW: {"corpus": 2, "weights": 3, "model": 5},
}
STORES = {
    "corpus.zarr": ("corpus", 3),
    "weights.zarr": ("weights", 3),
    "checkpoint.model": ("model", 0),
    "unfinished.model": ("model", 0),
    "saved.model": ("model", 0),
    "sweep": ("sweep", 0),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {}
    for name in FORMATS:
        folders[name] = tmp_path_factory.mktemp(name)
        with tarfile.open(DATA / f"{name}.tar.gz") as archive:
            archive.extractall(folders[name], filter="data")
    return folders


@pytest.fixture(params=FORMATS)
def files(folders, request):
    return folders[request.param]


@pytest.fixture
def images(files):
    return np.load(files / "images.npy", allow_pickle=False)


@pytest.fixture
def corpus(files):
    return dnmf.open_corpus(files / "corpus.zarr")


def version_of(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["dnmf"]["version"]


@pytest.mark.parametrize("archive", FORMATS)
def test_all_are_intact(folders, archive):
    for name, (kind, blocks) in STORES.items():
        if kind in FORMATS[archive]:
            found = dnmf.verify(folders[archive] / name)
            assert (found.kind, found.blocks, found.findings) == (kind, blocks, [])
            assert version_of(folders[archive] / name) == FORMATS[archive][kind]


def test_there_is_one_of_every_format_that_is_read():
    assert {1, CORPUS_VERSION} == {formats["corpus"] for formats in FORMATS.values()}
    assert {2, WEIGHTS_VERSION} == {formats["weights"] for formats in FORMATS.values()}
    assert {commit.OLDEST, commit.VERSION} == {formats["model"] for formats in FORMATS.values()}
    assert FORMATS[OLD]["sweep"] == SWEEP_VERSION


def test_a_corpus(corpus, images):
    assert corpus.shape == (60, 36)
    assert corpus.image_shape == (6, 6)
    assert corpus.dtype == np.uint8
    assert (corpus.block_rows, corpus.n_blocks) == (25, 3)
    assert (corpus.images(slice(None)) == images).all()
    assert (corpus.to_dask().compute() == images.reshape(60, 36)).all()


def test_the_corpus_of_format_1(folders):
    corpus = dnmf.open_corpus(folders[OLD] / "corpus.zarr")
    assert (corpus.codec, corpus.fingerprint) == ("lz4-bitshuffle", 431062564)
    assert corpus.ids == [f"images:{i}" for i in range(60)]


def test_the_corpus_of_format_2(folders):
    corpus = dnmf.open_corpus(folders[NEW] / "corpus.zarr")
    assert (corpus.codec, corpus.axes) == ("lz4", ("y", "x"))
    assert corpus.generations == [(40, 341427937), (60, 2957012181)]
    assert corpus.fingerprint == 2957012181
    assert corpus.ids == [f"{i:02d}.png" for i in range(60)]
    assert list(corpus.metadata["label"]) == [i % 3 for i in range(60)]


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
    # The pass that gave the loss may have solved for W less accurately than the read that wrote W.
    for said in (model.reconstruction_err_, np.sqrt(2 * model.loss_history_[-1])):
        assert said * 0.99 <= error <= said * (1 + 1e-5)
    least = np.sqrt(2 * model.reconstruct_error(corpus).compute().sum())
    assert error >= least * (1 - 1e-6)


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
    assert version_of(path) == commit.VERSION


def test_the_sweep(folders):
    sweep = dnmf.load_sweep(folders[OLD] / "sweep")
    images = np.load(folders[OLD] / "images.npy", allow_pickle=False)
    assert [row["n_components"] for row in sweep.table] == [2, 3]
    assert sweep.best_n_components_ == 2
    for row in sweep.table:
        model = sweep.models_[row["n_components"]]
        assert model.components_.shape == (row["n_components"], 36)
        X = images.reshape(60, 36).astype(np.float64)
        error = np.linalg.norm(X - model.inverse_transform(model.transform(X)))
        assert error == pytest.approx(row["error"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "open_store", "readable"),
    [
        ("corpus.zarr", dnmf.open_corpus, "1 to 2"),
        ("weights.zarr", dnmf.open_weights, "2 to 3"),
        ("checkpoint.model", dnmf.load, "4 to 5"),
        ("sweep", dnmf.load_sweep, "1"),
    ],
)
def test_a_format_of_the_future_is_refused(folders, tmp_path, name, open_store, readable):
    archive = OLD if name == "sweep" else NEW
    shutil.copytree(folders[archive] / name, tmp_path / name)
    root = json.loads((tmp_path / name / "zarr.json").read_text())
    root["attributes"]["dnmf"]["version"] = 99
    (tmp_path / name / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(
        dnmf.errors.DnmfError, match=f"format 99; this dnmf reads {readable}: upgrade"
    ):
        open_store(tmp_path / name)
