"""Exact solution of non-negative least squares for images on which coordinate descent is slow.

Where components are much alike, coordinate descent approaches the minimum in hundreds of sweeps.
After a few of them it has nearly the right set of positive weights, from which an active-set method
needs one to three linear systems.
"""

from __future__ import annotations

import numpy as np

from dnmf.numerics.compiled import compiled, part_of_compiled

RIDGE = 1e-13
"""Fraction of the diagonal that is added to a Gram matrix, so that it has a Cholesky factor."""

OPTIMAL = 1e-12
"""Largest derivative along a weight of 0 that is taken to be rounding, relative to the lengths of
the image and of the component."""


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def solve_positive(L, b, k):  # type: ignore[no-untyped-def]
    """Solve the system of the leading k rows of a Gram matrix, in place in L and b."""
    for i in range(k):
        for j in range(i + 1):
            total = L[i, j]
            for m in range(j):
                total -= L[i, m] * L[j, m]
            if i > j:
                L[i, j] = total / L[j, j]
            else:
                L[i, i] = np.sqrt(max(total, RIDGE * L[i, i]))
    for i in range(k):
        for m in range(i):
            b[i] -= L[i, m] * b[m]
        b[i] /= L[i, i]
    for i in range(k - 1, -1, -1):
        for m in range(i + 1, k):
            b[i] -= L[m, i] * b[m]
        b[i] /= L[i, i]


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def step_to(s, free, k, w, positive):  # type: ignore[no-untyped-def]
    """Move the free weights towards s as far as all stay positive; return whether they arrive."""
    share = 1.0
    for i in range(k):
        if s[i] <= 0:
            share = min(share, w[free[i]] / (w[free[i]] - s[i]))
    for i in range(k):
        j = free[i]
        stays = s[i] > 0 or share * (w[j] - s[i]) < w[j]
        w[j] = max(w[j] + share * (s[i] - w[j]), 0.0) if stays else 0.0
        positive[j] = w[j] > 0
    return share == 1.0


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def steepest_of_zeros(a, G, free, k, w, positive, least):  # type: ignore[no-untyped-def]
    """Return the weight of 0 along which the objective falls most, by more than `least`, or -1."""
    steepest = -1
    for j in range(len(a)):
        if not positive[j] and G[j, j] > 0:
            slope = a[j]
            for i in range(k):
                slope -= G[j, free[i]] * w[free[i]]
            slope /= np.sqrt(G[j, j])
            if slope > least:
                least, steepest = slope, j
    return steepest


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def finish_one(a, G, energy, w):  # type: ignore[no-untyped-def]
    """Minimise ``1/2 w G w^T - a w^T`` over w >= 0 from weights near the minimum, in place in w.

    See Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23; the start from positive
    weights is that of Bro and De Jong, Journal of Chemometrics 11(5), 1997. The objective falls
    with each system that is solved.

    Parameters
    ----------
    a : ndarray of shape (d,), float64
    G : ndarray of shape (d, d), float64
    energy : float
        ``1/2 ||x||^2``, to which rounding is relative.
    w : ndarray of shape (d,), float64
    """
    d = len(a)
    free, s, L = np.empty(d, np.int64), np.empty(d), np.empty((d, d))
    positive = np.empty(d, np.bool_)
    for j in range(d):
        if not G[j, j] > 0:
            w[j] = 0
        positive[j] = w[j] > 0
    for _ in range(3 * d + 10):
        k = 0
        for j in range(d):
            if positive[j]:
                free[k] = j
                k += 1
        for i in range(k):
            s[i] = a[free[i]]
            for m in range(i + 1):
                L[i, m] = G[free[i], free[m]]
            L[i, i] *= 1 + RIDGE
        solve_positive(L, s, k)
        if not step_to(s, free, k, w, positive):
            continue
        steepest = steepest_of_zeros(a, G, free, k, w, positive, OPTIMAL * np.sqrt(2 * energy))
        if steepest < 0:
            break
        positive[steepest] = True


@compiled(nogil=True, fastmath=True, error_model="numpy")
def finish_nnls(A, G, energy, W):  # type: ignore[no-untyped-def]
    """Solve the problems of `dnmf.numerics.nnls.solve_nnls` from weights near the solution, in W.

    Parameters
    ----------
    A, W : ndarray of shape (d, n), float64
    G : ndarray of shape (d, d), float64
    energy : ndarray of shape (n,), float64
    """
    for i in range(A.shape[1]):
        a, w = A[:, i].copy(), W[:, i].copy()
        finish_one(a, G, energy[i], w)
        W[:, i] = w
