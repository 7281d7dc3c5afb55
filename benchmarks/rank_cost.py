"""What a sweep over numbers of components costs beside separate fits, in reads and in seconds.

    python benchmarks/rank_cost.py MNIST_FOLDER [--ranks 9 25 49 100] [--seeds 3] [--json FILE]

All read the same corpus on disk, one after the other: `NMF`, one call for each number and seed;
`rank_sweep` without held-out cells, which fits the same; and `rank_sweep` as it is by default, with
as many models more that cells are held out from. Then what held-out cells cost a pass.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import about, best_of, load

import dnmf
from dnmf.engine.threads import one_blas_thread
from dnmf.numerics.block import Block
from dnmf.numerics.holdout import Holdout
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.statistics import Basis

ROWS = 20_480
"""Images of a pass on one core."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[9, 25, 49, 100])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts = about()
    print(facts)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", load(arguments.folder).reshape(-1, 28, 28))
        X = dnmf.ingest(f"{folder}/x.npy", f"{folder}/x.zarr")
        dnmf.NMF(4, tol=1e-2).fit(X, mask=np.zeros(X.shape, bool))  # not timed: loads the kernels
        rows = [
            separately(X, arguments.ranks, arguments.seeds),
            together(X, arguments.ranks, arguments.seeds, 0.0),
            together(X, arguments.ranks, arguments.seeds, 0.1),
        ]
    print("\n| components | with held-out cells | without | times |\n|---|---|---|---|")
    for k in arguments.ranks:
        hidden, whole = a_pass(load(arguments.folder)[:ROWS], k)
        print(f"| {k} | {1e3 * hidden:.0f} ms | {1e3 * whole:.0f} ms | {hidden / whole:.1f} |")
    print("\n| | models | reads | seconds |\n|---|---|---|---|")
    for row in rows:
        print("| {what} | {models} | {reads:.3g} | {seconds:.1f} |".format(**row))
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": facts, "rows": rows}, indent=1))


def a_pass(pixels: np.ndarray, k: int) -> tuple[float, float]:
    """Time the sums of a block with held-out cells, on one core, and without."""
    H = dnmf.NMF(k, random_state=0, tol=1e-2, max_iter=1).fit(pixels).components_
    basis, block = Basis.for_pixels(H, pixels.dtype), Block(pixels)
    shown = Holdout(0, 0.1)(block)

    def with_hidden_cells() -> None:
        _, W = MaskedQuadratic().block_stats(shown.visible, basis)
        assert W is not None
        shown.held_out_sums(W, basis, 2.0)

    def without() -> None:
        Quadratic().block_stats(block, basis)

    with one_blas_thread():
        return best_of(with_hidden_cells), best_of(without)


def separately(X: dnmf.Corpus, ranks: list[int], seeds: int) -> dict[str, Any]:
    began = time.perf_counter()
    fits = [dnmf.NMF(k, random_state=seed).fit(X) for k in ranks for seed in range(seeds)]
    seconds = time.perf_counter() - began
    reads = sum(fit.n_reads_ for fit in fits)
    return {"what": "fits one by one", "models": len(fits), "reads": reads, "seconds": seconds}


def together(X: dnmf.Corpus, ranks: list[int], seeds: int, holdout: float) -> dict[str, Any]:
    began = time.perf_counter()
    sweep = dnmf.rank_sweep(X, ranks, n_init=seeds, holdout=holdout)
    seconds = time.perf_counter() - began
    print(sweep)
    return {
        "what": "`rank_sweep`" if holdout else "`rank_sweep(holdout=0)`",
        "models": len(ranks) * seeds * (2 if holdout else 1),
        "reads": sweep.n_reads_,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
