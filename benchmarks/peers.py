"""The methods of `time_to_quality.py`: each factorises X and gives its curve of error and time.

Not a benchmark of its own. What is timed and what counts as a read is said there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from sklearn import decomposition

import dnmf

CHUNK = 1024
PASSES = (1, 5, 10, 20, 40)
SAME: dict[str, Any] = {"init": "random", "random_state": 0}
LONG = {"tol": 0, "max_iter": max(PASSES)}

Curve = list[tuple[float, float]]
Options = argparse.Namespace


def error_of(X: np.ndarray, W: np.ndarray, H: np.ndarray) -> float:
    """Compute ||X - W H||, for all methods alike."""
    total = 0.0
    for start in range(0, len(X), 4096):
        rows = slice(start, start + 4096)
        total += np.sum(np.square(X[rows] - W[rows] @ H), dtype=np.float64)
    return float(np.sqrt(total))


def outcome(curve: Curve, error: float, iterations: int, reads: float, seconds: float) -> dict:
    counts = {"iterations": iterations, "reads": reads, "seconds": seconds}
    return {"error": error, **counts, "curve": curve}


def ours(X: np.ndarray, rank: int, options: Options, H=None, **settings) -> dict:
    curve: Curve = []
    model = dnmf.NMF(rank, **(SAME | settings))
    began = time.perf_counter()
    model.on_pass = lambda state: curve.append((time.perf_counter() - began, state.error))
    model.fit(X, H=H)
    fitted = time.perf_counter()
    W = model.transform(X)
    transformed = time.perf_counter()
    error = error_of(X, W, model.components_)
    result = outcome(curve, error, model.n_iter_, model.n_reads_, fitted - began)
    return result | {"transform_seconds": transformed - fitted}


def cold(X: np.ndarray, rank: int, options: Options) -> dict:
    """Start from the H that scikit-learn draws, without the warm start."""
    scale = np.sqrt(X.mean() / rank)
    H = np.abs(scale * np.random.RandomState(0).standard_normal((rank, X.shape[1])))
    return ours(X, rank, options, H.astype(np.float32), init="custom", **LONG)


def scikit_learn(X: np.ndarray, rank: int, options: Options, dtype: type) -> dict:
    Z = X.astype(dtype)

    def fit(**settings) -> tuple[float, float, int]:
        model = decomposition.NMF(rank, **SAME, **settings)
        began = time.perf_counter()
        W = model.fit_transform(Z)
        seconds = time.perf_counter() - began
        return seconds, error_of(Z, W, model.components_), model.n_iter_

    limit = options.iterations
    seconds, error, iterations = fit(max_iter=limit, tol=0) if limit else fit()
    steps = sorted(n for n in options.curve if n < iterations)
    curve = [fit(max_iter=n, tol=0)[:2] for n in steps]
    result = outcome([*curve, (seconds, error)], error, iterations, 2 * iterations, seconds)
    # Less a short fit, so that what comes before and after the iterations is not among them.
    before, done = (curve[0][0], steps[0]) if steps else (0.0, 0)
    each = (seconds - before) / (iterations - done)
    result["seconds_per_iteration"] = each
    return result | ({"projected_seconds": seconds + (200 - limit) * each} if limit else {})


def minibatch(X: np.ndarray, rank: int, options: Options) -> dict:
    Z = X.astype(np.float32)
    chunks = [Z[i : i + CHUNK] for i in range(0, len(Z), CHUNK)]
    model = decomposition.MiniBatchNMF(rank, **SAME)
    curve: Curve = []
    seconds, epochs = 0.0, options.epochs
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        for chunk in chunks:
            model.partial_fit(chunk)
        seconds += time.perf_counter() - began
        if epoch == epochs or epoch.bit_count() == 1:
            W = np.concatenate([model.transform(chunk) for chunk in chunks])
            curve.append((seconds, error_of(Z, W, model.components_)))
    return outcome(curve, curve[-1][1], epochs, epochs, seconds)


class Listener(io.StringIO):
    """What a peer says of its error, and when: on standard output, or to its progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.perf_counter()
        self.curve: Curve = []

    def set_postfix(self, loss: float) -> None:
        """Note an error, as the progress bar is told it."""
        self.curve.append((time.perf_counter() - self.began, float(loss)))

    def write(self, text: str) -> int:
        """Note the error in a line that is printed after a pass."""
        if said := re.fullmatch(r"Pass \d+, loss=(.+)\.", text):
            self.set_postfix(float(said[1]))
        return len(text)

    def update(self, steps: int) -> None:
        """Take no notice of the bar's length."""


def nmf_torch(X: np.ndarray, rank: int, options: Options) -> dict:
    from nmf import run_nmf

    Z = X.astype(np.float32)
    listener = Listener()
    with contextlib.redirect_stdout(listener):
        W, H, _ = run_nmf(Z, rank, algo="halsvar", mode="online", n_jobs=options.threads, **SAME)
    seconds = time.perf_counter() - listener.began
    passes, error = len(listener.curve), error_of(Z, W, H)
    return outcome([*listener.curve, (seconds, error)], error, passes, 2 * passes + 1, seconds)


def torchnmf(X: np.ndarray, rank: int, options: Options) -> dict:
    import torch
    from torchnmf import nmf

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    V = torch.from_numpy(X.astype(np.float32))
    listener = Listener()
    model = nmf.NMF(V.shape, rank=rank)
    bar = contextlib.nullcontext(listener)
    with mock.patch.object(nmf, "tqdm", return_value=bar):
        iterations = model.fit(V, beta=2, verbose=True)
    seconds = time.perf_counter() - listener.began
    W, H = model.H.detach().numpy(), model.W.detach().numpy().T  # their names are swapped
    error = error_of(X, W, H)
    return outcome([*listener.curve, (seconds, error)], error, iterations, 2 * iterations, seconds)


@dataclass(frozen=True)
class Method:
    """What it is called, what runs, how its line looks, and the module it needs."""

    label: str
    run: Callable[[np.ndarray, int, Options], dict]
    colour: str
    marker: str
    module: str = "dnmf"


cd32, cd64 = (partial(scikit_learn, dtype=dtype) for dtype in (np.float32, np.float64))

METHODS = {
    "dnmf": Method("dnmf", ours, "#000000", "o"),
    "dnmf-middle": Method("dnmf, tol=0.002", partial(ours, tol=2e-3), "#555555", "o"),
    "dnmf-rough": Method("dnmf, tol=0.01", partial(ours, tol=1e-2), "#999999", "o"),
    "sklearn32": Method("scikit-learn cd float32", cd32, "#0072B2", "s"),
    "sklearn64": Method("scikit-learn cd float64", cd64, "#56B4E9", "D"),
    "minibatch": Method("scikit-learn MiniBatchNMF", minibatch, "#009E73", "^"),
    "nmf-torch": Method("nmf-torch online HALS", nmf_torch, "#D55E00", "v", "nmf"),
    "torchnmf": Method("torchnmf mu", torchnmf, "#CC79A7", "x", "torchnmf"),
    "dnmf-long": Method("dnmf, 40 passes", partial(ours, **LONG), "#BBBBBB", "."),
    "dnmf-cold": Method("dnmf, no warm start", cold, "#E69F00", "+"),
}
"""Colours are those of Okabe and Ito, which the colour-blind can tell apart."""
