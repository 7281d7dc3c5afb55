"""Make the pictures of the documentation again, those in ``docs/images``.

    python benchmarks/pictures.py [MNIST] [--out docs/images]

MNIST is a folder of its files in IDX format. Without it the pictures of all 70,000 digits are left
out. `time_to_quality.png` is not made here, but by `benchmarks/time_to_quality.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import tempfile
from pathlib import Path

import numpy as np
from common import load
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure, SubFigure

from dnmf import NMF, plot, rank_sweep
from dnmf.data import digits

INK = "#808080"
"""Grey that can be read on white and on black."""

GHOST = ListedColormap(np.linspace(0, 0.35, 256)[:, None] * [1, 1, 1])
"""Dark greys, for the image behind one of its parts."""

FADE = ListedColormap(
    [(*colormaps["magma"](x)[:3], min(1.0, 3 * x)) for x in np.linspace(0, 1, 256)]
)
"""The colours of parts, transparent where a part is dark."""

SIDE = 5
"""Images in a row and in a column."""

N_SUMMANDS = 6
"""Parts that are drawn of the image whose sum is shown."""

SUMMED = 3
"""Row of that image."""


def seven_blobs(n: int = 500, side: int = 16) -> np.ndarray:
    """Mix seven overlapping blobs, with 10 % noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    at = [(0.2, 0.2), (0.2, 0.6), (0.45, 0.85), (0.5, 0.45), (0.75, 0.2), (0.8, 0.7), (0.5, 0.15)]
    blobs = [np.exp(-((y - down) ** 2 + (x - across) ** 2) / 0.03).ravel() for down, across in at]
    signal = rng.gamma(1, 1, (n, len(at))) @ np.array(blobs)
    return signal * rng.normal(1, 0.1, signal.shape).clip(0)


def draw_tile(axes: Axes, image: np.ndarray, cmap: object, top: float | None = None) -> None:
    """Draw an image of 28 x 28 pixels."""
    axes.imshow(image.reshape(28, 28), cmap=cmap, vmin=0, vmax=top, interpolation="bilinear")
    axes.set_axis_off()


def write(axes: Axes, x: float, text: str, size: float) -> None:
    """Write text beside or in a tile; x is in widths of the tile."""
    axes.text(
        *(x, 0.5, text),
        **{"color": INK, "fontsize": size, "transform": axes.transAxes},
        **{"ha": "center", "va": "center", "linespacing": 1.4},
    )


def draw_grid(figure: SubFigure, images: np.ndarray, cmap: str, title: str) -> None:
    """Draw a square of images under a title."""
    figure.suptitle(title, color=INK, fontsize=14, y=0.97)
    grid = figure.subplots(SIDE, SIDE, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    figure.subplots_adjust(left=0.04, right=0.96, bottom=0.01, top=0.88)
    for axes, image in zip(grid.flat, images, strict=True):
        draw_tile(axes, image, cmap)


def draw_sum(figure: SubFigure, image: np.ndarray, w: np.ndarray, H: np.ndarray) -> None:
    """Draw an image, its most important parts as they stand in it, and the sum of all its parts."""
    order = np.argsort(-w * np.linalg.norm(H, axis=1))[:N_SUMMANDS]
    grid = figure.subplots(1, N_SUMMANDS + 3, gridspec_kw={"wspace": 0.42})
    figure.subplots_adjust(left=0.0133, right=0.9867, bottom=0.02, top=0.92)
    top = float((w[order, None] * H[order]).max())
    draw_tile(grid[0], image, "gray")
    for axes, j in zip(grid[1:], order, strict=False):
        draw_tile(axes, image, GHOST)
        draw_tile(axes, w[j] * H[j], FADE, top)
    grid[-2].set_axis_off()
    write(grid[-2], 0.5, f"{np.count_nonzero(w) - N_SUMMANDS} fainter\nparts", 11)
    draw_tile(grid[-1], w @ H, "gray", image.max())
    for axes, sign in zip(grid[1:], ["≈", *"+" * N_SUMMANDS, "="], strict=True):
        write(axes, -0.21, sign, 18)


def parts(X: np.ndarray) -> Figure:
    """Draw images, the parts that they share, and the images made of parts."""
    model = NMF(SIDE**2, random_state=0).fit(X)
    shown = X[: SIDE**2]
    W, H = model.transform(shown), model.components_
    panels = {
        "images": (shown, "gray"),
        "parts that they share": (H[np.argsort(-model.energy_shares_)], "magma"),
        "images made of the parts": (W @ H, "gray"),
    }
    figure = Figure(figsize=(10, 4.7))
    above, below = figure.subfigures(2, 1, height_ratios=(3.55, 1.15))
    for part, (title, (images, cmap)) in zip(above.subfigures(1, 3), panels.items(), strict=True):
        draw_grid(part, images, cmap, title)
    draw_sum(below, X[SUMMED], W[SUMMED], H)
    return figure


def twelve(X: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Choose twelve images at even distances, and name them."""
    rows = np.linspace(0, len(X) - 1, 12).astype(int)
    return X[rows], [str(row) for row in rows]


def copy_from_tutorial(out: Path) -> None:
    """Run the Python of the tutorial, and take the pictures that it draws."""
    page = Path(__file__).parents[1] / "docs/start/tutorial.md"
    program = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        exec(compile(program, page.name, "exec"), {})
        for path in Path().glob("*.png"):
            (out / f"tutorial-{path.name}").write_bytes(path.read_bytes())
            print(out / f"tutorial-{path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnist", type=Path, nargs="?", help="folder of MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    copy_from_tutorial(given.out.resolve())

    X = digits()
    model = NMF(49, random_state=0).fit(X)
    shown, labels = twelve(X)
    model.image_shape_ = (28, 28)
    pictures = {
        "parts": parts(X),
        "reconstructions": plot.reconstructions(model, shown, labels=labels),
        "selection": plot.selection(rank_sweep(seven_blobs(), range(5, 10))),
    }
    if given.mnist:
        X = load(given.mnist)
        sweep = rank_sweep(X, [9, 25, 49, 100])
        pictures["selection-mnist"] = plot.selection(sweep)
        pictures["ranks-mnist"] = plot.reconstruction_sheet(sweep, *twelve(X))
    for name, figure in pictures.items():
        path = given.out / f"{name}.png"
        figure.savefig(path, dpi=160, transparent=name == "parts")
        print(path)


if __name__ == "__main__":
    main()
