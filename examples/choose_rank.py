"""How many components? Many models in the reads of one, what speaks for each, and pictures.

    python examples/choose_rank.py [--data FOLDER] [--rows N] [--ranks 9 25 49 100] [--out FOLDER]

First images of known rank, where there is a right answer; then digits, where there is a trade-off.
FOLDER holds the MNIST files in IDX format, gzipped; without it the bundled digits are taken.
"""

import argparse
import time
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dnmf import ingest, rank_sweep
from dnmf.plot.sweep import reconstruction_sheet, write_sweep_plots


def seven_blobs(n: int = 500, side: int = 16) -> np.ndarray:
    """Mix seven overlapping blobs, with 10 % noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    at = [(0.2, 0.2), (0.2, 0.6), (0.45, 0.85), (0.5, 0.45), (0.75, 0.2), (0.8, 0.7), (0.5, 0.15)]
    blobs = [np.exp(-((y - down) ** 2 + (x - across) ** 2) / 0.03).ravel() for down, across in at]
    signal = rng.gamma(1, 1, (n, len(at))) @ np.array(blobs)
    return signal * rng.normal(1, 0.1, signal.shape).clip(0)


def digits(folder: Path | None) -> np.ndarray:
    """Load MNIST's images as rows of 784 pixels, or 10,000 of them."""
    bundled = files("dnmf") / "data/t10k-images-idx3-ubyte.gz"
    names = [bundled] if folder is None else sorted(folder.glob("*-images-idx3-ubyte.gz"))
    with TemporaryDirectory() as scratch:
        return np.asarray(ingest(names, f"{scratch}/digits.zarr"))


def sweep_and_draw(X: np.ndarray, ranks: list[int], out: Path) -> None:
    began = time.perf_counter()
    sweep = rank_sweep(X, ranks)
    print(f"\n{len(X):,} images of {X.shape[1]} pixels\n\n{sweep}\n")
    print(f"{sweep.n_reads_:.3g} reads of X, {time.perf_counter() - began:.1f} s")
    out.mkdir(parents=True, exist_ok=True)
    written = write_sweep_plots(sweep, out)
    rows = np.linspace(0, len(X) - 1, 12).astype(int)
    written.append(out / "reconstructions.png")
    reconstruction_sheet(sweep, X[rows], [str(row) for row in rows]).savefig(written[-1], dpi=150)
    print(*written, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of MNIST's IDX files")
    parser.add_argument("--rows", type=int, default=10_000, help="digits to use")
    parser.add_argument("--ranks", type=int, nargs="+", default=[9, 25, 49, 100])
    parser.add_argument("--out", type=Path, default=Path("choose-rank"), help="for the pictures")
    arguments = parser.parse_args()

    sweep_and_draw(seven_blobs(), list(range(5, 10)), arguments.out / "blobs")
    X = digits(arguments.data)[: arguments.rows]
    sweep_and_draw(X, arguments.ranks, arguments.out / "digits")


if __name__ == "__main__":
    main()
