"""What a pass sends out and brings home: H with what follows from it, and sums over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from dnmf._typing import Array
from dnmf.numerics.block import compute_dtype

RIDGE = 0.01
"""Of the guess that weights start from, where components have length 1."""

NO_HELD_OUT: Array = np.zeros((0, 2))


class _CanonicalArrays:
    """Arrays that come out of a message as they went in: contiguous, aligned and writable.

    NumPy multiplies an array that is not aligned by other means, and numba compiles another version
    of a function for a read-only one: both round differently, and the bits of a fit would depend on
    where its blocks were computed.
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
    """H and its Gram matrix: all that a block needs to know of a pass.

    Attributes
    ----------
    H : ndarray of shape (d, p), float32 or float64
    G : ndarray of shape (d, d), ``H H^T``
    ridge_inverse : ndarray of shape (d, d), or None
        Makes starts of weights from ``H x``; None to start from zero.
    """

    H: Array
    G: Array
    ridge_inverse: Array | None = None

    @classmethod
    def from_H(cls, H: Array, dtype: np.dtype[Any], ridge_inverse: Array | None = None) -> Basis:
        """Cast H to the dtype of the computation and form its Gram matrix."""
        H = np.ascontiguousarray(H, dtype=dtype)
        return cls(H, gram(H), ridge_inverse)

    @classmethod
    def for_pixels(cls, H: Array, pixels: np.dtype[Any]) -> Basis:
        """Choose the dtype of the computation by that of the pixels, and where weights start."""
        basis = cls.from_H(H, compute_dtype(pixels))
        return replace(basis, ridge_inverse=compute_ridge_inverse(basis.G))


def compute_ridge_inverse(G: Array) -> Array:
    """Make the matrix that turns ``H x`` into a start for the weights of x.

    Ridge regression knows nothing of signs, but its positive part has most of the right weights:
    coordinate descent from there needs half as many sweeps as from zero.

    Parameters
    ----------
    G : ndarray of shape (d, d)
        ``H H^T``, of these components or of some much like them.
    """
    squares = G.diagonal()
    # Next to nothing, a component has no direction, and its guess no bounds: weights start at zero.
    some = squares > 1e3 * np.finfo(G.dtype).tiny
    rates = np.divide(1, np.sqrt(squares), out=np.zeros_like(squares), where=some)
    ridged = G * rates[:, None] * rates + G.dtype.type(RIDGE) * np.eye(len(G), dtype=G.dtype)
    factor = np.linalg.cholesky(ridged)
    half: Array = solve_triangular(factor, np.diag(rates), lower=True, check_finite=False)
    return half.T @ half


@dataclass(frozen=True)
class SufficientStats(_CanonicalArrays):
    """What a pass brings home from some rows; additive over rows. All float64.

    Attributes
    ----------
    S : ndarray of shape (d, d), or (d, p) for `BetaDivergence`
        ``W^T W``; or ``W^T Y^(beta - 1)`` with Y = W H.
    T : ndarray of shape (d, p)
        ``W^T X``, missing pixels filled in; or ``H^(1/gamma) W^T (X Y^(beta - 2))``, entry by
        entry, with gamma the exponent of the step: sums over different H then make sense.
    xx : ndarray of shape (p,)
        Sum of x^2 of each pixel over the images.
    total_weight : float
        Sum of the images' weights.
    divergence : float
        ``sum_i s_i D(x_i | w_i H)`` for the H of the pass; 0 for `Quadratic`, which knows better.
    penalty : float
        ``l1_W |W|_1 + l2_W/2 ||W||^2``, the images weighted.
    written : tuple of (int, int)
        First row and checksum of each block of weights that was put into a sink.
    held_out : ndarray of shape (buckets, 2), or of shape (0, 2)
        Divergence and number of cells that were hidden; see `dnmf.numerics.holdout`.
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
        return SufficientStats(*(mine + theirs for mine, theirs in pairs))

    def __iadd__(self, other: SufficientStats) -> SufficientStats:
        return self.scale_and_add(1, (other,))

    def scaled(self, factor: float) -> SufficientStats:
        """Weigh all the images behind the sums by a factor."""
        *sums, written, held_out = vars(self).values()
        scaled = SufficientStats(*(factor * value for value in sums))
        return replace(scaled, written=written, held_out=factor * held_out)

    def scale_and_add(
        self, keep: float, parts: Sequence[SufficientStats], names: Sequence[str] = ("S", "T", "xx")
    ) -> SufficientStats:
        """Scale these sums and add others, in the arrays of these: faster than new ones.

        Parameters
        ----------
        keep : float
        parts : sequence of SufficientStats
        names : sequence of str
            Arrays to bring up to date; the others wait for another call.
        """
        for name in names:
            mine = getattr(self, name)
            mine *= keep
            for part in parts:
                mine += getattr(part, name)
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
    """Sums of several models that a pass evaluates, in their order; additive over rows."""

    each: tuple[SufficientStats, ...]

    def __add__(self, other: StatsPerModel) -> StatsPerModel:
        return StatsPerModel(
            tuple(mine + theirs for mine, theirs in zip(self.each, other.each, strict=True))
        )

    def __iadd__(self, other: StatsPerModel) -> StatsPerModel:
        return StatsPerModel(
            tuple(
                mine.scale_and_add(1, (more,))
                for mine, more in zip(self.each, other.each, strict=True)
            )
        )


def gram(A: Array) -> Array:
    """Compute ``A A^T`` the same way every time.

    NumPy calls SYRK, which does half the work, when both operands share a contiguous buffer, and
    GEMM when they do not, with different bits. Here they always do.
    """
    A = np.ascontiguousarray(A)
    product: Array = np.matmul(A, A.T)
    return product
