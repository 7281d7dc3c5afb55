"""Images to a corpus: all of it or nothing, on threads or on a cluster."""

from __future__ import annotations

import os

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image
from scipy.sparse import coo_array, csr_array

import dnmf
from dnmf.errors import BadImagesError, DataError, IngestError, OutputExistsError, ParameterError
from dnmf.io.export import write_pngs, write_reconstruction, write_weights
from dnmf.storage.codecs import CODECS
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
        folder, tmp_path / "c.zarr", block_rows=5, on_progress=lambda *x: seen.append(x)
    )
    check(corpus)
    assert len(seen) == 5
    assert seen == sorted(seen)
    assert seen[-1] == (23, 23)


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


def as_dask(images):
    return da.from_array(images, chunks=(7, -1, -1, -1))


def broken(change):
    """Return a Dask array whose chunks are something else than it promises."""
    meta = np.empty((0, 0, 0, 0), IMAGES.dtype)
    return as_dask(IMAGES).map_blocks(change, dtype=IMAGES.dtype, meta=meta)


def as_zarr(images):
    return zarr.array(images, chunks=(9, 6, 4, 3))


class OnDisk:
    """An array that is read by slices of rows, as a dataset of HDF5 is."""

    def __init__(self, images):
        self.images, self.shape, self.dtype = images, images.shape, images.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self.images[rows]


ARRAYS = {
    "read by slices": OnDisk,
    "ndarray": lambda images: images,
    "list of arrays": list,
    "list of lists": lambda images: images.tolist(),
    "list of pictures": lambda images: [Image.fromarray(image) for image in images],
    "dask": as_dask,
    "zarr": as_zarr,
    "fortran": np.asfortranarray,
}


class TestArrays:
    @pytest.mark.parametrize("on_cluster", [False, True], ids=["threads", "cluster"])
    @pytest.mark.parametrize("kind", ARRAYS)
    def test_arrays_of_images(self, tmp_path, request, kind, on_cluster):
        if on_cluster:
            request.getfixturevalue("client")
        corpus = dnmf.ingest(ARRAYS[kind](IMAGES), tmp_path / "c", block_rows=5)
        assert corpus.image_shape == (6, 4, 3)
        assert (corpus.images(slice(None)) == IMAGES).all()
        assert corpus.id_of(7) == "image:7"

    @pytest.mark.parametrize("dtype", ["u1", ">u2", "i4", "f4", "f8", "?"])
    def test_flat_images(self, tmp_path, dtype):
        flat = IMAGES.reshape(23, -1).astype(dtype)
        corpus = dnmf.ingest(flat, tmp_path / "c")
        assert corpus.image_shape == (72,)
        assert (corpus.images(slice(None)) == flat).all()

    def test_tables_and_sparse_matrices(self, tmp_path):
        flat = IMAGES.reshape(23, -1)
        for i, table in enumerate((pd.DataFrame(flat), csr_array(flat), coo_array(flat))):
            corpus = dnmf.ingest(table, tmp_path / f"{i}", block_rows=5)
            assert (corpus.images(slice(None)) == flat).all()

    def test_they_can_be_resized_and_converted(self, tmp_path):
        corpus = dnmf.ingest(as_dask(IMAGES), tmp_path / "c", size=(3, 2), color="gray")
        assert corpus.image_shape == (3, 2)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: np.ma.masked_less(IMAGES, 9), "would lose its mask.*array.data"),
            (lambda: da.ma.masked_less(as_dask(IMAGES), 9), "masked array, whose mask"),
            (lambda: broken(lambda rows: rows[1:]), r"of shape \(\d, 6, 4, 3\) where it promises"),
            (lambda: broken(lambda rows: rows.astype("f4") + 300), "gave float32 .* uint8"),
            (lambda: np.ones((3, 2), complex), "holds complex128"),
            (lambda: np.ones(3), r"shape \(3,\)"),
            (lambda: np.ones((0, 2, 2)), "no images"),
            (lambda: [np.ones((2, 2)), np.ones((3, 3))], "images of one shape"),
            (lambda: ["a.png", np.ones((3, 3))], "list"),
            (lambda: as_dask(IMAGES)[as_dask(IMAGES)[:, 0, 0, 0] > 3], "compute_chunk_sizes"),
            (lambda: zarr.create_group({}), "source is a Group, or empty; give paths, an array"),
            (lambda: Image.fromarray(IMAGES[0]), "source is a Image, or empty; give paths"),
            (lambda: 7, "source is a int, or empty; give paths"),
            (list, "source is a list, or empty; give paths"),
        ],
    )
    def test_what_is_no_array_of_images_is_refused(self, tmp_path, make, message):
        with pytest.raises(IngestError, match=message):
            dnmf.ingest(make(), tmp_path / "c", block_rows=5)
        assert left_over(tmp_path) == []

    def test_a_corpus_is_refused(self, folder, tmp_path):
        corpus = dnmf.ingest(folder, tmp_path / "c")
        with pytest.raises(IngestError, match="the Corpus cannot be read by slices"):
            dnmf.ingest(corpus, tmp_path / "d")

    def test_persisted_arrays_are_refused(self, tmp_path, client):
        with pytest.raises(IngestError, match=r"before persist\(\).* to_zarr"):
            dnmf.ingest(as_dask(IMAGES).persist(), tmp_path / "c")

    def test_negative_pixels_are_named(self, tmp_path):
        images = np.ones((9, 2, 2), "i2")
        images[7, 1, 0] = -1
        with pytest.raises(DataError, match=r"Negative values.* pixel 2 of image 7 \(image:7\)"):
            dnmf.ingest(images, tmp_path / "c", block_rows=3)


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
    corpus = dnmf.ingest(tmp_path / "in", tmp_path / "c")
    assert corpus.ids == [r"bad\xff.png"]
    assert (corpus.images(0) == IMAGES[0]).all()


@pytest.mark.parametrize("on_cluster", [False, True])
def test_an_error_leaves_nothing(folder, tmp_path, request, on_cluster):
    if on_cluster:
        request.getfixturevalue("client")
    Image.fromarray(IMAGES[0][:3]).save(folder / "17.png")
    before = left_over(tmp_path)
    with pytest.raises(IngestError, match=r"17\.png is 3 x 4 x 3"):
        dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5, strict=True)
    assert left_over(tmp_path) == before


def test_an_error_keeps_an_existing_corpus(folder, tmp_path):
    good = dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5)
    (folder / "20.png").write_bytes(b"")
    with pytest.raises(IngestError):
        dnmf.ingest(folder, tmp_path / "c.zarr", force=True, strict=True)
    check(good)
    check(dnmf.open_corpus(tmp_path / "c.zarr"))


@pytest.mark.parametrize(("value", "message"), [(-1, "negative"), (np.nan, "NaN")])
def test_invalid_pixels_are_named(tmp_path, value, message):
    images = np.ones((9, 2, 2), np.float32)
    images[7, 1, 0] = value
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(BadImagesError, match=rf"(?s)x\.npy.*{message}"):
        dnmf.ingest(tmp_path / "x.npy", tmp_path / "c", block_rows=3, strict=True)
    corpus = dnmf.ingest(tmp_path / "x.npy", tmp_path / "c", block_rows=3)
    assert corpus.ids == [f"x.npy:{i}" for i in (*range(7), 8)]


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

    def test_parent_folders_are_not_made(self, folder, tmp_path):
        corpus = dnmf.ingest(folder, tmp_path / "c.zarr", block_rows=5)
        model = dnmf.NMF(2, random_state=0, tol=0.01).fit(corpus)
        path = tmp_path / "a/b/x"
        for act in (
            lambda: dnmf.ingest(folder, path),
            lambda: model.save(path),
            lambda: dnmf.NMF(2, checkpoint=path).fit(corpus),
            lambda: dnmf.rank_sweep(corpus, [2, 3], checkpoint=path),
            lambda: write_weights(model, corpus, path),
            lambda: write_reconstruction(model, corpus, path),
            lambda: write_pngs(model, corpus, slice(0, 2), path),
            lambda: dnmf.plot.write_plots(model, path),
        ):
            with pytest.raises(OutputExistsError, match=f"no folder {path.parent}; make that"):
                act()
        assert left_over(tmp_path) == ["c.zarr", "images"]
        (tmp_path / "file").touch()
        with pytest.raises(OutputExistsError, match="file is no folder"):
            dnmf.ingest(folder, tmp_path / "file/c.zarr")


class TestCodecs:
    """Pixels are compressed as a trial chooses, or as the caller says."""

    @pytest.mark.parametrize("on_cluster", [False, True], ids=["threads", "cluster"])
    def test_a_trial_chooses_by_pixels_from_all_over(self, tmp_path, request, on_cluster):
        if on_cluster:
            request.getfixturevalue("client")
        images = RNG.integers(0, 256, (80, 128, 256), dtype=np.uint8)
        # Noise takes as long with any codec, and the least room with none.
        assert dnmf.ingest(images, tmp_path / "noise").codec == "none"
        images[30:] = 0  # the first images alone would say the same as before
        assert dnmf.ingest(images, tmp_path / "c").codec != "none"

    def test_all_blocks_have_the_codec_that_was_chosen_first(self, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(
            "dnmf.io.ingest.try_codecs", lambda pixels: seen.append(pixels.nbytes) or "zstd"
        )
        images = np.zeros((70, 1000, 300), np.uint16)
        corpus = dnmf.ingest(images, tmp_path / "c")
        assert (corpus.codec, corpus.n_blocks, seen) == ("zstd", 18, [2**20])
        assert (corpus.images(slice(None)) == images).all()

    @pytest.mark.parametrize(
        ("dtype", "codec"), [("u1", "lz4"), ("u2", "lz4-bitshuffle"), ("f4", "lz4-bitshuffle")]
    )
    def test_small_corpora_need_no_trial(self, tmp_path, dtype, codec):
        assert dnmf.ingest(IMAGES.astype(dtype), tmp_path / "c").codec == codec

    @pytest.mark.parametrize("codec", CODECS)
    def test_the_caller_may_choose(self, tmp_path, codec):
        corpus = dnmf.ingest(IMAGES, tmp_path / "c", codec=codec, block_rows=5)
        assert corpus.codec == codec
        assert (corpus.images(slice(None)) == IMAGES).all()
        assert dnmf.verify(tmp_path / "c").findings == []

    def test_an_unknown_codec_is_refused_before_anything_is_read(self, tmp_path):
        with pytest.raises(ParameterError, match=r"codec is 'gzip'; it must be one of lz4, .*none"):
            dnmf.ingest(tmp_path / "nothing", tmp_path / "c", codec="gzip")
        assert left_over(tmp_path) == []

    def test_images_that_the_trial_cannot_read_are_named_as_always(self, tmp_path):
        (tmp_path / "in").mkdir()
        for i in range(6):
            Image.fromarray(np.full((600, 500), i, np.uint8)).save(tmp_path / f"in/{i}.png")
        for i in (0, 3):
            os.truncate(tmp_path / f"in/{i}.png", 60)
        with pytest.raises(BadImagesError) as caught:
            dnmf.ingest(tmp_path / "in", tmp_path / "c", size=(600, 500))
        assert len(caught.value.errors) == 2
        assert left_over(tmp_path) == ["in"]


def test_blocks_of_more_than_2_gib(folder, tmp_path):
    layout = Layout(10**6, (1000, 1000), "uint8", 3000, "lz4")
    with pytest.raises(ParameterError, match=r"3000 images of uint8 take 3\.0 GB.*--block-rows"):
        create_corpus(str(tmp_path / "c"), layout)
    assert not (tmp_path / "c").exists()


def test_block_rows_below_one(folder, tmp_path):
    with pytest.raises(ParameterError, match="at least 1"):
        dnmf.ingest(folder, tmp_path / "c", block_rows=0)
