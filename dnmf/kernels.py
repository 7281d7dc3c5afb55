"""The maths of one block: NumPy and numba only, no Dask, no Zarr.

Names, here and everywhere: X is n images x p pixels, W is n x d, H is d x p, and X ~ W H with all
entries non-negative. For a fixed H every image has its own small least-squares problem

    w_i = argmin_{w >= 0} 1/2 ||x_i - w H||^2,

which needs only a_i = H x_i and G = H H^T. So W is a function of (X, H), and all that a pass over
X has to bring home is S = W^T W, T = W^T X and ||X||^2: sums over blocks (`Stats`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from dnmf.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

OVERFLOW = "the pixels overflow float32; divide X by a constant or convert it to float64"

STRIP_ROWS = 1024
"""Images that become floating point at a time: a strip stays in cache, a block would not."""

ROUNDING = 1e-7
"""Share of ``||x||^2`` below which a loss cannot be told from rounding in float32."""

W_TOLERANCE, W_SWEEPS = 1e-4, 50
H_TOLERANCE, H_SWEEPS = 1e-6, 10
"""A row ends with the sweep that gains less than this share of its loss, or after so many."""


@numba.njit(nogil=True, fastmath=True, cache=True)
def solve_nnls(A, G, energy, W, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Minimise ``energy + 1/2 w G w^T - a w^T`` over w >= 0 for every row, in place in W.

    Cyclic coordinate descent with the gradient kept up to date (Hsieh and Dhillon, KDD 2011,
    section 3; on all rows at once it is the HALS of Cichocki and Phan, 2009, eq. 17). A coordinate
    that does not move costs one comparison: most weights of image data are zero and stay so.

    Parameters
    ----------
    A : ndarray of shape (n, d)
        Linear terms, ``X H^T``.
    G : ndarray of shape (d, d)
        Gram matrix, ``H H^T``.
    energy : ndarray of shape (n,), float64
        ``1/2 ||x||^2``: with it the objective is the loss, and the tolerance relative to it.
    W : ndarray of shape (n, d)
        Start on entry, solution on exit. Same dtype as A and G.
    tolerance : float
        A row ends with the first sweep that gains less than this share of its loss.
    max_sweeps : int
    """
    n, d = A.shape
    gradient = np.empty(d, A.dtype)
    for i in range(n):
        w = W[i]
        for j in range(d):
            gradient[j] = A[i, j]
        for j in range(d):
            if w[j] != 0:
                for m in range(d):
                    gradient[m] -= w[j] * G[j, m]
        loss = energy[i]
        for j in range(d):
            loss -= 0.5 * w[j] * (A[i, j] + gradient[j])
        for _ in range(max_sweeps):
            gain = 0.0
            for j in range(d):
                if G[j, j] <= 0:
                    continue
                step = max(w[j] + gradient[j] / G[j, j], 0) - w[j]
                if step != 0:
                    gain += step * (gradient[j] - 0.5 * step * G[j, j])
                    w[j] += step
                    for m in range(d):
                        gradient[m] -= step * G[j, m]
            loss -= gain
            # Below rounding the loss may come out negative; gains there are noise.
            if gain <= tolerance * max(loss, ROUNDING * energy[i]):
                break


@numba.njit(nogil=True, cache=True)
def squared_norms(X):  # type: ignore[no-untyped-def]
    """Compute ``||x||^2`` of every image and every pixel, in float64.

    The loss is a small difference of large sums: in float32, a thousand squares of one bright
    value after another are off by 1e-5 of their sum, always to the same side.

    Parameters
    ----------
    X : ndarray of shape (b, p)

    Returns
    -------
    images : ndarray of shape (b,), float64
    pixels : ndarray of shape (p,), float64
    """
    images, pixels = np.zeros(X.shape[0]), np.zeros(X.shape[1])
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            square = np.float64(X[i, j]) ** 2
            images[i] += square
            pixels[j] += square
    return images, pixels


class _Travels:
    """Arrays that come out of a message as they went in: contiguous, aligned and writable.

    NumPy multiplies an array that is not aligned by other means, and numba compiles another version
    of a function for a read-only one: both round differently, and the bits of a fit would depend on
    where its blocks were computed.
    """

    def __post_init__(self) -> None:
        for name, array in vars(self).items():
            plain = np.require(array, requirements=["C", "A", "W"])
            object.__setattr__(self, name, plain)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(vars(self).values())


@dataclass(frozen=True)
class Basis(_Travels):
    """H and its Gram matrix: all that a block needs to know of a pass.

    Attributes
    ----------
    H : ndarray of shape (d, p), float32 or float64
    G : ndarray of shape (d, d), ``H H^T``
    """

    H: Array
    G: Array

    @classmethod
    def of(cls, H: Array, dtype: np.dtype[Any]) -> Basis:
        """Cast H to the dtype of the computation and form its Gram matrix."""
        H = np.ascontiguousarray(H, dtype=dtype)
        return cls(H, gram(H))


class Invalid(NamedTuple):
    """An entry of X that is negative, NaN or infinite; the smallest comes first in X."""

    row: int
    pixel: int
    value: float


@dataclass(frozen=True)
class Stats(_Travels):
    """What a pass brings home from some rows; additive over rows.

    Attributes
    ----------
    S : ndarray of shape (d, d), float64
        ``W^T W``.
    T : ndarray of shape (d, p), float64
        ``W^T X``.
    xx : ndarray of shape (p,), float64
        Squared norm of each pixel over the images.
    """

    S: Array
    T: Array
    xx: Array

    def __add__(self, other: Stats) -> Stats:
        return Stats(self.S + other.S, self.T + other.T, self.xx + other.xx)

    def scaled(self, factor: float) -> Stats:
        """Weigh all the images behind the sums by a factor."""
        return Stats(factor * self.S, factor * self.T, factor * self.xx)


def gram(A: Array) -> Array:
    """Compute ``A A^T`` the same way every time.

    NumPy calls SYRK when both operands share a buffer and GEMM when they do not, with different
    bits. The copy settles it.
    """
    product: Array = np.matmul(A, A.copy().T)
    return product


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to compute in: float64 stays, everything else becomes float32."""
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize >= 8 else np.float32)


def find_invalid(X: Array, first_row: int) -> Invalid | None:
    """Find the first negative, NaN or infinite entry in reading order.

    Parameters
    ----------
    X : ndarray of shape (b, p)
    first_row : int
        Corpus row of ``X[0]``.
    """
    if X.dtype.kind in "bu" or X.size == 0:
        return None
    if X.min() >= 0 and X.max() < np.inf:  # False for NaN as well
        return None
    row, pixel = np.argwhere(~((X >= 0) & (np.inf > X)))[0]
    return Invalid(first_row + int(row), int(pixel), float(X[row, pixel]))


def project(X: Array, basis: Basis, xx: Array) -> Array:
    """Solve for the weights of a strip of images.

    Parameters
    ----------
    X : ndarray of shape (b, p)
        In the dtype of the basis.
    basis : Basis
    xx : ndarray of shape (b,), float64
        ``||x||^2`` of the images.

    Returns
    -------
    W : ndarray of shape (b, d)
    """
    A = X @ basis.H.T
    W = np.zeros_like(A)
    solve_nnls(A, basis.G, 0.5 * xx, W, W_TOLERANCE, W_SWEEPS)
    return W


def project_block(X: Array, basis: Basis) -> Array:
    """Solve for the weights of a block of any real dtype, strip by strip.

    Parameters
    ----------
    X : ndarray of shape (b, p)
    basis : Basis

    Returns
    -------
    W : ndarray of shape (b, d)

    Raises
    ------
    DataError
        The weights are beyond the range of the dtype.
    """
    W = np.empty((len(X), len(basis.H)), basis.H.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        for rows in strips(len(X)):
            strip = X[rows].astype(basis.H.dtype)
            W[rows] = project(strip, basis, squared_norms(strip)[0])
    if not np.isfinite(W).all():
        raise DataError(OVERFLOW)
    return W


def block_stats(X: Array, basis: Basis) -> tuple[Stats, Array]:
    """Solve for the weights of a block and form its share of the pass's sums.

    Parameters
    ----------
    X : ndarray of shape (b, p)
        Any real dtype; it becomes floating point a strip at a time.
    basis : Basis

    Returns
    -------
    stats : Stats
    W : ndarray of shape (b, d)
    """
    d, p = basis.H.shape
    S, T, xx = np.zeros((d, d)), np.zeros((d, p)), np.zeros(p)
    W = np.empty((len(X), d), basis.H.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # the loss is checked after the pass
        for rows in strips(len(X)):
            strip = X[rows].astype(basis.H.dtype)
            images, pixels = squared_norms(strip)
            W[rows] = project(strip, basis, images)
            # Sums over strips are float64: a corpus has 10^3 to 10^6 of them.
            S += gram(np.ascontiguousarray(W[rows].T))
            T += W[rows].T @ strip
            xx += pixels
    return Stats(S, T, xx), W


def strips(n: int) -> list[slice]:
    """Cut n rows into slices of at most `STRIP_ROWS`."""
    return [slice(r, min(r + STRIP_ROWS, n)) for r in range(0, n, STRIP_ROWS)]


def update_H(H: Array, stats: Stats, sweeps: int = H_SWEEPS) -> Array:
    """Minimise the loss over H for fixed weights: the kernel of W, on pixels instead of images.

    Parameters
    ----------
    H : ndarray of shape (d, p), float64
        Start.
    stats : Stats
    sweeps : int

    Returns
    -------
    H : ndarray of shape (d, p), float64
    """
    columns = np.array(H.T, order="C")
    A = np.ascontiguousarray(stats.T.T)
    solve_nnls(A, stats.S, 0.5 * stats.xx, columns, H_TOLERANCE, sweeps)
    return np.ascontiguousarray(columns.T)


def frobenius_loss(stats: Stats, H: Array) -> float:
    """Compute ``1/2 ||X - W H||^2`` from the sums of a pass, exactly and without X.

    ``1/2 ||X||^2 - <T, H> + 1/2 <S, H H^T>``; rounding can take a perfect fit below zero, which
    becomes zero.
    """
    loss = 0.5 * stats.xx.sum() - np.vdot(stats.T, H) + 0.5 * np.vdot(stats.S, gram(H))
    return max(float(loss), 0.0)
