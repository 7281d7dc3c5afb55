"""Who may write to a checkpoint, and how much."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import dnmf
from dnmf.errors import CheckpointError, ClaimError, SpaceError
from dnmf.storage.atomic import bytes_at
from dnmf.storage.checkpoint.checkpoint import open_checkpoint, verify_checkpoint
from dnmf.storage.checkpoint.spec import FitSpec
from dnmf.storage.lock import locked


def fit(corpus, path, **options):
    options = {"tol": 0, "max_iter": 4, "random_state": 0, "checkpoint": path} | options
    return dnmf.NMF(5, **options).fit(corpus)


HOLD = """
import sys, time
from dnmf.storage.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """Claim a path from another process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "m"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class TestTwoDrivers:
    def test_the_second_is_refused_and_told_of_the_first(self, corpus, tmp_path, held):
        began = time.monotonic()
        words = (
            rf"process {held.pid} on {re.escape(socket.gethostname())} since 20\d\d-.*wait for it"
        )
        with pytest.raises(ClaimError, match=words):
            fit(corpus, tmp_path / "m")
        assert time.monotonic() - began < 5
        with pytest.raises(ClaimError, match="another process"):
            dnmf.NMF(2, max_iter=1, tol=0).fit(np.ones((4, 4))).save(tmp_path / "m", force=True)

    def test_a_dead_ones_claim_is_taken_over_at_once(self, corpus, tmp_path, held):
        held.send_signal(signal.SIGSTOP)  # as good as dead, but it may wake
        with pytest.raises(ClaimError):
            fit(corpus, tmp_path / "m")
        held.kill()
        held.wait()
        assert (tmp_path / ".m.lock").exists()
        assert fit(corpus, tmp_path / "m").n_iter_ == 4

    def test_nothing_is_left_of_a_claim(self, corpus, tmp_path):
        fit(corpus, tmp_path / "m", max_iter=1)
        assert os.listdir(tmp_path) == ["m"]
        with pytest.raises(CheckpointError):
            fit(corpus, tmp_path / "m", random_state=1)
        assert os.listdir(tmp_path) == ["m"]

    def test_force_does_not_remove_what_another_writes(self, corpus, tmp_path):
        from click.testing import CliRunner

        from dnmf.cli.main import main

        fit(corpus, tmp_path / "m")
        line = ["fit", corpus.path, str(tmp_path / "m"), "-k", "2", "--force"]
        with locked(tmp_path / "m"):
            assert "another process" in CliRunner().invoke(main, line).output
        assert dnmf.load(tmp_path / "m").n_components_ == 5

    def test_one_of_many_gets_it(self, tmp_path):
        """... however they are interleaved with its being given back."""
        inside, most, errors = [], [], []

        def drive():
            for _ in range(200):
                try:
                    with locked(tmp_path / "m"):
                        inside.append(1)
                        most.append(len(inside))
                        inside.pop()
                except ClaimError as error:
                    errors.append(error)

        threads = [threading.Thread(target=drive) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 1
        assert len(most) + len(errors) == 800

    def test_a_file_system_without_locks_is_told_of(self, tmp_path, monkeypatch):
        import fcntl

        def flock(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", flock)
        with (
            pytest.warns(RuntimeWarning, match="nothing keeps a second fit"),
            locked(tmp_path / "m"),
        ):
            assert json.loads((tmp_path / ".m.lock").read_text())["process"] == os.getpid()


class TestAnotherFit:
    def test_another_version_of_the_code(self, corpus, tmp_path):
        fit(corpus, tmp_path / "m", max_iter=2)
        found = open_checkpoint(tmp_path / "m")
        found.spec = FitSpec(**{**vars(found.spec), "dnmf": "0.0"})
        found.finish("interrupted by an update")
        assert dnmf.load(tmp_path / "m").n_iter_ == 2
        with pytest.raises(
            CheckpointError, match=r"dnmf was 0\.0, is 0\.1.*dnmf 0\.0 can finish it"
        ):
            fit(corpus, tmp_path / "m")

    def test_how_often_and_how_many_may_change(self, corpus, tmp_path):
        expected = fit(corpus, tmp_path / "whole")
        fit(corpus, tmp_path / "m", max_iter=2)
        more = fit(corpus, tmp_path / "m", checkpoint_every=3, checkpoint_keep=1, alpha_H=0.0)
        assert (more.components_ == expected.components_).all()


class TestDiskSpace:
    def test_is_required_before_anything_is_written(self, corpus, tmp_path, monkeypatch):
        def with_free(n):
            usage = SimpleNamespace(free=n)
            monkeypatch.setattr("dnmf.storage.atomic.shutil.disk_usage", lambda _: usage)

        plan = dnmf.NMF(5, max_iter=4).plan(corpus, trial=False)
        with_free(plan.checkpoint_bytes - 1)
        with pytest.raises(
            SpaceError, match=r"a checkpoint at .* takes up to .*, and the disk has"
        ):
            fit(corpus, tmp_path / "m")
        assert os.listdir(tmp_path) == []
        with_free(plan.checkpoint_bytes)
        fit(corpus, tmp_path / "m", max_iter=3)
        with_free(plan.checkpoint_bytes - bytes_at(tmp_path / "m"))
        assert fit(corpus, tmp_path / "m").n_iter_ == 4

    @pytest.mark.parametrize("part", ["weights", "pass"])
    def test_a_disk_that_fills_up_later_costs_no_pass(self, corpus, tmp_path, monkeypatch, part):
        from dnmf.storage import store

        model, expected = tmp_path / "m", fit(corpus, tmp_path / "whole")
        put, key = store.write_file, "pass-000003" if part == "pass" else "weights-000003"

        def full(path, *parts):
            if key in str(path):
                put(path, parts[0][:10])  # what there was room for
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            put(path, *parts)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write_file", full)
            with pytest.raises(SpaceError, match=r"the disk is full.*make room, then run the same"):
                fit(corpus, model)
        assert open_checkpoint(model).state.n_iter == 2
        assert list(verify_checkpoint(model)) == []
        assert not list(model.glob(f"{key}*")), "what was half written takes no room"
        assert (fit(corpus, model).components_ == expected.components_).all()

    @pytest.mark.parametrize(
        "options",
        [{}, {"checkpoint_keep": 1}, {"checkpoint_keep": 4}, {"checkpoint_every": 3}],
        ids=str,
    )
    def test_a_fit_stays_within_its_plan(self, tmp_path, monkeypatch, options):
        import zarr

        from dnmf.storage.checkpoint import checkpoint

        X = np.random.default_rng(0).random((2000, 30), np.float32)  # weights that do not compress
        X = zarr.create_array(tmp_path / "X", data=X, chunks=(100, 30))
        seen, prune, path = [], checkpoint.prune, tmp_path / "m"

        def measured(*arguments):
            seen.append(bytes_at(path))
            return prune(*arguments)

        monkeypatch.setattr(checkpoint, "prune", measured)
        model = dnmf.NMF(20, tol=0, max_iter=12, random_state=0, checkpoint=path, **options)
        said = model.plan(X, trial=False).checkpoint_bytes
        model.fit(X)
        assert len(seen) > 12
        assert max(seen) <= said
        if "checkpoint_every" not in options:
            assert max(seen) > said / 2, "the plan is no idle bound"
        passes = {int(p.name[5:11]) for p in Path(path).glob("pass-*")}
        assert max(passes) == 12

    def test_the_newest_passes_stay_and_the_newest_with_weights(self, corpus, tmp_path):
        class StopError(Exception):
            pass

        def stop(state):
            if state.n_iter == 9:
                raise StopError

        path = tmp_path / "m"
        with pytest.raises(StopError):
            fit(corpus, path, max_iter=20, checkpoint_every=5, checkpoint_keep=3, on_pass=stop)
        passes = sorted(int(p.name[5:11]) for p in path.glob("pass-*"))
        weights = sorted(int(p.name[8:14]) for p in path.glob("weights-*"))
        assert passes[-3:] == [7, 8, 9]
        assert len(passes) == 4
        assert len(weights) == 1
        assert weights[0] <= passes[0]  # less if the passes in between were rejected
        assert len(open_checkpoint(path, resume_from=passes[0]).read_weights(0)) == 128
