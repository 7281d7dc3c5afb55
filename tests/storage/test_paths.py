"""A path means the same wherever it is given, however it is written."""

from __future__ import annotations

import os
from itertools import cycle
from pathlib import Path

import command_line
import numpy as np
import pytest
import zarr
from PIL import Image

import dnmf
from dnmf.errors import ParameterError
from dnmf.io.export import write_pngs, write_reconstruction, write_weights
from dnmf.storage.paths import normalize_path

X = np.random.default_rng(0).random((20, 4, 4))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/b", "a/b"),
        ("a/b/", "a/b"),
        (Path("a/b"), "a/b"),
        (b"a/b", "a/b"),
        ("/", "/"),
        ("~/a", "/home/me/a"),
        ("~", "/home/me"),
        ("~nobody-has-this-name/a", "~nobody-has-this-name/a"),
        ("./~/a", "./~/a"),
        ("a b", "a b"),
        ("a%20b", "a%20b"),
        ("a::b.zarr", "a::b.zarr"),
        ("a:b", "a:b"),
        ("file:///a/b", "/a/b"),
        ("file:///a/b/", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("FILE:///a", "/a"),
        ("file://localhost/a", "/a"),
        ("file://a/b", "a/b"),
        ("file:///a%20b%25%C3%A9", "/a b%é"),
        ("file:///a b", "/a b"),
        ("file://~/a", "/home/me/a"),
        ("local:///a%20b", "/a%20b"),
        ("local://a", "a"),
        ("memory://a/", "memory://a"),
        ("s3://bucket/~a%20b", "s3://bucket/~a%20b"),
        ("memory://", "memory://"),
        ("simplecache::memory://a", "simplecache::memory://a"),
    ],
)
def test_what_a_path_names(given, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert normalize_path(given) == expected
    assert normalize_path(normalize_path(given)) == expected


def test_urls_that_pathlib_makes(tmp_path):
    for name in ("a b", "100%", "a%20b", "ünï", "a#b?c", os.fsdecode(b"bad\xff"), "a::b"):
        assert normalize_path((tmp_path / name).as_uri()) == str(tmp_path / name)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_names_nothing(path):
    with pytest.raises(ParameterError, match="it must name a file, a folder or a URL"):
        normalize_path(path)


WAYS = {
    "file": lambda path: path.as_uri(),
    "file, unquoted": lambda path: f"file://{path}".replace("%", "%25"),
    "local": lambda path: f"local://{path}",
    "home": lambda path: f"~/{path.name}",
    "relative": lambda path: path.name,
    "slash": lambda path: f"{path}/",
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes the name of something in a folder, each time in another way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    ways = cycle(WAYS.values())
    return lambda name: next(ways)(tmp_path / f"{name} :: 1%20")


def names_in(folder):
    return {name for name in os.listdir(folder) if not name.startswith((".cache", ".config"))}


def test_every_function_takes_every_way(write, tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x :: 1%20")
    corpus = dnmf.ingest(write("x"), write("corpus"), block_rows=8)
    mask = zarr.create_array(tmp_path / "mask :: 1%20", data=np.zeros((20, 16), bool))
    model = dnmf.NMF(2, tol=0, max_iter=1, random_state=0, n_init=2, checkpoint=write("m"))
    model.fit(dnmf.open_corpus(write("corpus")), mask=mask)
    model.fit(corpus, mask=mask)
    model.save(write("saved"))
    model = dnmf.load(write("saved"))
    write_weights(model, corpus, write("weights"))
    assert dnmf.open_weights(write("weights")).shape == (20, 2)
    write_reconstruction(model, corpus, write("again"))
    write_pngs(model, corpus, slice(0, 1), write("pngs"))
    dnmf.plot.write_plots(model, write("plots"))
    sweep = dnmf.NMF(tol=0.5, max_iter=1, random_state=0)
    dnmf.rank_sweep(corpus, [1, 2], sweep, n_init=1, checkpoint=write("sweep"))
    assert dnmf.load_sweep(write("sweep")).models_.keys() == {1, 2}
    for name in ("corpus", "m", "saved", "weights", "again", "sweep"):
        assert dnmf.verify(write(name)).findings == []
    names = "x corpus mask m saved weights again pngs plots sweep"
    assert names_in(tmp_path) == {f"{name} :: 1%20" for name in names.split()}


def test_every_command_takes_every_way(write, tmp_path):
    (tmp_path / "photos :: 1%20").mkdir()
    for i in range(12):
        image = Image.fromarray((X[i] * 255).astype("u1"))
        image.save(tmp_path / f"photos :: 1%20/{i}.png")
    zarr.create_array(tmp_path / "mask :: 1%20", data=np.zeros((12, 16), bool))
    rough = ["--max-iter", 1, "--tol", 0]
    command_line.run("ingest", write("photos"), write("corpus"))
    masked = ["--mask", write("mask")]
    command_line.run("fit", write("corpus"), write("m"), "-k", 2, *rough, *masked)
    command_line.run("plan", write("corpus"), "-k", 2, "--no-trial", *masked)
    command_line.run("transform", write("m"), write("corpus"), write("weights"), *masked)
    command_line.run("reconstruct", write("m"), write("corpus"), write("again"), *masked)
    command_line.run("reconstruct", write("m"), write("corpus"), "--png", write("pngs"))
    command_line.run("rank", write("corpus"), write("sweep"), "-k", "1-2", "--seeds", 1, *rough)
    for name in ("m", "sweep"):
        command_line.run("plot", write(name), "--corpus", write("corpus"), "--out", write("plots"))
    for name in ("corpus", "m", "weights", "again", "sweep"):
        command_line.run("info", write(name))
        command_line.run("verify", write(name))
    names = "photos corpus mask m weights again pngs plots sweep"
    assert names_in(tmp_path) == {f"{name} :: 1%20" for name in names.split()}


def test_the_corpus_itself_is_known_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    corpus = dnmf.ingest("x.npy", "c", block_rows=8)
    model = dnmf.NMF(2, tol=0, max_iter=1).fit(corpus)
    os.symlink("c", "link")
    for path in ("c", "./c/", tmp_path / "c", (tmp_path / "c").as_uri(), "link"):
        with pytest.raises(OSError, match="is the corpus itself"):
            write_reconstruction(model, corpus, path, force=True)
