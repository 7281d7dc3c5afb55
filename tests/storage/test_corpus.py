"""A corpus gives back what was put in, and never anything else."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import dnmf
from dnmf.engine.tree_reduce import choose_block_rows
from dnmf.errors import BlockError, CorpusError
from dnmf.storage.corpus_writer import Layout, commit_corpus, create_corpus
from dnmf.storage.table_writer import write_block

N, ROWS = 10, 4
COLUMNS = {"label": [f"kind {i % 3}" for i in range(N)], "size": [i * 2**40 for i in range(N)]}


def make(path, X=None, image_shape=(2, 3), ids=None, codec="lz4"):
    X = np.arange(60, dtype=np.uint8).reshape(N, 6) if X is None else X
    ids = ids or [f"é/{i}.png" for i in range(N)]
    columns = {"label": "string", "size": "int64"}
    layout = Layout(N, image_shape, str(X.dtype), ROWS, codec, columns)
    create_corpus(path, layout)
    lines = []
    for b in reversed(range(3)):  # any order
        cut = slice(b * ROWS, b * ROWS + ROWS)
        more = {name: values[cut] for name, values in COLUMNS.items()}
        lines.append(write_block(path, b, X[cut], ids[cut], more))
    commit_corpus(path, layout, lines[::-1])
    return X


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "c.zarr")
    make(path)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
def test_round_trip(tmp_path, dtype):
    X = make(str(tmp_path / "c"), np.arange(60).reshape(N, 6).astype(dtype))
    corpus = dnmf.open_corpus(tmp_path / "c")
    assert corpus.shape == (N, 6)
    assert corpus.image_shape == (2, 3)
    assert corpus.dtype == dtype
    assert (corpus.to_dask().compute() == X).all()
    assert corpus.to_dask().dtype == dtype
    assert corpus.to_dask().chunks == ((4, 4, 2), (6,))
    assert corpus.ids == [f"é/{i}.png" for i in range(N)]
    assert corpus.id_of(9) == corpus.id_of(-1) == "é/9.png"
    with pytest.raises(IndexError):
        corpus.id_of(10)


@pytest.mark.parametrize(
    "rows", [3, -1, slice(2, 9), slice(None, None, 4), [9, 0, 0], np.array([5]), slice(3, 3)]
)
def test_images_index_like_numpy(path, rows):
    X = np.arange(60, dtype=np.uint8).reshape(N, 2, 3)
    found = dnmf.open_corpus(path).images(rows)
    assert found.shape == X[rows].shape
    assert (found == X[rows]).all()


def test_images_out_of_range(path):
    with pytest.raises(IndexError):
        dnmf.open_corpus(path).images([10])


@pytest.mark.parametrize("scheme", ["file://{}", "local://{}"])
def test_opens_by_url(path, scheme):
    corpus = dnmf.open_corpus(scheme.format(path))
    assert (corpus.to_dask().compute() == dnmf.open_corpus(path).to_dask().compute()).all()


def test_blank_images_are_stored(tmp_path):
    make(str(tmp_path / "c"), np.zeros((N, 6), np.uint8))
    corpus = dnmf.open_corpus(tmp_path / "c")
    assert (corpus.images(slice(None)) == 0).all()
    (tmp_path / "c/pixels/c/0/0/0").unlink()
    with pytest.raises(BlockError, match="missing"):
        corpus.images(0)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def fill_with_nul(file):
    file.write_bytes(bytes(file.stat().st_size))


def chunk_of(path, array, block):
    """Return the file of a block of a corpus of version 2."""
    key = f"{array}/c/{block}" + "/0/0" * (array == "pixels")
    return Path(path) / key


def first_block(file):
    """Return the file of block 0 of the same array."""
    array = next(folder for folder in file.parents if (folder / "zarr.json").exists())
    return chunk_of(array.parent, array.name, 0)


def swap(file):
    other = first_block(file)
    a, b = file.read_bytes(), other.read_bytes()
    file.write_bytes(b)
    other.write_bytes(a)


def copy_another(file):
    shutil.copy(first_block(file), file)


DAMAGE = [os.unlink, truncate, empty, flip_a_bit, fill_with_nul, swap, copy_another]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("array", ["pixels", "id"])
def test_damage_is_a_named_error_and_never_zeros(tmp_path, damage, array):
    path = tmp_path / "c"
    rng = np.random.default_rng(0)  # incompressible: where codecs alone see least
    make(str(path), rng.integers(0, 256, (N, 6), dtype=np.uint8))
    corpus = dnmf.open_corpus(path)
    damage(chunk_of(path, array, 1))
    with pytest.raises(BlockError, match=re.escape("block 1 (images 4 to 7)")) as error:
        corpus[5] if array == "pixels" else corpus.id_of(5)
    assert str(chunk_of("", array, 1)) in str(error.value)
    assert [found.block for found in dnmf.verify(path).findings if found.block == 1] == [1]
    assert corpus.images(9).shape == (2, 3)  # the rest is fine


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("array", ["label", "size"])
def test_damage_to_metadata_is_a_named_error(path, damage, array):
    damage(chunk_of(path, array, 1))
    with pytest.raises(BlockError, match=rf"restore {array}/c/[01] from a copy"):
        dnmf.open_corpus(path).column(array)
    blocks = [found.block for found in dnmf.verify(path).findings]
    assert blocks == ([0, 1] if damage is swap else [1])


@pytest.mark.parametrize("damage", DAMAGE[:5], ids=lambda f: f.__name__)
def test_a_damaged_manifest_is_an_error(tmp_path, damage):
    make(str(tmp_path / "c"))
    damage(tmp_path / "c/manifests/1/c/0/0")
    with pytest.raises(CorpusError, match="manifest"):
        dnmf.open_corpus(tmp_path / "c")


class TestWhatIsNoCorpus:
    def test_nothing(self, tmp_path):
        with pytest.raises(CorpusError, match="dnmf ingest SOURCE"):
            dnmf.open_corpus(tmp_path / "nothing")

    def test_a_folder(self, tmp_path):
        with pytest.raises(CorpusError, match="not a corpus"):
            dnmf.open_corpus(tmp_path)

    def test_another_zarr_group(self, tmp_path):
        import zarr

        zarr.create_group(tmp_path / "g")
        with pytest.raises(CorpusError, match="not a finished corpus"):
            dnmf.open_corpus(tmp_path / "g")

    def test_a_zarr_array(self, tmp_path):
        import zarr

        zarr.create_array(tmp_path / "a", shape=(3,), dtype="u1")
        with pytest.raises(CorpusError, match="not a corpus"):
            dnmf.open_corpus(tmp_path / "a")

    def test_an_unfinished_one(self, tmp_path):
        create_corpus(str(tmp_path / "c"), Layout(N, (2, 3), "uint8", ROWS, "lz4"))
        with pytest.raises(CorpusError, match="not a finished corpus"):
            dnmf.open_corpus(tmp_path / "c")

    def test_one_that_lacks_blocks_is_not_committed(self, tmp_path):
        layout = Layout(N, (2, 3), "uint8", ROWS, "lz4")
        create_corpus(str(tmp_path / "c"), layout)
        with pytest.raises(CorpusError, match="8 of 10 images"):
            commit_corpus(str(tmp_path / "c"), layout, [(4, 1, 1, 1), (4, 1, 1, 1), (0, 0, 0, 0)])

    def test_a_newer_format(self, path):
        file = Path(path) / "zarr.json"
        record = json.loads(file.read_text())
        record["attributes"]["dnmf"]["version"] = 99
        file.write_text(json.dumps(record))
        with pytest.raises(CorpusError, match=r"format 99.*upgrade"):
            dnmf.open_corpus(path)

    @pytest.mark.parametrize(
        ("file", "words"),
        [("zarr.json", "not a corpus"), ("manifests/1/c/0/0", "the manifest is damaged")],
    )
    def test_one_whose_metadata_is_cut_short(self, path, file, words):
        truncate(Path(path) / file)
        with pytest.raises(CorpusError, match=words):
            dnmf.open_corpus(path)

    def test_one_whose_pixels_are_called_something_else(self, path):
        file = Path(path) / "zarr.json"
        changed = file.read_text().replace('"data_type": "uint8"', '"data_type": "int8"')
        file.write_text(changed)
        with pytest.raises(CorpusError, match=r"'int8'.* where .* uint8 were written"):
            dnmf.open_corpus(path)

    def test_one_without_pixels(self, path):
        shutil.rmtree(f"{path}/pixels")
        with pytest.raises(BlockError, match=r"block 0 .* is missing"):
            dnmf.open_corpus(path).images(0)
        assert any("pixels/zarr.json is missing" in f.what for f in dnmf.verify(path).findings)


def test_pickles_as_a_path_and_opens_once_per_process(path):
    corpus = dnmf.open_corpus(path)
    assert len(pickle.dumps(corpus)) < 500
    first, second = (pickle.loads(pickle.dumps(corpus)) for _ in range(2))
    assert first is second
    assert (first.images(3) == corpus.images(3)).all()


def test_a_replaced_corpus_is_noticed(path):
    old = pickle.dumps(dnmf.open_corpus(path))
    shutil.rmtree(path)
    make(path, np.ones((N, 6), np.uint8))
    with pytest.raises(CorpusError, match="replaced"):
        pickle.loads(old)


def test_repr_says_what_it_is(path):
    corpus = dnmf.open_corpus(path)
    assert "10 images of 2 x 3 uint8" in repr(corpus)
    assert path in corpus._repr_html_()
    assert "<table>" in corpus._repr_html_()
    one = dnmf.ingest(np.ones((3, 6), np.uint8), f"{path}-one")
    assert repr(one).endswith(" in 1 block>")


def test_html_is_escaped(tmp_path):
    make(str(tmp_path / "<b>"))
    assert "<b>" not in dnmf.open_corpus(tmp_path / "<b>")._repr_html_()


@pytest.mark.parametrize(
    ("n", "image_bytes", "rows"),
    [
        (10_000, 784, 1337),  # 1 MiB at least
        (70_000, 784, 4375),  # sixteenths
        (8_100_000, 784, 21399),  # 16 MiB
        (20_000, 65_536, 256),
        (5, 2**30, 1),  # one image at least
        (3, 10, 3),
    ],
)
def test_block_rows(n, image_bytes, rows):
    assert choose_block_rows(n, image_bytes) == rows
