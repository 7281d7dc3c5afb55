"""The objective for squared error where some pixels are missing.

Each image has the Gram matrix of its own observed pixels. Runs of images with equal masks, such as
those of a camera with dead pixels, are solved together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.block import Strip, equal_mask_slices
from dnmf.numerics.compiled import compiled
from dnmf.numerics.nnls import MIN_OBSERVED_ENERGY, solve_nnls_masked
from dnmf.numerics.quadratic import (
    Quadratic,
    product_in_float64,
    sums_in_float64,
    weighted_gram,
    weighted_sum,
)
from dnmf.numerics.statistics import Basis, gram

MIN_IMAGES_PER_MASK = 8
"""Mean number of images per run of equal masks from which the images of a run are solved
together."""


@dataclass(frozen=True)
class MaskedQuadratic(Quadratic):
    """Squared error over observed pixels.

    The weights are exact. The H update is HALS on X with the missing pixels filled in from W H,
    which bounds the loss from above (Kim and Choi, ICASSP 2009).
    """

    exact: ClassVar[bool] = False

    def solve_W(self, strip: Strip, basis: Basis) -> Array:
        """Solve for the weights with the Gram matrix of each image's observed pixels."""
        if strip.observed is None:
            return super().solve_W(strip, basis)
        runs = equal_mask_slices(strip.observed)
        if len(strip.X) >= MIN_IMAGES_PER_MASK * len(runs):
            return self._solve_runs(strip, strip.observed, basis, runs)
        A = product_in_float64(strip.X, basis.H) - self.l1_W
        H, W = basis.H.astype(np.float64), np.zeros_like(A)
        energy = 0.5 * strip.norms
        tolerance, sweeps = self.W_tolerance, self.max_sweeps
        solve_nnls_masked(A, H, strip.observed, energy, self.l2_W, W, tolerance, sweeps)
        return W.astype(basis.H.dtype)

    def _solve_runs(self, strip: Strip, observed: Array, basis: Basis, runs: list[slice]) -> Array:
        """Solve runs of images with equal masks as if there were no other pixels."""
        A = self.linear_terms(strip, basis)
        W = np.empty((len(strip.X), len(basis.H)), basis.H.dtype)
        for rows in runs:
            H = np.ascontiguousarray(basis.H[:, observed[rows.start]])
            G = gram(H)
            unseen = G.diagonal() <= MIN_OBSERVED_ENERGY * basis.G.diagonal()
            H[unseen], G[unseen], G[:, unseen] = 0, 0, 0
            A_run = np.ascontiguousarray(A[:, rows])
            X = strip.X[rows][:, observed[rows.start]]
            W[rows] = self.solve(A_run, G, strip.norms[rows], basis.ridge_inverse, X, H).T
            W[rows, unseen] = 0
        return W

    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form ``W^T W``, ``W^T X`` with W H where X is missing, and the divergence."""
        Y = np.ascontiguousarray(W @ basis.H)
        divergence = weighted_sum(fill_in(strip.X, strip.observed_mask, Y), strip.weights)
        if self.resolves(strip, W, 2 * divergence):
            return weighted_gram(strip, W), V.T @ Y, divergence
        return *sums_in_float64(W, strip.weights, Y), divergence


@compiled(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def fill_in(X, observed, Y):  # type: ignore[no-untyped-def]
    """Overwrite the observed pixels of Y with those of X, and compute the loss of Y before that.

    Parameters
    ----------
    X, Y : ndarray of shape (b, p)
    observed : ndarray of shape (b, p), bool

    Returns
    -------
    losses : ndarray of shape (b,), float64
        ``1/2 ||x - y||^2`` of each image over its observed pixels.
    """
    losses = np.zeros(X.shape[0])
    for i in range(X.shape[0]):
        total = 0.0
        for j in range(X.shape[1]):
            filled = X[i, j] if observed[i, j] else Y[i, j]
            total += np.float64(filled - Y[i, j]) ** 2
            Y[i, j] = filled
        losses[i] = 0.5 * total
    return losses
