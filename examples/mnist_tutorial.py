"""The scikit-learn tutorial on dnmf: reduce MNIST with NMF and look at the reconstructions.

    python examples/mnist_tutorial.py [--data FOLDER] [--out FOLDER] [--rows N]

FOLDER holds the MNIST files in IDX format (gzipped or not); without it they come from OpenML.
Only one line differs from the same script on scikit-learn: the import of NMF.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure

from dnmf import NMF  # the line that differs: from sklearn.decomposition import NMF


def load_mnist(folder: Path | None) -> np.ndarray:
    """Load all 70,000 images as rows of 784 pixels, training images first."""
    if folder is None:
        from sklearn.datasets import fetch_openml

        X, _ = fetch_openml("mnist_784", return_X_y=True, as_frame=False)
        return X.astype(np.uint8)
    from dnmf import ingest

    files = [
        next(folder.glob(f"{part}-images-idx3-ubyte*"), folder / f"{part}-images-idx3-ubyte.gz")
        for part in ("train", "t10k")
    ]
    with TemporaryDirectory() as scratch:
        return np.asarray(ingest(files, f"{scratch}/mnist.zarr"))


def save_sheet(rows: dict[str, np.ndarray], path: Path) -> None:
    """Draw rows of images, each image scaled from black at zero to its own maximum."""
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(columns * 0.9 + 0.9, len(rows) * 0.95), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.reshape(28, 28), cmap="gray", vmin=0)
            axis.set(xticks=[], yticks=[], frame_on=False)
    figure.savefig(path, dpi=100)
    print(f"saved {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=Path("mnist-tutorial"), help="for the figures")
    parser.add_argument("--rows", type=int, default=70_000, help="use only the first images")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    X = load_mnist(arguments.data)[: arguments.rows]
    print(f"X: {X.shape} {X.dtype}")

    pictures = {"original": X[:10]}
    for d in (9, 100, 225):
        began = time.perf_counter()
        model = NMF(n_components=d, init="random", random_state=0)
        W = model.fit_transform(X)
        H = model.components_
        print(
            f"d = {d}: W {W.shape}, H {H.shape}, error {model.reconstruction_err_:,.2f}, "
            f"{model.n_iter_} passes, {time.perf_counter() - began:.1f} s"
        )
        pictures[f"d = {d}"] = model.inverse_transform(W[:10])
        grid = H.reshape(int(np.sqrt(d)), -1, 784)
        save_sheet(
            {" " * i: line for i, line in enumerate(grid)}, arguments.out / f"components-{d}.png"
        )
    save_sheet(pictures, arguments.out / "reconstructions.png")

    try:
        NMF(n_components=9).fit(X.astype(np.float32) - 1)
    except ValueError as error:
        print(f"Negative data is refused: {error}")


if __name__ == "__main__":
    main()
