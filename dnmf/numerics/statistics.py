"""What the tasks of a pass receive and return: H with its Gram matrix, and sums over images.

`Basis` is sent to all tasks of a pass. `SufficientStats` are the sums that a task returns for its
images; they are additive, and the H update needs nothing else of X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from dnmf._typing import Array
from dnmf.numerics.block import compute_dtype

RIDGE = 0.01
"""Ridge parameter of `Basis.ridge_inverse`, for components of length 1."""

NO_HELD_OUT: Array = np.zeros((0, 2))
"""Value of `SufficientStats.held_out` where no cells were hidden."""


class _CanonicalArrays:
    """Base of dataclasses whose arrays are contiguous, aligned and writable after unpickling.

    Arrays from a message may be neither aligned nor writable. NumPy multiplies unaligned arrays by
    other code, and numba compiles another version of a function for read-only ones. Both round
    differently, so the bits of a fit would depend on where its blocks were computed.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), *vars(self).values())


def _rebuild(kind: type[Any], *values: Any) -> Any:
    return kind(
        *(
            np.require(value, requirements=["C", "A", "W"])
            if isinstance(value, np.ndarray)
            else value
            for value in values
        )
    )


@dataclass(frozen=True)
class Basis(_CanonicalArrays):
    """H and its Gram matrix, from which the weights of a block are solved.

    Attributes
    ----------
    H : ndarray of shape (d, p), float32 or float64
        Components in the dtype of the computation.
    G : ndarray of shape (d, d)
        Gram matrix, ``H H^T``.
    ridge_inverse : ndarray of shape (d, d), or None
        Inverse of G with a ridge: weights start from the positive part of its product with ``H x``.
        None to start from zero.
    """

    H: Array
    G: Array
    ridge_inverse: Array | None = None

    @classmethod
    def from_H(cls, H: Array, dtype: np.dtype[Any], ridge_inverse: Array | None = None) -> Basis:
        """Convert H to the dtype of the computation and form its Gram matrix."""
        H = np.ascontiguousarray(H, dtype=dtype)
        return cls(H, gram(H), ridge_inverse)

    @classmethod
    def for_pixels(cls, H: Array, dtype: np.dtype[Any]) -> Basis:
        """Prepare H for pixels of a dtype, with weights that start from ridge regression."""
        basis = cls.from_H(H, compute_dtype(dtype))
        return replace(basis, ridge_inverse=compute_ridge_inverse(basis.G))


def compute_ridge_inverse(G: Array) -> Array:
    """Compute the inverse of a Gram matrix with a ridge, for the initial weights of images.

    The solution of ridge regression may be negative, but its positive part has most of the right
    weights: coordinate descent from there needs half as many sweeps as from zero.

    Parameters
    ----------
    G : ndarray of shape (d, d)
        ``H H^T`` of the components or of similar ones.

    Returns
    -------
    ndarray of shape (d, d)
        Rows and columns of components that are nearly zero are zero.
    """
    squares = G.diagonal()
    # A component that is nearly zero would get weights without bounds: they start from zero.
    nonzero = squares > 1e3 * np.finfo(G.dtype).tiny
    rates = np.divide(1, np.sqrt(squares), out=np.zeros_like(squares), where=nonzero)
    ridged = G * rates[:, None] * rates + G.dtype.type(RIDGE) * np.eye(len(G), dtype=G.dtype)
    factor = np.linalg.cholesky(ridged)
    half: Array = solve_triangular(factor, np.diag(rates), lower=True, check_finite=False)
    return half.T @ half


@dataclass(frozen=True)
class SufficientStats(_CanonicalArrays):
    """Sums over the images of some blocks, for one model; additive over blocks.

    Arrays are float64 in a pass; online updates may use float32. Images count with their weights.

    Attributes
    ----------
    S : ndarray of shape (d, d), or (d, p) for `BetaDivergence`
        ``W^T W``; or ``W^T Y^(beta - 1)`` with Y = W H.
    T : ndarray of shape (d, p)
        ``W^T X`` with missing pixels filled in; or the elementwise product of ``H^(1/gamma)`` and
        ``W^T (X Y^(beta - 2))``, with gamma the exponent of the step, which makes sums over
        different H meaningful.
    xx : ndarray of shape (p,)
        Sum of x^2 over the images for each pixel.
    total_weight : float
        Sum of the weights of the images.
    divergence : float
        ``sum_i s_i D(x_i | w_i H)`` for the H of the pass; for `Quadratic`, whose divergence for
        any H follows from the other sums, the least that they resolve.
    penalty : float
        ``l1_W |W|_1 + l2_W/2 ||W||^2``.
    written : tuple of (int, int)
        First row and checksum of each block of weights that was passed to a sink.
    held_out : ndarray of shape (buckets, 2), or of shape (0, 2)
        Divergence and number of hidden cells; see `dnmf.numerics.holdout`.
    """

    S: Array
    T: Array
    xx: Array
    total_weight: float = 0.0
    divergence: float = 0.0
    penalty: float = 0.0
    written: tuple[tuple[int, int], ...] = ()
    held_out: Array = field(default_factory=lambda: NO_HELD_OUT)

    def __add__(self, other: SufficientStats) -> SufficientStats:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return SufficientStats(*(a + b for a, b in pairs))

    def __iadd__(self, other: SufficientStats) -> SufficientStats:
        return self.scale_and_add(1, (other,))

    def scaled(self, factor: float) -> SufficientStats:
        """Return the sums for images whose weights are multiplied by a factor."""
        *sums, written, held_out = vars(self).values()
        scaled = SufficientStats(*(factor * value for value in sums))
        return replace(scaled, written=written, held_out=factor * held_out)

    def scale_and_add(
        self, keep: float, parts: Sequence[SufficientStats], names: Sequence[str] = ("S", "T", "xx")
    ) -> SufficientStats:
        """Scale these sums and add others; arrays are updated in place, which is faster.

        Parameters
        ----------
        keep : float
            Factor for these sums.
        parts : sequence of SufficientStats
            Sums to add.
        names : sequence of str
            Arrays to update; the others are left for another call.

        Returns
        -------
        SufficientStats
            The sums, with the arrays of these.
        """
        for name in names:
            array = getattr(self, name)
            array *= keep
            for part in parts:
                array += getattr(part, name)
        total_weight, divergence, penalty = (
            keep * getattr(self, name) + sum(getattr(part, name) for part in parts)
            for name in ("total_weight", "divergence", "penalty")
        )
        written = sum((part.written for part in parts), self.written)
        held_out = sum((part.held_out for part in parts), keep * self.held_out)
        return SufficientStats(
            self.S, self.T, self.xx, total_weight, divergence, penalty, written, held_out
        )


@dataclass(frozen=True)
class StatsPerModel:
    """Sums for each of the models that a pass evaluates; additive over blocks.

    Attributes
    ----------
    each : tuple of SufficientStats
        Sums in the order of the models.
    """

    each: tuple[SufficientStats, ...]

    def __add__(self, other: StatsPerModel) -> StatsPerModel:
        pairs = zip(self.each, other.each, strict=True)
        return StatsPerModel(tuple(a + b for a, b in pairs))

    def __iadd__(self, other: StatsPerModel) -> StatsPerModel:
        pairs = zip(self.each, other.each, strict=True)
        return StatsPerModel(tuple(a.scale_and_add(1, (b,)) for a, b in pairs))


def gram(A: Array) -> Array:
    """Compute ``A A^T`` always by the same BLAS routine, and so with the same bits.

    NumPy calls SYRK, which does half the work, where both operands share a contiguous buffer, as
    they do here, and GEMM elsewhere.
    """
    A = np.ascontiguousarray(A)
    product: Array = np.matmul(A, A.T)
    return product
