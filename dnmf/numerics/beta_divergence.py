"""The objective for any beta divergence: coordinate descent on W, multiplicative steps on H."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.numerics.beta import divergences, solve_beta, solve_kl
from dnmf.numerics.block import Strip
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import (
    H_SWEEPS,
    OVERFLOW,
    Objective,
    floors,
    reconstruct,
    weight_rows,
)
from dnmf.numerics.quadratic import Quadratic, weighted_sum
from dnmf.numerics.statistics import Basis, SufficientStats

SWEEPS = 30
"""Largest number of sweeps over the weights of an image; a few are usual. For beta < 1, where the
loss is not convex, many images would go on, and gain a thousandth in the next hundred."""

RELAXATION = 1.5
"""Factor of the exponent of multiplicative steps that nothing guarantees to lower the loss: near a
minimum they converge with any exponent below 2, the sooner the larger it is (Badeau, Bertin and
Vincent, IEEE Trans. Neural Networks 21(12), 2010)."""

MOST_RELAXED = 3
"""Bound of that exponent for beta < 1, relative to the one that lowers the loss from anywhere."""

W_STEPS = 5
"""Number of multiplicative steps on the weights of images before coordinate descent: each is two
matrix products, and costs a tenth of a sweep."""

START = Quadratic(W_tolerance=1e-3, exact_W=False)
"""Objective whose weights the steps start from."""

START_SHARE = 1e-3
"""Least mass of a component at the start, as a share of the mean: steps cannot leave zero."""

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
        """Solve for the weights: multiplicative steps, then coordinate descent if `exact_W`."""
        if self.beta == 2:
            plain = MaskedQuadratic(2.0, self.l1_W, self.l2_W, W_tolerance=0.01 * self.W_tolerance)
            return plain.solve_W(strip, basis)
        W = self.first_W(strip, basis)
        X, H = (A.astype(W.dtype, copy=False) for A in (strip.X, basis.H))
        strip = strip._replace(X=X)
        # Coordinate descent for Kullback-Leibler leaves out dark pixels, and needs no other start.
        for _ in range(0 if self.beta == 1 and self.exact_W else W_STEPS):
            W = self.step_W(strip, W, H, self.relaxed_exponent)
        if self.exact_W:
            self._descend(strip, W, H)
        return W.astype(basis.H.dtype, copy=False)

    def _descend(self, strip: Strip, W: Array, H: Array) -> None:
        """Solve for the weights by coordinate descent, in place in W."""
        least, ends = floors(strip), (self.W_tolerance, SWEEPS)
        if self.beta == 1:
            solve_kl(strip.X, H, self._kl_linear_terms(strip, H), self.l2_W, least, W, *ends)
        else:
            penalties = self.l1_W, self.l2_W
            solve_beta(strip.X, H, strip.observed_mask, self.beta, *penalties, least, W, *ends)

    def first_W(self, strip: Strip, basis: Basis) -> Array:
        """Return fair weights, of which none is zero that may have to be positive."""
        if strip.norms.max(initial=0) > np.finfo(basis.H.dtype).max:
            raise DataError(OVERFLOW)
        W, sums = START.solve_W(strip, basis), basis.H.sum(axis=1)
        shares = np.divide(START_SHARE / len(sums), sums, out=np.zeros_like(sums), where=sums > 0)
        least = strip.X.sum(axis=1, keepdims=True) * shares
        first: Array = np.maximum(W, least, dtype=self.dtype_of_powers(W.dtype), order="C")
        return first

    def step_W(self, strip: Strip, W: Array, H: Array, exponent: float) -> Array:
        """Take a multiplicative step on the weights."""
        down, up = self.gradient_terms_at(strip, W, H)
        # For Kullback-Leibler the sums are the same for all images, and no product.
        sums = H.sum(axis=1) if self.beta == 1 and strip.observed is None else down @ H.T
        sums = sums + self.l1_W + self.l2_W * W
        return W * relaxed(up @ H.T, sums, exponent)

    @property
    def relaxed_exponent(self) -> float:
        """Exponent of steps that nothing guarantees to lower the loss."""
        if self.beta > 2:
            return RELAXATION * self.exponent
        return min(RELAXATION, MOST_RELAXED * self.exponent)

    def loss(self, strip: Strip, W: Array, H: Array) -> float:
        """Compute the divergence of a strip, with the penalty of its weights."""
        V = W if strip.weights is None else weight_rows(W, strip.weights)
        return weighted_sum(self.divergence(strip, W, H)[0], strip.weights) + self.penalty_of_W(
            W, V
        )

    def gradient_terms_at(self, strip: Strip, W: Array, H: Array) -> tuple[Array, Array]:
        """Form ``Y^(beta - 1)`` and ``X Y^(beta - 2)`` for Y = W H, 0 at missing pixels."""
        least = floors(strip).astype(H.dtype)[:, None]
        return self._gradient_terms(strip, np.maximum(reconstruct(strip, W, H), least))

    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form ``W^T Y^(beta-1)``, ``H^(1/gamma) W^T (X Y^(beta-2))`` and the divergence."""
        dtype = self.dtype_of_powers(basis.H.dtype)
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

    def dtype_of_powers(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
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


def relaxed(up: Array, down: Array, exponent: float) -> Array:
    """Compute ``(up / down) ** exponent``, 0 where nothing depends on an entry."""
    ratio: Array = np.divide(up, down, out=np.zeros_like(up), where=down > 0)
    if exponent == RELAXATION:
        return ratio * np.sqrt(ratio)
    return ratio**exponent
