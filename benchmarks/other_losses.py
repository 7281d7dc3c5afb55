"""Losses other than squared error: dnmf and scikit-learn's mu solver on the same rows, in one run.

    python benchmarks/other_losses.py MNIST_FOLDER [--threads 2] [--large] [--json FILE]

Prints the error, sqrt(2 D), that each ends with and its seconds, when dnmf was at the error that
scikit-learn ends with, and the ratios of these times. The small problems are the 8x8 digits; with
--large also 10,000 digits of MNIST, of which the last takes scikit-learn minutes.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from common import about, load, pin
from sklearn import decomposition
from sklearn.datasets import load_digits

import dnmf

SMALL = {"8x8 digits": [(0.0, 16), (0.5, 16), (1.0, 16), (1.5, 16), (1.0, 64)]}
LARGE = {"10,000 digits": [(0.0, 16), (1.0, 49), (1.0, 100)]}


def ours(X: np.ndarray, beta: float, d: int) -> tuple[float, float, list[tuple[float, float]]]:
    """Give the error, the seconds, and the seconds and the error after each pass."""
    passes: list[tuple[float, float]] = []
    began = time.perf_counter()
    model = dnmf.NMF(
        d,
        solver="mu",
        beta_loss=beta,
        random_state=0,
        on_pass=lambda state: passes.append((time.perf_counter() - began, state.error)),
    ).fit(X)
    return float(model.reconstruction_err_), time.perf_counter() - began, passes


def theirs(X: np.ndarray, beta: float, d: int) -> tuple[float, float]:
    """Give the error and the seconds of scikit-learn."""
    began = time.perf_counter()
    model = decomposition.NMF(d, solver="mu", beta_loss=beta, init="random", random_state=0).fit(X)
    return float(model.reconstruction_err_), time.perf_counter() - began


def compare(X: np.ndarray, beta: float, d: int, times: int) -> dict[str, float]:
    """Fit both so many times in turn, and give the shortest times."""
    runs = [(ours(X, beta, d), theirs(X, beta, d)) for _ in range(times)]
    (error, _, _), (target, _) = runs[0]
    reached = [next((t for t, e in passes if e <= target), np.inf) for (_, _, passes), _ in runs]
    return {
        "scikit-learn error": target,
        "scikit-learn s": min(seconds for _, (_, seconds) in runs),
        "dnmf error": error,
        "dnmf s": min(seconds for (_, seconds, _), _ in runs),
        "dnmf there s": min(reached),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pin(arguments.threads)
    warnings.simplefilter("ignore")
    arrays = {"8x8 digits": load_digits().data}
    if arguments.large:
        arrays["10,000 digits"] = load(arguments.folder)[:10_000].astype(np.float32)
    results = []
    print("data           beta    d   scikit-learn        dnmf          there first   ratios")
    for name, problems in (SMALL | (LARGE if arguments.large else {})).items():
        for beta, d in problems:
            X = arrays[name]
            X = X + X.dtype.type(X.max() / 256) if beta <= 0 else X
            compare(X[:300], beta, 3, 1)  # compiles
            result = compare(X, beta, d, 3 if name in SMALL else 1)
            results.append({"data": name, "beta": beta, "d": d, **result})
            sk, end, there = (result[key] for key in ("scikit-learn s", "dnmf s", "dnmf there s"))
            print(
                f"{name:14} {beta:4} {d:4} {result['scikit-learn error']:10,.2f} {sk:7.2f} s "
                f"{result['dnmf error']:10,.2f} {end:6.2f} s {there:8.2f} s   "
                f"{sk / there:.1f} there, {sk / end:.1f} at the end",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([about(), *results], indent=1))


if __name__ == "__main__":
    main()
