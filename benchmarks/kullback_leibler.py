"""Kullback-Leibler: dnmf and scikit-learn's mu solver on the same MNIST rows, in one run.

    python benchmarks/kullback_leibler.py MNIST_FOLDER [--rows 10000] [-k 49] [--json FILE]

Prints the error, sqrt(2 D), reads of the data and seconds of each, and when dnmf was at the error
that scikit-learn ends with.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
from common import load
from sklearn import decomposition

import dnmf


def ours(X: np.ndarray, k: int) -> dict:
    passes: list[tuple[float, float]] = []
    began = time.perf_counter()
    model = dnmf.NMF(
        k,
        solver="mu",
        beta_loss="kullback-leibler",
        random_state=0,
        on_pass=lambda state: passes.append((time.perf_counter() - began, state.error)),
    ).fit(X)
    return {
        "error": float(model.reconstruction_err_),
        "reads": model.n_reads_,
        "seconds": time.perf_counter() - began,
        "passes": passes,
    }


def theirs(X: np.ndarray, k: int) -> dict:
    began = time.perf_counter()
    model = decomposition.NMF(
        k, solver="mu", beta_loss="kullback-leibler", init="random", random_state=0
    ).fit(X.astype(np.float32))
    return {
        "error": float(model.reconstruction_err_),
        "reads": 2.0 * model.n_iter_,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("-k", type=int, default=49)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    X = load(arguments.folder)[: arguments.rows]
    ours(X[:300], 3)  # compile
    results = {"dnmf": ours(X, arguments.k), "scikit-learn": theirs(X, arguments.k)}
    reached = next(
        (t for t, e in results["dnmf"]["passes"] if e <= results["scikit-learn"]["error"]), None
    )
    for name, result in results.items():
        print(
            f"{name:13} error {result['error']:,.2f}  reads {result['reads']:.1f}  "
            f"{result['seconds']:.1f} s"
        )
    print("dnmf at scikit-learn's error after", "-" if reached is None else f"{reached:.1f} s")
    if arguments.json:
        about = {"machine": platform.machine(), "scikit-learn": sklearn.__version__}
        about |= {"dnmf": dnmf.__version__, "rows": len(X), "k": arguments.k, "reached": reached}
        arguments.json.write_text(json.dumps(about | results, indent=1))


if __name__ == "__main__":
    main()
