"""Images of many pixels: the warm-up on a sketch beside that by online updates.

    python benchmarks/many_pixels.py [--only NAME ...] [--seeds 0] [--sklearn] [--json FILE]

A start of each kind goes on with passes at the default tolerance. Seconds are those of the warm-up
and of the whole fit, both in a process whose kernels are compiled; errors are after the warm-up and
at the end, above the end of online updates. `large` takes the sample of 20,000 images of 65,536
pixels as a corpus of its own, ten passes over which are one over all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from common import about
from few_passes import blobs, noisy
from sklearn import decomposition
from sklearn.datasets import load_sample_images

from dnmf.engine.local import LocalBlocks
from dnmf.engine.threads import one_blas_thread
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.block import Block
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import State
from dnmf.solvers import warm_start
from dnmf.solvers.loop import ModelRun, measure, solve
from dnmf.storage.checkpoint.spec import FitSpec

TOL = 1e-4
"""The default tolerance of a fit."""

SQUARED = Quadratic()


def moving_blobs(n: int, side: int, count: int, seed: int) -> np.ndarray:
    """Draw blobs that move by up to four pixels from image to image, a third of them in each."""
    rng = np.random.default_rng(seed)
    grid, X = np.arange(side), np.empty((n, side * side), np.float32)
    at, size = rng.uniform(0, side, (2, count)), rng.uniform(2, side / 6, (count, 1))
    for image in X:
        weights = rng.gamma(1, 1, (count, 1)) * (rng.random((count, 1)) < 0.3)
        here = (at + rng.uniform(-4, 4, at.shape))[..., None]
        down, across = np.exp(-((grid - here) ** 2) / (2 * size**2))
        image[:] = ((weights * down).T @ across).ravel()
    return noisy(X, 0.2, rng)


def patches(n: int, side: int, seed: int) -> np.ndarray:
    """Cut random squares from two photographs, (n, p) uint8."""
    rng = np.random.default_rng(seed)
    photographs = [image.mean(axis=2).astype(np.uint8) for image in load_sample_images().images]
    cut = np.empty((n, side, side), np.uint8)
    for i in range(n):
        photograph = photographs[i % len(photographs)]
        top, left = (rng.integers(size - side) for size in photograph.shape)
        cut[i] = photograph[top : top + side, left : left + side]
    return cut.reshape(n, -1)


def words(n: int, p: int, topics: int, seed: int) -> np.ndarray:
    """Draw documents of words from a few topics each: mostly zeros, and hardly any low rank."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(topics, 0.1), n) @ rng.dirichlet(np.full(p, 0.02), topics)
    return np.array([rng.multinomial(80, share / share.sum()) for share in shares], np.uint8)


CORPORA: dict[str, tuple[Callable[[], np.ndarray], int]] = {
    "fixed": (partial(blobs, 4000, 128, 40, 0.3, 0), 32),
    "moving": (partial(moving_blobs, 4000, 128, 40, 0), 32),
    "patches": (partial(patches, 2000, 64, 0), 32),
    "words": (partial(words, 2000, 10_000, 40, 0), 20),
    "large": (partial(blobs, 2048, 256, 64, 0.4, 0), 32),
}
"""Images and number of components by name."""


def fit(X: np.ndarray, d: int, seed: int, sketch: bool) -> dict[str, float]:
    """Warm up and run passes; return seconds and errors."""
    blocks = blocks_of(X)
    run = ModelRun(FitSpec(d, seed, {"compute_dtype": "float32"}, {"init": "random"}), SQUARED)
    with one_blas_thread():
        H = warm_start.random_H(Block(X), d, seed)
        online = partial(warm_start.warm_up, n=len(X))
        improve = warm_start._warm_up_on_sketch if sketch else online
        began = time.perf_counter()
        run.state = State.at(improve(SQUARED, H, Block(X), seed, TOL))
        warm = time.perf_counter() - began
        early = error(blocks, run.state.H)
    began = time.perf_counter()
    solve(blocks, [run], tol=TOL, max_iter=200)
    seconds = warm + time.perf_counter() - began
    return {"warm-up": warm, "fit": seconds, "early": early, "error": run.state.error}


def error(blocks: LocalBlocks, H: np.ndarray) -> float:
    """Compute the error of images with the best weights for H."""
    return float(np.sqrt(2 * SQUARED.known_loss(measure(blocks, SQUARED, H), H, H)[1]))


def pass_seconds(X: np.ndarray, d: int) -> float:
    """Time a pass over X, the shortest of three."""
    blocks, H, seconds = blocks_of(X), warm_start.random_H(Block(X), d, 0), []
    with one_blas_thread():
        for _ in range(3):
            began = time.perf_counter()
            measure(blocks, SQUARED, H)
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def peer(X: np.ndarray, d: int, seed: int) -> dict[str, float]:
    """Fit scikit-learn's NMF with its defaults, on float32."""
    X = X.astype(np.float32)
    began = time.perf_counter()
    model = decomposition.NMF(d, init="random", random_state=seed).fit(X)
    return {"fit": time.perf_counter() - began, "error": float(model.reconstruction_err_)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sklearn", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    small = blobs(400, 24, 8, 0.5, 0)
    for sketch in (True, False):
        fit(small, 4, 0, sketch)  # compiles the kernels
    rows = []
    print("| images | d | seed | pass, s | way | warm-up, s | fit, s | error early | at the end |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.only:
        make, d = CORPORA[name]
        X = make()
        a_pass = pass_seconds(X, d)
        for seed in arguments.seeds:
            ways = {"online": fit(X, d, seed, False), "sketch": fit(X, d, seed, True)}
            ways |= {"scikit-learn": peer(X, d, seed)} if arguments.sklearn else {}
            rows.append({"name": name, "shape": X.shape, "d": d, "seed": seed, "ways": ways})
            end = ways["online"]["error"]
            for way, found in ways.items():
                warm = f"{found['warm-up']:.2f}" if "warm-up" in found else ""
                early = f"{found['early'] / end - 1:+.3%}" if "early" in found else ""
                print(
                    f"| {name} {X.shape[0]:,} x {X.shape[1]:,} | {d} | {seed} | {a_pass:.2f} | "
                    f"{way} | {warm} | {found['fit']:.2f} | {early} | "
                    f"{found['error']:,.1f} ({found['error'] / end - 1:+.3%}) |",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
