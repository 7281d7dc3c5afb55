"""The memory of scikit-learn's NMF, in bytes per pixel, input included; Linux only.

    python benchmarks/sklearn_memory.py [--rows 70000] [--pixels 784] [-d 64]

Each dtype in a process of its own, which draws its pixels and fits two iterations.
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from pathlib import Path

import numpy as np


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def bytes_per_pixel(dtype: type[np.floating], rows: int, pixels: int, d: int) -> float:
    from sklearn.decomposition import NMF

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)

    def fit(n: int) -> None:
        NMF(d, init="random", random_state=0, max_iter=2).fit(rng.random((n, pixels), dtype))

    fit(100)  # imports, and what is compiled
    before = peak()
    fit(rows)
    return (peak() - before) / (rows * pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=70_000)
    parser.add_argument("--pixels", type=int, default=784)
    parser.add_argument("-d", type=int, default=64)
    a = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for dtype in (np.float32, np.float64):
        with spawn.Pool(1) as pool:
            found = pool.apply(bytes_per_pixel, (dtype, a.rows, a.pixels, a.d))
        print(f"{dtype.__name__}: {found:.1f} bytes per pixel")


if __name__ == "__main__":
    main()
