"""What a commit costs: state and weights, with and without fsync, beside `numpy.savez` of the same.

    python benchmarks/commit.py [FOLDER]

FOLDER says which disk; by default one for temporary files.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dnmf.numerics.state import State
from dnmf.storage.checkpoint.checkpoint import create_checkpoint
from dnmf.storage.checkpoint.spec import FitSpec

SIZES = ((16, 1024, 10_000), (64, 784, 70_000), (100, 10_000, 70_000))
"""Components, pixels, images."""

ROWS, REPEATS = 21_399, 15
"""Images of a block, commits of which the median counts."""


def state_of(n: int, d: int, p: int) -> State:
    """Make a state like those of squared error, after some passes."""
    H = np.random.default_rng(n).random((d, p))
    return State(H, H + 1, H, losses=tuple(np.linspace(2, 1, n)), divergence=1.0)


def commit_times(folder: Path, d: int, p: int, n: int) -> tuple[float, float]:
    """Give the medians of the milliseconds of a state, and of the weights before it."""
    X = {"shape": [n, p], "block_rows": ROWS, "compute_dtype": "float32"}
    checkpoint = create_checkpoint(folder / "model", FitSpec(d, 0, X, {}), state_of(0, d, p))
    W = np.random.default_rng(0).random((n, d), np.float32)
    states, weights = [], []
    for i in range(1, REPEATS + 1):
        state = state_of(i, d, p)
        began = time.perf_counter()
        sink = checkpoint.weight_sink()
        written = [(at, sink(W[at : at + ROWS], at)) for at in range(0, n, ROWS)]
        middle = time.perf_counter()
        checkpoint.keep(state, [(at, crc) for at, crc in written if crc is not None])
        states.append(time.perf_counter() - middle)
        weights.append(middle - began)
    return 1e3 * float(np.median(states)), 1e3 * float(np.median(weights))


def savez_time(folder: Path, d: int, p: int, n: int) -> float:
    """Give the median milliseconds of writing the same with NumPy, not fsynced."""
    state, W = state_of(1, d, p), np.random.default_rng(0).random((n, d), np.float32)
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        np.savez(folder / "peer.npz", H=state.H, Y=state.Y, Z=state.Z, W=W)
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    folder_on_disk = parser.parse_args().folder
    fsync = os.fsync
    print("| d | p | n | state, ms | without fsync | weights, ms | without fsync | np.savez, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for d, p, n in SIZES:
        row = []
        for call in (fsync, lambda file: None):
            os.fsync = call
            with TemporaryDirectory(dir=folder_on_disk) as folder:
                row.append(commit_times(Path(folder), d, p, n))
                peer = savez_time(Path(folder), d, p, n)
        os.fsync = fsync
        (state, weights), (state_not, weights_not) = row
        print(
            f"| {d} | {p:,} | {n:,} | {state:.0f} | {state_not:.0f} | {weights:.0f} "
            f"| {weights_not:.0f} | {peer:.0f} |"
        )


if __name__ == "__main__":
    main()
