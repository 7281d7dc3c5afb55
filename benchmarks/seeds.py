"""How much hangs on the seed where components are few: dnmf beside scikit-learn, ten seeds each.

python benchmarks/seeds.py MNIST_FOLDER [-d 9] [--seeds 10] [--threads 2]
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from common import load, pin
from sklearn.decomposition import NMF

import dnmf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-d", type=int, default=9)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    pin(options.threads)
    warnings.simplefilter("ignore")
    X = load(options.folder)
    print("| seed | dnmf | s | above the best of scikit-learn | scikit-learn | s |")
    print("|---|---|---|---|---|---|")
    theirs = [timed(NMF, X.astype(np.float32), options.d, seed) for seed in range(options.seeds)]
    best = min(error for error, _ in theirs)
    for seed, (error, seconds) in enumerate(theirs):
        mine, soon = timed(dnmf.NMF, X, options.d, seed)
        print(
            f"| {seed} | {mine:,.2f} | {soon:.1f} | {mine / best - 1:.3%} | {error:,.2f} "
            f"| {seconds:.1f} |"
        )


def timed(kind: type, X: np.ndarray, d: int, seed: int) -> tuple[float, float]:
    began = time.perf_counter()
    model = kind(d, init="random", random_state=seed).fit(X)
    return model.reconstruction_err_, time.perf_counter() - began


if __name__ == "__main__":
    main()
