"""A store made to do harm ends in a named error: soon, in little memory, and no code of it runs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import hostile
import numpy as np
import pytest

import dnmf
from dnmf.errors import CheckpointError, CorpusError
from dnmf.io.export import write_weights
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.metadata import read_metadata
from dnmf.storage.store import InvalidObjectError, ObjectStore

log = logging.getLogger("figures")

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 5), dtype=np.uint8)
ARRAYS = {"corpus": ["pixels", "id"], "weights": ["weights", "id", "component"]}
CHUNKS = {
    "corpus": ["pixels/c/0/0/0", "id/c/0", "manifests/1/c/0/0"],
    "weights": ["weights/c/0/0", "id/c/0", "component/c/0", "manifests/1/c/0/0"],
}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
MOST_GROWTH = 96 * 2**20
RECORDS = {"corpus": hostile.CORPUS_RECORDS, "weights": hostile.WEIGHTS_RECORDS}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    np.save(folder / "x.npy", IMAGES)
    corpus = dnmf.ingest(folder / "x.npy", folder / "corpus", block_rows=16)
    model = dnmf.NMF(3, random_state=0, max_iter=2, tol=0).fit(corpus)
    write_weights(model, corpus, folder / "weights")
    dnmf.NMF(3, random_state=0, max_iter=2, tol=0, checkpoint=folder / "model").fit(corpus)
    last = open_checkpoint(folder / "model")
    for path in [*(folder / "model").glob("pass-*"), *(folder / "model").glob("weights-*")]:
        if path.name not in (last.name, last.weights_name):
            shutil.rmtree(path)  # one pass is enough
    return folder


def cases(witness):
    """Yield the kind of store, a name, and what is done to a copy of it."""
    for kind in ("corpus", "weights"):
        for array in ARRAYS[kind]:
            for name, change in hostile.METADATA.items():
                if not (name == "strings" and array in ("id", "component")):
                    inside = hostile.inside(array, change)
                    yield kind, f"{array}: {name}", changing("zarr.json", inside)
        for name, change in {**hostile.RECORDS, **RECORDS[kind]}.items():
            yield kind, name, changing("zarr.json", change)
        yield from ((kind, *case) for case in cases_of_files(kind))
        yield kind, "pickles in Zarr 2", lambda store: hostile.version_2(store, witness)
    yield "corpus", "all of 10^15 images", hostile.all_of_10_15
    yield "corpus", "60 million blocks", hostile.many_blocks
    yield "corpus", "pixels: a link", lambda store: hostile.link_to("/etc")(store / "pixels")
    yield from (("model", *case) for case in cases_of_models())


def cases_of_models():
    """Yield a name, and what is done to a copy of a model."""
    for name, change in hostile.METADATA.items():
        yield f"weights-*: {name}", in_each("weights-*/zarr.json", hostile.edit, change)
        for array in ("H", "state"):
            inside = hostile.inside(array, change)
            yield f"{array}: {name}", in_each("pass-*/zarr.json", hostile.edit, inside)
    for name, change in hostile.METADATA.items():
        if "shape" not in name and "chunk" not in name and "codec" not in name:
            yield f"record: {name}", in_each("pass-*/zarr.json", hostile.edit, change)
    for name, change in {**hostile.RECORDS, **hostile.MODEL_RECORDS}.items():
        where = "zarr.json" if name in hostile.RECORDS else "pass-*/zarr.json"
        yield name, in_each(where, hostile.edit, change)
    chunks = ("pass-*/H/c.0.0", "pass-*/state/c.0", "weights-*/c.0.0")
    for key in ("pass-*/zarr.json", "weights-*/zarr.json", *chunks):
        for name, act in hostile.THINGS.items():
            yield f"{key}: {name}", in_each(key, lambda file, act: act(file), act)
        for name, text in hostile.TEXTS.items():
            if "lists" not in name:
                yield f"{key}: {name}", in_each(key, Path.write_bytes, text)
    bombs = {"zstd": hostile.zstd_bomb(), "blosc": hostile.blosc_bomb()}
    for key in ("pass-*/H/c.0.0", "weights-*/c.0.0"):
        for name, content in bombs.items():
            yield f"{key}: a bomb of {name}", in_each(key, Path.write_bytes, content)
        for length in (10, 10**6, 2**32 - 1):
            lie = partial(hostile.claim, length)
            yield f"{key}: claims {length} bytes", in_each(key, hostile.rewrite, lie)


def in_each(key, act, *arguments):
    """Do something to each object of a model that has such a name."""
    return lambda store: [act(file, *arguments) for file in sorted(store.glob(key))]


def cases_of_files(kind):
    for key in ("zarr.json", *CHUNKS[kind]):
        for name, act in hostile.THINGS.items():
            yield f"{key}: {name}", lambda store, key=key, act=act: act(store / key)
        for name, text in hostile.TEXTS.items():
            if "lists" in name and key != "zarr.json":
                continue  # once is enough for what takes a second
            yield f"{key}: {name}", lambda store, k=key, t=text: (store / k).write_bytes(t)
    chunk = CHUNKS[kind][0]
    for name, content in {"zstd": hostile.zstd_bomb(), "blosc": hostile.blosc_bomb()}.items():
        assert len(content) < hostile.BOMB / 200
        yield f"{chunk}: a bomb of {name}", forging(chunk, lambda _, bomb=content: bomb)
    for length in (10, 10**6, 2**32 - 1):
        yield f"{chunk}: claims {length} bytes", forging(chunk, partial(hostile.claim, length))


def changing(key, change):
    return lambda store: hostile.edit(store / key, change)


def forging(chunk, change):
    return lambda store: hostile.forge(store, chunk, change((store / chunk).read_bytes()))


def opened(folder):
    """Let another process, of little memory, open the stores in a folder."""
    done = subprocess.run(
        [sys.executable, hostile.__file__, folder],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-500:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@LINUX
def test_no_store_does_harm(stores, tmp_path):
    witness = tmp_path / "code-has-run"
    made = {}
    (tmp_path / "stores").mkdir()
    for number, (kind, name, act) in enumerate(cases(witness)):
        path = tmp_path / "stores" / f"{kind}-{number:04d}"
        shutil.copytree(stores / kind, path)
        act(path)
        made[path.name] = name
    lines = opened(tmp_path / "stores")
    assert len(lines) == len(made)
    named = ("CorpusError: ", "BlockError: ", "CheckpointError: ")
    wrong = [
        (made[path], ends, seconds, grown)
        for path, ends, seconds, grown in lines
        if not ends[0].startswith(named)
        or str(tmp_path) not in ends[0]
        or len(ends[0]) > 600
        or not ends[1].startswith((*named, "DnmfError: "))
        or not ends[2].startswith((*named, "read"))
        or seconds > 5
        or grown > MOST_GROWTH
    ]
    assert wrong == []
    assert not witness.exists()
    most = [max(line[i] for line in lines) for i in (2, 3)]
    log.info("%s stores, at most %.1f s, %.0f MiB", len(lines), most[0], most[1] / 2**20)


@LINUX
def test_what_is_whole_is_read_by_the_same_process(stores, tmp_path):
    for kind in ("corpus", "weights", "model"):
        shutil.copytree(stores / kind, tmp_path / kind)
    assert [ends for _, ends, *_ in opened(tmp_path)] == [["read"] * 3] * 3


def test_the_path_of_a_store_may_be_a_link(stores, tmp_path):
    (tmp_path / "link").symlink_to(stores / "corpus")
    assert (dnmf.open_corpus(tmp_path / "link").images(slice(None)) == IMAGES).all()


def test_links_inside_a_store_are_followed(stores, tmp_path):
    shutil.copytree(stores / "corpus", tmp_path / "c")
    (tmp_path / "c/pixels/c/0/0/0").rename(tmp_path / "c/first")
    (tmp_path / "c/pixels/c/0/0/0").symlink_to(tmp_path / "c/first")
    assert (dnmf.open_corpus(tmp_path / "c").images(slice(None)) == IMAGES).all()


@pytest.mark.parametrize(
    "change",
    ["chunks of terabytes", "codec zstd", "objects", "an unknown key", "metadata that is a list"],
)
def test_a_store_at_a_url_is_held_to_the_same(stores, tmp_path, change):
    import fsspec

    shutil.copytree(stores / "corpus", tmp_path / "c")
    hostile.edit(tmp_path / "c/zarr.json", hostile.inside("pixels", hostile.METADATA[change]))
    fsspec.filesystem("memory").put(str(tmp_path / "c"), f"/{tmp_path.name}.zarr", recursive=True)
    with pytest.raises(CorpusError, match=r"not a corpus: zarr\.json, of 'pixels', has "):
        dnmf.open_corpus(f"memory://{tmp_path.name}.zarr")


def test_a_model_at_a_url_is_held_to_the_same(stores, tmp_path):
    import fsspec

    shutil.copytree(stores / "model", tmp_path / "m")
    act = hostile.inside("H", hostile.METADATA["codec zstd"])
    in_each("pass-*/zarr.json", hostile.edit, act)(tmp_path / "m")
    fsspec.filesystem("memory").put(str(tmp_path / "m"), f"/{tmp_path.name}.model", recursive=True)
    with pytest.raises(CheckpointError, match=r"of .H., has codecs .*no other pass is intact"):
        open_checkpoint(f"memory://{tmp_path.name}.model")


def test_what_a_link_in_a_model_leads_to_stays(stores, tmp_path):
    shutil.copytree(stores / "corpus", tmp_path / "c")
    shutil.copytree(stores / "model", tmp_path / "m")
    (tmp_path / "m/pass-000001-1").symlink_to(tmp_path / "c")
    open_checkpoint(tmp_path / "m", keep=1).resume()
    assert not os.path.lexists(tmp_path / "m/pass-000001-1")
    assert (dnmf.open_corpus(tmp_path / "c").images(slice(None)) == IMAGES).all()


def test_a_bomb_at_a_url_is_not_fetched(stores, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(stores / "corpus"), f"/{tmp_path.name}.zarr", recursive=True)
    memory.pipe(f"/{tmp_path.name}.zarr/id/c/0", b"x" * 10**6)
    corpus = dnmf.open_corpus(f"memory://{tmp_path.name}.zarr")
    with pytest.raises(CorpusError, match=r"block 0 .* is too long: it has more than [\d,]+ bytes"):
        corpus.id_of(0)


def test_read_metadata_returns_what_it_checked_and_refuses_the_rest(stores):
    corpus = ObjectStore(str(stores / "corpus"))
    found = read_metadata(corpus, "pixels")
    assert found["shape"] == (40, 3, 5)
    assert found["chunks"] == (16, 3, 5)
    assert found["dtype"] == "uint8"
    assert found["codecs"] == ["bytes", "blosc", "crc32c"]
    assert read_metadata(corpus)["node_type"] == "group"
    with pytest.raises(FileNotFoundError, match=r"nothing/zarr\.json is missing"):
        read_metadata(corpus, "nothing")
    with pytest.raises(InvalidObjectError, match="is a link out of the store"):
        read_metadata(corpus, "../../../../etc")
