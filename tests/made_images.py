"""Image corpora of known rank: so many parts, mixed at random, with noise of known size.

Parts are overlapping blobs, bars across the image, or parts of a face. An image has 60 % of them,
with gamma-distributed weights. Noise is a share of the signal, pixel by pixel, or that of counted
photons, whose size is that of the share for the corpus as a whole; neither adds light where there
is none, so the rank is that of the parts.
"""

from __future__ import annotations

import numpy as np

FACE = np.array([
    (0.50, 0.50, 0.48, 0.42),  # the face
    (0.38, 0.30, 0.08, 0.13), (0.38, 0.70, 0.08, 0.13),  # eyes
    (0.25, 0.30, 0.06, 0.15), (0.25, 0.70, 0.06, 0.15),  # brows
    (0.55, 0.50, 0.17, 0.07),  # nose
    (0.76, 0.50, 0.06, 0.20),  # mouth
    (0.10, 0.50, 0.12, 0.36),  # hair
    (0.60, 0.22, 0.13, 0.11), (0.60, 0.78, 0.13, 0.11),  # cheeks
    (0.92, 0.50, 0.09, 0.20),  # chin
    (0.50, 0.04, 0.20, 0.06), (0.50, 0.96, 0.20, 0.06),  # ears
    (0.30, 0.50, 0.08, 0.08),  # between the brows
    (0.84, 0.25, 0.09, 0.10), (0.84, 0.75, 0.09, 0.10),  # jaws
    (0.12, 0.15, 0.12, 0.10), (0.12, 0.85, 0.12, 0.10),  # temples
    (0.68, 0.50, 0.05, 0.13), (0.84, 0.50, 0.05, 0.14),  # lips
])  # fmt: skip
"""Ellipses: middle and half axes, down and across, in units of the side of the image."""

KINDS = ("blobs", "bars", "faces")


def parts(kind: str, rank: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the parts, (rank, side * side)."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    if kind == "bars":
        return _bars(rank, side)
    if kind == "faces":
        ellipses = FACE[:rank].copy()
        ellipses[:, :2] += rng.normal(0, 0.01, (rank, 2))
        down, across, high, wide = ellipses.T[..., None, None]
        rim = ((y - down) / high) ** 2 + ((x - across) / wide) ** 2
        return np.clip(1.3 - rim, 0, 1).reshape(rank, -1)
    drawn: list[np.ndarray] = []
    while len(drawn) < rank:
        middle, width = rng.uniform(0.1, 0.9, 2), rng.uniform(0.08, 0.16, 2)
        down, across = (y - middle[0]) / width[0], (x - middle[1]) / width[1]
        blob = np.exp(-(down**2 + across**2) / 2).ravel()
        blob[blob < 0.01] = 0
        blob /= np.linalg.norm(blob)
        if all(blob @ other < 0.8 for other in drawn):  # two that nobody could tell apart are one
            drawn.append(blob)
    return np.array(drawn) * side


def _bars(rank: int, side: int) -> np.ndarray:
    """Draw bars that cover the image, one half down and the other across."""
    bars = []
    for count, axis in (((rank + 1) // 2, 0), (rank // 2, 1)):
        for edge in np.array_split(np.arange(side), count):
            image = np.zeros((side, side))
            image[edge] = 1
            bars.append((image if axis == 0 else image.T).ravel())
    return np.array(bars)


def corpus(
    kind: str,
    rank: int,
    noise: float = 0.1,
    seed: int = 0,
    *,
    n: int = 1500,
    side: int = 28,
    counted: bool = False,
) -> np.ndarray:
    """Make a corpus of a known rank, (n, side * side) float32.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    rank : int
        At most 20 for faces.
    noise : float
        As a share of the signal.
    seed : int
    n, side : int
    counted : bool
        Whether pixels are counts of photons.
    """
    rng = np.random.default_rng([seed, rank, KINDS.index(kind)])
    H = parts(kind, rank, side, rng)
    signal = rng.gamma(1, 1, (n, rank)) * (rng.random((n, rank)) < 0.6) @ H
    if counted:
        photons = signal.sum() / (noise**2 * (signal**2).sum())
        X = rng.poisson(signal * photons) / photons
    else:
        X = signal * np.maximum(1 + noise * rng.standard_normal(signal.shape), 0)
    return X.astype(np.float32)
