"""How often `rank_sweep` finds a known rank: blobs, bars and faces of 5, 10 and 20 parts.

    python benchmarks/known_rank.py [--seeds 10] [--kinds blobs bars faces] [--ranks 5 10 20]

Every number from two below the rank to two above it is tried. Noise is 5, 10 and 20 % of the signal
in turn, relative to each pixel for even seeds, that of counted photons for odd ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from common import about
from made_images import KINDS, corpus

from dnmf import NMF, rank_sweep

NOISE = (0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--ranks", nargs="+", type=int, default=(5, 10, 20))
    arguments = parser.parse_args()
    print(about())
    rows = []
    for kind in arguments.kinds:
        for rank in arguments.ranks:
            found = [one_sweep(kind, rank, seed) for seed in range(arguments.seeds)]
            right, clear = (sum(values) for values in zip(*found, strict=True))
            rows.append(f"| {kind} | {rank} | {right} of {len(found)} | {clear} |")
            print(rows[-1], flush=True)
    print("\n| parts | rank | found | clear |\n|---|---|---|---|\n" + "\n".join(rows))


def one_sweep(kind: str, rank: int, seed: int) -> tuple[bool, bool]:
    """Say whether the rank is found, and whether the answer is called clear."""
    noise = NOISE[seed % len(NOISE)]
    X = corpus(kind, rank, noise, seed, counted=bool(seed % 2))
    began = time.perf_counter()
    sweep = rank_sweep(X, range(rank - 2, rank + 3), NMF(random_state=seed))
    seconds = time.perf_counter() - began
    right = sweep.best_n_components_ == rank
    print(f"{kind} {rank} seed {seed} noise {noise:.0%}: {seconds:.0f} s", flush=True)
    if not (right and sweep.clear_):
        print(sweep)
    return right, sweep.clear_


if __name__ == "__main__":
    main()
