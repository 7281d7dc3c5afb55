"""The objective for squared error over all pixels: coordinate descent on W and on H (HALS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.numerics.block import Strip
from dnmf.numerics.nnls import solve_nnls
from dnmf.numerics.objective import H_SWEEPS, OVERFLOW, Objective, weight_rows
from dnmf.numerics.statistics import Basis, SufficientStats, gram

W_TOLERANCE, H_TOLERANCE = 3e-4, 1e-6
"""Relative decrease of the loss in a sweep below which an image has converged, in the update of W,
and below which a pixel has, in that of H."""

W_RELAXATION = 1.1
"""Relaxation factor of the steps on W, which saves one sweep in four."""

WARM_UP_BATCH_SIZE = 192
"""Images of a batch in the warm-up of a fit: the fewest for which matrix products are fast."""


@dataclass(frozen=True)
class Quadratic(Objective):
    """Squared error over all pixels.

    The kernel of both updates is coordinate descent; on all images at once it is HALS (Cichocki and
    Phan, 2009).
    """

    exact: ClassVar[bool] = True

    def solve_W(self, strip: Strip, basis: Basis) -> Array:
        """Solve the non-negative least-squares problems of a strip."""
        return self.solve(
            self.linear_terms(strip, basis), basis.G, strip.norms, basis.ridge_inverse
        ).T

    def linear_terms(self, strip: Strip, basis: Basis) -> Array:
        """Form the linear terms of a strip's problems, an ndarray of shape (d, b)."""
        A: Array = basis.H @ strip.X.T
        if self.l1_W:
            A -= basis.H.dtype.type(self.l1_W)
        return A

    def solve(self, A: Array, G: Array, norms: Array, ridge_inverse: Array | None) -> Array:
        """Solve problems that share a Gram matrix.

        Parameters
        ----------
        A : ndarray of shape (d, b)
            Linear terms.
        G : ndarray of shape (d, d)
            Gram matrix, without penalties.
        norms : ndarray of shape (b,), float64
            ``||x||^2`` of each image.
        ridge_inverse : ndarray of shape (d, d), or None
            As in `Basis`.

        Returns
        -------
        ndarray of shape (d, b)
            Transposed weights.
        """
        W: Array = np.zeros_like(A) if ridge_inverse is None else np.maximum(ridge_inverse @ A, 0)
        G = _add_ridge(G, self.l2_W)
        solve_nnls(A, G, 0.5 * norms, W, W_TOLERANCE, self.max_sweeps, W_RELAXATION)
        return W

    def normalize_components(self, H: Array, stats: SufficientStats) -> Array:
        """Scale the components to length 1, and the sums in place, where there are no penalties.

        Running sums mix the weights for many H, whose scales would drift otherwise.

        Raises
        ------
        DataError
            The scaled sums overflow their dtype.
        """
        if self.l1_W or self.l2_W or self.l1_H or self.l2_H:
            return H  # penalties determine the scales
        sizes = np.sqrt(np.einsum("jp,jp->j", H, H, dtype=np.float64))
        sizes = np.where(sizes > 0, sizes, 1).astype(H.dtype)
        with np.errstate(over="ignore"):  # checked below
            stats.T[:] *= sizes[:, None]
            stats.S[:] *= sizes[:, None] * sizes
        if not np.isfinite(stats.S).all():
            raise DataError(OVERFLOW)
        normalized: Array = H / sizes[:, None]
        return normalized

    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form ``W^T W`` and ``W^T X``; the divergence is left to `known_loss`."""
        return weighted_gram(strip, W), V.T @ strip.X, 0.0

    def warm_up_batch_size(self, n_components: int) -> int:
        """Choose the number of images of a batch in the warm-up: more than in a stream."""
        return max(WARM_UP_BATCH_SIZE, n_components)

    def running_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the computation: sums that forget need no more precision."""
        return dtype

    def update_H(self, H: Array, stats: SufficientStats, sweeps: int = H_SWEEPS) -> Array:
        """Lower the objective over H by the kernel for W, with pixels in the place of images."""
        improved = np.array(H, order="C")
        S = _add_ridge(stats.S, stats.total_weight * self.l2_H)
        A = np.ascontiguousarray(stats.T)
        if self.l1_H:
            A = A - A.dtype.type(stats.total_weight * self.l1_H)
        solve_nnls(A, S, 0.5 * stats.xx, improved, H_TOLERANCE, sweeps, 1.0)
        return improved

    def _known_divergence(self, stats: SufficientStats, H: Array) -> float:
        return quadratic_loss(stats, H) if self.exact else stats.divergence


def quadratic_loss(stats: SufficientStats, H: Array) -> float:
    """Compute ``1/2 ||X - W H||^2`` from the sums of a pass.

    It is ``1/2 ||X||^2 - <T, H> + 1/2 <S, H H^T>``. Where rounding makes it negative, for an exact
    fit, it is 0.
    """
    loss = 0.5 * stats.xx.sum() - np.vdot(stats.T, H) + 0.5 * np.vdot(stats.S, gram(H))
    return max(float(loss), 0.0)


def weighted_gram(strip: Strip, W: Array) -> Array:
    """Form ``W^T W`` with the weights of the images."""
    V = W if strip.weights is None else weight_rows(W, np.sqrt(strip.weights))
    return gram(np.ascontiguousarray(V.T))


def _add_ridge(G: Array, l2: float) -> Array:
    if not l2:
        return G
    ridged: Array = G + G.dtype.type(l2) * np.eye(len(G), dtype=G.dtype)
    return ridged
