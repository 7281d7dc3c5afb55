"""`dnmf verify` finds what is damaged, names it, and says so by its exit status."""

from __future__ import annotations

import json
import shutil
from functools import partial

import command_line
import dask
import numpy as np
import pytest

import dnmf
from dnmf import verify
from dnmf.errors import CorpusError
from dnmf.io.export import write_weights

run = partial(command_line.run, "verify")


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    model = dnmf.NMF(4, random_state=0, max_iter=2, tol=0, checkpoint=folder / "m").fit(corpus)
    write_weights(model, corpus, folder / "w")
    return folder


@pytest.fixture
def damaged(corpus, tmp_path):
    """A corpus with a lost block of pixels and a block of ids that has another's place."""
    path = tmp_path / "digits.zarr"
    shutil.copytree(corpus.path, path)
    (path / "pixels/c/3/0/0").unlink()
    shutil.copy(path / "id/c/1", path / "id/c/4")
    return path


def test_an_intact_store_has_status_0(corpus, made):
    result = run(corpus.path)
    assert result.stdout == f"{corpus.path}: corpus, 6 blocks checked, all as written\n"
    assert "6 of 6 blocks" in result.stderr
    assert run(made / "w").stdout == f"{made / 'w'}: weights, 6 blocks checked, all as written\n"
    assert run(made / "m").stdout.startswith(f"{made / 'm'}: model")
    facts = json.loads(run(corpus.path, "--json").stdout)
    assert facts == {
        "kind": "corpus", "path": corpus.path, "blocks": 6, "findings": [], "intact": True,
    }  # fmt: skip


def test_damage_has_status_1_and_a_line_for_each_finding(damaged):
    head, *lines = run(damaged, status=1).stdout.splitlines()
    assert head == f"{damaged}: corpus, 6 blocks checked, 2 damaged"
    assert "block 3 (images 384 to 511) is missing; restore pixels/c/3/0/0 from a copy" in lines[0]
    assert "block 4 (images 512 to 639) is not what was written" in lines[1]
    facts = json.loads(run(damaged, "--json", status=1).stdout)
    assert facts["intact"] is False
    assert [(f["block"], f["first"], f["last"]) for f in facts["findings"]] == [
        (3, 384, 511),
        (4, 512, 639),
    ]


def test_findings_of_threads_and_of_a_cluster_are_the_same(damaged, client):
    on_cluster = verify(damaged)
    with dask.config.set(scheduler="threads"):
        assert verify(damaged) == on_cluster
    assert len(on_cluster.findings) == 2


def test_a_damaged_model_has_status_1(made, tmp_path):
    shutil.copytree(made / "m", tmp_path / "m")
    for file in tmp_path.glob("m/pass-000002-*/H/c.0.0"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    result = run(tmp_path / "m", status=1)
    assert "1 damaged" in result.stdout
    assert "H" in result.stdout.splitlines()[1]


def test_a_missing_block_of_weights(made, tmp_path):
    shutil.copytree(made / "w", tmp_path / "w")
    (tmp_path / "w/weights/c/5/0").unlink()
    assert "block 5 (images 640 to 699) is missing" in run(tmp_path / "w", status=1).stdout


def test_a_corpus_at_a_url(digits, tmp_path):
    np.save(tmp_path / "x.npy", digits[:100])
    dnmf.ingest(tmp_path / "x.npy", "memory://verified.zarr", block_rows=40)
    assert verify("memory://verified.zarr").blocks == 3
    assert not verify("memory://verified.zarr").findings


def test_a_path_without_a_store_of_dnmf_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="nothing is there"):
        verify(tmp_path / "nothing")
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(CorpusError, match="neither a corpus nor weights, a model or a sweep"):
        verify(tmp_path)
    assert "is a folder that dnmf has not written" in run(tmp_path, status=1).stderr


def test_weights_say_what_they_are(made):
    W = dnmf.open_weights(made / "w")
    for text in (repr(W), W._repr_html_()):
        assert str(made / "w") in text
        assert "700 images, 4 components, float32" in text
