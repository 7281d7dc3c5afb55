"""Weights as CSV and Parquet: what a spreadsheet and pandas read, and nothing half-written."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from command_line import run
from PIL import Image

import dnmf
from dnmf.errors import OutputExistsError, ParameterError
from dnmf.io.tables import Table

NAMES = ["a,b.png", 'quo"te.png', "ü/日本.png", "new\nline.png", "plain.png", "z.png"]
KINDS = ["csv", "parquet"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a corpus of 6 images with metadata in 3 blocks, and the path of a model."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    (folder / "ü").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (8, 8), "u1")).save(folder / name)
    frame = pd.DataFrame({"path": NAMES, "label": [0, 1, 2, 0, 1, 2], "dose": np.arange(6) / 10})
    frame["note"] = ["", "x", "y,z", "ü", "q", "r"]
    frame.to_parquet(folder / "list.parquet")
    corpus = dnmf.ingest(folder / "list.parquet", folder / "c.zarr", block_rows=2)
    dnmf.NMF(3, random_state=0, tol=0, max_iter=2).fit(corpus).save(folder / "m")
    return corpus, folder / "m"


def read(path, kind):
    if kind == "csv":
        return pd.read_csv(path, keep_default_na=False)
    return pq.read_table(path).to_pandas()


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_for_each_image(made, tmp_path, kind, with_weights):
    corpus, model = made
    weights = [tmp_path / "w"] * with_weights
    run("transform", model, corpus.path, *weights, f"--{kind}", tmp_path / "t")
    table = read(tmp_path / "t", kind)
    assert list(table.columns) == ["id", "label", "dose", "note", "nmf0", "nmf1", "nmf2"]
    assert list(table["id"]) == corpus.ids
    for name in corpus.columns:
        assert list(table[name]) == list(corpus.column(name))
    expected = np.asarray(dnmf.load(model).transform(corpus))
    assert (table.iloc[:, 4:].to_numpy(np.float32) == expected).all(), "to the last bit"
    assert sorted(os.listdir(tmp_path)) == ["t", "w"][: 1 + with_weights]
    if with_weights:
        assert (dnmf.open_weights(tmp_path / "w").to_pandas().to_numpy() == expected).all()


def test_both_at_once_and_as_json(made, tmp_path):
    corpus, model = made
    line = ["transform", model, corpus.path, "--csv", tmp_path / "t.csv", "--parquet"]
    facts = json.loads(run(*line, tmp_path / "t.parquet", "--json").stdout)
    assert facts["tables"] == [f"{tmp_path}/t.csv", f"{tmp_path}/t.parquet"]
    assert (tmp_path / "t.parquet").exists()
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3, "one for each block"
    assert os.stat(tmp_path / "t.csv").st_mode & 0o077 == 0o077 & ~_umask() & 0o666


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_one_of_them_is_needed(made, tmp_path):
    message = run("transform", made[1], made[0].path, status=2).stderr
    assert "give WEIGHTS, or a table with --csv FILE or --parquet FILE" in message


@pytest.mark.parametrize("kind", KINDS)
def test_own_tables_are_replaced_by_force_alone(made, tmp_path, kind):
    corpus, model = made
    line = ["transform", model, corpus.path, f"--{kind}", tmp_path / "t"]
    run(*line)
    before = (tmp_path / "t").read_bytes()
    assert "already exists; choose another path or pass --force" in run(*line, status=1).stderr
    run(*line, "--force")
    assert (tmp_path / "t").read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_somebody_else_wrote_stays(made, tmp_path, kind):
    corpus, model = made
    frame = pd.DataFrame({"id": [1, 2], "mine": [3, 4]})
    (frame.to_csv if kind == "csv" else frame.to_parquet)(tmp_path / "t", index=False)
    before = (tmp_path / "t").read_bytes()
    for force in ([], ["--force"]):
        line = ["transform", model, corpus.path, f"--{kind}", tmp_path / "t", *force]
        assert "no table of weights that dnmf has written" in run(*line, status=1).stderr
    assert (tmp_path / "t").read_bytes() == before
    os.mkdir(tmp_path / "folder")
    with pytest.raises(OutputExistsError):
        Table(tmp_path / "folder", kind, force=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_fails_leaves_what_was_there(made, tmp_path, monkeypatch, kind):
    corpus, model = made
    line = ["transform", model, corpus.path, f"--{kind}", tmp_path / "t"]
    run(*line)
    before = (tmp_path / "t").read_bytes()
    read_block = dnmf.storage.weights.Weights.read_block

    def fail(self, index):
        if index == 2:
            raise KeyboardInterrupt
        return read_block(self, index)

    monkeypatch.setattr(dnmf.storage.weights.Weights, "read_block", fail)
    run(*line, "--force", status=130)
    assert os.listdir(tmp_path) == ["t"]
    assert (tmp_path / "t").read_bytes() == before


def test_refusals_come_before_the_work(made, tmp_path, monkeypatch):
    for path, message in (
        (tmp_path / "none/t", "there is no folder"),
        ("memory://t.csv", "give a file in a bucket"),
    ):
        with pytest.raises((OutputExistsError, ParameterError), match=message):
            Table(path, "csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ParameterError, match=r"pip install 'dnmf\[parquet\]'`, or write --csv"):
        Table(tmp_path / "t", "parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_of_an_array_in_place(tmp_path, kind):
    X = np.random.default_rng(0).random((30, 10, 6, 5)).astype("f4")
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(4, 10, 6, 5))
    axis = ["--axis", "0,1"]
    run("fit", tmp_path / "x.zarr", tmp_path / "m", "-k", 2, "--max-iter", 2, "-q", *axis)
    line = ["transform", tmp_path / "m", tmp_path / "x.zarr", tmp_path / "w", *axis]
    run(*line, f"--{kind}", tmp_path / "t")
    table = read(tmp_path / "t", kind)
    assert list(table["id"][9:12]) == ["0,9", "1,0", "1,1"]
    expected = dnmf.load(tmp_path / "m").transform(X.reshape(300, -1))
    np.testing.assert_allclose(table.iloc[:, 1:], expected, rtol=1e-3, atol=1e-4)
    maps = dnmf.open_weights(tmp_path / "w").to_xarray().weights
    assert maps.shape == (30, 10, 2)
