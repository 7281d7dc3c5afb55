"""How near to the end eight reads come: dnmf's error after them beside that after 200 passes.

    python benchmarks/few_passes.py MNIST_FOLDER [--seeds 0 1 2] [--json FILE]

On digits, and on made images of several kinds: overlapping blobs (sparse or all at once, with as
many components or more), parts that cover everything, and noise with no structure at all. Reads
count the sample that the warm start takes; small corpora are their own sample.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import about, load, started
from sklearn.datasets import load_digits

from dnmf.estimators.inputs import blocks_of
from dnmf.solvers.loop import solve

READS, PASSES = 8, 200


def blobs(n: int, side: int, count: int, share: float, seed: int) -> np.ndarray:
    """Draw images of Gaussian blobs, each in a share of the images, with 20 % noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    at, size = rng.uniform(0, side, (2, count, 1, 1)), rng.uniform(1, side / 6, (count, 1, 1))
    parts = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * size**2)).reshape(count, -1)
    weights = rng.gamma(1, 1, (n, count)) * (rng.random((n, count)) < share)
    return noisy(weights @ parts, 0.2, rng)


def noisy(X: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise, as a share of the mean, and round to bytes."""
    X = X * 200 / X.max()
    return np.clip(X + level * X.mean() * rng.standard_normal(X.shape), 0, 255).astype(np.uint8)


def dense(n: int, p: int, d: int, seed: int) -> np.ndarray:
    """Mix parts that are everywhere: components nearly alike, hard to tell apart."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, d)) @ rng.random((d, p))
    return np.clip(X * (1 + 0.05 * rng.standard_normal(X.shape)), 0, None).astype(np.float32)


def corpora(folder: Path) -> dict[str, tuple[np.ndarray, int]]:
    mnist, digits = load(folder), load_digits().data.astype(np.uint8)
    noise = np.random.default_rng(2).random((4000, 100)).astype(np.float32)
    return {
        "MNIST, 10,000": (mnist[:10_000], 40),
        "MNIST, 10,000, many components": (mnist[:10_000], 150),
        "MNIST, 70,000": (mnist, 64),
        "8 x 8 digits": (digits, 16),
        "8 x 8 digits, many components": (digits, 40),
        "20 blobs, a third of them in an image": (blobs(6000, 24, 20, 0.3, 0), 20),
        "the same, 32 components": (blobs(6000, 24, 20, 0.3, 0), 32),
        "30 blobs, all in every image": (blobs(6000, 24, 30, 1.0, 1), 30),
        "30 parts that cover everything": (dense(5000, 400, 30, 2), 30),
        "uniform noise": (noise, 10),
    }


def errors(X: np.ndarray, d: int, seed: int) -> tuple[float, float]:
    """Compute the error after `READS` reads and after `PASSES` passes."""
    blocks, early = blocks_of(X), np.nan
    run = started(blocks, d, seed)

    def note() -> None:
        nonlocal early
        early = run.state.error if run.state.n_reads <= READS else early

    solve(blocks, [run], tol=0, max_iter=PASSES, on_pass=note)
    return early, run.state.error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(
        f"| corpus | d | error after {PASSES} passes | after {READS} reads, above that, by seed |"
    )
    print("|---|---|---|---|")
    for name, (X, d) in corpora(arguments.folder).items():
        pairs = [errors(X, d, seed) for seed in arguments.seeds]
        above = [early / late - 1 for early, late in pairs]
        rows.append({"corpus": name, "d": d, "errors": pairs})
        shares = ", ".join(f"{share:.3%}" for share in above)
        print(f"| {name} | {d} | {pairs[0][1]:,.2f} | {shares} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about(), "corpora": rows}, indent=1))


if __name__ == "__main__":
    main()
