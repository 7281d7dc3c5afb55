"""Compiled kernels for non-negative least squares, which update W and, on the sums of a pass, H.

`solve_nnls` solves many problems with one Gram matrix, `solve_nnls_masked` problems that each have
their own. Arrays of `solve_nnls` have shape (components, images): images are the lanes of vector
instructions, and inner loops run over images that are adjacent in memory.
"""

from __future__ import annotations

import numpy as np

# numba's np.dot loads SciPy's BLAS at its first call. It is imported here so that
# dnmf.engine.executors can limit its threads from the start.
import scipy.linalg.cython_blas  # noqa: F401

from dnmf.numerics.active_set import finish_one
from dnmf.numerics.compiled import compiled, part_of_compiled

ROUNDING = 0.5
"""Fraction of ``||x||^2``, in units of the spacing of the numbers near 1, below which a loss is
indistinguishable from rounding."""

LEAST_RATIO, CERTAIN = 0.3, 1e-3
"""Least ratio of the gains of two sweeps that is believed, as one sweep may gain little by chance,
and fraction of the tolerance below which the gain of a sweep alone ends the solve of an image."""

MIN_OBSERVED_ENERGY = 1e-9
"""Least fraction of a component's energy in the observed pixels of an image for which the component
gets a weight: what is below may be left over by rounding alone."""

LANES = 512
"""Number of images solved together, few enough for their weights and gradients to stay in cache."""

COMPACTION_RATIO = 2
"""Ratio of all lanes to unconverged lanes from which the converged ones are dropped."""

PANEL, GROUP, CHUNK = 112, 16, 8
"""Sizes of the blocking over components. Gradients are computed for a panel at a time by one matrix
product, which is faster the larger the panel; coordinate steps are taken within a group; the rest
of the panel gets the steps of a group a chunk at a time."""


@part_of_compiled(nogil=True, fastmath=True, inline="always")
def sweep_group(g, G, w, active, relax, steps, gains):  # type: ignore[no-untyped-def]
    """Take one step in each component of a group, in all active lanes.

    The negative gradients ``g`` and the weights ``w`` are updated, the steps are stored in
    ``steps``, and the decrease of the objective is added to ``gains``.
    """
    number = g.dtype.type  # a float64 constant would make everything here float64
    zero, half, over = number(0), number(0.5), number(relax)
    least = number(1e3 * np.finfo(g.dtype).tiny)  # with less, the step would overflow
    for j in range(len(w)):
        curve, weight, descent, step = G[j, j], w[j], g[j], steps[j]
        if curve <= least:  # the objective is linear in this weight: a penalty takes it to 0
            for i in range(len(active)):
                step[i] = -active[i] * weight[i] if descent[i] < zero else zero
                gains[i] += step[i] * descent[i]
                weight[i] += step[i]
            continue
        rate, half_curve = over / curve, half * curve
        for i in range(len(active)):
            step[i] = active[i] * (max(weight[i] + rate * descent[i], zero) - weight[i])
            gains[i] += step[i] * (descent[i] - half_curve * step[i])
            weight[i] += step[i]
        for m in range(j + 1, len(w)):
            coupling, other = G[j, m], g[m]
            for i in range(len(active)):
                other[i] -= coupling * step[i]


@part_of_compiled(nogil=True, fastmath=True, inline="always")
def apply_steps(g, G, steps):  # type: ignore[no-untyped-def]
    """Update gradients with the steps of a whole group: ``g -= G steps``.

    `CHUNK` steps are applied at a time, so that a gradient is loaded and stored once for all of
    them. BLAS is slower on matrices with so few columns.
    """
    for m in range(len(g)):
        row, other = G[m], g[m]
        for k in range(0, GROUP, CHUNK):
            c0, c1, c2, c3 = row[k], row[k + 1], row[k + 2], row[k + 3]
            c4, c5, c6, c7 = row[k + 4], row[k + 5], row[k + 6], row[k + 7]
            s0, s1, s2, s3 = steps[k], steps[k + 1], steps[k + 2], steps[k + 3]
            s4, s5, s6, s7 = steps[k + 4], steps[k + 5], steps[k + 6], steps[k + 7]
            for i in range(len(other)):
                low = c0 * s0[i] + c1 * s1[i] + c2 * s2[i] + c3 * s3[i]
                other[i] -= low + (c4 * s4[i] + c5 * s5[i] + c6 * s6[i] + c7 * s7[i])


@part_of_compiled(nogil=True, fastmath=True, inline="always")
def has_converged(gain, before, least):  # type: ignore[no-untyped-def]
    """Check whether all further sweeps together are expected to gain less than `least`.

    Gains of successive sweeps shrink by a nearly constant factor, the ratio of the last two, so
    those to come add up to a geometric series (Aitken, 1926). Where they shrink slowly, the gain of
    a sweep says little about the distance from the minimum.
    """
    left = max(gain, LEAST_RATIO * before) * gain
    return left <= least * max(before - gain, 0.0) or gain <= CERTAIN * least


@part_of_compiled(nogil=True, fastmath=True, inline="always")
def sweep(a, G, energy, w, active, before, losses, tolerance, relax, from_zero, space):  # type: ignore[no-untyped-def]
    """Sweep over all components once, and deactivate the lanes that have converged.

    The gains of the previous sweep, ``before``, and the losses are replaced by those of this one.
    The gradients of a panel are computed in ``space``.
    """
    d, lanes = w.shape
    rounding = ROUNDING * np.finfo(a.dtype).eps
    steps = np.empty((GROUP, lanes), a.dtype)
    gains, overlaps = np.zeros(lanes, a.dtype), np.zeros(lanes, a.dtype)
    for low in range(0, d, PANEL):
        high = min(low + PANEL, d)
        g = space[: (high - low) * lanes].reshape(high - low, lanes)
        if not from_zero:
            np.dot(G[low:high], w, g)
        elif low > 0:
            np.dot(G[low:high, :low].copy(), w[:low], g)
        else:
            g[:] = 0
        for j in range(low, high):
            weight, linear, descent = w[j], a[j], g[j - low]
            for i in range(lanes):
                descent[i] = linear[i] - descent[i]
                overlaps[i] += weight[i] * (linear[i] + descent[i])
        for first in range(low, high, GROUP):
            last = min(first + GROUP, high)
            group, block = g[first - low : last - low], G[first:last, first:last]
            sweep_group(group, block, w[first:last], active, relax, steps, gains)
            if last < high:
                apply_steps(g[last - low :], G[last:high, first:last], steps)
    for i in range(lanes):
        # The loss during the sweep, approximately: w moves less and less. At the level of rounding
        # it may come out negative; gains there are noise.
        gain, losses[i] = np.float64(gains[i]), energy[i] - 0.5 * overlaps[i]
        least = tolerance * max(losses[i], rounding * energy[i])
        if has_converged(gain, before[i], least):
            active[i] = 0
        before[i] = gain


# The next two use loops because indexing with an array of lanes takes seconds to compile.
@part_of_compiled(nogil=True, fastmath=True, inline="always")
def store(w, loss, active, lanes, W, losses, unfinished):  # type: ignore[no-untyped-def]
    """Store the weights of lanes, and how their solves ended, in the columns of their images."""
    for i in range(len(lanes)):
        losses[lanes[i]], unfinished[lanes[i]] = loss[i], active[i] != 0
    for j in range(len(W)):
        for i in range(len(lanes)):
            W[j, lanes[i]] = w[j, i]


@part_of_compiled(nogil=True, fastmath=True, inline="always")
def compact(w, a, e, before, lanes, active):  # type: ignore[no-untyped-def]
    """Move the active lanes to the front, in place."""
    i = 0
    for k in range(len(lanes)):
        if active[k] != 0:
            lanes[i], e[i], before[i], active[i] = lanes[k], e[k], before[k], active[k]
            for j in range(len(w)):
                w[j, i], a[j, i] = w[j, k], a[j, k]
            i += 1


@compiled(nogil=True, fastmath=True)
def solve_nnls(A, G, energy, W, losses, unfinished, tolerance, max_sweeps, relax):  # type: ignore[no-untyped-def]
    """Minimise ``energy + 1/2 w G w^T - a w^T`` over w >= 0 for every column of A, in place in W.

    The method is cyclic coordinate descent, which on all images at once is HALS (Cichocki and Phan,
    2009, eq. 17), on `LANES` images in lockstep. Gradients are computed for a `PANEL` of components
    at a time by one matrix product with all weights, so nearly all the work is done by BLAS, and
    every image takes the path of coordinate descent on it alone.

    Parameters
    ----------
    A : ndarray of shape (d, n)
        Linear terms, ``H X^T`` less any l1 penalty.
    G : ndarray of shape (d, d)
        Gram matrix, ``H H^T`` plus any l2 penalty on its diagonal.
    energy : ndarray of shape (n,), float64
        ``1/2 ||x||^2``. With it the objective is the loss, to which the tolerance is relative.
    W : ndarray of shape (d, n)
        Initial weights on entry, solution on exit; of the dtype of A and G.
    losses : ndarray of shape (n,), float64
        Objective of each image on exit, as in its last sweep, so a little above that of W.
    unfinished : ndarray of shape (n,), bool
        Whether an image has not converged in `max_sweeps`, on exit.
    tolerance : float
        Relative decrease of the loss to be expected of all further sweeps below which an image has
        converged.
    max_sweeps : int
        Largest number of sweeps over an image.
    relax : float
        Relaxation factor: length of a step relative to the step to the minimum in one weight. Below
        2 each step lowers the loss (Cryer, SIAM Journal on Control 9(3), 1971).
    """
    # Allocated once: on a Dask worker, freed memory goes back to the system at once.
    space = np.empty(min(len(A), PANEL) * min(A.shape[1], LANES), A.dtype)
    for first in range(0, A.shape[1], LANES):
        lanes = np.arange(first, min(first + LANES, A.shape[1]))
        w, a = W[:, first : first + LANES].copy(), A[:, first : first + LANES].copy()
        e, active = energy[first : first + LANES].copy(), np.ones(len(lanes), a.dtype)
        before, loss = np.zeros(len(lanes)), np.zeros(len(lanes))
        from_zero = not w.any()
        for s in range(max_sweeps):
            sweep(a, G, e, w, active, before, loss, tolerance, relax, from_zero and s == 0, space)
            left = 0
            for i in range(len(lanes)):
                left += active[i] != 0
            if left == 0:
                break
            if COMPACTION_RATIO * left <= len(lanes):
                store(w, loss, active, lanes, W, losses, unfinished)
                compact(w, a, e, before, lanes, active)
                w, a, e = w[:, :left].copy(), a[:, :left].copy(), e[:left]
                before, loss = before[:left], loss[:left]
                lanes, active = lanes[:left], active[:left]
        store(w, loss, active, lanes, W, losses, unfinished)


@part_of_compiled(nogil=True, fastmath=True, inline="always")
def solve_one(a, G, energy, w, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Solve the problem of one image from zero; a weight that does not move costs one comparison.

    Where sweeps do not converge soon, an active-set method goes on from their end.

    Coordinate descent with a gradient that is updated after each step (Hsieh and Dhillon, KDD 2011,
    section 3).
    """
    d = len(a)
    gradient, loss, before = a.copy(), energy, 0.0
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
        least = tolerance * max(loss, ROUNDING * np.finfo(np.float64).eps * energy)
        if has_converged(gain, before, least):
            return
        before = gain
    finish_one(a, G, energy, w)


@compiled(nogil=True, fastmath=True)
def solve_nnls_masked(A, H, observed, energy, l2, W, tolerance, max_sweeps):  # type: ignore[no-untyped-def]
    """Solve the problems of `solve_nnls` over the observed pixels of each image.

    The Gram matrix of an image is summed over its observed pixels, or that of its missing pixels is
    subtracted from the one of all pixels, whichever pixels are fewer. The difference needs float64.

    Parameters
    ----------
    A : ndarray of shape (n, d), float64
        Linear terms, ``X H^T`` with X zero where missing, less any l1 penalty.
    H : ndarray of shape (d, p), float64
    observed : ndarray of shape (n, p), bool
        Whether a pixel is observed.
    energy : ndarray of shape (n,), float64
        ``1/2 ||x||^2``.
    l2 : float
        Penalty added to the diagonals of the Gram matrices.
    W : ndarray of shape (n, d), float64
        Solution on exit; its values on entry are ignored.
    tolerance, max_sweeps
        As in `solve_nnls`.
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
                if G[j, j] <= MIN_OBSERVED_ENERGY * whole[j, j]:
                    G[j], G[:, j] = 0, 0
                else:
                    G[j, j] += l2
        solve_one(A[i], G, energy[i], W[i], tolerance, max_sweeps)
