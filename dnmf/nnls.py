"""Non-negative least squares for many images at once: the W solve of a pass, and its H step.

Images are the lanes of vector instructions: arrays here are component by image, so that the inner
loops run over images that lie side by side in memory.
"""

from __future__ import annotations

import numba
import numpy as np

# numba's np.dot finds SciPy's BLAS at its first call; loaded here, its threads are under control
# of dnmf.threads from the start.
import scipy.linalg.cython_blas  # noqa: F401

ROUNDING = 1e-7
"""Share of ``||x||^2`` below which a loss cannot be told from rounding in float32."""

INVISIBLE = 1e-9
"""Share of a component's energy that must lie in observed pixels for it to get a weight."""

LANES = 512
"""Images solved together; their weights and gradients stay in cache."""

STRAGGLERS = 2
"""Images that are not done go on alone when they are this many times fewer than the lanes."""

GROUP = 16
"""Components between two products that bring gradients up to date."""


@numba.njit(nogil=True, fastmath=True, inline="always")
def sweep_group(a, g, G, w, live, relax, step, gains, overlaps):  # type: ignore[no-untyped-def]
    """Take one step in each component of a group, for all lanes that live; g becomes gradients.

    g holds ``G w`` on entry. Adds what the steps gain and, from before them, ``w (a + g)``.
    """
    number = g.dtype.type  # a float64 constant would make everything here float64
    zero, half, over = number(0), number(0.5), number(relax)
    for j in range(len(w)):
        for i in range(len(live)):
            g[j, i] = a[j, i] - g[j, i]
            overlaps[i] += w[j, i] * (a[j, i] + g[j, i])
    for j in range(len(w)):
        curve = G[j, j]
        if curve <= 0:
            continue
        rate, bend = over / curve, half * curve
        mine, down = w[j], g[j]
        for i in range(len(live)):
            step[i] = live[i] * (max(mine[i] + rate * down[i], zero) - mine[i])
            gains[i] += step[i] * (down[i] - bend * step[i])
            mine[i] += step[i]
        for m in range(j + 1, len(w)):
            coupling, other = G[j, m], g[m]
            for i in range(len(live)):
                other[i] -= coupling * step[i]


@numba.njit(nogil=True, fastmath=True, inline="always")
def sweep(a, G, energy, w, live, tolerance, relax, from_zero):  # type: ignore[no-untyped-def]
    """Sweep over all components once; lanes that gained too little live no longer."""
    d, lanes = w.shape
    step = np.empty(lanes, a.dtype)
    gains, overlaps = np.zeros(lanes, a.dtype), np.zeros(lanes, a.dtype)
    for low in range(0, d, GROUP):
        high = min(low + GROUP, d)
        g = np.zeros((high - low, lanes), a.dtype)
        if not from_zero:
            np.dot(G[low:high], w, g)
        elif low > 0:
            np.dot(G[low:high, :low].copy(), w[:low], g)
        block = G[low:high, low:high]
        sweep_group(a[low:high], g, block, w[low:high], live, relax, step, gains, overlaps)
    for i in range(lanes):
        # The loss while w moved, which it does less and less. Below rounding it may come out
        # negative; gains there are noise.
        loss = energy[i] - 0.5 * overlaps[i]
        if gains[i] <= tolerance * max(loss, ROUNDING * energy[i]):
            live[i] = 0


@numba.njit(nogil=True, fastmath=True, cache=True)
def solve_nnls(A, G, energy, W, tolerance, max_sweeps, relax):  # type: ignore[no-untyped-def]
    """Minimise ``energy + 1/2 w G w^T - a w^T`` over w >= 0 for every column, in place in W.

    Cyclic coordinate descent, which on all images at once is the HALS of Cichocki and Phan (2009,
    eq. 17), `LANES` images in step. Gradients are brought up to date for a `GROUP` of components
    at a time, by one matrix product with all weights: nearly all the work is BLAS's, and the path
    of every image is that of coordinate descent on it alone.

    Parameters
    ----------
    A : ndarray of shape (d, n)
        Linear terms, ``H X^T``.
    G : ndarray of shape (d, d)
        Gram matrix, ``H H^T``.
    energy : ndarray of shape (n,), float64
        ``1/2 ||x||^2``: with it the objective is the loss, and the tolerance relative to it.
    W : ndarray of shape (d, n)
        Start on entry, solution on exit. Same dtype as A and G.
    tolerance : float
        An image ends with the first sweep that gains less than this share of its loss.
    max_sweeps : int
    relax : float
        Length of steps, in units of that to the minimum in one weight; below 2 the loss falls with
        each (Cryer, SIAM Journal on Control 9(3), 1971).
    """
    for first in range(0, A.shape[1], LANES):
        lanes = np.arange(first, min(first + LANES, A.shape[1]))
        w, a = W[:, first : first + LANES].copy(), A[:, first : first + LANES].copy()
        e, live = energy[first : first + LANES], np.ones(len(lanes), a.dtype)
        from_zero = not w.any()
        for s in range(max_sweeps):
            sweep(a, G, e, w, live, tolerance, relax, from_zero and s == 0)
            left = int(live.sum())
            if left == 0:
                break
            if STRAGGLERS * left <= len(lanes):
                W[:, lanes] = w
                rest = np.nonzero(live)[0]
                lanes, e, live = lanes[rest], e[rest], live[rest]
                w, a = w[:, rest], a[:, rest]
        W[:, lanes] = w


@numba.njit(nogil=True, fastmath=True, inline="always")
def descend(a, G, energy, w, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Solve for one image alone, from zero; a weight that does not move costs one comparison."""
    d = len(a)
    gradient, loss = a.copy(), energy
    w[:] = 0
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
        if gain <= tolerance * max(loss, ROUNDING * energy):
            break


@numba.njit(nogil=True, fastmath=True, cache=True)
def solve_nnls_masked(A, H, observed, energy, l2, W, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Minimise as `solve_nnls`, each image over its own observed pixels; W is set.

    An image's Gram matrix is summed over its observed pixels, or taken from that of all pixels by
    its missing ones: the fewer. The difference needs float64; what of a component's energy is left
    by rounding alone is no reason to give it a weight.

    Parameters
    ----------
    A : ndarray of shape (n, d), float64
        ``X H^T`` with X zero where missing.
    H : ndarray of shape (d, p), float64
    observed : ndarray of shape (n, p), bool
    energy : ndarray of shape (n,), float64
        ``1/2 ||x||^2``.
    l2 : float
        Added to the diagonals.
    W : ndarray of shape (n, d), float64
    tolerance, max_sweeps
        As in `solve_nnls`; coordinate descent is image by image (Hsieh and Dhillon, KDD 2011,
        section 3).
    """
    n, d = A.shape
    columns = np.ascontiguousarray(H.T)
    whole, G = np.dot(H, columns), np.empty((d, d))
    for i in range(n):
        seen = observed[i]
        if i == 0 or (seen != observed[i - 1]).any():
            few = 2 * seen.sum() <= len(seen)
            G[:] = 0
            for q in range(len(seen)):
                if seen[q] == few:
                    column = columns[q]
                    for j in range(d):
                        if column[j] != 0:
                            for m in range(d):
                                G[j, m] += column[j] * column[m]
            if not few:
                G[:] = whole - G
            for j in range(d):
                if G[j, j] <= INVISIBLE * whole[j, j]:
                    G[j], G[:, j] = 0, 0
                else:
                    G[j, j] += l2
        descend(A[i], G, energy[i], W[i], tolerance, max_sweeps)
