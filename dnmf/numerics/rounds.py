"""Rounds of online updates for squared error, compiled, on threads that never wait for Python.

It does what `dnmf.numerics.online` does, for the one case that the speed of a fit depends on. An
update takes a fraction of a millisecond, too little to start its parts from Python. So each thread
runs a whole round in one compiled call, and threads wait for each other on counters.

An update has two phases. In the first each *unit* of work converts some images of the batch and
solves for their weights; in the second it adds the products of some pixels to the running sums and
takes a sweep over these pixels of H. All arrays with pixels are stored as blocks of pixels, one
after the other, each with its rows adjacent, as BLAS needs them. Units and blocks depend on the
shape of the problem alone, so that the results do not depend on the number of threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.numerics.block import Block
from dnmf.numerics.compiled import compiled, part_of_compiled
from dnmf.numerics.counters import load_counter, store_counter
from dnmf.numerics.nnls import GROUP, LANES, PANEL, apply_steps, has_converged
from dnmf.numerics.objective import OVERFLOW
from dnmf.numerics.online import count_units
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.statistics import compute_ridge_inverse, gram

REFRESH = 4
"""Number of updates after which the inverse that weights start from is computed again."""

SPINS, PAUSE = 200_000, 1e-5
"""Number of times that a thread looks at the counters of others, in less than a millisecond, before
it gives its core to them, and for how many seconds. With fewer, a thread that is ready a little
sooner sleeps through the next phase."""

PHASES, INVERSE = 5, 1
"""Number of phases of an update: the Gram matrix, the inverse, the images, the sum of the products
of their weights, and the pixels. Number of the phase that one thread computes in Python."""

GRAM = 64
"""Number of columns of a Gram matrix that are computed at a time: only those right of the diagonal
are, half of them all."""

LINE = 8
"""Distance of two counters, in numbers of 64 bits: two in one line of the cache would slow each
other down."""


class Work(NamedTuple):
    """Arrays of a round that its threads share.

    Attributes
    ----------
    edges : ndarray of shape (blocks + 1,), int64
        First pixels of the blocks.
    H, T : ndarray of shape (d * p,)
        Components and running sums, block by block.
    batch : ndarray of shape (b * p,)
        Images of the batch, block by block.
    V : ndarray of shape (b, d)
        Their weights, times the weights of the images.
    G, S, inverse : ndarray of shape (d, d)
        Gram matrix of H, the running sum, and the inverse of G with a ridge, for components of
        length 1.
    lengths : ndarray of shape (d,)
        Lengths of the components, or 1 where penalties determine them.
    parts_G, parts_S : ndarray of shape (units, d, d)
        What the pixels and the images of each unit add to G and S.
    room, steps : ndarray of shape (units, 3, size) and (units, size)
        Room for matrices of a unit.
    counts : ndarray of shape (units, size)
        Weights of the images of each unit.
    ones : ndarray of shape (size,)
        Ones, which is how pixels count.
    """

    edges: Array
    H: Array
    T: Array
    batch: Array
    V: Array
    G: Array
    S: Array
    inverse: Array
    lengths: Array
    parts_G: Array
    parts_S: Array
    room: Array
    steps: Array
    counts: Array
    ones: Array


class Pixels(NamedTuple):
    """Images of the sample, in one of three arrays, so that all are compiled for at once.

    Attributes
    ----------
    bytes : int
        Bytes of a pixel, which say which array has them.
    in_bytes, in_words, in_floats : ndarray of shape (n, p)
        Pixels of 8 and of 16 bits, or in the dtype of the computation; the others are empty.
    """

    bytes: int
    in_bytes: Array
    in_words: Array
    in_floats: Array


class Batches(NamedTuple):
    """Batches of a round.

    Attributes
    ----------
    rows : ndarray of int64
        Rows of all batches, one after the other.
    edges : ndarray of shape (updates + 1,), int64
        First positions of the batches in `rows`.
    keep : ndarray of shape (updates,)
        Factor for the running sums when those of a batch are added.
    weights : ndarray of float64
        Weights of the images of the sample; empty if all are 1.
    totals : ndarray of shape (updates,), float64
        Weight of all images behind the running sums after the update.
    """

    rows: Array
    edges: Array
    keep: Array
    weights: Array
    totals: Array


class Rule(NamedTuple):
    """What is minimised, and how well.

    Attributes
    ----------
    l1_W, l2_W, l1_H, l2_H : float
        Penalties, as in `Objective`.
    sweeps, tolerance
        Largest number of sweeps over the weights of an image, and relative decrease of the loss of
        all images of a unit, to be expected of further sweeps, with which their solve ends.
    normalized : bool
        Whether components are kept at length 1.
    """

    l1_W: float
    l2_W: float
    l1_H: float
    l2_H: float
    sweeps: int
    tolerance: float
    normalized: bool


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def descend(a, G, ridge, w, counts, room, steps):  # type: ignore[no-untyped-def]
    """Sweep over all components once, for problems as of `dnmf.numerics.nnls.solve_nnls`.

    Parameters
    ----------
    a, w : ndarray of shape (d, lanes)
        Linear terms, and the weights, which are updated.
    G : ndarray of shape (d, d)
    ridge : float
        Penalty that is to be added to the diagonal of G.
    counts : ndarray of shape (lanes,)
        How many times each problem counts in what is returned.
    room : ndarray of shape (d * lanes,) or more
    steps : ndarray of shape (GROUP, lanes)

    Returns
    -------
    gain : float
        Decrease of the objective, or a little less, where weights became zero.
    overlap : float
        Twice the energy less the objective, before the sweep, approximately.
    """
    d, lanes = w.shape
    number = a.dtype.type
    zero, half, least = number(0), number(0.5), number(1e3 * np.finfo(a.dtype).tiny)
    gain, overlap = 0.0, 0.0
    for low in range(0, d, PANEL):
        high = min(low + PANEL, d)
        g = room[: (high - low) * lanes].reshape(high - low, lanes)
        np.dot(G[low:high], w, g)
        for j in range(low, high):
            linear, weight, descent, part = a[j], w[j], g[j - low], zero
            for i in range(lanes):
                descent[i] = linear[i] - ridge * weight[i] - descent[i]
                part += counts[i] * weight[i] * (linear[i] + descent[i])
            overlap += part
        for first in range(low, high, GROUP):
            last = min(first + GROUP, high)
            for j in range(first, last):
                curve, weight, descent, step = G[j, j] + ridge, w[j], g[j - low], steps[j - first]
                if curve > least:
                    rate, part = 1 / curve, zero
                    for i in range(lanes):
                        step[i] = max(weight[i] + rate * descent[i], zero) - weight[i]
                        weight[i] += step[i]
                        part += counts[i] * step[i] * step[i]
                    gain += half * curve * part
                else:  # the objective is linear in this weight: a penalty takes it to 0
                    for i in range(lanes):
                        step[i] = -weight[i] if descent[i] < zero else zero
                        weight[i] += step[i]
                for m in range(j + 1, last):
                    coupling, other = G[j, m], g[m - low]
                    for i in range(lanes):
                        other[i] -= coupling * step[i]
            if last < high:
                apply_steps(g[last - low :], G[last:high, first:last], steps)
    return gain, overlap


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def add_gram(H, G, room):  # type: ignore[no-untyped-def]
    """Add ``H H^T`` to G, on the diagonal and right of it."""
    d = len(H)
    for low in range(0, d, GRAM):
        high = min(low + GRAM, d)
        part = room[: high * (high - low)].reshape(high, high - low)
        np.dot(H[:high], H[low:high].T, part)
        for i in range(high):
            for j in range(high - low):
                G[i, low + j] += part[i, j]


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def sum_grams(u, work, normalized):  # type: ignore[no-untyped-def]
    """Add up some rows of the Gram matrix over all pixels, and fill in its left half."""
    units, d = len(work.parts_G), len(work.G)
    for i in range(u, d, units):
        for j in range(i, d):
            total = work.parts_G[0, i, j]
            for other in range(1, units):
                total += work.parts_G[other, i, j]
            work.G[i, j] = work.G[j, i] = total
        length = np.sqrt(work.G[i, i])
        work.lengths[i] = length if normalized and length > 0 else 1


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def sum_weights(u, keep, work):  # type: ignore[no-untyped-def]
    """Update some rows of the running sum of products of weights."""
    units, d = len(work.parts_S), len(work.S)
    for i in range(u, d, units):
        kept = keep * work.lengths[i]
        for j in range(d):
            total = kept * work.lengths[j] * work.S[i, j]
            for other in range(units):
                total += work.parts_S[other, i, j]
            work.S[i, j] = total


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def convert(X, rows, low, high, counts, images):  # type: ignore[no-untyped-def]
    """Convert some pixels of some rows of X; return half the sum of squares, as images count."""
    number, energy = images.dtype.type, 0.0
    for i in range(len(rows)):
        image, pixels, square = images[i], X[rows[i], low:high], number(0)
        for j in range(high - low):
            image[j] = pixels[j]
            square += image[j] * image[j]
        energy += number(0.5) * counts[i] * square
    return energy


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def project(first, last, rows, counts, sample, work, A, product):  # type: ignore[no-untyped-def]
    """Convert images of a batch, given their rows of the sample, and compute ``H X^T`` in A.

    Returns
    -------
    energy : float
        ``1/2 ||X||^2``.
    """
    d, count, size, energy = len(A), last - first, len(work.V), 0.0
    A[:] = 0
    for k in range(len(work.edges) - 1):
        low, high = work.edges[k], work.edges[k + 1]
        images = work.batch[size * low : size * high].reshape(size, high - low)[first:last]
        if sample.bytes == 1:
            energy += convert(sample.in_bytes, rows, low, high, counts, images)
        elif sample.bytes == 2:
            energy += convert(sample.in_words, rows, low, high, counts, images)
        else:
            energy += convert(sample.in_floats, rows, low, high, counts, images)
        np.dot(work.H[d * low : d * high].reshape(d, high - low), images.T, product)
        for j in range(d):
            for i in range(count):
                A[j, i] += product[j, i]
    return energy


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def first_weights(A, l1, work, scaled, W):  # type: ignore[no-untyped-def]
    """Subtract the penalty from A, and set the weights to the positive part of ridge regression."""
    for j in range(len(A)):
        rate = 1 / work.lengths[j]  # the inverse is that for components of length 1
        for i in range(A.shape[1]):
            A[j, i] -= l1
            scaled[j, i] = A[j, i] * rate
    np.dot(work.inverse, scaled, W)
    for j in range(len(A)):
        rate = 1 / work.lengths[j]
        for i in range(A.shape[1]):
            W[j, i] = max(W[j, i] * rate, A.dtype.type(0))


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def solve_images(u, t, sample, batches, work, rule):  # type: ignore[no-untyped-def]
    """Solve for the weights of the images of a unit, and form their part of S."""
    units, d = len(work.parts_S), len(work.G)
    number = work.H.dtype.type
    begin, end = batches.edges[t], batches.edges[t + 1]
    first, last = (end - begin) * u // units, (end - begin) * (u + 1) // units
    rows, count = batches.rows[begin + first : begin + last], last - first
    A = work.room[u, 0, : d * count].reshape(d, count)
    W = work.room[u, 1, : d * count].reshape(d, count)
    room, counts = work.room[u, 2], work.counts[u, :count]
    if len(batches.weights):
        for i in range(count):
            counts[i] = batches.weights[rows[i]]
    energy, before = project(first, last, rows, counts, sample, work, A, W), 0.0
    first_weights(A, number(rule.l1_W), work, room[: d * count].reshape(d, count), W)
    ridge, steps = number(rule.l2_W), work.steps[u, : GROUP * count].reshape(GROUP, count)
    for _ in range(rule.sweeps):
        gain, overlap = descend(A, work.G, ridge, W, counts, room, steps)
        loss = max(energy - 0.5 * overlap, np.finfo(A.dtype).eps * energy)
        if has_converged(gain, before, rule.tolerance * loss):
            break
        before = gain
    V = work.V[first:last]
    for j in range(d):
        for i in range(count):
            W[j, i] *= work.lengths[j]
            V[i, j] = W[j, i]
    if len(batches.weights):
        for i in range(count):
            for j in range(d):
                V[i, j] *= counts[i]
    np.dot(W, V, work.parts_S[u])


@part_of_compiled(nogil=True, fastmath=True, error_model="numpy")
def update_pixels(u, t, batches, work, rule):  # type: ignore[no-untyped-def]
    """Update the running sums and H for the pixels of a unit, and their part of G."""
    units, d, size = len(work.parts_G), len(work.G), len(work.V)
    number = work.H.dtype.type
    keep, total = number(batches.keep[t]), batches.totals[t]
    l1, l2 = number(total * rule.l1_H), number(total * rule.l2_H)
    V = work.V[: batches.edges[t + 1] - batches.edges[t]]
    work.parts_G[u] = 0
    for k in range(u, len(work.edges) - 1, units):
        low, high = work.edges[k], work.edges[k + 1]
        count = high - low
        H = work.H[d * low : d * high].reshape(d, count)
        T = work.T[d * low : d * high].reshape(d, count)
        linear = work.room[u, 0, : d * count].reshape(d, count)
        images = work.batch[size * low : size * high].reshape(size, count)[: len(V)]
        np.dot(V.T, images, linear)
        for j in range(d):
            kept, rate = keep * work.lengths[j], 1 / work.lengths[j]
            for i in range(count):
                T[j, i] = kept * T[j, i] + linear[j, i]
                linear[j, i] = T[j, i] - l1
                H[j, i] *= rate
        steps = work.steps[u, : GROUP * count].reshape(GROUP, count)
        descend(linear, work.S, l2, H, work.ones[:count], work.room[u, 2], steps)
        add_gram(H, work.parts_G[u], work.room[u, 2])


@part_of_compiled(nogil=True)
def wait(counters, threads, phase):  # type: ignore[no-untyped-def]
    """Wait until all threads have come to a phase; return whether they have."""
    for _ in range(SPINS):
        behind = 0
        for other in range(threads):
            behind += load_counter(counters + 8 * LINE * other) < phase
        if behind == 0:
            return True
    return False


@compiled(nogil=True)
def run_phases(thread, threads, phase, counters, sample, batches, work, rule):  # type: ignore[no-untyped-def]
    """Run phases of a round on this thread, as long as the others come along.

    Parameters
    ----------
    thread, threads : int
        Number of this thread, and of all.
    phase : int
        First phase to run.
    counters : int
        Address of the counters of the threads, the next phase of each.
    sample : Pixels
    batches : Batches
    work : Work
    rule : Rule

    Returns
    -------
    phase : int
        Next phase to run: the number of phases if all are done.
    ready : bool
        Whether all threads have come to it. It is then for the caller to compute the inverse.
    """
    store_counter(counters + 8 * LINE * thread, phase)
    while phase < PHASES * len(batches.keep):
        t, kind = phase // PHASES, phase % PHASES
        idle = kind == INVERSE and (t % REFRESH > 0 or thread > 0)
        if not idle and not wait(counters, threads, phase):
            return phase, False
        if kind == INVERSE and not idle:
            return phase, True
        for u in range(thread, len(work.parts_G), threads):
            if kind == 0:
                sum_grams(u, work, rule.normalized)
            elif kind == 2:
                solve_images(u, t, sample, batches, work, rule)
            elif kind == 3:
                sum_weights(u, batches.keep[t], work)
            elif kind == 4:
                update_pixels(u, t, batches, work, rule)
        phase += 1
        store_counter(counters + 8 * LINE * thread, phase)
    return phase, True


def run_round(
    objective: Quadratic,
    H: Array,
    sample: Block,
    batches: Sequence[Array],
    keep: Array,
    threads: int,
) -> Array:
    """Improve H by one update for each of some batches, on running sums that begin at zero.

    Parameters
    ----------
    objective : Quadratic
    H : ndarray of shape (d, p)
        Components in the dtype of the computation.
    sample : Block
        Images, without a mask.
    batches : sequence of ndarray of int64
        Rows of each batch.
    keep : ndarray of shape (updates,), float64
        Factors for the running sums when those of a batch are added.
    threads : int
        Largest number of threads; the result does not depend on it.

    Returns
    -------
    ndarray of shape (d, p), float64

    Raises
    ------
    DataError
        The sums overflow their dtype.
    """
    size = max(map(len, batches))
    work = _room(np.ascontiguousarray(H), size)
    threads = min(threads, len(work.parts_G))
    weights = np.empty(0) if sample.weights is None else sample.weights
    pixels = _pixels(sample.X, H.dtype)
    counters = np.zeros(LINE * threads, np.int64)
    rule = Rule(
        *(objective.l1_W, objective.l2_W, objective.l1_H, objective.l2_H),
        *(objective.max_sweeps, objective.W_tolerance, not objective.has_penalties),
    )
    drawn = _join(batches, keep, weights)
    address, failed = counters.ctypes.data, threading.Event()

    def run(thread: int) -> None:
        phase, last = 0, PHASES * len(batches)
        try:
            while phase < last and not failed.is_set():
                phase, ready = run_phases(
                    thread, threads, phase, address, pixels, drawn, work, rule
                )
                if not ready:
                    time.sleep(PAUSE)
                elif phase < last:
                    # Of components of length 1, as H is scaled with each update.
                    scales = work.lengths[:, None] * work.lengths
                    work.inverse[:] = compute_ridge_inverse(work.G / scales)
                    phase += 1
        except BaseException:
            failed.set()  # or the others would wait for ever
            raise

    with ThreadPoolExecutor(max(threads - 1, 1)) as pool, np.errstate(all="ignore"):
        others = [pool.submit(run, thread) for thread in range(1, threads)]
        try:
            run(0)
            for other in others:
                other.result()
        except np.linalg.LinAlgError as error:
            raise DataError(OVERFLOW) from error
    d, edges = len(H), pairwise(work.edges.tolist())
    improved = np.hstack([work.H[d * a : d * b].reshape(d, b - a) for a, b in edges])
    if not np.isfinite(improved).all():
        raise DataError(OVERFLOW)
    return improved.astype(np.float64)


def _room(H: Array, size: int) -> Work:
    """Allocate the arrays of a round."""
    (d, p), dtype = H.shape, H.dtype
    units = count_units(size, d, p)
    n_blocks = units * -(-p // (units * LANES))
    edges = np.array([p * k // n_blocks for k in range(n_blocks + 1)])
    blocks = [H[:, a:b].ravel() for a, b in pairwise(edges.tolist())]
    parts_G = np.zeros((units, d, d), dtype)
    parts_G[0] = gram(H)
    lanes = max(-(-size // units), -(-p // n_blocks))
    return Work(
        edges=edges,
        H=np.concatenate(blocks),
        T=np.zeros(d * p, dtype),
        batch=np.empty(size * p, dtype),
        V=np.empty((size, d), dtype),
        G=np.zeros((d, d), dtype),
        S=np.zeros((d, d), dtype),
        inverse=np.zeros((d, d), dtype),
        lengths=np.ones(d, dtype),
        parts_G=parts_G,
        parts_S=np.empty_like(parts_G),
        room=np.empty((units, 3, d * max(lanes, GRAM)), dtype),
        steps=np.empty((units, GROUP * lanes), dtype),
        counts=np.ones((units, lanes), dtype),
        ones=np.ones(lanes, dtype),
    )


def _join(batches: Sequence[Array], keep: Array, weights: Array) -> Batches:
    """Join the batches of a round, and add up the weights behind the running sums."""
    rows = np.concatenate(batches)
    edges = np.cumsum([0, *map(len, batches)])
    totals, total = np.empty(len(keep)), 0.0
    for t, batch in enumerate(batches):
        total = keep[t] * total + (weights[batch].sum() if len(weights) else len(batch))
        totals[t] = total
    return Batches(rows, edges, keep, weights, totals)


def _pixels(X: Array, dtype: np.dtype[Any]) -> Pixels:
    """Describe the images of a sample; only rare kinds and orders of arrays are copied."""
    known = (np.dtype(np.uint8), np.dtype(np.uint16), dtype)
    X = np.ascontiguousarray(X, X.dtype if X.dtype in known else dtype)
    views = [X.view() if X.dtype == kind else np.empty((0, 0), kind) for kind in known]
    for view in views:
        view.flags.writeable = False  # as X may be, and that counts as another type
    return Pixels(X.itemsize, *views)
