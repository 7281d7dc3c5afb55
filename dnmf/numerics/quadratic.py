"""The objective for squared error over all pixels: coordinate descent on W and on H.

The squared error of images that the components reproduce well is a small difference of large
numbers, and so is its gradient. Where float32 cannot resolve them, they are computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.numerics.active_set import finish_nnls
from dnmf.numerics.block import Strip
from dnmf.numerics.nnls import solve_nnls
from dnmf.numerics.objective import H_SWEEPS, OVERFLOW, RESOLVED, Objective, weight_rows
from dnmf.numerics.statistics import Basis, SufficientStats, gram

H_TOLERANCE = 1e-6
"""Relative decrease of the loss to be expected of further sweeps below which a pixel of H has
converged."""

W_RELAXATION = 1.1
"""Relaxation factor of the steps on W, which saves one sweep in four."""

CONVERTED = 1024
"""Number of columns of two matrices that are converted to float64 at a time for their product."""

WARM_UP_BATCH_SIZE = 192
"""Images of a batch in the warm start of a fit: the fewest for which matrix products are fast."""


@dataclass(frozen=True)
class Quadratic(Objective):
    """Squared error over all pixels.

    The kernel of both updates is coordinate descent; on all images at once it is HALS (Cichocki and
    Phan, 2009).
    """

    exact: ClassVar[bool] = True

    def solve_W(self, strip: Strip, basis: Basis) -> Array:
        """Solve the non-negative least-squares problems of a strip."""
        A = self.linear_terms(strip, basis)
        return self.solve(A, basis.G, strip.norms, basis.ridge_inverse, strip.X, basis.H).T

    def linear_terms(self, strip: Strip, basis: Basis) -> Array:
        """Form the linear terms of a strip's problems, an ndarray of shape (d, b)."""
        A: Array = basis.H @ strip.X.T
        if self.l1_W:
            A -= basis.H.dtype.type(self.l1_W)
        return A

    def solve(
        self, A: Array, G: Array, norms: Array, ridge_inverse: Array | None, X: Array, H: Array
    ) -> Array:
        """Solve problems that share a Gram matrix.

        Images that take many sweeps, and those whose error float32 cannot resolve, are then solved
        exactly in float64.

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
        X : ndarray of shape (b, p)
            Images, 0 where not observed.
        H : ndarray of shape (d, p)
            Components.

        Returns
        -------
        ndarray of shape (d, b)
            Transposed weights.
        """
        W: Array = np.zeros_like(A) if ridge_inverse is None else ridge_inverse @ A
        np.maximum(W, 0, out=W)
        losses, unfinished = self.descend(A, G, norms, W)
        hard = unfinished | (losses < 0.5 * RESOLVED * norms)
        if self.exact_W and hard.any():
            W[:, hard] = self._solve_exactly(W[:, hard], norms[hard], X[hard], H)
        return W

    def descend(self, A: Array, G: Array, norms: Array, W: Array) -> tuple[Array, Array]:
        """Solve problems from the weights in W, in place.

        Returns
        -------
        losses : ndarray of shape (b,), float64
        unfinished : ndarray of shape (b,), bool
            Whether an image has not converged in `max_sweeps`.
        """
        losses, unfinished = np.empty(len(norms)), np.empty(len(norms), bool)
        G = _add_ridge(G, self.l2_W)
        # A NumPy number, or another order of the arrays, would be compiled for anew.
        ends = max(self.W_tolerance, float(np.finfo(W.dtype).eps)), self.max_sweeps
        solve_nnls(A, G, 0.5 * norms, W, losses, unfinished, *ends, W_RELAXATION)
        return losses, unfinished

    def _solve_exactly(self, W: Array, norms: Array, X: Array, H: Array) -> Array:
        """Solve problems in float64 from weights near their solution."""
        exact = W.astype(np.float64, order="C")
        A, G = product_in_float64(H, X) - self.l1_W, product_in_float64(H, H)
        finish_nnls(A, _add_ridge(G, self.l2_W), 0.5 * norms, exact)
        return exact

    def normalize_components(self, H: Array, stats: SufficientStats) -> Array:
        """Scale the components to length 1, and the sums in place, where there are no penalties.

        Running sums mix the weights for many H, whose scales would drift otherwise.

        Raises
        ------
        DataError
            The scaled sums overflow their dtype.
        """
        if self.has_penalties:
            return H  # they determine the scales
        sizes = np.sqrt(np.einsum("jp,jp->j", H, H, dtype=np.float64))
        sizes = np.where(sizes > 0, sizes, 1).astype(H.dtype)
        with np.errstate(all="ignore"):  # checked below
            stats.T[:] *= sizes[:, None]
            stats.S[:] *= sizes[:, None]
            stats.S[:] *= sizes  # not times their product, which may overflow
        if not np.isfinite(stats.S).all():
            raise DataError(OVERFLOW)
        normalized: Array = H / sizes[:, None]
        return normalized

    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form ``W^T W`` and ``W^T X``, and the least divergence for any H that they resolve."""
        S, T = weighted_gram(strip, W), V.T @ strip.X
        if W.dtype == np.float64:
            return S, T, 0.0
        error = float(strip.pixel_norms.sum() - 2 * np.vdot(T, basis.H) + np.vdot(S, basis.G))
        if self.resolves(strip, W, error):
            return S, T, 0.5 * RESOLVED * float(strip.pixel_norms.sum())
        del S, T  # before others of twice the size are made
        return *sums_in_float64(W, strip.weights, strip.X), 0.0

    def resolves(self, strip: Strip, W: Array, error: float) -> bool:
        """Check whether sums of the dtype of W resolve the squared error of a strip."""
        if W.dtype == np.float64:
            return True
        return not self.in_float64 and error >= RESOLVED * float(strip.pixel_norms.sum())

    def warm_up_batch_size(self, n_components: int) -> int:
        """Choose the number of images of a batch in the warm start: more than in a stream."""
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
        losses, unfinished = np.empty(A.shape[1]), np.empty(A.shape[1], bool)
        energy, ends = 0.5 * stats.xx, (H_TOLERANCE, sweeps)
        solve_nnls(A, S, energy, improved, losses, unfinished, *ends, 1.0)
        return improved

    def _known_divergence(self, stats: SufficientStats, H: Array) -> float:
        # A loss that the sums do not resolve counts as the least that they do: the next pass, whose
        # sums will be formed in float64, must not look worse than it.
        return max(quadratic_loss(stats, H), stats.divergence) if self.exact else stats.divergence


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


def sums_in_float64(W: Array, weights: Array | None, X: Array) -> tuple[Array, Array]:
    """Form ``W^T W`` and ``W^T X`` in float64, with the weights of the images."""
    W = W.astype(np.float64)
    V = W if weights is None else weights[:, None] * W
    return W.T @ V, product_in_float64(V.T, X.T)


def product_in_float64(A: Array, B: Array) -> Array:
    """Compute ``A B^T`` in float64, converting `CONVERTED` columns of both at a time.

    Parameters
    ----------
    A : ndarray of shape (a, n)
    B : ndarray of shape (b, n)

    Returns
    -------
    ndarray of shape (a, b), float64
    """
    product: Array | None = None
    for first in range(0, max(A.shape[1], 1), CONVERTED):
        part = np.s_[:, first : first + CONVERTED]
        addend = A[part].astype(np.float64) @ B[part].astype(np.float64).T
        product = addend if product is None else np.add(product, addend, out=product)
    assert product is not None  # of a matrix without columns, too
    return product


def _add_ridge(G: Array, l2: float) -> Array:
    if not l2:
        return G
    ridged: Array = G + G.dtype.type(l2) * np.eye(len(G), dtype=G.dtype)
    return ridged


def weighted_sum(images: Array, weights: Array | None) -> float:
    """Sum values of images, weighted if the images have weights."""
    return float(images.sum() if weights is None else weights @ images)
