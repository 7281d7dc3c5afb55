"""Commits without fits, and a server that runs one under strace: for `test_crashes.py`.

The server imports dnmf once and forks a process per request, so that a fault costs a tenth of a
second. strace follows the main thread, in which all of a commit's files are written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import dnmf.storage.checkpoint.checkpoint
from dnmf.errors import CheckpointError, SpaceError
from dnmf.numerics.state import State
from dnmf.storage.checkpoint.checkpoint import create_checkpoint, open_checkpoint
from dnmf.storage.checkpoint.commit import group_json, list_committed
from dnmf.storage.checkpoint.spec import FitSpec
from dnmf.storage.metadata import with_checksum

N, D, P, ROWS = 7, 2, 5, 4
REJECTED = 5
"""A pass that is thrown away, and its weights with it."""

FIT = FitSpec(
    D,
    0,
    {"shape": [N, P], "block_rows": ROWS, "compute_dtype": "float32", "image_shape": [P]},
    {"beta_loss": "frobenius", "alpha_W": 0.0, "alpha_H": 0.0, "l1_ratio": 0.0}
    | {"init": "random", "n_init": 1, "solver": "cd", "missing": "refuse"},
)


def state_of(n: int) -> State:
    """Make the state after some passes, like no other."""
    rng = np.random.default_rng(n)
    accepted = n != REJECTED
    H = np.random.default_rng(n if accepted else n - 1).random((D, P))
    Y, Z = rng.random((2, D, P))
    losses = tuple(np.linspace(2, 1, n))
    return State(H, Y, Z, losses=losses, divergence=float(n), accepted=accepted, n_reads=n)


def weights_of(n: int) -> np.ndarray:
    """Make the weights that a pass writes."""
    return np.random.default_rng(-n & 0xFFFF).random((N, D), np.float32)


def make(path: Path, n: int) -> None:
    """Make a checkpoint with some passes."""
    create_checkpoint(path, FIT, state_of(0))
    for i in range(n):
        keep(path, i + 1)


def keep(path: Path, n: int) -> None:
    """Commit a pass, and its weights."""
    checkpoint = open_checkpoint(path)
    sink = checkpoint.weight_sink()
    W = weights_of(n)
    written = [(at, sink(W[at : at + ROWS], at)) for at in range(0, N, ROWS)]
    checkpoint.keep(state_of(n), written if n != REJECTED else None)


def fit(path: Path) -> None:
    """Run a small fit, with everything that it commits."""
    X = np.random.default_rng(0).random((40, 12))
    dnmf.NMF(2, random_state=0, tol=0, max_iter=4, checkpoint=path).fit(X)


def _mark() -> None:
    """Show in the trace that a commit is acknowledged."""
    os.access("/acknowledged", os.F_OK)


def _marked(commit):
    def run(*arguments):
        commit(*arguments)
        _mark()

    return run


def _old_goes_first(commit):
    """Be wrong: remove the passes that are there before the new one is committed."""

    def run(store, *arguments):
        for name in list_committed(store):
            store.delete_dir(name)
        commit(store, *arguments)

    return run


def _record_goes_first(commit):
    """Be wrong: write the record before what it is about."""

    def run(store, name, arrays, record, weights):
        store.set(f"{name}/zarr.json", group_json(with_checksum(record)))
        commit(store, name, arrays, record, weights)

    return run


WRONG = {"old goes first": _old_goes_first, "record goes first": _record_goes_first}


def run(job: dict) -> int:
    """Do what a request says; the exit status says how it ended."""
    path = Path(job["path"])
    real = dnmf.storage.checkpoint.checkpoint.commit
    dnmf.storage.checkpoint.checkpoint.commit = _marked(
        WRONG.get(job.get("wrong"), lambda same: same)(real)
    )
    try:
        if job["do"] == "fit":
            fit(path)
        elif job["do"] == "create":
            create_checkpoint(path, FIT, state_of(0))
            _mark()
        else:
            for n in job["passes"]:
                keep(path, n)
    except SpaceError:
        return 3
    except CheckpointError:
        return 4
    except BaseException:
        traceback.print_exc()
        return 5
    return 0


def serve() -> None:
    """Answer requests, a line each, with exit statuses; negative for a signal."""
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:  # imports and compiles what forks then have
        fit(Path(folder, "model"))
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.read(reading, 1)
            os._exit(run(job))
        strace = subprocess.Popen(
            ["strace", *job["strace"], "-p", str(child)], stderr=subprocess.PIPE, text=True
        )
        said = strace.stderr.readline()
        os.write(writing, b"x")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        strace.communicate()
        os.close(reading)
        os.close(writing)
        sys.stdout.write(json.dumps({"status": status, "strace": said}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
