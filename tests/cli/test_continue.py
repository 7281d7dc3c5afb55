"""``dnmf fit --continue``: from the model of fewer images, which stays as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import run
from PIL import Image

import dnmf

FIT = ["-k", 6, "--tol", 0.01, "-q"]


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """Return two corpora, the second with more images, and a model of the first."""
    folder = tmp_path_factory.mktemp("continue")
    first = dnmf.ingest(digits[:400].reshape(-1, 28, 28), folder / "first.zarr", block_rows=100)
    more = dnmf.ingest(digits.reshape(-1, 28, 28), folder / "more.zarr", block_rows=100)
    run("fit", first.path, folder / "old", *FIT)
    return first, more, folder / "old"


def content(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_all_images_from_the_components_of_a_model(made, tmp_path):
    _, more, old = made
    before = content(old)
    result = run("fit", more.path, tmp_path / "new", "--continue", old)
    assert "to 6 components" in result.stderr
    model, earlier = dnmf.load(tmp_path / "new"), dnmf.load(old)
    assert model.tol == earlier.tol == 0.01
    start = dnmf.NMF(6, init="custom", tol=0.01)
    start.fit(more, H=earlier.components_)
    assert (model.components_ == start.components_).all()
    assert model.n_reads_ == model.n_iter_, "no warm start"
    assert content(old) == before


def test_interrupted_it_goes_on_and_the_old_model_stays(made, tmp_path):
    _, more, old = made
    line = ["fit", more.path, tmp_path / "new", "--continue", old, "--tol", 0, "-q", "--max-iter"]
    run(*line, 2)
    assert (
        "continuing from its last pass" in run(*[word for word in line if word != "-q"], 5).stderr
    )
    run("fit", more.path, tmp_path / "whole", *line[3:], 5)
    parts, whole = (dnmf.load(tmp_path / name) for name in ("new", "whole"))
    assert (parts.components_ == whole.components_).all()
    assert len(parts.loss_history_) == 5


def test_from_another_model_it_is_another_fit(made, tmp_path):
    first, more, old = made
    run("fit", first.path, tmp_path / "other", *FIT, "--seed", 1)
    run("fit", more.path, tmp_path / "new", "--continue", old, "-q")
    message = run("fit", more.path, tmp_path / "new", "--continue", tmp_path / "other", status=1)
    assert "belongs to another fit" in message.stderr


def test_loss_and_penalties_are_those_of_the_model_unless_given(made, tmp_path):
    more = made[1]
    run("fit", more.path, tmp_path / "a", *FIT, "--alpha-w", 1e-4, "--l1-ratio", 1)
    run("fit", more.path, tmp_path / "b", "--continue", tmp_path / "a", "-q")
    assert dnmf.load(tmp_path / "b").alpha_W == 1e-4
    run("fit", more.path, tmp_path / "c", "--continue", tmp_path / "a", "--alpha-w", 0, "-q")
    assert dnmf.load(tmp_path / "c").alpha_W == 0
    assert json.loads(run("info", tmp_path / "c", "--json").stdout)["init"] == "custom"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--new-images", "-k", 3], "--new-images needs --continue OLD.model"),
        ([], "Missing option '-k'"),
        (["--continue", "{}", "-k", 3], "-k is for a new fit"),
        (["--continue", "{}", "--init", "nndsvd"], "--init is for a new fit"),
        (["--continue", "{}", "--seed", 3], "--seed is for a new fit"),
    ],
)
def test_options_that_do_not_go_together(made, tmp_path, options, message):
    options = [str(option).format(made[2]) for option in options]
    assert message in run("fit", made[1].path, tmp_path / "m", *options, status=2).stderr
    assert not (tmp_path / "m").exists()


def test_images_of_another_size_are_refused_at_once(made, tmp_path):
    other = dnmf.ingest(np.ones((5, 4, 4), "u1"), tmp_path / "c.zarr")
    result = run("fit", other.path, tmp_path / "m", "--continue", made[2], status=1)
    assert "images of 16 pixels, but the model was fitted on 784" in result.stderr


@pytest.fixture
def images(digits, tmp_path):
    """Two folders of digits."""
    for name, numbers in (("in", range(60)), ("more", range(60, 100))):
        (tmp_path / name).mkdir()
        for i in numbers:
            Image.fromarray(digits[i].reshape(28, 28)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_a_corpus_that_has_grown(images):
    corpus, old, new = (str(images / name) for name in ("c.zarr", "old", "new"))
    run("ingest", images / "in", corpus, "--block-rows", 16)
    run("fit", corpus, old, *FIT)
    run("ingest", "--append", images / "more", corpus)
    message = run("fit", corpus, new, "--continue", old, "--new-images").stdout
    assert message == f"{new}: 6 components, improved on 40 new images\n"
    assert json.loads(run("info", new, "--json").stdout)["images"] == 100
    facts = json.loads(
        run("fit", corpus, f"{new}2", "--continue", new, "--new-images", "--json").stdout
    )
    assert facts["new_images"] == 0
    assert (
        "already exists"
        in run("fit", corpus, new, "--continue", old, "--new-images", status=1).stderr
    )
    run("fit", corpus, f"{new}3", "--continue", new, "-q")
    assert len(dnmf.load(f"{new}3").transform(dnmf.open_corpus(corpus))) == 100
    message = run("fit", corpus, old, *FIT, status=1).stderr
    assert f"to continue from it with more images, add --continue {old}" in message
