"""Commands on arrays that stay where they are: no copy, the same bits as of a corpus."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np
import pytest
import zarr
from command_line import run

import dnmf
from dnmf.cli.paths import kind_at
from dnmf.io.in_place import ImagesInPlace
from dnmf.io.sources.choices import Choices

X = np.random.default_rng(0).random((300, 12, 10)).astype("f4")
FIT = ["-k", 3, "--tol", 0, "--max-iter", 3, "-q"]


def write_v2(path, images, chunks=None):
    zarr.create_array(path, data=images, chunks=chunks or "auto", zarr_format=2)


def write_group(path, images, **names):
    group = zarr.create_group(path)
    group.create_array("inner/x", data=images, chunks=(50, 12, 10), **names)


def save(path, images):
    with open(path, "wb") as file:
        np.save(file, images)


def write_hdf5(path, images):
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=images, chunks=(20, 12, 10), compression="gzip")
        file["entry/other"] = images


LAYOUTS = {
    "v3": (lambda p: zarr.create_array(p, data=X, chunks=(20, 12, 10)), {}),
    "v2, in small chunks": (lambda p: write_v2(p, X, (20, 6, 5)), {}),
    "matrix": (lambda p: zarr.create_array(p, data=X.reshape(300, -1), chunks=(64, 60)), {}),
    "sharded": (
        lambda p: zarr.create_array(p, data=X, chunks=(5, 12, 10), shards=(100, 12, 10)),
        {},
    ),
    "last axis": (
        lambda p: zarr.create_array(p, data=np.moveaxis(X, 0, 2), chunks=(12, 10, 50)),
        {"axis": ("2",)},
    ),
    "two axes": (
        lambda p: zarr.create_array(p, data=X.reshape(30, 10, 12, 10), chunks=(4, 1, 12, 10)),
        {"axis": ("0", "1")},
    ),
    "named": (
        lambda p: zarr.create_array(
            p, data=np.moveaxis(X, 0, 1), chunks=(12, 30, 10), dimension_names=["y", "t", "x"]
        ),
        {},
    ),
    "npy": (lambda p: save(p, X), {}),
    "npy in Fortran's order": (lambda p: save(p, np.asfortranarray(X)), {}),
    "npy, last axis": (lambda p: save(p, np.moveaxis(X, 0, 2).copy()), {"axis": ("-1",)}),
    "HDF5": (lambda p: write_hdf5(p, X), {"array": "/entry/data"}),
    "group": (lambda p: write_group(p, X), {"array": "inner/x"}),
}
"""How the same images lie in an array, and what says so."""


def flags(part):
    return [word for name, value in part.items() for word in (f"--{name}", _text(value))]


def _text(value):
    return ",".join(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fit_reads_the_array_where_it_is(tmp_path, layout):
    write, part = LAYOUTS[layout]
    suffix = {"npy": ".npy", "HDF5": ".h5"}.get(re.match(r"\w+", layout)[0], ".zarr")
    x = tmp_path / f"x{suffix}"
    write(x)
    assert kind_at(str(x)) == "array"
    run("fit", x, tmp_path / "m", *FIT, *flags(part))
    assert {path.name for path in tmp_path.iterdir()} == {"m", x.name}
    corpus = dnmf.ingest(X, tmp_path / "c.zarr", block_rows=300)
    model, other = dnmf.load(tmp_path / "m"), dnmf.NMF(3, random_state=0, tol=0, max_iter=3)
    other.fit(corpus)
    assert model.image_shape_ == ((120,) if layout == "matrix" else (12, 10))
    assert model.reconstruction_err_ == pytest.approx(other.reconstruction_err_, rel=1e-3)
    images = ImagesInPlace(str(x), Choices(**part))
    np.testing.assert_array_equal(images[:], X.reshape(300, -1))


@pytest.fixture
def array(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(20, 12, 10))
    return tmp_path / "x.zarr"


def test_an_interrupted_fit_goes_on_with_the_same_bits(array, tmp_path):
    run("fit", array, tmp_path / "whole", *FIT[:-2], 6)
    run("fit", array, tmp_path / "m", *FIT)
    again = run("fit", array, tmp_path / "m", *FIT[:-2], 6)
    assert "continuing from its last pass" in again.stderr
    whole, parts = (dnmf.load(tmp_path / name) for name in ("whole", "m"))
    assert (whole.components_ == parts.components_).all()
    zarr.open_array(array, mode="r+")[0] = 0
    message = run("fit", array, tmp_path / "m", *FIT[:-2], 7, status=1).stderr
    assert "fingerprint was" in message


def test_a_name_in_a_file_may_follow_its_path(tmp_path):
    write_hdf5(tmp_path / "x.h5", X)
    run("fit", f"{tmp_path}/x.h5::/entry/data", tmp_path / "m", *FIT)
    assert dnmf.load(tmp_path / "m").image_shape_ == (12, 10)
    message = run("fit", tmp_path / "x.h5", tmp_path / "n", *FIT, status=1).stderr
    assert "2 datasets that may be images; name one of them, file.h5::/NAME" in message


def test_plan_and_rank(array, tmp_path):
    assert json.loads(run("plan", array, "-k", 3, "--no-trial", "--json").stdout)
    run("rank", array, tmp_path / "s", "-k", "2,3", "--seeds", 1, "--max-iter", 1, "-q")
    assert sorted(dnmf.load_sweep(tmp_path / "s").models_) == [2, 3]


def test_processes_open_it_themselves(array, tmp_path, client):
    model = dnmf.NMF(3, random_state=0, tol=0, max_iter=3)
    model.fit(ImagesInPlace(str(array), Choices()))
    assert len(model.loss_history_) == 3


@pytest.mark.parametrize(
    ("chunks", "part", "message"),
    [
        ((12, 10, 300), ["--axis", "2", "--channel", "1"], "no channels"),
        ((12, 10, 300), ["--axis", "9"], "has no axis 9"),
    ],
)
def test_what_does_not_fit_the_array(tmp_path, chunks, part, message):
    zarr.create_array(tmp_path / "x.zarr", data=np.moveaxis(X, 0, 2), chunks=chunks)
    assert message in run("fit", tmp_path / "x.zarr", tmp_path / "m", *FIT, *part, status=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]


def test_chunks_of_many_images_are_to_be_copied(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=(2**20, 64, 64), chunks=(2**20, 1, 1), dtype="u1")
    message = run("fit", tmp_path / "x.zarr", tmp_path / "m", *FIT, status=1).stderr
    assert "stored in chunks that 1,048,576 images share, 4.3 GB to be read for each" in message
    assert f"`dnmf ingest {tmp_path}/x.zarr NEW.zarr`" in message


def test_a_corpus_has_no_axes(corpus, tmp_path):
    for option in (["--axis", "0"], ["--array", "x"], ["--level", 1], ["--channel", "0"]):
        message = run("fit", corpus.path, tmp_path / "m", *FIT, *option, status=2).stderr
        assert f"{option[0]} is for arrays, but {corpus.path}" in message


def test_what_is_no_array(corpus, tmp_path):
    (tmp_path / "x.txt").touch()
    message = run("fit", tmp_path / "x.txt", tmp_path / "m", *FIT, status=1).stderr
    assert "CORPUS must be a corpus or an array: `dnmf ingest IMAGES NEW.zarr` makes one" in message
    message = run("fit", f"{corpus.path}/pixels", tmp_path / "m", *FIT, status=1).stderr
    assert f"is a part of {corpus.path}; did you mean that?" in message
    zarr.create_array(tmp_path / "text.zarr", data=np.ones((3, 4), complex))
    message = run("fit", tmp_path / "text.zarr", tmp_path / "m", *FIT, status=1).stderr
    assert "pixels are integers or floats" in message


def test_an_array_is_never_replaced(array, corpus):
    for line in (
        ["fit", corpus.path, array, *FIT],
        ["fit", corpus.path, array, *FIT, "--force"],
        ["ingest", array.parent, array, "--force"],
    ):
        assert "already exists and is an array not written by dnmf" in run(*line, status=1).stderr
