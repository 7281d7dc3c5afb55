"""Squared error where some pixels are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numba
import numpy as np

from dnmf._typing import Array
from dnmf.numerics.block import Strip, equal_mask_slices
from dnmf.numerics.nnls import MIN_OBSERVED_SHARE, solve_nnls_masked
from dnmf.numerics.objective import W_TOLERANCE, Quadratic, weighted_gram, weighted_sum
from dnmf.numerics.statistics import Basis, gram

MIN_IMAGES_PER_MASK = 8
"""Images in a row that share their mask, on average, from which they are solved together."""


@dataclass(frozen=True)
class MaskedQuadratic(Quadratic):
    """Squared error over observed pixels: exact weights, HALS on X with the rest filled in."""

    exact: ClassVar[bool] = False

    def solve_W(self, strip: Strip, basis: Basis) -> Array:
        """Solve each image with the Gram matrix of its own observed pixels."""
        if strip.observed is None:
            return super().solve_W(strip, basis)
        together = equal_mask_slices(strip.observed)
        if len(strip.X) >= MIN_IMAGES_PER_MASK * len(together):
            return self._solve_together(strip, basis, together)
        A = (strip.X @ basis.H.T).astype(np.float64) - self.l1_W
        H, W = basis.H.astype(np.float64), np.zeros_like(A)
        energy = 0.5 * strip.norms
        solve_nnls_masked(A, H, strip.observed, energy, self.l2_W, W, W_TOLERANCE, self.max_sweeps)
        return W.astype(basis.H.dtype)

    def _solve_together(self, strip: Strip, basis: Basis, together: list[slice]) -> Array:
        """Solve images that share their mask as if there were no other pixels."""
        A = self.linear_terms(strip, basis)
        W = np.empty((len(strip.X), len(basis.H)), basis.H.dtype)
        assert strip.observed is not None
        for rows in together:
            G = gram(np.ascontiguousarray(basis.H[:, strip.observed[rows.start]]))
            unseen = G.diagonal() <= MIN_OBSERVED_SHARE * basis.G.diagonal()
            G[unseen], G[:, unseen] = 0, 0
            some = np.ascontiguousarray(A[:, rows])
            W[rows] = self.solve(some, G, strip.norms[rows], basis.ridge_inverse).T
            W[rows, unseen] = 0
        return W

    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form ``W^T W`` and ``W^T X`` with W H where X is missing."""
        Y = np.ascontiguousarray(W @ basis.H)
        seen = np.ones(Y.shape, bool) if strip.observed is None else strip.observed
        lost = fill_in(strip.X, seen, Y)
        return weighted_gram(strip, W), V.T @ Y, weighted_sum(lost, strip.weights)


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"}, cache=True)
def fill_in(X, observed, Y):  # type: ignore[no-untyped-def]
    """Put what is observed of X into Y, and compute how far Y was from it.

    Parameters
    ----------
    X, Y : ndarray of shape (b, p)
    observed : ndarray of shape (b, p), bool

    Returns
    -------
    ndarray of shape (b,), float64
        ``1/2 ||x - y||^2`` of each image over its observed pixels.
    """
    lost = np.zeros(X.shape[0])
    for i in range(X.shape[0]):
        total = 0.0
        for j in range(X.shape[1]):
            filled = X[i, j] if observed[i, j] else Y[i, j]
            total += np.float64(filled - Y[i, j]) ** 2
            Y[i, j] = filled
        lost[i] = 0.5 * total
    return lost
