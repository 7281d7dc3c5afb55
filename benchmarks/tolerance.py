"""What `tol` says at every size: error and time of fits with several values of it.

    python benchmarks/tolerance.py MNIST_FOLDER [--threads 2] [--seeds 0 1]

Seconds are shown as a ratio to those of the default, 1e-4, and errors as what they are above the
lowest of the row. Each fit is the second of its kind in the process; figures are means over seeds.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
from common import about, load, pin
from sklearn.datasets import load_digits

import dnmf

TOLS = (1e-2, 5e-3, 2e-3, 1e-3, 1e-4, 1e-5)
DEFAULT = TOLS.index(1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    pin(options.threads)
    warnings.simplefilter("ignore")
    mnist = load(options.folder)
    cases = {
        "8 x 8 digits, 1,797": (load_digits().data.astype(np.float32), 16),
        "MNIST, 2,000": (mnist[:2000], 49),
        "MNIST, 20,000": (mnist[:20000], 49),
        "MNIST, 70,000": (mnist, 9),
        "MNIST, all 70,000": (mnist, 100),
    }
    print(f"| images | d | seconds, tol=1e-4 | {' | '.join(f'{tol:g}' for tol in TOLS)} |")
    print(f"|{'---|' * (3 + len(TOLS))}")
    for name, (X, d) in cases.items():
        seconds, errors = np.zeros((2, len(options.seeds), len(TOLS)))
        dnmf.NMF(d, tol=1e-2, max_iter=3).fit(X[:6000])  # compiles
        dnmf.NMF(d, tol=1e-2, max_iter=3).fit(X)
        for i, seed in enumerate(options.seeds):
            for j, tol in enumerate(TOLS):
                began = time.perf_counter()
                model = dnmf.NMF(d, tol=tol, random_state=seed).fit(X)
                seconds[i, j] = time.perf_counter() - began
                errors[i, j] = model.reconstruction_err_
        ratios = (seconds / seconds[:, DEFAULT : DEFAULT + 1]).mean(axis=0)
        above = (errors / errors.min(axis=1, keepdims=True) - 1).mean(axis=0)
        cells = [f"{ratio:.2f}, {share:+.3%}" for ratio, share in zip(ratios, above, strict=True)]
        row = [name, str(d), f"{seconds[:, DEFAULT].mean():.2f}", *cells]
        print(f"| {' | '.join(row)} |", flush=True)
    print(", ".join(f"{key} {value}" for key, value in about().items()))


if __name__ == "__main__":
    main()
