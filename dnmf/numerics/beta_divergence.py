"""The objective for any beta divergence: coordinate descent on W, multiplicative steps on H."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.beta import divergences, solve_beta, solve_kl
from dnmf.numerics.block import Strip
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import H_SWEEPS, Objective, floors, reconstruct
from dnmf.numerics.quadratic import Quadratic, weighted_sum
from dnmf.numerics.statistics import Basis, SufficientStats

SWEEPS = 100
"""Largest number of sweeps over the weights of an image; a few are usual."""

LIFT = 1e-4
"""Least entry of H after an online update, relative to the mean of H: multiplicative steps cannot
leave zero."""


@dataclass(frozen=True)
class BetaDivergence(Objective):
    """Beta divergence over observed pixels, for any beta.

    The H update is multiplicative, which minimises an upper bound (Fevotte and Idier, Neural
    Computation 2011).
    """

    W_tolerance: float = 1e-4

    extrapolation_floor: ClassVar[float] = 0.2
    default_batch_size: ClassVar[int] = 64
    S_per_pixel: ClassVar[bool] = True

    @property
    def exponent(self) -> float:
        """Exponent gamma with which the multiplicative step lowers the loss for every beta."""
        if self.beta < 1:
            return 1 / (2 - self.beta)
        return 1 / (self.beta - 1) if self.beta > 2 else 1.0

    def solve_W(self, strip: Strip, basis: Basis) -> Array:
        """Solve for the weights by coordinate descent from the least-squares solution."""
        if self.beta == 2:
            plain = MaskedQuadratic(2.0, self.l1_W, self.l2_W, W_tolerance=0.01 * self.W_tolerance)
            return plain.solve_W(strip, basis)
        W, H = np.ascontiguousarray(Quadratic().solve_W(strip, basis)), basis.H
        least = floors(strip)
        if self.beta == 1:
            linear = self._kl_linear_terms(strip, H)
            solve_kl(strip.X, H, linear, self.l2_W, least, W, self.W_tolerance, SWEEPS)
            return W
        dtype = self._dtype_of_powers(H.dtype)
        X, H, W = (A.astype(dtype) for A in (strip.X, H, W))
        observed = strip.observed_mask
        penalties, ends = (self.l1_W, self.l2_W), (self.W_tolerance, SWEEPS)
        solve_beta(X, H, observed, self.beta, *penalties, least, W, *ends)
        return W.astype(basis.H.dtype)

    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form ``W^T Y^(beta-1)``, ``H^(1/gamma) W^T (X Y^(beta-2))`` and the divergence."""
        dtype = self._dtype_of_powers(basis.H.dtype)
        Y = reconstruct(strip, W.astype(dtype, copy=False), basis.H.astype(dtype, copy=False))
        least = floors(strip)
        images, _ = divergences(strip.X, Y, least, self.beta)
        down, up = self._gradient_terms(strip, np.maximum(Y, least.astype(dtype)[:, None]))
        T = basis.H.astype(np.float64) ** (1 / self.exponent) * (V.T @ up)
        return V.T @ down, T, weighted_sum(images, strip.weights)

    def update_H(self, H: Array, stats: SufficientStats, sweeps: int = H_SWEEPS) -> Array:
        """Take one multiplicative step; entries of H that no image uses stay as they are."""
        down = stats.S + stats.total_weight * (self.l1_H + self.l2_H * H)
        step: Array = np.divide(stats.T, down, out=H ** (1 / self.exponent), where=down > 0)
        return step**self.exponent

    def energies(self, stats: SufficientStats, H: Array) -> Array:
        """Compute the energies of the components over observed pixels."""
        return np.asarray(np.einsum("jp,jp->j", stats.S, H))

    def stats_of_exact_fit(self, H: Array, stats: SufficientStats) -> SufficientStats:
        """Return the sums of images with the same S whose reconstruction from H is exact."""
        return replace(stats, T=stats.S * H ** (1 / self.exponent))

    def batch_size(self, n_components: int, limit: int | None = None) -> int:
        """Choose the number of images of a batch, for any number of components."""
        return min(self.default_batch_size, limit or self.default_batch_size)

    def raise_zeros(self, H: Array) -> Array:
        """Raise zeros, which multiplicative steps cannot leave.

        A pixel that is dark in all images so far need not be dark in the others.
        """
        raised: Array = np.maximum(H, LIFT * H.mean())
        return raised

    def _dtype_of_powers(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return float64 where powers of bright or dark pixels leave the range of float32."""
        return dtype if self.beta in (1, 2) else np.dtype(np.float64)

    def _kl_linear_terms(self, strip: Strip, H: Array) -> Array:
        """Form the linear terms of `solve_kl`."""
        if strip.observed is None:
            sums = np.broadcast_to(H.sum(axis=1), (len(strip.X), len(H)))
        else:
            sums = strip.observed.astype(H.dtype) @ H.T
        return np.ascontiguousarray(sums + H.dtype.type(self.l1_W))

    def _gradient_terms(self, strip: Strip, Y: Array) -> tuple[Array, Array]:
        """Form ``Y^(beta - 1)`` and ``X Y^(beta - 2)``, 0 at missing pixels."""
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
