"""What the warm start is worth: error after each pass with it and without, on MNIST.

    python benchmarks/warm_start.py MNIST_FOLDER [-k 100] [--passes 40]

Prints the error and the seconds after some of the passes, from the same random H.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mnist_tutorial import load

from dnmf.block import Block
from dnmf.initialization import random_H
from dnmf.inputs import blocks_of
from dnmf.objective import SQUARED
from dnmf.solver import State, solve, start

SHOWN = (1, 2, 5, 10, 20, 40, 80, 160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--passes", type=int, default=40)
    arguments = parser.parse_args()
    X = load(arguments.folder)
    blocks = blocks_of(X)
    start(blocks_of(X[:300]), SQUARED, 3, 0)  # compile

    def random() -> State:
        return State.at(random_H(Block(X), arguments.k, 0))

    for name, begin in (
        ("random H", random),
        ("warm start", lambda: start(blocks, SQUARED, arguments.k, 0)),
    ):
        began = time.perf_counter()
        state = begin()
        print(f"{name}: ready after {time.perf_counter() - began:.1f} s")

        def report(state: State, began: float = began) -> None:
            if state.n_iter in SHOWN or state.n_iter == arguments.passes:
                seconds = time.perf_counter() - began
                print(f"  pass {state.n_iter:3d}  error {state.error:,.0f}  {seconds:.1f} s")

        solve(blocks, state, tol=0, max_iter=arguments.passes, on_pass=report)


if __name__ == "__main__":
    main()
