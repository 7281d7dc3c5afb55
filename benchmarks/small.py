"""Small arrays: dnmf beside scikit-learn's NMF and MiniBatchNMF on twenty problems.

    python benchmarks/small.py MNIST_FOLDER [--threads 1] [--seeds 0 1] [--only WORD ...]
        [--json FILE]

All get the same float32 array (sparse where it says so), init="random", the same seeds and
their own defaults otherwise; other losses take solver="mu". What is timed is `fit`, in a process
in which each has run once: the shortest of three runs where a run takes less than a second. A
ratio is seconds over those of scikit-learn's NMF; "there" is after how many of these dnmf first
says an error that is at most the one with which scikit-learn ends, and "-" where it ends above.
Errors are shown as what they are above scikit-learn's. Figures are means over the seeds: which
minimum a start leads to is chance, for both.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from common import about, load, pin
from sklearn import datasets, decomposition

import dnmf

KL, IS = "kullback-leibler", "itakura-saito"
REPEATS, SHORT = 3, 1.0


def blobs(n: int, side: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Make images of Gaussian spots of many sizes, with some noise: much like aligned faces."""
    y, x = np.mgrid[:side, :side] / side
    spots = [
        np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * s**2)).ravel()
        for a, b, s in zip(*rng.random((2, count)), 0.05 + 0.2 * rng.random(count), strict=True)
    ]
    X = rng.gamma(1, 1, (n, count)) @ np.array(spots)
    return X + 0.02 * X.mean() * np.abs(rng.standard_normal(X.shape))


def low_rank(n: int, p: int, d: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    return rng.gamma(0.5, 1, (n, d)) @ rng.gamma(0.5, 1, (d, p)) + noise * rng.random((n, p))


def problems(mnist: np.ndarray) -> dict[str, tuple[Any, int, float | str]]:
    """Return X, the number of components and the loss of each problem."""
    rng = np.random.default_rng(0)
    digits = datasets.load_digits().data
    square = {
        "iris": (datasets.load_iris().data, 2),
        "wine": (datasets.load_wine().data, 3),
        "breast cancer": (datasets.load_breast_cancer().data, 5),
        "8 x 8 digits, 100": (digits[:100], 9),
        "8 x 8 digits, d = 16": (digits, 16),
        "8 x 8 digits, d = 40": (digits, 40),
        "8 x 8 digits, d = p": (digits, 64),
        "8 x 8 digits, d > p": (digits, 100),
        "MNIST, 1,000": (mnist[:1000], 20),
        "MNIST, 2,000": (mnist[:2000], 49),
        "MNIST, 5,000": (mnist[:5000], 16),
        "spots like faces": (blobs(400, 64, 60, rng), 20),
        "few large images": (blobs(50, 224, 12, rng), 8),
        "rank 8, exactly": (low_rank(300, 64, 8, 0, rng), 8),
        "rank 30 and noise": (low_rank(1000, 300, 30, 0.1, rng), 30),
        "uniform noise": (rng.random((500, 200)), 10),
        "sparse, like TF-IDF": (
            scipy.sparse.random(2000, 10000, 0.01, "csr", np.float32, rng=rng),
            20,
        ),
    }
    small = digits[:500] + 0.5  # some divergences are infinite at 0
    others = {
        "8 x 8 digits, KL": (digits, 16, KL),
        "500 digits, IS": (small, 10, IS),
        "500 digits, beta = 0.5": (small, 10, 0.5),
    }
    return {k: (X.astype(np.float32), d, "frobenius") for k, (X, d) in square.items()} | {
        k: (X.astype(np.float32), d, loss) for k, (X, d, loss) in others.items()
    }


def shortest(make: Callable[[], Any], X: Any) -> tuple[Any, float]:
    """Fit a few times; return the last model and the seconds of the shortest run."""
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < SHORT:
        model = make()
        began = time.perf_counter()
        model.fit(X)
        seconds.append(time.perf_counter() - began)
    return model, min(seconds)


def until(make: Callable[..., Any], X: Any, error: float) -> float:
    """Return the seconds after which dnmf first says at most an error; NaN if it never does."""
    curve: list[tuple[float, float]] = []
    began = time.perf_counter()
    model = make(on_pass=lambda state: curve.append((time.perf_counter() - began, state.error)))
    model.fit(X)
    curve.append((time.perf_counter() - began, model.reconstruction_err_))
    return next((seconds for seconds, said in curve if said <= error), np.nan)


def compare(X: Any, d: int, loss: float | str, seed: int) -> dict[str, float]:
    """Fit one problem with all, from one seed."""
    same = {"n_components": d, "init": "random", "random_state": seed, "beta_loss": loss}
    peer = same | {"solver": "cd" if loss == "frobenius" else "mu"}

    def ours(**more: Any) -> dnmf.NMF:
        return dnmf.NMF(**same, **more)

    theirs, seconds = shortest(lambda: decomposition.NMF(**peer), X)
    batches, batch_seconds = shortest(lambda: decomposition.MiniBatchNMF(**same), X)
    ours().fit(X)  # compiles
    mine, my_seconds = shortest(ours, X)
    error = theirs.reconstruction_err_
    there = min(until(ours, X, error) for _ in range(REPEATS))
    return {
        "seconds": seconds,
        "error": float(error),
        "there": there / seconds,
        "ratio": my_seconds / seconds,
        "above": float(mine.reconstruction_err_ / error - 1),
        "batch ratio": batch_seconds / seconds,
        "batch above": float(batches.reconstruction_err_ / error - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=min(1, os.cpu_count() or 1))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", default=[""], help="words of the problems to run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pin(options.threads)
    warnings.simplefilter("ignore")
    print("| problem | n x p | d | scikit-learn, ms | error | dnmf there | dnmf | error |", end="")
    print(" MiniBatchNMF | error |\n|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for name, (X, d, loss) in problems(load(options.folder)).items():
        if not any(word in name for word in options.only):
            continue
        found = [compare(X, d, loss, seed) for seed in options.seeds]
        mean = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
        rows.append({"problem": name, "shape": X.shape, "d": d, "seeds": found})
        there = "-" if np.isnan(mean["there"]) else f"{mean['there']:.2f}"
        print(
            f"| {name} | {X.shape[0]:,} x {X.shape[1]:,} | {d} | {1e3 * mean['seconds']:,.1f} | "
            f"{mean['error']:.5g} | {there} | {mean['ratio']:.2f} | {mean['above']:+.2%} | "
            f"{mean['batch ratio']:.2f} | {mean['batch above']:+.2%} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "problems": rows}, indent=1))


if __name__ == "__main__":
    main()
