"""Who may write to a store at a URL: one process, which says again and again that it lives."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from processes import wait_until

import dnmf
from dnmf.errors import ClaimError, OutputExistsError
from dnmf.storage import lease
from dnmf.storage.checkpoint.checkpoint import open_checkpoint, verify_checkpoint
from dnmf.storage.lock import locked
from dnmf.storage.store import ObjectStore

X = np.random.default_rng(0).random((20, 16))
HERE = re.escape(socket.gethostname())


def fit(path, **options):
    options = {"tol": 0, "max_iter": 4, "random_state": 0, "checkpoint": path} | options
    return dnmf.NMF(2, **options).fit(X)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.3)


@pytest.fixture
def path(tmp_path):
    return f"memory://{tmp_path.name}/m"


def leases(path):
    folder, _, name = path.rpartition("/")
    return sorted(ObjectStore(f"{folder}/.{name}.lock").list_dir())


def silence(monkeypatch):
    """Let leases that are taken from now on never be renewed, as that of a process that hangs."""
    monkeypatch.setattr(lease.Lease, "_renew_for_ever", lambda self: None)


class TestInMemory:
    def test_a_second_is_refused_and_told_of_the_first(self, quick, path):
        with locked(path):
            words = rf"process {os.getpid()} on {HERE} since 20\d\d-.*wait for it"
            with pytest.raises(ClaimError, match=words):
                fit(path)
        assert ObjectStore(path).list_keys() == leases(path) == []
        assert fit(path).n_iter_ == 4
        assert leases(path) == []

    def test_it_is_renewed_while_nothing_is_committed(self, quick, path):
        with locked(path):
            (first,) = leases(path)
            wait_until(lambda: leases(path) not in ([first], []), "a renewal")
            assert len(leases(path)) <= 2

    @pytest.mark.parametrize("ended", [False, True])
    def test_a_silent_ones_is_taken_over_and_it_commits_no_more(
        self, quick, path, monkeypatch, ended
    ):
        silence(monkeypatch)
        other = lease.Lease(path)

        def take_over(state):
            if state.n_iter == 2:
                other.acquire()
                if ended:
                    other.release()

        words = "has come to its end since" if ended else HERE
        with pytest.raises(ClaimError, match=rf"taken over by .*{words}.*writes nothing more"):
            fit(path, on_pass=take_over)
        assert len(leases(path)) == (not ended)
        assert open_checkpoint(path).state.n_iter == 2
        other.release()
        expected = dnmf.NMF(2, tol=0, max_iter=4, random_state=0, checkpoint=f"{path}2").fit(X)
        assert (fit(path).components_ == expected.components_).all()
        assert list(verify_checkpoint(path)) == []

    def test_one_that_is_given_back_meanwhile_is_taken(self, quick, path, monkeypatch):
        silence(monkeypatch)
        first = lease.Lease(path)
        first.acquire()
        newest = lease.Lease._newest

        def given_back(self):
            first.release()
            return newest(self)

        with monkeypatch.context() as patch:
            patch.setattr(lease.Lease, "_watch", lambda self, number: given_back(self))
            with locked(path):
                assert len(leases(path)) == 1

    def test_somebodys_objects_in_its_place_stay(self, path):
        folder, _, name = path.rpartition("/")
        store = ObjectStore(f"{folder}/.{name}.lock")
        store.set("a.jpg", b"precious")
        with pytest.raises(OutputExistsError, match=r"holds a\.jpg, which dnmf did not write"):
            fit(path)
        assert store.get("a.jpg", 100) == b"precious"

    @pytest.mark.parametrize("fault", [NotImplementedError("mode"), None], ids=["refuses", "lies"])
    def test_a_file_system_that_cannot_create_is_told_of(self, path, monkeypatch, fault):
        pipe = MemoryFileSystem.pipe_file

        def pipe_file(self, path, value, mode="overwrite", **kwargs):
            if mode == "create" and fault:
                raise fault
            return pipe(self, path, value, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
        with pytest.warns(RuntimeWarning, match="nothing keeps a second fit"), locked(path):
            assert leases(path) == []


HOLD = """
import sys, time
import numpy as np, dnmf
from dnmf.storage import lease
lease.RENEW_SECONDS, lease.STALE_SECONDS = 0.5, 2

def passed(state):
    print("pass", state.n_iter, flush=True)
    time.sleep(float(sys.argv[3]))

try:
    X = np.random.default_rng(0).random((20, 16))
    options = {"tol": 0, "random_state": 0, "checkpoint": sys.argv[1], "on_pass": passed}
    dnmf.NMF(2, max_iter=int(sys.argv[2]), **options).fit(X)
    print("done", flush=True)
except dnmf.errors.ClaimError as error:
    print("ClaimError", error, flush=True)
"""


@contextmanager
def driver(path, passes, seconds=0.0):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path, str(passes), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process, words):
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"ended before {words!r}")


@pytest.mark.slow
def test_two_processes_on_s3(s3):
    """The second is refused, takes over after a kill, and after a stop; the bits are the same."""
    path = f"{s3.url}/m"
    with driver(path, 100, 0.5) as first:
        wait_for(first, "pass 2")
        with driver(path, 30) as second:
            assert f"process {first.pid} on {socket.gethostname()}" in wait_for(second, "Claim")
        first.kill()
        first.wait()
        with driver(path, 30) as second:
            wait_for(second, "done")
    assert open_checkpoint(path).state.n_iter == 30
    with driver(path, 100, 0.5) as first:
        wait_for(first, "pass 32")
        first.send_signal(signal.SIGSTOP)
        with driver(path, 45) as second:
            wait_for(second, "done")
        before = s3.content("m/")
        first.send_signal(signal.SIGCONT)
        assert "taken over by" in wait_for(first, "ClaimError")
    assert before.items() <= s3.content("m/").items()  # beside it, weights that nobody counts
    assert s3.keys(".m.lock") == []
    assert list(verify_checkpoint(path)) == []
    expected = dnmf.NMF(2, tol=0, max_iter=45, random_state=0, checkpoint=f"{s3.url}/n").fit(X)
    assert (dnmf.load(path).components_ == expected.components_).all()


@pytest.mark.slow
def test_ingest_and_rank_hold_one_too(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.3)
    np.save(tmp_path / "x.npy", X.reshape(20, 4, 4))
    with locked(f"{s3.url}/c"), pytest.raises(ClaimError, match="another process"):
        dnmf.ingest(tmp_path / "x.npy", f"{s3.url}/c")
    with locked(f"{s3.url}/s"), pytest.raises(ClaimError, match="another process"):
        dnmf.rank_sweep(
            X,
            [1, 2],
            dnmf.NMF(tol=0.5, max_iter=1, random_state=0),
            n_init=1,
            checkpoint=f"{s3.url}/s",
        )
    assert s3.keys() == []
