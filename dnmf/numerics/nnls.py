"""Non-negative least squares for many images at once: the W solve of a pass, and its H step.

Images are the lanes of vector instructions: arrays here are component by image, so that the inner
loops run over images that lie side by side in memory.
"""

from __future__ import annotations

import numba
import numpy as np

# numba's np.dot finds SciPy's BLAS at its first call; loaded here, its threads are under control
# of dnmf.engine.executors from the start.
import scipy.linalg.cython_blas  # noqa: F401

ROUNDING = 1e-7
"""Share of ``||x||^2`` below which a loss cannot be told from rounding in float32."""

MIN_OBSERVED_SHARE = 1e-9
"""Share of a component's energy that must lie in observed pixels for it to get a weight."""

LANES = 512
"""Images solved together; their weights and gradients stay in cache."""

STRAGGLERS = 2
"""Images that are not done go on alone when they are this many times fewer than the lanes."""

PANEL, GROUP, CHUNK = 112, 16, 8
"""Components between two products that bring gradients up to date, the more the faster these are;
components of a panel that follow each other step by step; steps that reach the rest of the panel
at a time."""


@numba.njit(nogil=True, fastmath=True, inline="always")
def sweep_group(g, G, w, live, relax, steps, gains):  # type: ignore[no-untyped-def]
    """Take one step in each component of a group, for all lanes that live; adds what they gain.

    g holds their gradients, downhill, and is kept up to date; steps are written down.
    """
    number = g.dtype.type  # a float64 constant would make everything here float64
    zero, half, over = number(0), number(0.5), number(relax)
    for j in range(len(w)):
        curve, mine, down, step = G[j, j], w[j], g[j], steps[j]
        if curve <= 0:
            step[:] = zero
            continue
        rate, bend = over / curve, half * curve
        for i in range(len(live)):
            step[i] = live[i] * (max(mine[i] + rate * down[i], zero) - mine[i])
            gains[i] += step[i] * (down[i] - bend * step[i])
            mine[i] += step[i]
        for m in range(j + 1, len(w)):
            coupling, other = G[j, m], g[m]
            for i in range(len(live)):
                other[i] -= coupling * step[i]


@numba.njit(nogil=True, fastmath=True, inline="always")
def carry(g, G, steps):  # type: ignore[no-untyped-def]
    """Bring gradients up to date with the steps of a whole group: ``g -= G steps``.

    `CHUNK` steps at a time, so that a gradient is fetched and stored once for all of them. BLAS is
    slower on matrices as flat as these.
    """
    for m in range(len(g)):
        row, other = G[m], g[m]
        for k in range(0, GROUP, CHUNK):
            c0, c1, c2, c3 = row[k], row[k + 1], row[k + 2], row[k + 3]
            c4, c5, c6, c7 = row[k + 4], row[k + 5], row[k + 6], row[k + 7]
            s0, s1, s2, s3 = steps[k], steps[k + 1], steps[k + 2], steps[k + 3]
            s4, s5, s6, s7 = steps[k + 4], steps[k + 5], steps[k + 6], steps[k + 7]
            for i in range(len(other)):
                near = c0 * s0[i] + c1 * s1[i] + c2 * s2[i] + c3 * s3[i]
                other[i] -= near + (c4 * s4[i] + c5 * s5[i] + c6 * s6[i] + c7 * s7[i])


@numba.njit(nogil=True, fastmath=True, inline="always")
def sweep(a, G, energy, w, live, tolerance, relax, from_zero):  # type: ignore[no-untyped-def]
    """Sweep over all components once; lanes that gained too little live no longer."""
    d, lanes = w.shape
    steps = np.empty((GROUP, lanes), a.dtype)
    gains, overlaps = np.zeros(lanes, a.dtype), np.zeros(lanes, a.dtype)
    for low in range(0, d, PANEL):
        high = min(low + PANEL, d)
        g = np.zeros((high - low, lanes), a.dtype)
        if not from_zero:
            np.dot(G[low:high], w, g)
        elif low > 0:
            np.dot(G[low:high, :low].copy(), w[:low], g)
        for j in range(low, high):
            mine, linear, down = w[j], a[j], g[j - low]
            for i in range(lanes):
                down[i] = linear[i] - down[i]
                overlaps[i] += mine[i] * (linear[i] + down[i])
        for first in range(low, high, GROUP):
            last = min(first + GROUP, high)
            near, block = g[first - low : last - low], G[first:last, first:last]
            sweep_group(near, block, w[first:last], live, relax, steps, gains)
            if last < high:
                carry(g[last - low :], G[last:high, first:last], steps)
    for i in range(lanes):
        # The loss while w moved, which it does less and less. Below rounding it may come out
        # negative; gains there are noise.
        loss = energy[i] - 0.5 * overlaps[i]
        if gains[i] <= tolerance * max(loss, ROUNDING * energy[i]):
            live[i] = 0


# Loops, where NumPy would index with lanes: that takes seconds to compile.
@numba.njit(nogil=True, fastmath=True, inline="always")
def put(w, lanes, W):  # type: ignore[no-untyped-def]
    """Put weights where their images are."""
    for j in range(len(W)):
        for i in range(len(lanes)):
            W[j, lanes[i]] = w[j, i]


@numba.njit(nogil=True, fastmath=True, inline="always")
def close_ranks(w, a, e, lanes, live):  # type: ignore[no-untyped-def]
    """Move the lanes that live to the front, in place."""
    i = 0
    for k in range(len(lanes)):
        if live[k] != 0:
            lanes[i], e[i], live[i] = lanes[k], e[k], live[k]
            for j in range(len(w)):
                w[j, i], a[j, i] = w[j, k], a[j, k]
            i += 1


@numba.njit(nogil=True, fastmath=True, cache=True)
def solve_nnls(A, G, energy, W, tolerance, max_sweeps, relax):  # type: ignore[no-untyped-def]
    """Minimise ``energy + 1/2 w G w^T - a w^T`` over w >= 0 for every column, in place in W.

    Cyclic coordinate descent, which on all images at once is the HALS of Cichocki and Phan (2009,
    eq. 17), `LANES` images in step. Gradients are brought up to date for a `PANEL` of components
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
        e, live = energy[first : first + LANES].copy(), np.ones(len(lanes), a.dtype)
        from_zero = not w.any()
        for s in range(max_sweeps):
            sweep(a, G, e, w, live, tolerance, relax, from_zero and s == 0)
            left = 0
            for i in range(len(lanes)):
                left += live[i] != 0
            if left == 0:
                break
            if STRAGGLERS * left <= len(lanes):
                put(w, lanes, W)
                close_ranks(w, a, e, lanes, live)
                w, a, e = w[:, :left].copy(), a[:, :left].copy(), e[:left]
                lanes, live = lanes[:left], live[:left]
        put(w, lanes, W)


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
                if G[j, j] <= MIN_OBSERVED_SHARE * whole[j, j]:
                    G[j], G[:, j] = 0, 0
                else:
                    G[j, j] += l2
        descend(A[i], G, energy[i], W[i], tolerance, max_sweeps)
