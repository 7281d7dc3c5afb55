"""A model that was damaged where it lies: refused by name, or found; never read silently."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import commits
import numpy as np
import pytest

import dnmf
from dnmf.errors import CheckpointError
from dnmf.storage.checkpoint.checkpoint import NO_RECORD, open_checkpoint, verify_checkpoint

log = logging.getLogger("figures")


@pytest.fixture
def model(tmp_path):
    """Make a model with passes 2 and 3."""
    commits.make(tmp_path / "model", 3)
    return tmp_path / "model"


def damages(data, other):
    """Damage an object in every way that storage has been seen to."""
    flip = bytearray(data)
    for at in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
        flip[at] ^= 1 << at % 7
        yield f"flipped at {at}", bytes(flip)
        flip[at] ^= 1 << at % 7
    yield "missing", None
    yield "empty", b""
    yield "cut", data[: len(data) // 2]
    yield "cut by a byte", data[:-1]
    yield "zeros", bytes(len(data))
    yield "longer", data + b"\0"
    yield "swapped", other


def read_all(path):
    """Read all that dnmf reads of a model."""
    found = open_checkpoint(path)
    weights = [found.read_weights(block) for block in range(len(found.checksums))]
    return found.state, np.concatenate(weights)


def test_no_damage_is_read_silently(model, tmp_path):
    state, W = read_all(model)
    objects = [path for path in sorted(model.rglob("*")) if path.is_file()]
    newest = {open_checkpoint(model).name, open_checkpoint(model).weights_name, "zarr.json"}
    record = Path(open_checkpoint(model).name, "zarr.json")  # without it, a pass does not count
    cases = named = harmless = 0
    for i, path in enumerate(objects):
        data, key = path.read_bytes(), path.relative_to(model)
        for what, damaged in damages(data, objects[i - 1].read_bytes()):
            if damaged == data:
                continue
            cases += 1
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            ours = key.parts[0] in newest
            try:
                read, findings = read_all(model), list(verify_checkpoint(model))
            except CheckpointError as refused:
                read, findings = None, [str(refused)]
            if read is None:
                assert ours, (key, what)
                assert (str(key.parent) if len(key.parts) > 1 else "a dnmf") in findings[0], key
            else:  # nothing was read that was not written
                n = 2 if what == "missing" and key == record else 3
                for name in ("H", "Y", "Z"):
                    assert (getattr(read[0], name) == getattr(commits.state_of(n), name)).all()
                assert (read[1] == commits.weights_of(n)).all(), (key, what)
                assert not (ours and findings) or NO_RECORD in findings[0], (key, what)
                assert findings or path.name == "zarr.json", (key, what)
            named += bool(findings)
            harmless += not findings
            path.write_bytes(data)
    assert (read_all(model)[1] == W).all()
    assert read_all(model)[0].losses == state.losses
    assert named > 120
    log.info("%s damages: %s named, %s changed nothing that counts", cases, named, harmless)


class TestADamagedPass:
    @pytest.fixture
    def path(self, corpus, tmp_path):
        self.fit(corpus, tmp_path / "m", max_iter=4, checkpoint_keep=1)
        for name in sorted(path.name for path in (tmp_path / "m").glob("pass-000004-*")):
            with open(tmp_path / "m" / name / "state" / "c.0", "r+b") as file:
                file.write(b"x")
        return tmp_path / "m"

    def fit(self, corpus, path, **more):
        options = {"tol": 0, "max_iter": 6, "random_state": 0, "checkpoint": path}
        return dnmf.NMF(3, **options | more).fit(corpus)

    def test_is_refused_with_the_newest_that_is_intact(self, corpus, tmp_path):
        path = tmp_path / "m"
        self.fit(corpus, path, checkpoint_keep=3)
        for file in path.glob("pass-000006-*/H/c.0.0"):
            os.truncate(file, 0)
        with pytest.raises(CheckpointError, match=r"pass-000006-2/H.*pass 5 is intact.*from 5"):
            dnmf.load(path)
        expected = self.fit(corpus, tmp_path / "other")
        found = self.fit(corpus, path, resume_from=5)
        assert (found.components_ == expected.components_).all()
        assert (found.loss_history_ == expected.loss_history_).all()
        assert list(verify_checkpoint(path)) == []
        assert (
            open_checkpoint(path).weights[:] == open_checkpoint(tmp_path / "other").weights[:]
        ).all()

    def test_may_be_the_only_one(self, corpus, path):
        with pytest.raises(CheckpointError, match="no other pass is intact"):
            dnmf.load(path)
        with pytest.raises(CheckpointError, match="holds no pass 3; those there are: 4"):
            self.fit(corpus, path, resume_from=3)

    def test_is_not_removed_for_another_fit(self, corpus, tmp_path):
        path = tmp_path / "m"
        self.fit(corpus, path, max_iter=3)
        before = sorted(os.listdir(path))
        with pytest.raises(CheckpointError, match="seed was 0, is 1"):
            self.fit(corpus, path, random_state=1, resume_from=2)
        assert sorted(os.listdir(path)) == before

    def test_on_the_command_line(self, corpus, tmp_path):
        from click.testing import CliRunner

        from dnmf.cli.main import main

        line = ["fit", corpus.path, str(tmp_path / "m"), "-k", "3", "--tol", "0", "--max-iter", "4"]
        assert CliRunner().invoke(main, line).exit_code == 0
        for file in (tmp_path / "m").glob("pass-000004-*/zarr.json"):
            file.write_bytes(file.read_bytes().replace(b"beta", b"bet\0"))
        refused = CliRunner().invoke(main, line)
        assert refused.exit_code == 1
        assert "--resume-from 3" in refused.output
        assert CliRunner().invoke(main, [*line, "--resume-from", "3"]).exit_code == 0
        assert dnmf.load(tmp_path / "m").n_iter_ == 4


def test_blocks_of_weights_are_named_with_their_images(model):
    found = open_checkpoint(model)
    folder = model / found.weights_name
    blocks = [folder / "c.0.0", folder / "c.1.0"]
    one, other = (block.read_bytes() for block in blocks)
    blocks[0].write_bytes(other)
    blocks[1].write_bytes(one)
    with pytest.raises(CheckpointError, match=r"block 0 .*images 0 to 3.*altered, lost or swapped"):
        found.read_weights(0)
    findings = list(verify_checkpoint(model))
    assert len(findings) == 2
    assert "block 1 (images 4 to 6) is not what was written" in findings[1]
    blocks[1].unlink()
    assert "is missing" in list(verify_checkpoint(model))[1]


def test_weights_of_another_pass_do_not_pass_for_these(model):
    old, new = sorted(model.glob("weights-*"))
    shutil.copy(old / "c.0.0", new / "c.0.0")
    with pytest.raises(CheckpointError, match="images 0 to 3"):
        open_checkpoint(model).read_weights(0)


def test_a_damaged_older_pass_is_found_and_no_obstacle(model):
    record = model / "pass-000002-1/zarr.json"
    record.write_bytes(b"{}")
    assert open_checkpoint(model).state.n_iter == 3
    assert "pass-000002-1/zarr.json" in next(verify_checkpoint(model))
    for n in (4, 5, 6, 7):
        commits.keep(model, n)
    assert list(verify_checkpoint(model)) == []
    assert len(list(model.glob("weights-*"))) == 2


def test_a_resumed_pass_needs_a_checkpoint():
    with pytest.raises(ValueError, match="resume_from is 3, but checkpoint is None"):
        dnmf.NMF(2, resume_from=3).fit(np.ones((4, 4)))
