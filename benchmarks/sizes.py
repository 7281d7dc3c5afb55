"""From a hundred images to millions: the time and the memory of dnmf and of scikit-learn's NMF.

    python benchmarks/sizes.py MNIST_FOLDER [--images 100 1000 ...] [-d 16] [--peer-images 700000]
        [--threads 2] [--scratch FOLDER] [--json FILE] [--picture FILE]

For each number of images a corpus of MNIST digits under small random turns and shifts is written.
Then each package fits d components to it in a process of its own, with its default settings,
init="random" and seed 0. scikit-learn gets the images as a float32 array, up to `--peer-images` of
them; dnmf gets the corpus on disk. What is timed is `fit`, after a fit of other images that
compiles what is compiled. Memory is the highest resident memory of the process, its libraries
included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import about, pin

COUNTS = (100, 1_000, 10_000, 70_000, 700_000, 7_000_000)
PACKAGES = {"scikit-learn": "#c06a2b", "dnmf": "#2f6f9f"}
P = 28 * 28


def fit(package: str, path: str, d: int) -> dict[str, float]:
    """Fit a corpus in this process; give seconds, the peak of memory in bytes, and the error."""
    import dnmf

    corpus = dnmf.open_corpus(path)
    small = np.random.default_rng(0).random((3_000, P), np.float32)
    settings: dict[str, Any] = {"n_components": d, "init": "random", "random_state": 0}
    if package == "dnmf":
        X, estimator = corpus, dnmf.NMF(**settings)
        import dask.array as da

        dnmf.NMF(d, max_iter=1, random_state=0).fit(da.from_array(small, chunks=(1_000, P)))
    else:
        from sklearn.decomposition import NMF

        X, estimator = (
            np.asarray(corpus).reshape(len(corpus), P).astype(np.float32),
            NMF(**settings),
        )
        NMF(d, max_iter=2, tol=0, init="random").fit(small)
    began = time.perf_counter()
    model = estimator.fit(X)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "error": float(model.reconstruction_err_)}


def measure(package: str, path: Path, d: int) -> dict[str, float]:
    """Run `fit` in a process of its own."""
    line = [sys.executable, "-W", "ignore", __file__, "--fit", package, str(path), "-d", str(d)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def build(folder: Path, count: int, path: Path, threads: int) -> None:
    script = Path(__file__).with_name("out_of_core.py")
    line = [sys.executable, script, "build", folder, path, "--images", count, "--workers", threads]
    subprocess.run([str(word) for word in line], stdout=subprocess.DEVNULL, check=True)


def compare(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    results = []
    for count in options.images:
        path = scratch / f"{count}.zarr"
        build(options.folder, count, path, options.threads)
        for package in PACKAGES:
            if package == "dnmf" or count <= options.peer_images:
                row = {"images": count, "package": package, **measure(package, path, options.d)}
                results.append(row)
                print_row(row)
        subprocess.run(["rm", "-r", str(path)], check=True)
    return results


def print_row(row: dict[str, Any]) -> None:
    seconds, peak, error = row["seconds"], row["peak"] / 1e9, row["error"]
    print(
        f"| {row['images']:,} | {row['package']} | {seconds:.3g} | {peak:.2f} | {error:,.0f} |",
        flush=True,
    )


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds and memory by number of images, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.7), layout="constrained")
    panels = (
        ("seconds", 1, "seconds to fit", "{:g} s", (1,)),
        ("peak", 1e9, "highest memory", "{:g} GB", (1, 3)),
    )
    for ax, (what, unit, title, form, subs) in zip(axes, panels, strict=True):
        for package, color in PACKAGES.items():
            rows = [row for row in results if row["package"] == package]
            x, y = [row["images"] for row in rows], [row[what] / unit for row in rows]
            ax.loglog(x, y, "o-", color=color, lw=2.2, ms=6)
            offset = (8, 0) if x[-1] < max(row["images"] for row in results) else (-2, 10)
            align = "left" if offset[0] > 0 else "right"
            ax.annotate(
                package, (x[-1], y[-1]), offset, textcoords="offset points", color=color,
                ha=align, va="center" if align == "left" else "bottom", weight="bold",
            )  # fmt: skip
        ax.set_title(title, loc="left")
        ax.set_xlabel("images of 28 x 28 pixels")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: short(n)))
        ax.yaxis.set_major_locator(LogLocator(subs=subs))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _, form=form: form.format(v)))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(which="major", alpha=0.25)
    figure.savefig(path, dpi=150)


def short(number: float) -> str:
    """Write 10000 as 10k."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{letter}"
    return f"{number:g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of MNIST's files")
    parser.add_argument("--images", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--peer-images", type=int, default=700_000)
    parser.add_argument("-d", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    pin(options.threads)
    print(about())
    print("| images | package | seconds | GB | error |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        results = compare(options, Path(scratch))
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "results": results}, indent=1))
    if options.picture:
        draw(results, options.picture)


if __name__ == "__main__":
    if "--fit" in sys.argv:
        _, _, package, path, _, d = sys.argv
        print(json.dumps(fit(package, path, int(d))))
    else:
        main()
