"""A round of the warm start: its speed beside that of its matrix products.

    python benchmarks/warm_start.py MNIST_FOLDER [--ranks 32 64 100 225] [--threads 1 2]
        [--json FILE]

On all digits, 120 updates from an H that a round has improved, best of five. An update with a
batch of b images has the products H X' and W' X, 4 b d p flops. It also has those of d x d
matrices: two Gram matrices, and a sweep over H and over W, 3 d^2 (b + p) flops; more sweeps over W
are not counted. "Alone" is what these flops would take at the rate of square single precision
products, one per thread at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from common import about, best_of, load, pin, sgemm_flops

from dnmf.engine.threads import VARIABLE, one_blas_thread
from dnmf.numerics.block import Block
from dnmf.numerics.quadratic import Quadratic
from dnmf.solvers.warm_start import online_round, random_H

UPDATES = 120
HEAD = """\
| d | threads | an update, ms | products alone, ms | share | all flops alone, ms | share |
|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[32, 64, 100, 225])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pin(max(arguments.threads))
    sample = Block(load(arguments.folder))
    p = sample.X.shape[1]
    rows = []
    print(HEAD)
    for d in arguments.ranks:
        objective, rng = Quadratic(), np.random.default_rng(0)
        b = objective.warm_up_batch_size(d)
        products, others = 4 * b * d * p, 3 * d**2 * (b + p)
        for threads in arguments.threads:
            os.environ[VARIABLE] = str(threads)
            with one_blas_thread():
                H = online_round(objective, random_H(sample, d, 0), sample, rng, 360)
                rate = sgemm_flops(threads)
                seconds = best_of(lambda: online_round(objective, H, sample, rng, UPDATES))  # noqa: B023
            each, alone, with_others = (
                1e3 * s for s in (seconds / UPDATES, products / rate, (products + others) / rate)
            )
            rows.append({"d": d, "threads": threads, "update": each, "rate": rate})
            print(
                f"| {d} | {threads} | {each:.3f} | {alone:.3f} | {alone / each:.2f} "
                f"| {with_others:.3f} | {with_others / each:.2f} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about(), "rounds": rows}, indent=1))


if __name__ == "__main__":
    main()
