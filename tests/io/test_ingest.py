"""Images to a corpus: all of it or nothing, on threads or on a cluster."""

from __future__ import annotations

import os

import dask
import numpy as np
import pytest
from PIL import Image

import dnmf
from dnmf.errors import DataError, IngestError, OutputExistsError, ParameterError
from dnmf.io.export import write_reconstruction, write_weights
from dnmf.storage.corpus_writer import Layout, create_corpus

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 6, 4, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder


def left_over(folder):
    return sorted(path.name for path in folder.iterdir())


def check(corpus):
    assert (corpus.images(slice(None)) == IMAGES).all()
    assert corpus.ids == [f"{i:02d}.png" for i in range(23)]
    assert corpus.n_blocks == 5


def test_a_folder_on_threads(folder, tmp_path):
    seen = []
    corpus = dnmf.ingest(
        folder, tmp_path / "c.zarr", block_rows=5, on_block=lambda *x: seen.append(x)
    )
    check(corpus)
    assert seen == [(i, 5) for i in range(1, 6)]


def test_a_folder_on_a_cluster(folder, tmp_path, client):
    check(dnmf.ingest(str(folder), str(tmp_path / "c.zarr"), block_rows=5))


def test_bytes_from_threads_and_from_a_cluster_are_the_same(folder, tmp_path, client):
    on_cluster = dnmf.ingest(folder, tmp_path / "a", block_rows=5)
    with dask.config.set(scheduler="threads"):
        here = dnmf.ingest(folder, tmp_path / "b", block_rows=5)
    assert on_cluster.fingerprint == here.fingerprint


def test_relative_paths_work_on_workers_in_another_folder(folder, tmp_path, client, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client.run(os.chdir, "/")
    try:
        corpus = dnmf.ingest("images", "c.zarr", block_rows=5)
        check(corpus)
        model = dnmf.NMF(2, random_state=0, checkpoint="c.model").fit(corpus)
        assert model.transform(corpus).compute().shape == (23, 2)
        assert write_weights(model, corpus, "w.zarr") == 23
    finally:
        client.run(os.chdir, os.getcwd())
    assert {"c.zarr", "c.model", "w.zarr"} <= set(left_over(tmp_path))


class Countdown:
    """A source of one's own: any object with the members of `Source`."""

    image_shape, dtype = (2, 2), np.dtype(np.uint16)

    def __len__(self):
        return 11

    def ids(self, start, stop):
        return [f"image {i}" for i in range(start, min(stop, 11))]

    def read(self, start, stop):
        return np.arange(start, stop, dtype=np.uint16)[:, None, None] * np.ones((2, 2), np.uint16)


def test_a_custom_source(tmp_path):
    corpus = dnmf.ingest(Countdown(), tmp_path / "c", block_rows=4)
    assert corpus.images(10).tolist() == [[10, 10], [10, 10]]
    assert corpus.id_of(10) == "image 10"
    with pytest.raises(IngestError, match="are for paths"):
        dnmf.ingest(Countdown(), tmp_path / "d", size=(1, 1))


class Contradiction(Countdown):
    def __init__(self, **members):
        vars(self).update(members)


@pytest.mark.parametrize(
    "members",
    [
        {"dtype": np.dtype(np.uint8)},
        {"image_shape": (4,)},
        {"ids": lambda start, stop: ["one"]},
        {"read": lambda start, stop: np.zeros((1, 2, 2), np.uint16)},
    ],
    ids=lambda members: next(iter(members)),
)
def test_a_source_that_contradicts_itself_is_refused(tmp_path, members):
    with pytest.raises(IngestError, match="where it promised"):
        dnmf.ingest(Contradiction(**members), tmp_path / "c", block_rows=4)
    assert left_over(tmp_path) == []


def test_a_source_without_images(tmp_path):
    with pytest.raises(IngestError, match="no images"):
        dnmf.ingest(type("Empty", (Countdown,), {"__len__": lambda self: 0})(), tmp_path / "c")


def test_names_that_are_not_unicode(tmp_path):
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"bad\xff.png")
    Image.fromarray(IMAGES[0]).save(tmp_path / "in" / name)
    assert dnmf.ingest(tmp_path / "in", tmp_path / "c").ids == [name]


@pytest.mark.parametrize("on_cluster", [False, True])
def test_an_error_leaves_nothing(folder, tmp_path, request, on_cluster):
    if on_cluster:
        request.getfixturevalue("client")
    Image.fromarray(IMAGES[0][:3]).save(folder / "17.png")
    before = left_over(tmp_path)
    with pytest.raises(IngestError, match=r"17\.png is 3 x 4 x 3"):
        dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5)
    assert left_over(tmp_path) == before


def test_an_error_keeps_an_existing_corpus(folder, tmp_path):
    good = dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5)
    (folder / "20.png").write_bytes(b"")
    with pytest.raises(IngestError):
        dnmf.ingest(folder, tmp_path / "c.zarr", force=True)
    check(good)
    check(dnmf.open_corpus(tmp_path / "c.zarr"))


@pytest.mark.parametrize(("value", "message"), [(-1, "Negative values"), (np.nan, "NaN")])
def test_invalid_pixels_are_named(tmp_path, value, message):
    images = np.ones((9, 2, 2), np.float32)
    images[7, 1, 0] = value
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(DataError, match=rf"{message}.* pixel 2 of image 7 \(x:7\)"):
        dnmf.ingest(tmp_path / "x.npy", tmp_path / "c", block_rows=3)


class TestExistingOutput:
    def test_nothing_is_replaced_without_force(self, folder, tmp_path):
        dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5)
        with pytest.raises(OutputExistsError, match="--force"):
            dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=9)
        check(dnmf.open_corpus(tmp_path / "c.zarr"))

    def test_force_replaces_a_corpus(self, folder, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((3, 2)))
        dnmf.ingest(tmp_path / "x.npy", tmp_path / "c.zarr")
        check(dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5, force=True))

    def test_force_does_not_replace_another_kind(self, folder, tmp_path):
        corpus = dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5)
        model = dnmf.NMF(2, random_state=0).fit(corpus)
        model.save(tmp_path / "m")
        refused = {
            "dnmf-corpus": lambda: model.save(tmp_path / "c.zarr", force=True),
            "dnmf-model": lambda: dnmf.ingest(folder, tmp_path / "m", force=True),
            "dnmf-corpus, so": lambda: write_weights(model, corpus, corpus.path, force=True),
            "the corpus itself": lambda: write_reconstruction(
                model, corpus, corpus.path, force=True
            ),
        }
        for message, act in refused.items():
            with pytest.raises(OutputExistsError, match=message):
                act()
        check(dnmf.open_corpus(tmp_path / "c.zarr"))
        assert dnmf.load(tmp_path / "m").n_components_ == 2

    def test_force_does_not_delete_what_is_not_dnmfs(self, folder, tmp_path):
        with pytest.raises(OutputExistsError, match="not written by dnmf"):
            dnmf.ingest(folder, folder, force=True)
        assert len(left_over(folder)) == 23
        (tmp_path / "notes").write_text("precious")
        with pytest.raises(OutputExistsError, match="not written by dnmf"):
            dnmf.ingest(folder, tmp_path / "notes", force=True)
        assert (tmp_path / "notes").read_text() == "precious"

    def test_an_empty_folder_may_become_a_corpus(self, folder, tmp_path):
        (tmp_path / "c.zarr").mkdir()
        check(dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5))

    def test_parent_folders_are_created(self, folder, tmp_path):
        check(dnmf.ingest(folder, tmp_path / "a/b/c.zarr", block_rows=5))


def test_blocks_of_more_than_2_gib(folder, tmp_path):
    layout = Layout(10**6, (1000, 1000), "uint8", 9, 3000)
    with pytest.raises(ParameterError, match=r"3000 images of uint8 take 3\.0 GB.*--block-rows"):
        create_corpus(str(tmp_path / "c"), layout)
    assert not (tmp_path / "c").exists()


def test_block_rows_below_one(folder, tmp_path):
    with pytest.raises(ParameterError, match="at least 1"):
        dnmf.ingest(folder, tmp_path / "c", block_rows=0)
