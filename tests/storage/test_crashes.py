"""Whatever ends a commit, and wherever: what was acknowledged is there, whole, and the fit goes on.

Faults come from strace, at every system call of a commit that concerns the model. A power failure
is simulated on the trace of a commit: of what was not fsynced, any part may be lost or torn.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import subprocess
import sys
from collections import Counter

import commits
import pytest
from powerloss import Disk, replay

import dnmf
from dnmf.errors import CheckpointError
from dnmf.storage.checkpoint.checkpoint import NO_RECORD, open_checkpoint, verify_checkpoint
from dnmf.storage.store import crc32c

pytestmark = pytest.mark.slow

log = logging.getLogger("figures")  # pytest -o log_cli=true --log-cli-level=INFO shows them

CHANGES = (
    "openat",
    "write",
    "fsync",
    "rename",
    "mkdir",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
)
GROWS = ("openat", "write", "fsync", "rename", "mkdir")
READS = ("close", "newfstatat", "getdents64", "read", "stat", "lstat", "fstat")
TRACE = ["-e", "trace=%file,%desc"]
IN_HEX = ["-y", "-xx", "-s", "1000000"]


class Server:
    """Runs commits under strace; see `commits.serve`."""

    def __init__(self, log):
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, commits.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do, path, *strace, **more):
        job = {"do": do, "path": str(path), "strace": [*strace, "-o", str(self.log)], **more}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "attached" not in answer["strace"]:
            pytest.skip(f"strace may not trace here: {answer['strace'].strip()}")
        return answer["status"]

    def trace(self, do, path, **more):
        """Run without faults, and give the lines of the trace."""
        assert self.ask(do, path, *IN_HEX, *TRACE, **more) == 0
        return self.log.read_text().splitlines()

    def fault(self, do, path, call, number, fault, **more):
        """Run with a fault at a call of a kind, by its number."""
        inject = f"inject={call}:{fault}:when={number}"
        return self.ask(do, path, "-e", f"trace={call}", "-e", inject, **more)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    server = Server(tmp_path_factory.mktemp("trace") / "log")
    yield server
    server.process.communicate()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Make a model with three passes, of which two are kept."""
    path = tmp_path_factory.mktemp("base") / "model"
    commits.make(path, 3)
    return path


def check(path, *passes):
    """Assert that a model is at one of some passes, and whole."""
    found = open_checkpoint(path)
    n = found.state.n_iter
    assert n in passes
    expected = commits.state_of(n)
    for name in ("H", "Y", "Z"):
        assert (getattr(found.state, name) == getattr(expected, name)).all()
    assert found.state.losses == expected.losses
    if n:
        W = commits.weights_of(n - 1 if n == commits.REJECTED else n)
        parts = (W[at : at + commits.ROWS] for at in range(0, commits.N, commits.ROWS))
        assert found.checksums.tolist() == [crc32c(part) for part in parts]
    assert [finding for finding in verify_checkpoint(path) if NO_RECORD not in finding] == []
    return n


def calls_of(lines, path, kinds):
    """Number the calls of each kind, and give those that concern a path."""
    folder = "".join(f"\\x{byte:02x}" for byte in str(path).encode())
    counts: Counter[str] = Counter()
    for line in lines:
        call = line.split("(")[0]
        counts[call] += 1
        reads = call == "openat" and "O_CREAT" not in line
        if call in kinds and folder in line and not (reads and kinds is CHANGES):
            yield call, counts[call]


def test_a_fault_at_every_system_call_of_a_commit(server, base, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(base, model)
    lines = server.trace("keep", model, passes=[4])
    check(model, 4)
    kills = [(*at, "signal=SIGKILL") for at in calls_of(lines, model, CHANGES)]
    full = [(*at, "error=ENOSPC") for at in calls_of(lines, model, CHANGES)]
    full = [at for at in full if at[0] in GROWS]
    broken = [(*at, "error=EIO") for at in calls_of(lines, model, CHANGES + READS)]
    assert len(kills) > 50
    allowed = {"signal=SIGKILL": (-9,), "error=ENOSPC": (0, 3), "error=EIO": (0, 4)}
    ends: Counter[str] = Counter()
    for call, number, fault in kills + full + broken:
        shutil.rmtree(model)
        shutil.copytree(base, model)
        status = server.fault("keep", model, call, number, fault, passes=[4])
        where = f"{fault} at {call} {number}: {status}"
        assert status in allowed[fault], where
        n = check(model, *((4,) if status == 0 else (3, 4)))
        ends[f"{fault} {status} {n}"] += 1
        if call in READS:
            continue
        commits.keep(model, n + 1)
        check(model, n + 1)
        names = {path.name[:4] for path in model.iterdir()}
        count = len([path for path in model.iterdir() if path.name != "zarr.json"])
        assert names == {"pass", "weig", "zarr"}, where
        assert count <= 4, where  # nothing is left of what failed
    log.info("%s kills, %s ENOSPC, %s EIO: %s", len(kills), len(full), len(broken), dict(ends))


def test_a_killed_fit_goes_on_to_the_same_bits_wherever_it_was_killed(server, tmp_path):
    whole = tmp_path / "whole"
    lines = server.trace("fit", whole)
    expected, W = dnmf.load(whole), open_checkpoint(whole).weights[:]
    # What the start builds beside the model's place counts too.
    points = list(calls_of(lines, tmp_path, CHANGES))
    some = points[:: max(1, len(points) // 40)]
    for call, number in some:
        model = tmp_path / f"{call}-{number}" / "model"
        model.parent.mkdir()
        assert server.fault("fit", model, call, number, "signal=SIGKILL") == -9
        assert server.ask("fit", model, "-e", "trace=none") == 0
        found = dnmf.load(model)
        assert (found.components_ == expected.components_).all()
        assert (found.loss_history_ == expected.loss_history_).all()
        assert found.n_reads_ == expected.n_reads_
        assert (open_checkpoint(model).weights[:] == W).all()
        assert list(verify_checkpoint(model)) == []
        assert [path.name for path in model.parent.iterdir()] == ["model"], "nothing is left over"
    log.info("%s of %s points", len(some), len(points))


class TestPowerFailure:
    """What was acknowledged is there after one, in whatever order the disk wrote."""

    @pytest.fixture
    def crashes(self, server, base, tmp_path):
        def crash(do="keep", passes=(4, 5), **wrong):
            """Count crash states, and those in which a checkpoint is lost or looks damaged."""
            model = tmp_path / "traced" / "model"
            model.parent.mkdir()
            if do == "keep":
                shutil.copytree(base, model)
            start = Disk.of(model.parent)
            wrong_, fsync = bool(wrong), {n: wrong.pop(n, True) for n in ("files", "folders")}
            lines = server.trace(do, model, passes=passes, **wrong)
            # A first pass is acknowledged when the model has been moved into its place.
            acknowledged = [3, *passes] if do == "keep" else [None, None, 0]
            states = lost = 0
            crashes = list(replay(lines, model.parent, start, **fsync))
            if wrong_:
                random.Random(0).shuffle(crashes)
            for disk, count in crashes:
                target = tmp_path / "crashed"
                shutil.rmtree(target, ignore_errors=True)
                disk.write(target)
                states += 1
                lost += not self.survives(target / "model", acknowledged, count)
                if wrong_ and lost:
                    break  # caught
            return states, lost

        return crash

    def survives(self, model, acknowledged, count):
        last, later = acknowledged[count], acknowledged[count + 1 :][:1]
        try:
            if last is None and not model.exists():
                return True
            return check(model, *({last, *later} - {None})) is not None
        except (CheckpointError, AssertionError):
            return False

    def test_commits(self, crashes):
        states, lost = crashes()
        log.info("%s crash states, %s lost", states, lost)
        assert states > 250
        assert lost == 0

    def test_the_first(self, crashes):
        states, lost = crashes("create", ())
        log.info("%s crash states of the first, %s lost", states, lost)
        assert states > 30
        assert lost == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"files": False},
            {"folders": False},
            {"wrong": "old goes first"},
            {"wrong": "record goes first"},
        ],
        ids=lambda wrong: str(next(iter(wrong.items()))),
    )
    def test_wrong_orders_are_caught(self, crashes, wrong):
        states, lost = crashes(passes=(4,), **wrong)
        log.info("%s crash states, %s lost", states, lost)
        assert lost > 0


def test_all_files_of_a_commit_are_written_in_one_thread(server, base, tmp_path):
    """Else faults would miss some: strace follows this one."""
    model = tmp_path / "model"
    shutil.copytree(base, model)
    one = [line.split("(")[0] for line in server.trace("keep", model, passes=[4])]
    shutil.rmtree(model)
    shutil.copytree(base, model)
    assert server.ask("keep", model, "-f", *IN_HEX, *TRACE, passes=[4]) == 0
    all_ = re.findall(r"^\d+ +(\w+)\(", server.log.read_text(), re.M)
    for call in ("rename", "mkdir", "fsync", "unlink"):
        assert all_.count(call) == one.count(call) > 0, call
