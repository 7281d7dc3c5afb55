"""A pass over images in memory: its speed beside that of its matrix products, part by part.

    python benchmarks/one_pass.py MNIST_FOLDER [--ranks 32 64 100 225] [--threads 2] [--json FILE]

On 40,960 MNIST images and a warmed-up H. "sgemm alone" is what the 4 n p d flops of a pass would
take at the rate of square single precision products, one per thread at the same time; "two
products" are those of a pass in the shapes that it has. Accuracy is the loss of 512 images above
the exact one of `scipy.optimize.nnls`. The best of five runs each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import about, best_of, load, pin, sgemm_flops, started
from scipy.optimize import nnls

from dnmf.engine.threads import one_blas_thread
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.block import Block, Strip
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.statistics import Basis
from dnmf.solvers.loop import measure

FLOAT = np.dtype(np.float32)
HEAD = """\
| d | pass, s | sgemm alone, s | share | one thread: two products, s | W solves, s | \
zero weights | loss above exact |
|---|---|---|---|---|---|---|---|"""


def excess(X: np.ndarray, H: np.ndarray) -> float:
    """Compute the share by which the loss of some images is above the exact one."""
    few = X[:: len(X) // 512][:512].astype(float)
    W = Quadratic().project_onto(H, FLOAT).weights(Block(few.astype(np.float32)))
    mine = np.sum((few - W.astype(float) @ H) ** 2)
    exact = sum(nnls(H.T, x)[1] ** 2 for x in few)
    return float(mine / exact - 1)


def parts(strips: list[Strip], basis: Basis) -> dict[str, float]:
    """Time the products and the W solves on one thread."""
    with one_blas_thread():
        W = [Quadratic().solve_W(strip, basis) for strip in strips]
        pairs = list(zip(strips, W, strict=True))
        products = best_of(lambda: [(s.X @ basis.H.T, w.T @ s.X) for s, w in pairs])
        first = best_of(lambda: [s.X @ basis.H.T for s in strips])
        projected = best_of(lambda: [Quadratic().solve_W(s, basis) for s in strips])
    zero = float(np.mean([np.mean(w == 0) for w in W]))
    return {"two products": products, "W solves": projected - first, "zero weights": zero}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[32, 64, 100, 225])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pin(arguments.threads)
    X = load(arguments.folder)[:40_960]
    blocks, strips = blocks_of(X), [strip for _, strip in Block(X.astype(FLOAT)).strips(FLOAT)]
    rows = []
    print(HEAD)
    for rank in arguments.ranks:
        H = started(blocks, rank, 0).state.H
        rate = sgemm_flops(arguments.threads)
        with one_blas_thread():  # as for all the passes of a fit: to go back wakes BLAS's threads
            whole = best_of(lambda H=H: measure(blocks, Quadratic(), H))
        alone = 4 * X.size * rank / rate
        row = {"d": rank, "pass": whole, "sgemm alone": alone, "share": alone / whole}
        row |= {"sgemm GFLOP/s": rate / 1e9, "excess": excess(X, H)}
        row |= parts(strips, Basis.for_pixels(H, X.dtype))
        rows.append(row)
        print(
            f"| {rank} | {whole:.3f} | {alone:.3f} | {row['share']:.2f} "
            f"| {row['two products']:.3f} | {row['W solves']:.3f} | {row['zero weights']:.0%} "
            f"| {row['excess']:.0e} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about(), "passes": rows}, indent=1))


if __name__ == "__main__":
    main()
