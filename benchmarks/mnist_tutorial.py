"""The tutorial's three fits, dnmf beside scikit-learn in the same run.

    python benchmarks/mnist_tutorial.py MNIST_FOLDER [--ranks 9 100 225] [--json FILE]

Both get the same 70,000 x 784 matrix (uint8 for dnmf; float32 for scikit-learn, its faster type),
``init="random", random_state=0`` and their own defaults. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
import sklearn.decomposition

import dnmf
from dnmf.sources import open_source


def load(folder: Path) -> np.ndarray:
    files = [folder / f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k")]
    source = open_source(files)
    return source.read(0, len(source)).reshape(len(source), -1)


def timed(model, X) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    model.fit(X)
    return {
        "error": float(model.reconstruction_err_),
        "iterations": model.n_iter_,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def seconds_to(error: float, rank: int, X) -> float | None:
    """Time dnmf until a pass is at or below an error; None when it does not get there."""
    began, reached = time.perf_counter(), []
    model = dnmf.NMF(
        rank,
        init="random",
        random_state=0,
        on_pass=lambda state: (
            reached.append(time.perf_counter() - began) if state.error <= error else None
        ),
    )
    model.fit(X)
    return reached[0] if reached else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[9, 100, 225])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    X = load(arguments.folder)
    dnmf.NMF(2, max_iter=1).fit(X[:1000])  # compile
    results = []
    for rank in arguments.ranks:
        same = {"n_components": rank, "init": "random", "random_state": 0}
        ours = timed(dnmf.NMF(**same), X)
        theirs = timed(sklearn.decomposition.NMF(**same), X.astype(np.float32))
        reached = seconds_to(theirs["error"], rank, X)
        results.append({"rank": rank, "dnmf": ours, "sklearn": theirs, "dnmf_to_sklearn": reached})
        print(json.dumps(results[-1]), flush=True)
    print("| d | dnmf error | passes | s | scikit-learn error | iterations | s | time ratio |")
    for r in results:
        a, b = r["dnmf"], r["sklearn"]
        print(
            f"| {r['rank']} | {a['error']:,.2f} | {a['iterations']} | {a['seconds']:.1f} "
            f"| {b['error']:,.2f} | {b['iterations']} | {b['seconds']:.1f} "
            f"| {b['seconds'] / a['seconds']:.0f} |"
        )
    if arguments.json:
        about = {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "sklearn": sklearn.__version__,
            "dnmf": dnmf.__version__,
        }
        arguments.json.write_text(json.dumps({"about": about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
