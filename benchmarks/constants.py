"""What each constant of the warm start and of small fits earns: fits with other values of it.

    python benchmarks/constants.py MNIST_FOLDER [--threads 2] [--seeds 0 1]

Cells are error and CPU seconds of a fit with another value, relative to those with the value in
the code, means over the seeds. The corpora: 70,000 and 20,000 digits, whose fits have a warm start;
8 x 8 digits as a Dask array, where rounds cost more than passes; 2,000 digits, a small array.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from common import about, load, pin
from sklearn.datasets import load_digits

import dnmf
from dnmf.solvers import small, warm_start

CHANGES: list[tuple[Any, str, dict[str, Any]]] = [
    (warm_start, "ROUND", {"half": 180, "twice": 720}),
    (warm_start, "ROUGH_TOL", {"no rough answers": 1.0}),
    (warm_start, "MAX_ROUNDS", {"2": 2, "24": 24}),
    (warm_start, "WORTH", {"a third": 1, "three times": 9}),
    (warm_start, "USUAL_RATIO", {"1": 1.0}),
    (warm_start, "SURE_ROUNDS", {"2": 2}),
    (warm_start, "EPOCHS", {"10": 10, "no bound": 10**6}),
    (warm_start, "FAIR", {"1e-6": 1e-6, "1e-2": 1e-2}),
    (warm_start, "FORGET", {"0.5 to 0.99": (0.5, 0.99), "0.7 to 0.95": (0.7, 0.95)}),
    (small, "SMALL", {"none is": 0}),
    (small, "SWEEPS", {"1": 1, "6": 6}),
    (small, "WINDOW", {"5": 5, "50": 50}),
]


def measure(
    cases: dict[str, tuple[Any, int]], seeds: list[int], tol: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return errors and CPU seconds of each case, for each seed."""
    found = {}
    for name, (X, d) in cases.items():
        errors, seconds = np.zeros((2, len(seeds)))
        for i, seed in enumerate(seeds):
            began = time.process_time()
            model = dnmf.NMF(d, tol=tol, random_state=seed).fit(X)
            seconds[i], errors[i] = time.process_time() - began, model.reconstruction_err_
        found[name] = errors, seconds
    return found


def row(label: str, found: dict, usual: dict, say: Callable[[str], None]) -> None:
    cells = []
    for name, (errors, seconds) in found.items():
        above = (errors / usual[name][0] - 1).mean()
        ratio = (seconds / usual[name][1]).mean()
        cells.append(f"{above:+.3%}, {ratio:.2f}")
    say(f"| {label} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--tol", type=float, default=1e-4)
    options = parser.parse_args()
    pin(options.threads)
    warnings.simplefilter("ignore")
    mnist, digits = load(options.folder), load_digits().data.astype(np.float32)
    cases = {
        "MNIST, 70,000, d = 32": (mnist, 32),
        "MNIST, 20,000, d = 49": (mnist[:20000], 49),
        "8 x 8 digits, Dask, d = 16": (da.from_array(digits, chunks=(600, -1)), 16),
        "MNIST, 2,000, d = 49": (mnist[:2000], 49),
    }
    measure(cases, [0], 1e-2)  # compiles
    usual = measure(cases, options.seeds, options.tol)
    print(f"| constant | {' | '.join(cases)} |\n|{'---|' * (1 + len(cases))}")
    for module, name, values in CHANGES:
        known = getattr(module, name)
        for label, value in values.items():
            setattr(module, name, value)
            found = measure(cases, options.seeds, options.tol)
            row(f"{name} {known}: {label}", found, usual, lambda line: print(line, flush=True))
            setattr(module, name, known)
    print(", ".join(f"{key} {value}" for key, value in about().items()))


if __name__ == "__main__":
    main()
