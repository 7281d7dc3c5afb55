"""`dnmf rank`, and the other commands on the sweep that it makes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import run
from PIL import Image

import dnmf


@pytest.fixture(scope="module")
def swept(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("rank") / "digits.sweep"
    line = ("rank", corpus.path, path, "-k", "4,2", "--seeds", 2, "--tol", 0.01)
    return path, line, run(*line)


def test_progress_and_recommendation(swept):
    _, _, result = swept
    log = result.stderr.splitlines()
    assert "28 x 28 uint8" in log[1]
    assert "to 4, 2 components on" in log[1]
    assert "8 models together take about" in log[2]
    passes = [line for line in log if " pass " in line]
    assert "   0 of 8 models continue" in passes[-1]
    lines = result.stdout.splitlines()
    assert lines[2].split()[:2] == ["->", "4"]
    assert "No clear answer. 4 components" in result.stdout
    assert "reads of the corpus for all models" in lines[-1]


def test_the_same_command_again_reads_nothing(swept):
    _, line, first = swept
    again = run(*line)
    assert again.stdout == first.stdout
    assert "exists: continuing from its last pass" in again.stderr
    assert " pass " not in again.stderr


def test_json_is_one_object(swept):
    path, line, _ = swept
    facts = json.loads(run(*line, "--json").stdout)
    assert facts["best_n_components"] == 4
    assert facts["clear"] is False
    assert [row["n_components"] for row in facts["table"]] == [2, 4]
    assert facts["path"] == str(path)
    described = json.loads(run("info", path, "--json").stdout)
    assert described["kind"] == "sweep"
    assert described["table"] == facts["table"]


def test_info_is_text(swept):
    lines = run("info", swept[0]).stdout.splitlines()
    assert lines[0].split() == ["kind", "sweep"]
    assert any(line.split()[:2] == ["->", "4"] for line in lines)


def test_plot(swept, corpus, tmp_path):
    result = run("plot", swept[0], "--corpus", corpus.path, "--out", tmp_path / "p")
    names = ["selection", "components-0002", "components-0004", "reconstructions"]
    assert result.stdout.splitlines() == [str(tmp_path / f"p/{name}.png") for name in names]
    for name in names:
        with Image.open(tmp_path / f"p/{name}.png") as picture:
            assert np.asarray(picture).std() > 5


def test_verify(swept):
    assert "sweep, all as written" in run("verify", swept[0]).stdout


def test_other_commands_accept_each_model(swept, corpus, tmp_path):
    model = swept[0] / "k0004-whole-0"
    run("transform", model, corpus.path, tmp_path / "w.zarr")
    assert dnmf.open_weights(tmp_path / "w.zarr").shape == (700, 4)


def test_force_replaces_only_a_sweep(corpus, swept, tmp_path):
    path = tmp_path / "s"
    line = ("rank", corpus.path, path, "-k", "2", "--seeds", 1, "--tol", 0.01)
    run(*line)
    refused = run(*line, "--holdout", 0.2, status=1)
    assert "holdout was 0.1, is 0.2" in refused.stderr
    run(*line, "--tol", -1, "--force", status=2)
    assert dnmf.load_sweep(path).best_n_components_ == 2
    run(*line, "--holdout", 0.2, "--force")
    refused = run("rank", corpus.path, swept[0] / "k0004-whole-0", "-k", "2", "--force", status=1)
    assert "is a model, which is not replaced" in refused.stderr


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ("", "is no list of numbers of components; write them like 9,25,49 or 4-12"),
        ("9;25", "is no list of numbers"),
        ("4-2", "'4-2' is no range of numbers of components; write the smaller one first"),
        ("0,3", "'0' is no range"),
        ("3,2-4", "'3,2-4' repeats 3"),
        ("1-999999999", "is more than 1000 numbers"),
    ],
)
def test_invalid_numbers_of_components(corpus, tmp_path, ranks, message):
    result = run("rank", corpus.path, tmp_path / "s", "-k", ranks, status=2)
    assert message in result.stderr
    assert not (tmp_path / "s").exists()


def test_holdout_out_of_range(corpus, tmp_path):
    line = ("rank", corpus.path, tmp_path / "s", "-k", "2,3", "--holdout", "1.5")
    assert "'--holdout': 1.5 is not in the range 0<=x<1" in run(*line, status=2).stderr
