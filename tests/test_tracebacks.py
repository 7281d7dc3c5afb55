"""Typical mistakes in Python: the traceback ends in one line of dnmf's that says what to do."""

from __future__ import annotations

import os
import re
import shutil
import sys
import traceback

import numpy as np
import pytest

import dnmf
from dnmf.io.export import write_weights

RNG = np.random.default_rng(0)
IMAGES = RNG.random((12, 5, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, another one, a damaged one, and a model of the first."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name, images in (("c", IMAGES), ("other", IMAGES + 1), ("damaged", IMAGES)):
        dnmf.ingest(images, folder / f"{name}.zarr", block_rows=4)
    os.remove(folder / "damaged.zarr/pixels/c/1/0/0")
    fit(dnmf.open_corpus(folder / "c.zarr"), checkpoint=folder / "model")
    return folder


def fit(X, **options):
    return dnmf.NMF(**{"n_components": 2, "random_state": 0, "tol": 0.1} | options).fit(X)


def traceback_of(call, kind=Exception):
    """Return what Python would print of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    return "".join(traceback.format_exception(caught.value)).rstrip("\n").splitlines()


def tables_without_pandas(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    return dnmf.open_corpus(folder / "c.zarr").metadata


def bucket_without_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "adlfs", None)
    dnmf.open_corpus("abfs://bucket/x.zarr")


def weights_on_a_full_disk(folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    model = dnmf.load(folder / "model")
    write_weights(model, dnmf.open_corpus(folder / "c.zarr"), folder / "weights")


def images_with(value):
    X = IMAGES.reshape(12, 25).copy()
    X[3, 2] = value
    return X


MISTAKES = {
    "no components": (lambda f, m: fit(images_with(1), n_components=0), "ParameterError: n_comp"),
    "negative": (lambda f, m: fit(images_with(-1)), "DataError: .*image 3.* mend or leave out"),
    "nan": (lambda f, m: fit(images_with(np.nan)), "DataError: .* missing='ignore'"),
    "no corpus": (lambda f, m: dnmf.open_corpus(f / "x"), "CorpusError: .* `dnmf ingest"),
    "no model": (lambda f, m: dnmf.load(f / "x"), "CheckpointError: .*x"),
    "no weights": (lambda f, m: dnmf.open_weights(f / "x"), "CorpusError: .* `dnmf transform"),
    "no sweep": (lambda f, m: dnmf.load_sweep(f / "x"), "CheckpointError: .*x"),
    "no images": (lambda f, m: dnmf.ingest(f / "x", f / "y"), "IngestError: .* does not exist"),
    "damaged": (
        lambda f, m: fit(dnmf.open_corpus(f / "damaged.zarr")),
        "BlockError: .*block 1 .* restore",
    ),
    "lazy weights": (
        lambda f, m: (
            dnmf.load(f / "model").transform(dnmf.open_corpus(f / "damaged.zarr")).compute()
        ),
        "BlockError: .*block 1 .* restore",
    ),
    "another corpus": (
        lambda f, m: fit(dnmf.open_corpus(f / "other.zarr"), checkpoint=f / "model"),
        "CheckpointError: .* belongs to another fit.*overwrite=True",
    ),
    "no pandas": (tables_without_pandas, "ParameterError: .* pip install pandas"),
    "no adlfs": (bucket_without_library, r"AccessError: .* pip install 'dnmf\[azure\]'"),
    "full disk": (weights_on_a_full_disk, "SpaceError: .* make room"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_last_line_says_what_to_do(folder, monkeypatch, mistake):
    call, words = MISTAKES[mistake]
    lines = traceback_of(lambda: call(folder, monkeypatch))
    assert re.match(rf"dnmf\.errors\.{words}", lines[-1])
    assert sum(line.startswith("Traceback") for line in lines) == 1, "nothing else comes before"


def test_a_worker_s_error_comes_home(client, folder):
    lines = traceback_of(lambda: fit(dnmf.open_corpus(folder / "damaged.zarr")))
    assert re.match(r"dnmf\.errors\.BlockError: .*block 1 .* restore", lines[-1])
    assert sum(line.startswith("Traceback") for line in lines) == 1


def test_ctrl_c_says_how_to_go_on(folder, tmp_path):
    corpus = dnmf.open_corpus(folder / "c.zarr")

    def stop(state):
        raise KeyboardInterrupt

    calls = {
        "overwrite": lambda: fit(corpus, checkpoint=tmp_path / "m", on_pass=stop),
        "force": lambda: dnmf.rank_sweep(corpus, [2], checkpoint=tmp_path / "m", on_pass=stop),
    }
    for anew, call in calls.items():
        lines = traceback_of(call, KeyboardInterrupt)
        assert lines[-2] == "KeyboardInterrupt"
        assert lines[-1].startswith(f"{tmp_path / 'm'} keeps the passes that are finished")
        assert lines[-1].endswith(f"without {anew}=True")
        shutil.rmtree(tmp_path / "m")
    lines = traceback_of(lambda: fit(corpus, on_pass=stop), KeyboardInterrupt)
    assert lines[-1] == "KeyboardInterrupt", "without a checkpoint there is nothing to go on from"
