"""Compiled kernels for beta divergences: their values, and coordinate descent on W.

`solve_kl` minimises the Kullback-Leibler divergence (beta = 1), `solve_beta` that of any beta;
`divergences` computes the values. Names, as in all of dnmf: X is n images x p pixels, W is n x d, H
is d x p, and X ~ W H with all entries non-negative.
"""

from __future__ import annotations

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.compiled import compiled, part_of_compiled

FLOOR = 1e-7
"""Least value of a reconstruction, as a fraction of the mean of its image: divergences other than
Frobenius divide by the reconstruction. It is relative so that the scale of X does not matter."""


REORDER = {"reassoc", "contract", "nsz", "arcp"}
"""What the compiler may do with sums and quotients so that they become vector instructions."""


def floors_of_means(means: Array) -> Array:
    """Return the least value of each image's reconstruction, given the means of the images.

    It is 1 for a blank image, whose weights are 0.
    """
    return np.where(means > 0, FLOOR * means, 1.0)


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy", inline="always")
def kl_step(phi, slope, s, l2, w):  # type: ignore[no-untyped-def]
    """Solve ``s + l2 v = a / (c + v)`` for v >= 0.

    The constants a and c are such that the right side has value phi and derivative -slope at w.
    """
    if not (slope > 0 and s > 0):
        return 0.0
    c = phi / slope - w
    rest = phi * phi / slope - s * c
    curve = s + l2 * c
    v = 2 * rest / (curve + np.sqrt(max(curve * curve + 4 * l2 * rest, 0.0)))
    return max(v, 0.0)


@compiled(nogil=True, fastmath=True, error_model="numpy")
def solve_kl(X, H, linear, l2, floors, W, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Minimise ``sum_q y_q - x_q log y_q`` with y = w H over w >= 0 for each row, in place in W.

    The method is cyclic coordinate descent (Hsieh and Dhillon, KDD 2011, section 4). The derivative
    along one coordinate is ``linear - phi(w)`` with ``phi = sum x h / y``, a sum of terms
    ``a / (c + w)``. A step is one Newton step on ``1 / phi(w) = 1 / linear`` instead of
    ``phi(w) = linear``: it is exact for a single term, never passes the minimum from below, and is
    finite everywhere. Pixels with x = 0 enter through `linear` alone, so they cost nothing.

    Parameters
    ----------
    X : ndarray of shape (n, p)
    H : ndarray of shape (d, p)
    linear : ndarray of shape (n, d)
        Sums of the rows of H over the observed pixels of each image, plus any l1 penalty.
    l2 : float
        Penalty ``l2/2 ||w||^2`` on the weights of an image.
    floors : ndarray of shape (n,)
        Least value of y in each image.
    W : ndarray of shape (n, d)
        Initial weights on entry, solution on exit.
    tolerance : float
        Change of ``sum(w * linear)`` in a sweep, relative to its value, below which a row has
        converged.
    max_sweeps : int
        Largest number of sweeps over a row.
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


@part_of_compiled(nogil=True, fastmath=REORDER, error_model="numpy", inline="always")
def power_of(y, exponent):  # type: ignore[no-untyped-def]
    """Compute ``y ** exponent``, faster where a root or a product gives it."""
    if exponent == 2:
        return y * y
    if exponent == 1.5:
        return y * np.sqrt(y)
    if exponent == 0.5:
        return np.sqrt(y)
    return y**exponent


@part_of_compiled(nogil=True, fastmath=REORDER, error_model="numpy", inline="always")
def beta_step(up, up_slope, down, down_slope, l1, l2, beta, w):  # type: ignore[no-untyped-def]
    """Find the zero of the derivative along one weight, ``down(v) - up(v) + l1 + l2 v``.

    Both ``up`` and ``down`` are sums of powers of linear functions of v. The curved one, ``up`` for
    beta <= 2 and ``down`` else, is replaced by a single such power with the same value and slope at
    w, and the other one by its tangent (1 < beta <= 2) or, where that would not bound the loss, by
    its value. Four safeguarded Newton steps follow.
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
    for _ in range(4):
        rise = 1 / (1 + (v - w) * rate)
        bend = power_of(rise, q)
        if beta <= 2:
            value = down + line * (v - w) + l1 + l2 * v - up * bend
            slope = line + l2 + q * rate * up * bend * rise
        else:
            value = down * bend + l1 + l2 * v - up
            slope = -q * rate * down * bend * rise + l2
        v = max(v - value / slope, max(0.0, w - 0.95 / rate)) if slope > 0 else v
    return v


@part_of_compiled(nogil=True, fastmath=REORDER, error_model="numpy", inline="always")
def update_powers(y, floor, exponent, inverse, power):  # type: ignore[no-untyped-def]
    """Compute 1 / y and ``y ** exponent`` of y >= floor; roots and products are far faster.

    Each has a loop of its own, which the compiler can make one of vector instructions.
    """
    for q in range(len(y)):
        inverse[q] = 1 / max(y[q], floor)
    if exponent == -2:
        for q in range(len(y)):
            power[q] = inverse[q] * inverse[q]
    elif exponent == -1.5:
        for q in range(len(y)):
            power[q] = inverse[q] * np.sqrt(inverse[q])
    elif exponent == -0.5:
        for q in range(len(y)):
            power[q] = np.sqrt(inverse[q])
    elif exponent == 1:
        for q in range(len(y)):
            power[q] = max(y[q], floor)
    else:
        for q in range(len(y)):
            power[q] = inverse[q] ** -exponent


@compiled(nogil=True, fastmath=REORDER, error_model="numpy")
def solve_beta(X, H, observed, beta, l1, l2, floors, W, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Minimise ``D(x | w H)`` with penalties over w >= 0 for every row, in place in W.

    The method is cyclic coordinate descent by `beta_step`, for any beta, in float64 for the range
    of the powers.

    Parameters
    ----------
    X : ndarray of shape (n, p), float64
    H : ndarray of shape (d, p), float64
    observed : ndarray of shape (n, p), bool
        Whether a pixel is observed.
    beta : float
        Parameter of the divergence.
    l1, l2 : float
        Penalties on the weights of an image.
    floors : ndarray of shape (n,)
        Least value of w H in each image.
    W : ndarray of shape (n, d), float64
        Initial weights on entry, solution on exit.
    tolerance : float
        Change of ``sum(w H)`` in a sweep, relative to its value, below which a row has converged.
    max_sweeps : int
        Largest number of sweeps over a row.
    """
    n, p = X.shape
    d = len(H)
    seen, x, y = np.empty(p, np.int64), np.empty(p), np.empty(p)
    inverse, power, rows = np.empty(p), np.empty(p), np.empty((d, p))
    sizes, before = np.empty(d), np.empty(d)
    for i in range(n):
        w = W[i]
        m = 0
        for q in range(p):
            if observed[i, q]:
                seen[m], x[m], y[m] = q, X[i, q], 0.0
                m += 1
        for j in range(d):
            sizes[j], before[j] = 0, 0
            for q in range(m):
                rows[j, q] = H[j, seen[q]]
                sizes[j] += rows[j, q]
                y[q] += w[j] * rows[j, q]
        floor = floors[i]
        update_powers(y[:m], floor, beta - 2, inverse, power)
        for _ in range(max_sweeps):
            moved, mass = 0.0, 0.0
            for j in range(d):
                row = rows[j]
                up, up_slope, down, down_slope = 0.0, 0.0, 0.0, 0.0
                for q in range(m):
                    part = row[q] * power[q]
                    rise = x[q] * part
                    up += rise
                    up_slope += rise * row[q] * inverse[q]
                    down += part * max(y[q], floor)
                    down_slope += part * row[q]
                new = beta_step(up, up_slope, down, down_slope, l1, l2, beta, w[j])
                step = new - w[j]
                if step * before[j] < 0:  # the last step went too far, and this one may, too
                    step *= 0.5
                before[j] = step
                mass += new * sizes[j]
                if step != 0:
                    moved += abs(step) * sizes[j]
                    w[j] += step
                    for q in range(m):
                        y[q] += step * row[q]
                    update_powers(y[:m], floor, beta - 2, inverse, power)
            if moved <= tolerance * mass:
                break


@compiled(nogil=True)
def divergences(X, Y, floors, beta):  # type: ignore[no-untyped-def]
    """Compute the beta divergence D(x | y) of every image and every pixel, in float64.

    See Fevotte and Idier, Neural Computation 2011, eq. 3: beta = 2 is half the squared error,
    ``1/2 (x - y)^2``, 1 Kullback-Leibler, 0 Itakura-Saito. Entries where x and y are 0 add nothing.

    Parameters
    ----------
    X, Y : ndarray of shape (b, p)
    floors : ndarray of shape (b,)
        Least value of Y in each image; not used for beta = 2.
    beta : float
        Parameter of the divergence.

    Returns
    -------
    images : ndarray of shape (b,), float64
        Sums over the pixels of each image.
    pixels : ndarray of shape (p,), float64
        Sums over the images of each pixel.
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
            if value > 0:  # it is negative by rounding only
                images[i] += value
                pixels[j] += value
    return images, pixels
