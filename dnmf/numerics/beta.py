"""The compiled loops beside least squares: divergences and sums over pixels. NumPy and numba only.

Names, here and everywhere: X is n images x p pixels, W is n x d, H is d x p, and X ~ W H with all
entries non-negative.
"""

from __future__ import annotations

import numba
import numpy as np

FLOOR = 1e-7
"""Share of an image's mean below which its reconstruction counts as that share: divergences other
than Frobenius divide by it. Relative, so that the scale of X does not matter."""


@numba.njit(nogil=True, fastmath=True, error_model="numpy", inline="always")
def kl_step(phi, slope, s, l2, w):  # type: ignore[no-untyped-def]
    """Solve ``s + l2 v = a / (c + v)`` for v >= 0; a and c make the right side phi, -slope at w."""
    if not (slope > 0 and s > 0):
        return 0.0
    c = phi / slope - w
    rest = phi * phi / slope - s * c
    curve = s + l2 * c
    v = 2 * rest / (curve + np.sqrt(max(curve * curve + 4 * l2 * rest, 0.0)))
    return max(v, 0.0)


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def solve_kl(X, H, linear, l2, floors, W, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Minimise ``sum_q y_q - x_q log y_q`` with ``y = w H`` over w >= 0 for every row, in place.

    Cyclic coordinate descent (Hsieh and Dhillon, KDD 2011, section 4). The derivative for one
    coordinate is ``linear - phi(w)`` with ``phi = sum x h / y``, a sum of terms ``a / (c + w)``.
    The step solves ``1 / phi(w) = 1 / linear`` by one Newton step, not ``phi(w) = linear``: that
    is exact for a single term, never passes the minimum from below, and is finite everywhere.
    Pixels with x = 0 enter through `linear` alone, so dark pixels cost nothing.

    Parameters
    ----------
    X : ndarray of shape (n, p)
    H : ndarray of shape (d, p)
    linear : ndarray of shape (n, d)
        Sums of the rows of H over the observed pixels of each image, plus any l1 penalty.
    l2 : float
    floors : ndarray of shape (n,)
        Least value of y in each image.
    W : ndarray of shape (n, d)
        Start on entry, solution on exit.
    tolerance : float
        A row ends with the sweep that moves less than this share of ``sum(w * linear)``.
    max_sweeps : int
    """
    n, p = X.shape
    d = len(H)
    lit = np.empty(p, np.int64)
    x, y, inverse = np.empty(p, H.dtype), np.empty(p, H.dtype), np.empty(p, H.dtype)
    rows = np.empty((d, p), H.dtype)
    number = H.dtype.type
    zero, one = number(0), number(1)
    for i in range(n):
        w = W[i]
        m = 0
        for q in range(p):
            if X[i, q] > 0:
                lit[m], x[m], y[m] = q, X[i, q], zero
                m += 1
        for j in range(d):
            for q in range(m):
                rows[j, q] = H[j, lit[q]]
                y[q] += w[j] * rows[j, q]
        floor = number(floors[i])
        for q in range(m):
            y[q] = max(y[q], floor)
            inverse[q] = one / y[q]
        for _ in range(max_sweeps):
            moved, mass = 0.0, 0.0
            for j in range(d):
                row, s = rows[j], linear[i, j]
                phi, slope = zero, zero
                for q in range(m):
                    ratio = row[q] * inverse[q]
                    phi += x[q] * ratio
                    slope += x[q] * ratio * ratio
                new = kl_step(phi, slope, s, l2, w[j])
                step = number(new) - w[j]
                mass += new * s
                if step != 0:
                    moved += abs(step) * s
                    w[j] += step
                    for q in range(m):
                        y[q] = max(y[q] + step * row[q], floor)
                        inverse[q] = one / y[q]
            if moved <= tolerance * mass:
                break


@numba.njit(nogil=True, cache=True, error_model="numpy")
def beta_step(up, up_slope, down, down_slope, l1, l2, beta, w):  # type: ignore[no-untyped-def]
    """Find where the derivative along one weight, ``down(v) - up(v) + l1 + l2 v``, is zero.

    Both halves are sums of powers of linear functions of v. The one that bends is replaced by a
    single such power with its value and slope at w, the other by its tangent (beta > 1) or, where
    that would not bound the loss, by its value; then five safe Newton steps.
    """
    if beta <= 2:
        if not (up > 0 and up_slope > 0):
            return 0.0
        q, rate = 2 - beta, up_slope / up
        line = (beta - 1) * down_slope if beta > 1 else 0.0
        v = w if down + l1 + l2 * w < up else max(0.0, w - 0.95 / rate)
    else:
        if not (down > 0 and down_slope > 0):
            return 0.0
        q, rate, line, v = 1 - beta, down_slope / down, 0.0, w
    for _ in range(5):
        bend = (1 + (v - w) * rate) ** -q
        if beta <= 2:
            value = down + line * (v - w) + l1 + l2 * v - up * bend
            slope = line + l2 + q * rate * up * bend / (1 + (v - w) * rate)
        else:
            value = down * bend + l1 + l2 * v - up
            slope = -q * rate * down * bend / (1 + (v - w) * rate) + l2
        v = max(v - value / slope, max(0.0, w - 0.95 / rate)) if slope > 0 else v
    return v


@numba.njit(nogil=True, cache=True, error_model="numpy")
def power_of(y, exponent):  # type: ignore[no-untyped-def]
    """Raise to a power, without the cost of a general one where a root or a product will do."""
    if exponent == -0.5:
        return 1 / np.sqrt(y)
    if exponent == -1.5:
        return 1 / (y * np.sqrt(y))
    if exponent == -2:
        return 1 / (y * y)
    return y**exponent


@numba.njit(nogil=True, cache=True, error_model="numpy")
def solve_beta(X, H, observed, beta, l1, l2, floors, W, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Minimise ``D(x | w H)`` with penalties over w >= 0 for every row, in place in W.

    Cyclic coordinate descent by `beta_step`, for any beta; float64, for the powers' range. Without
    fastmath: it rounded otherwise when compiled afresh than when loaded from the cache.

    Parameters
    ----------
    X : ndarray of shape (n, p), float64
    H : ndarray of shape (d, p), float64
    observed : ndarray of shape (n, p), bool
    beta, l1, l2 : float
    floors : ndarray of shape (n,)
        Least value of w H in each image.
    W : ndarray of shape (n, d), float64
        Start on entry, solution on exit.
    tolerance : float
        A row ends with the sweep that moves less than this share of ``sum(w * H)``.
    max_sweeps : int
    """
    n, p = X.shape
    d = len(H)
    seen, x, y, power = np.empty(p, np.int64), np.empty(p), np.empty(p), np.empty(p)
    rows, sizes = np.empty((d, p)), np.empty(d)
    for i in range(n):
        w = W[i]
        m = 0
        for q in range(p):
            if observed[i, q]:
                seen[m], x[m], y[m] = q, X[i, q], 0.0
                m += 1
        for j in range(d):
            sizes[j] = 0
            for q in range(m):
                rows[j, q] = H[j, seen[q]]
                sizes[j] += rows[j, q]
                y[q] += w[j] * rows[j, q]
        floor = floors[i]
        for q in range(m):
            power[q] = power_of(max(y[q], floor), beta - 2)
        for _ in range(max_sweeps):
            moved, mass = 0.0, 0.0
            for j in range(d):
                row = rows[j]
                up, up_slope, down, down_slope = 0.0, 0.0, 0.0, 0.0
                for q in range(m):
                    part = row[q] * power[q]
                    value = max(y[q], floor)
                    up += x[q] * part
                    up_slope += x[q] * part * row[q] / value
                    down += part * value
                    down_slope += part * row[q]
                new = beta_step(up, up_slope, down, down_slope, l1, l2, beta, w[j])
                step = new - w[j]
                mass += new * sizes[j]
                if step != 0:
                    moved += abs(step) * sizes[j]
                    w[j] = new
                    for q in range(m):
                        y[q] += step * row[q]
                        power[q] = power_of(max(y[q], floor), beta - 2)
            if moved <= tolerance * mass:
                break


@numba.njit(nogil=True, cache=True)
def divergences(X, Y, floors, beta):  # type: ignore[no-untyped-def]
    """Compute the beta divergence D(x | y) of every image and every pixel, in float64.

    Fevotte and Idier, Neural Computation 2011, eq. 3; beta 2 is Frobenius, ``1/2 (x - y)^2``, 1
    Kullback-Leibler, 0 Itakura-Saito. Entries where both are 0 count nothing.

    Parameters
    ----------
    X, Y : ndarray of shape (b, p)
    floors : ndarray of shape (b,)
        Least value of Y in each image; not used for beta = 2.
    beta : float

    Returns
    -------
    images : ndarray of shape (b,), float64
    pixels : ndarray of shape (p,), float64
    """
    images, pixels = np.zeros(X.shape[0]), np.zeros(X.shape[1])
    for i in range(X.shape[0]):
        for j in range(X.shape[1]):
            x, y = np.float64(X[i, j]), np.float64(Y[i, j])
            if x == 0 and y == 0:
                continue
            if beta == 2:
                value = 0.5 * (x - y) ** 2
            else:
                y = max(y, np.float64(floors[i]))
                if beta == 1:
                    value = y - x + (x * np.log(x / y) if x > 0 else 0.0)
                elif beta == 0:
                    value = x / y - np.log(x / y) - 1
                else:
                    power = y ** (beta - 1)
                    value = (x**beta - beta * x * power + (beta - 1) * y * power) / (
                        beta * (beta - 1)
                    )
            if value > 0:  # but for rounding, none is below
                images[i] += value
                pixels[j] += value
    return images, pixels
