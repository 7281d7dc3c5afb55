"""Objectives beyond squared error: any beta divergence, by majorise-minimise steps on H."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.beta import divergences, solve_beta, solve_kl
from dnmf.numerics.block import Strip
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import (
    H_SWEEPS,
    Objective,
    Quadratic,
    floors,
    reconstruct,
    weighted_sum,
)
from dnmf.numerics.statistics import Basis, SufficientStats

TOLERANCE, SWEEPS = 1e-4, 100
"""An image ends with the sweep that moves less than this share of it, or after so many."""

LIFT = 1e-4
"""Share of the mean of H that its zeros are raised to where steps are multiplicative."""


@dataclass(frozen=True)
class BetaDivergence(Objective):
    """Any beta divergence over observed pixels, by majorise-minimise steps on H."""

    extrapolation_floor: ClassVar[float] = 0.2
    default_batch_size: ClassVar[int] = 64

    @property
    def exponent(self) -> float:
        """Power of the multiplicative step that makes it lower the loss, whatever beta is."""
        if self.beta < 1:
            return 1 / (2 - self.beta)
        return 1 / (self.beta - 1) if self.beta > 2 else 1.0

    def solve_W(self, strip: Strip, basis: Basis) -> Array:
        """Start from least squares; then coordinate descent, image by image."""
        if self.beta == 2:
            return MaskedQuadratic(2.0, self.l1_W, self.l2_W).solve_W(strip, basis)
        W, H = np.ascontiguousarray(Quadratic().solve_W(strip, basis)), basis.H
        if self.beta == 1:
            seen = None if strip.observed is None else strip.observed.astype(H.dtype)
            sums = H.sum(axis=1) if seen is None else seen @ H.T
            linear = np.ascontiguousarray(np.broadcast_to(sums, W.shape) + H.dtype.type(self.l1_W))
            solve_kl(strip.X, H, linear, self.l2_W, floors(strip), W, TOLERANCE, SWEEPS)
            return W
        # Powers of bright or dark pixels leave the range of float32.
        X, H, W = (A.astype(np.float64) for A in (strip.X, H, W))
        seen = np.ones(X.shape, bool) if strip.observed is None else strip.observed
        least = floors(strip)
        solve_beta(X, H, seen, self.beta, self.l1_W, self.l2_W, least, W, TOLERANCE, SWEEPS)
        return W.astype(basis.H.dtype)

    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form the two halves of the gradient, ``W^T Y^(beta-1)`` and ``W^T (X Y^(beta-2))``."""
        H = basis.H
        if self.beta not in (1, 2):  # powers of bright or dark pixels leave the range of float32
            W, H = W.astype(np.float64), H.astype(np.float64)
        Y, least = reconstruct(strip, W, H), floors(strip)
        images, _ = divergences(strip.X, Y, least, self.beta)
        down, up = self._halves(strip, np.maximum(Y, least.astype(Y.dtype)[:, None]))
        carried = basis.H.astype(np.float64) ** (1 / self.exponent) * (V.T @ up)
        return V.T @ down, carried, weighted_sum(images, strip.weights)

    def update_H(self, H: Array, stats: SufficientStats, sweeps: int = H_SWEEPS) -> Array:
        """Take one multiplicative step; what no image has used stays as it is."""
        down = stats.S + stats.total_weight * (self.l1_H + self.l2_H * H)
        step: Array = np.divide(stats.T, down, out=H ** (1 / self.exponent), where=down > 0)
        return step**self.exponent

    def energies(self, stats: SufficientStats, H: Array) -> Array:
        """Compute each component's share, over observed pixels; see `Objective.energies`."""
        return np.asarray(np.einsum("jp,jp->j", stats.S, H))

    def stats_of_exact_fit(self, H: Array, stats: SufficientStats) -> SufficientStats:
        """Give sums like these of images that H explains to the last."""
        return replace(stats, T=stats.S * H ** (1 / self.exponent))

    def batch_size(self, n_components: int, most: int | None = None) -> int:
        """Choose the images of a batch: any number will do."""
        return min(self.default_batch_size, most or self.default_batch_size)

    def raise_zeros(self, H: Array) -> Array:
        """Raise zeros, which multiplicative steps cannot leave.

        A pixel that is dark in every image so far need not be in the others.
        """
        lifted: Array = np.maximum(H, LIFT * H.mean())
        return lifted

    def _halves(self, strip: Strip, Y: Array) -> tuple[Array, Array]:
        if self.beta == 2:
            down, up = Y, strip.X
        elif self.beta == 1:
            down, up = np.ones_like(Y), strip.X / Y
        elif self.beta == 0:
            down = 1 / Y
            up = strip.X * down * down
        else:
            power = Y ** Y.dtype.type(self.beta - 2)
            down, up = power * Y, strip.X * power
        return (down if strip.observed is None else down * strip.observed), up

    def _shape_of_S(self, d: int, p: int) -> tuple[int, int]:
        return (d, p)
