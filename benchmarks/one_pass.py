"""Where a pass spends its time: two matrix products, the W solves, the rest, on one core.

    python benchmarks/one_pass.py MNIST_FOLDER [--ranks 16 64 100 225]

On 20,480 MNIST images and a warmed-up H; prints seconds, and the share of weights that are zero.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mnist_tutorial import load

from dnmf.block import Block
from dnmf.inputs import blocks_of
from dnmf.kernels import solve_nnls
from dnmf.objective import SQUARED, W_SWEEPS, W_TOLERANCE, Basis
from dnmf.solver import start
from dnmf.threads import one_blas_thread


def best_of(run: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64, 100, 225])
    arguments = parser.parse_args()
    X = load(arguments.folder)[:20480]
    block = Block(X)
    cut = list(block.strips(np.dtype(np.float32)))
    strips, energies = [s.X for _, s in cut], [0.5 * s.norms for _, s in cut]
    print("| d | pass, s | two GEMMs, s | W solve, s | weights that are zero |")
    for rank in arguments.ranks:
        basis = Basis.of(start(blocks_of(X), SQUARED, rank, 0).H, np.dtype(np.float32))
        with one_blas_thread():
            W = SQUARED.project_block(block, basis)
            products = [x @ basis.H.T for x in strips]

            def gemms(basis=basis, W=W) -> None:
                for x, (rows, _) in zip(strips, cut, strict=True):
                    _ = x @ basis.H.T
                    _ = W[rows].T @ x

            def solves(basis=basis, products=products) -> None:
                for A, energy in zip(products, energies, strict=True):
                    W_strip = np.zeros_like(A)
                    solve_nnls(A, basis.G, energy, W_strip, W_TOLERANCE, W_SWEEPS)

            whole = best_of(lambda basis=basis: SQUARED.measure(block, basis))
            print(
                f"| {rank} | {whole:.3f} | {best_of(gemms):.3f} | {best_of(solves):.3f} "
                f"| {np.mean(W == 0):.0%} |"
            )


if __name__ == "__main__":
    main()
