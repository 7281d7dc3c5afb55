"""Objectives beyond squared error: any beta divergence, by majorise-minimise steps on H."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dnmf.block import Strip
from dnmf.kernels import solve_kl
from dnmf.objective import H_SWEEPS, Basis, Objective, Quadratic, Stats, floors, reconstruct, total

Array = np.ndarray[Any, np.dtype[Any]]

KL_TOLERANCE, KL_SWEEPS = 1e-3, 30
"""The same for Kullback-Leibler, as a share of the sum of an image."""

MU_TOLERANCE, MU_STEPS = 1e-3, 50
"""An image's multiplicative steps end when they move its weights by less than this share."""

LIFT = 1e-4
"""Share of the mean of H that its zeros are raised to where steps are multiplicative."""


@dataclass(frozen=True)
class Multiplicative(Objective):
    """Any beta divergence over observed pixels, by majorise-minimise steps on H."""

    keeps: ClassVar[float] = 0.2
    batch: ClassVar[int] = 64

    @property
    def exponent(self) -> float:
        """Power of the multiplicative step that makes it lower the loss, whatever beta is."""
        if self.beta < 1:
            return 1 / (2 - self.beta)
        return 1 / (self.beta - 1) if self.beta > 2 else 1.0

    def project(self, strip: Strip, basis: Basis) -> Array:
        """Start from least squares; then coordinate or multiplicative steps, image by image."""
        if self.beta == 2 and strip.observed is None:
            return Quadratic(2.0, self.l1_W, self.l2_W).project(strip, basis)
        W, H = Quadratic().project(strip, basis), basis.H
        if self.beta != 1:
            return self._multiply(strip, _lifted(W, strip, H), H)
        sums = H.sum(axis=1) if strip.observed is None else strip.observed.astype(H.dtype) @ H.T
        linear = np.ascontiguousarray(np.broadcast_to(sums, W.shape) + H.dtype.type(self.l1_W))
        solve_kl(strip.X, H, linear, self.l2_W, floors(strip), W, KL_TOLERANCE, KL_SWEEPS)
        return W

    def sums(self, strip: Strip, W: Array, V: Array, basis: Basis) -> tuple[Array, Array, float]:
        """Form the two halves of the gradient, ``W^T Y^(beta-1)`` and ``W^T (X Y^(beta-2))``."""
        images, _ = self.divergence(strip, W, basis.H)
        down, up = self._halves(strip, W, basis.H)
        carried = basis.H.astype(np.float64) ** (1 / self.exponent) * (V.T @ up)
        return V.T @ down, carried, total(images, strip.weights)

    def improve(self, H: Array, stats: Stats, sweeps: int = H_SWEEPS) -> Array:
        """Take one multiplicative step."""
        down = stats.S + stats.rows * (self.l1_H + self.l2_H * H)
        step: Array = _ratio(stats.T, down) ** self.exponent
        return step

    def batch_rows(self, n_components: int, most: int | None = None) -> int:
        """Choose the images of a batch: any number will do."""
        return min(self.batch, most or self.batch)

    def alive(self, H: Array) -> Array:
        """Raise zeros, which multiplicative steps cannot leave.

        A pixel that is dark in every image so far need not be in the others.
        """
        lifted: Array = np.maximum(H, LIFT * H.mean())
        return lifted

    def _multiply(self, strip: Strip, W: Array, H: Array) -> Array:
        """Take multiplicative steps until each image's weights stay, so its end is its own."""
        rows = np.flatnonzero(W.any(axis=1))
        for _ in range(MU_STEPS):
            part = _take(strip, rows)
            old = W[rows]
            down, up = (half @ H.T for half in self._halves(part, old, H))
            down += self.l1_W + self.l2_W * old
            W[rows] = new = old * _ratio(up, down) ** H.dtype.type(self.exponent)
            rows = rows[np.abs(new - old).sum(axis=1) > MU_TOLERANCE * new.sum(axis=1)]
            if not len(rows):
                break
        return W

    def _halves(self, strip: Strip, W: Array, H: Array) -> tuple[Array, Array]:
        if self.beta not in (1, 2):  # powers of bright or dark pixels leave the range of float32
            W, H = W.astype(np.float64), H.astype(np.float64)
        Y = np.maximum(reconstruct(strip, W, H), floors(strip).astype(H.dtype)[:, None])
        if self.beta == 2:
            down, up = Y, strip.X
        elif self.beta == 1:
            down, up = np.ones_like(Y), strip.X / Y
        elif self.beta == 0:
            down = 1 / Y
            up = strip.X * down * down
        else:
            power = Y ** H.dtype.type(self.beta - 2)
            down, up = power * Y, strip.X * power
        return (down if strip.observed is None else down * strip.observed), up

    def _shape_of_S(self, d: int, p: int) -> tuple[int, int]:
        return (d, p)


def _lifted(W: Array, strip: Strip, H: Array) -> Array:
    """Raise zeros, which multiplicative steps cannot leave, to a little of the image's weights."""
    means = W.mean(axis=1, keepdims=True)
    flat = strip.X.sum(axis=1, keepdims=True) / max(float(H.sum()), np.finfo(H.dtype).tiny)
    lifted: Array = np.maximum(W, H.dtype.type(0.01) * np.where(means > 0, means, flat))
    return lifted


def _ratio(up: Array, down: Array) -> Array:
    return np.divide(up, down, out=np.zeros_like(up), where=down > 0)


def _take(strip: Strip, rows: Array) -> Strip:
    observed = None if strip.observed is None else strip.observed[rows]
    weights = None if strip.weights is None else strip.weights[rows]
    return Strip(strip.X[rows], observed, weights, strip.norms[rows], strip.pixel_norms)
