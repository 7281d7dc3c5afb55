"""Images are added to a corpus: readers are undisturbed, and what is killed can be repeated."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import dnmf
from dnmf.errors import CorpusError, IngestError
from dnmf.io.ingest import finish_parts, ingest_part, plan_ingest
from dnmf.storage.store import ObjectStore

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 4), dtype=np.uint8)


def save(folder, numbers):
    folder.mkdir(exist_ok=True)
    for i in numbers:
        Image.fromarray(IMAGES[i]).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def grown(tmp_path):
    """A corpus of images 0 to 9 in blocks of 4, as it was opened before 10 to 26 were added."""
    save(tmp_path / "in", range(10))
    before = dnmf.ingest(tmp_path / "in", tmp_path / "c", block_rows=4, codec="lz4")
    save(tmp_path / "in", range(10, 27))
    dnmf.ingest(tmp_path / "in", tmp_path / "c", append=True)
    return before


def check(corpus, n):
    assert corpus.ids == [f"{i}.png" for i in range(n)]
    assert (corpus.images(slice(None)) == IMAGES[:n]).all()


def test_new_files_of_a_folder_are_added(grown):
    corpus = dnmf.open_corpus(grown.path)
    check(corpus, 27)
    assert [n for n, _ in corpus.generations] == [10, 27]
    assert dnmf.verify(corpus.path).findings == []
    assert xr.open_zarr(corpus.path).pixels.shape == (27, 6, 4)


def test_the_bytes_of_blocks_are_those_of_one_ingest(grown, tmp_path):
    whole = dnmf.ingest(tmp_path / "in", tmp_path / "whole", block_rows=4, codec="lz4")
    for path in (tmp_path / "whole/pixels/c").rglob("*"):
        if path.is_file():
            other = tmp_path / "c" / path.relative_to(tmp_path / "whole")
            assert path.read_bytes() == other.read_bytes()
    assert dnmf.open_corpus(tmp_path / "c").fingerprint == whole.fingerprint


def test_who_had_it_open_goes_on(grown, client):
    check(grown, 10)
    assert (grown.to_dask().compute() == IMAGES[:10].reshape(10, -1)).all()  # on workers, too


def test_what_is_there_already_is_left_out(grown, tmp_path):
    with pytest.raises(IngestError, match="the corpus has all 27 of these files already"):
        dnmf.ingest(tmp_path / "in", tmp_path / "c", append=True)
    check(dnmf.open_corpus(tmp_path / "c"), 27)


def test_several_times(grown, tmp_path):
    for start in (27, 28, 33):
        save(tmp_path / "in", range(start, {27: 28, 28: 33, 33: 40}[start]))
        dnmf.ingest(tmp_path / "in", tmp_path / "c", append=True)
    corpus = dnmf.open_corpus(tmp_path / "c")
    check(corpus, 40)
    assert [n for n, _ in corpus.generations] == [10, 27, 28, 33, 40]


def test_bad_files_are_listed_after_those_of_before(tmp_path):
    save(tmp_path / "in", range(20))
    (tmp_path / "in/3.png").write_bytes(b"")
    dnmf.ingest(tmp_path / "in", tmp_path / "c", block_rows=4)
    save(tmp_path / "new", range(20, 40))
    (tmp_path / "new/25.png").write_bytes(b"")
    corpus = dnmf.ingest(tmp_path / "new", tmp_path / "c", append=True)
    assert corpus.ids == [f"{i}.png" for i in range(40) if i not in (3, 25)]
    assert corpus.n_rejects == 2
    lines = [json.loads(line) for line in (tmp_path / "c/rejects.jsonl").read_text().splitlines()]
    assert [line["path"].rpartition("/")[2] for line in lines] == ["3.png", "25.png"]
    assert lines[1]["generation"] == 2


def test_as_jobs_of_an_array(tmp_path):
    save(tmp_path / "in", range(10))
    dnmf.ingest(tmp_path / "in", tmp_path / "c", block_rows=4)
    save(tmp_path / "in", range(10, 27))
    plan_ingest(tmp_path / "in", tmp_path / "c", append=True)
    for number in (2, 1):
        ingest_part(tmp_path / "c", number, 2)
    check(finish_parts(tmp_path / "c"), 27)


def test_arrays_are_numbered_on(tmp_path):
    dnmf.ingest(IMAGES[:7], tmp_path / "c", block_rows=4)
    corpus = dnmf.ingest(IMAGES[7:], tmp_path / "c", append=True)
    assert corpus.ids == [f"image:{i}" for i in range(40)]
    assert (corpus.images(slice(None)) == IMAGES).all()


def test_columns_grow_too(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path / "in", range(20)))
    for name, numbers in (("a.csv", range(6)), ("b.csv", range(6, 20))):
        rows = "".join(f"{i}.png,{i % 3},site {i}\n" for i in numbers)
        (tmp_path / "in" / name).write_text(f"path,label,image\n{rows}")
    dnmf.ingest("a.csv", tmp_path / "c", block_rows=4)
    corpus = dnmf.ingest("b.csv", tmp_path / "c", append=True)
    assert corpus.metadata["label"].tolist() == [i % 3 for i in range(20)]
    with pytest.raises(
        IngestError, match=r"have the columns none, and those of .* label \(int64\)"
    ):
        dnmf.ingest(IMAGES, tmp_path / "c", append=True)


def test_what_was_done_to_the_images_is_done_to_new_ones(tmp_path):
    save(tmp_path / "in", range(10))
    dnmf.ingest(tmp_path / "in", tmp_path / "c", size=(3, 2), block_rows=4)
    save(tmp_path / "in", range(10, 20))
    corpus = dnmf.ingest(tmp_path / "in", tmp_path / "c", append=True)
    assert corpus.image_shape == (3, 2)
    whole = dnmf.ingest(tmp_path / "in", tmp_path / "d", size=(3, 2))
    assert (corpus[:] == whole[:]).all()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (IMAGES[:, :5], {}, "are 5 x 4 uint8, and those of .* are 6 x 4 uint8"),
        (IMAGES.astype("f4"), {}, "are 6 x 4 float32, and those of .* uint8"),
        (IMAGES, {"size": (3, 3)}, r"size is \(3, 3\), but the images of .* with None"),
    ],
)
def test_images_of_another_kind_are_refused(tmp_path, images, options, message):
    corpus = dnmf.ingest(IMAGES, tmp_path / "c")
    with pytest.raises(IngestError, match=message):
        dnmf.ingest(images, tmp_path / "c", append=True, **options)
    assert dnmf.open_corpus(tmp_path / "c").fingerprint == corpus.fingerprint


def test_maps_do_not_grow(tmp_path):
    cube = RNG.random((5, 4, 7), dtype=np.float32)
    dnmf.ingest(cube, tmp_path / "c", axis=("0", "1"))
    with pytest.raises(CorpusError, match="is a map of 0 x 1, which cannot grow"):
        dnmf.ingest(cube, tmp_path / "c", append=True, axis=("0", "1"))


def test_there_must_be_a_corpus(tmp_path):
    with pytest.raises(CorpusError, match="is not a corpus"):
        dnmf.ingest(IMAGES, tmp_path / "c", append=True)


class Killed(BaseException):
    """What a kill is to the code that it meets."""


def test_a_kill_at_any_write_changes_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    save(tmp_path / "in", range(10))
    dnmf.ingest(tmp_path / "in", tmp_path / "first", block_rows=4, codec="lz4")
    save(tmp_path / "in", range(10, 27))
    write, writes = ObjectStore.set, []

    def fail(store, key, *parts):
        writes.append(key)
        if len(writes) > at:
            raise Killed
        write(store, key, *parts)

    for at in range(0, 200, 4):
        path = shutil.copytree(tmp_path / "first", tmp_path / f"{at}")
        before = dnmf.open_corpus(path)
        writes.clear()
        monkeypatch.setattr(ObjectStore, "set", fail)
        try:
            dnmf.ingest(tmp_path / "in", path, append=True)
            break
        except Killed:
            monkeypatch.setattr(ObjectStore, "set", write)
        check(before, 10)
        now = dnmf.open_corpus(path)
        check(now, 10 if len(now) == 10 else 27)
        dnmf.ingest(tmp_path / "in", path, append=True)
        check(dnmf.open_corpus(path), 27)
    assert at > 30
    assert "zarr.json" in writes
