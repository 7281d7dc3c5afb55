"""partial_fit: dnmf beside scikit-learn's MiniBatchNMF, the same chunks in the same order.

    python benchmarks/partial_fit.py MNIST_FOLDER [-k 64] [--chunk 1024] [--epochs 3]
        [--loss frobenius]

After each pass over MNIST, prints the error ||X - W H|| (or sqrt(2 D)) with W solved by
each package's own `transform`, and the seconds spent in `partial_fit` so far.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from common import load
from sklearn import decomposition

import dnmf
from dnmf.estimators.parameters import BETAS
from dnmf.numerics.beta import divergences


def error_of(model, X: np.ndarray, beta: float) -> float:
    total = 0.0
    for rows in np.array_split(np.arange(len(X)), 70):
        part = X[rows].astype(np.float32)
        again = model.transform(part) @ model.components_
        total += divergences(part, again, 1e-7 * part.mean(axis=1), beta)[0].sum()
    return float(np.sqrt(2 * total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--loss", default="frobenius", choices=BETAS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    X = load(arguments.folder)
    X = X[np.random.default_rng(0).permutation(len(X))]
    chunks = [X[i : i + arguments.chunk] for i in range(0, len(X), arguments.chunk)]
    options = {"beta_loss": arguments.loss, "random_state": 0}
    dnmf.MiniBatchNMF(3, **options).partial_fit(X[:200])  # compile
    models = {
        "dnmf": (dnmf.MiniBatchNMF(arguments.k, **options), np.uint8),
        "scikit-learn": (
            decomposition.MiniBatchNMF(arguments.k, init="random", **options),
            np.float32,
        ),
    }
    for name, (model, dtype) in models.items():
        seconds = 0.0
        for epoch in range(arguments.epochs):
            began = time.perf_counter()
            for chunk in chunks:
                model.partial_fit(chunk.astype(dtype, copy=False))
            seconds += time.perf_counter() - began
            error = error_of(model, X, BETAS[arguments.loss])
            print(f"{name:13} pass {epoch + 1}  error {error:,.0f}  {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
