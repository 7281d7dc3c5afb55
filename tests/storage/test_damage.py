"""Every object of a store, damaged in every way: nothing is read as what it is not."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import zarr

import dnmf
from dnmf import open_weights, verify
from dnmf.errors import BlockError, CorpusError
from dnmf.io.export import write_reconstruction, write_weights

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 5), dtype=np.uint8)  # incompressible
ROWS = 16


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A corpus, weights and a reconstruction, each of three blocks."""
    folder = tmp_path_factory.mktemp("stores")
    np.save(folder / "x.npy", IMAGES)
    corpus = dnmf.ingest(folder / "x.npy", folder / "corpus", block_rows=ROWS)
    model = dnmf.NMF(3, random_state=0, max_iter=2, tol=0).fit(corpus)
    write_weights(model, corpus, folder / "weights")
    write_reconstruction(model, corpus, folder / "reconstruction")
    return folder


def read(path):
    """Read all that dnmf reads of a store."""
    if path.name.startswith("weights"):
        weights = open_weights(path)
        blocks = [weights.read_block(i) for i in range(weights.n_blocks)]
        rest = weights.shape, weights.corpus_fingerprint, weights.ids, weights.component_names
        return (*rest, np.concatenate(blocks).tobytes())
    corpus = dnmf.open_corpus(path)
    return corpus.image_shape, corpus.ids, corpus.images(slice(None)).tobytes()


def missing(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def truncated(file):
    os.truncate(file, file.stat().st_size // 2)


def one_bit_flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def filled_with_nul(file):
    file.write_bytes(bytes(file.stat().st_size))


def longer(file):
    file.write_bytes(file.read_bytes() + b"\0")


def sibling(file):
    """Find another object of the same kind: another block, or another array's metadata."""
    if file.name == "zarr.json":
        root = next(folder for folder in file.parents if is_group(folder))
        others = [root / "zarr.json", *sorted(root.glob("*/zarr.json"))]
    else:
        array = next(folder for folder in file.parents if (folder / "zarr.json").exists())
        others = sorted(each for each in (array / "c").rglob("*") if each.is_file())
    return next((other for other in others if other != file), None)


def is_group(folder):
    return (folder / "manifests").exists()


def swapped(file):
    if (other := sibling(file)) is None:
        pytest.skip("it is the only one of its kind")
    mine = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(mine)


def replaced_by_another(file):
    if (other := sibling(file)) is None:
        pytest.skip("it is the only one of its kind")
    shutil.copy(other, file)


DAMAGES = [
    missing, empty, truncated, one_bit_flipped, filled_with_nul, longer, swapped,
    replaced_by_another,
]  # fmt: skip
MANIFEST = ["manifests/zarr.json", "manifests/1/zarr.json", "manifests/1/c/0/0"]
IDS = ["id/zarr.json", *(f"id/c/{block}" for block in range(3))]
IN_A_GROUP = [
    "zarr.json",
    "pixels/zarr.json",
    *(f"pixels/c/{block}/0/0" for block in range(3)),
    *IDS,
    *MANIFEST,
]
IN_WEIGHTS = [
    "zarr.json",
    "weights/zarr.json",
    *(f"weights/c/{block}/0" for block in range(3)),
    *IDS,
    *MANIFEST,
    "component/zarr.json",
    "component/c/0",
]
OBJECTS = [
    *(("corpus", key) for key in IN_A_GROUP),
    *(("weights", key) for key in IN_WEIGHTS),
    *(("reconstruction", key) for key in IN_A_GROUP),
]


def test_every_object_is_damaged(stores):
    found = {
        (store, file.relative_to(stores / store).as_posix())
        for store in ("corpus", "weights", "reconstruction")
        for file in (stores / store).rglob("*")
        if file.is_file()
    }
    assert found == set(OBJECTS)


def images_of(block):
    return block * ROWS, min(block * ROWS + ROWS, len(IMAGES)) - 1


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("store", "key"), OBJECTS, ids=lambda x: x)
def test_no_damage_is_read_silently(stores, tmp_path, store, key, damage):
    path = tmp_path / store
    shutil.copytree(stores / store, path)
    damage(path / key)
    block = None if key.startswith(("manifest", "component")) else re.search(r"c/(\d)", key)
    if key.endswith("/zarr.json") and damage not in (swapped, replaced_by_another):
        # Of these the root has a copy, from which dnmf reads.
        assert read(path) == read(stores / store)
        assert [finding.block for finding in verify(path).findings] == [None]
        assert f"{key} " in verify(path).findings[0].what
        return
    if key.endswith("/zarr.json"):
        with suppress(CorpusError):
            assert verify(path).findings
        return
    if block is None:
        with pytest.raises(CorpusError, match=re.escape(str(path))):
            read(path)
        if key == "zarr.json" or damage is swapped:  # the root may say no more what the store is
            with suppress(CorpusError):
                assert verify(path).findings
        else:
            assert [finding.block for finding in verify(path).findings] == [None]
        return
    damaged = sorted({int(block[1]), *([0, 1] if damage is swapped else [])})
    if damage is swapped and block[1] == "2":
        damaged = [0, 2]
    findings = verify(path).findings
    assert [finding.block for finding in findings] == damaged
    assert [(f.first, f.last) for f in findings] == [images_of(index) for index in damaged]
    with pytest.raises(BlockError, match=re.escape(findings[0].what)):
        read(path)
    for index, finding in zip(damaged, findings, strict=True):
        first, last = images_of(index)
        assert f"block {index} (images {first} to {last})" in finding.what
        assert f"restore {key.replace(f'c/{block[1]}', f'c/{index}')} from a copy" in finding.what


def test_zarr_alone_reads_three_of_these_damages_silently(stores, tmp_path):
    """Why there is a manifest: the checksum codec finds the others, in a block that is there."""
    silent = set()
    for damage in DAMAGES:
        shutil.rmtree(tmp_path / "corpus", ignore_errors=True)
        shutil.copytree(stores / "corpus", tmp_path / "corpus")
        damage(tmp_path / "corpus/pixels/c/1/0/0")
        with suppress(ValueError, RuntimeError):
            read_by_zarr = zarr.open_group(tmp_path / "corpus", mode="r")["pixels"][:]
            assert (read_by_zarr != IMAGES).any()
            silent.add(damage.__name__)
    assert silent == {"missing", "swapped", "replaced_by_another"}


@pytest.mark.parametrize("store", ["corpus", "weights"])
def test_no_bit_of_metadata_is_read_wrongly(stores, tmp_path, store):
    """What a changed bit leaves readable, it leaves as it was: a compression level, say."""
    path = tmp_path / store
    shutil.copytree(stores / store, path)
    expected = read(path)
    tried = refused = 0
    for file in sorted(path.rglob("zarr.json")):
        content = file.read_bytes()
        for at in range(len(content)):
            changed = bytearray(content)
            changed[at] ^= 1 << at % 7
            file.write_bytes(changed)
            tried += 1
            try:
                assert read(path) == expected, (file, at, bytes(changed[at - 20 : at + 20]))
            except CorpusError:
                refused += 1
        file.write_bytes(content)
    assert read(path) == expected
    assert tried / 3 < refused < tried  # what each array says of itself is for other software


def test_a_lost_block_is_found_through_dask(stores, tmp_path):
    shutil.copytree(stores / "weights", tmp_path / "weights")
    lazy = open_weights(tmp_path / "weights").to_dask()
    assert lazy.chunks == ((16, 16, 8), (3,))
    assert np.isfinite(lazy.compute()).all()
    (tmp_path / "weights/weights/c/1/0").unlink()
    with pytest.raises(BlockError, match=r"block 1 \(images 16 to 31\) is missing"):
        lazy.compute()


def test_weights_of_another_format_say_what_to_do(stores, tmp_path):
    shutil.copytree(stores / "weights", tmp_path / "weights")
    file = tmp_path / "weights/zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["dnmf"]["version"] = 1
    file.write_text(json.dumps(metadata))
    with pytest.raises(CorpusError, match="format 1; this dnmf reads 2 to 3: run `dnmf transform`"):
        open_weights(tmp_path / "weights")
    with pytest.raises(CorpusError, match="holds no finished weights"):
        open_weights(Path(stores / "corpus"))
