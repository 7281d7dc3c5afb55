"""Where H starts: a draw or singular vectors, then a warm-up on a sample of images in memory.

A full pass updates H once; the warm-up does it hundreds of times on the same pixels, and after a
read or less H is where forty full passes from a random start do not bring it
(`docs/how-it-works.md` has the figures). It needs few images and one place to run in, so it costs
a cluster next to nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dnmf.block import Block, alike
from dnmf.blockwise import Blocks
from dnmf.errors import DataError
from dnmf.kernels import compute_dtype
from dnmf.masked import SHARED, MaskedQuadratic
from dnmf.objective import OVERFLOW, Objective, Quadratic
from dnmf.online import Running, batches_of, follow
from dnmf.sample import sample_rows
from dnmf.sums import Basis
from dnmf.threads import CPU_COUNT

Array = np.ndarray[Any, np.dtype[Any]]

ROUND, ROUGH = 360, (240, 500)
"""H updates of a round: their number matters more than the images behind each. Of the only round
for a rough answer, as many as 2.2 for each component, within these bounds."""

MAX_ROUNDS, ROUND_GAIN, LEAST_TOL, ROUGH_TOL = 12, 3, 5e-5, 1e-2
"""The warm-up ends with rounds that lower the loss by less than three times `tol`, which counts as
5e-5 at least; 1e-2 asks for a rough answer, after one round. A round costs about as much as a pass
over the sample and gains far more."""

PATIENCE, COARSE_TOL = 2, 1e-3
"""Such rounds in a row that end it, as one may gain little by chance; one from this `tol` on."""

ROUND_STEPS = 10_000
"""On the weights of an image at most in an update, sweeps times components: where components are
very many and much alike, to solve to the end takes many times as long and lowers the loss less."""

MAX_FLOPS, SOLVE_FLOPS = 2e12, 20
"""Work of all rounds, if not one alone is more: a minute on a few cores. Images and components so
large are left to the passes, which have a cluster. Ten sweeps over d weights take 20 d^2."""

PROBE_ROWS = 8192
"""Images of the sample that rounds are judged by."""

SHORT = 256
"""Updates at least, and an epoch, first on squared error, then on the divergence, where that is
another: each costs more there."""

FORGET = (0.5, 0.99)
"""Forgetting factor of the running sums at the first and the last update of a round: the first sums
come from a poor H and should fade fast, the last should average over many images, or H jitters. To
start over with each round moves H further than to go on averaging."""

POWER_STEPS = 7
"""Steps of subspace iteration on the sample before the first on all of X."""

OVERSAMPLING = 10
"""Singular vectors computed beyond twice those wanted: reads are dear, columns are not, and an
error shrinks per step by the ratio of the first unwanted value to a wanted one, squared."""


def mean_of(sample: Block) -> float:
    """Average the observed pixels, images weighted."""
    if not sample.X.size:
        return 0.0
    if sample.observed is None and sample.weights is None:
        return float(sample.X.mean(dtype=np.float64))
    weights = np.ones(len(sample)) if sample.weights is None else sample.weights
    p = sample.X.shape[1]
    count = np.full(len(sample), p) if sample.observed is None else sample.observed.sum(axis=1)
    total = float(weights @ count)
    return float(weights @ sample.X.sum(axis=1, dtype=np.float64)) / total if total else 0.0


def random_H(sample: Block, n_components: int, seed: int) -> Array:
    """Draw H as scikit-learn's ``init="random"`` does for the same seed and mean.

    ``|N(0, 1)| sqrt(mean(X) / d)``, drawn by the legacy generator, H before W.

    Returns
    -------
    H : ndarray of shape (n_components, p), float64
    """
    scale = np.sqrt(mean_of(sample) / n_components)
    rng = np.random.RandomState(seed)
    draw = rng.standard_normal(size=(n_components, sample.X.shape[1]))
    return np.asarray(np.abs(scale * draw))


def nndsvd_H(blocks: Blocks, sample: Block, n_components: int, seed: int, fill: str) -> Array:
    """Start from the non-negative parts of the leading singular vectors, in three reads of X.

    Boutsidis and Gallopoulos, Pattern Recognition 2008 (the H of it). The right singular vectors
    come from subspace iteration: X^T (X Q) is a sum over blocks, read once per iteration; the
    first Q comes from the sample. A third read finds which sign of each component carries more.

    Parameters
    ----------
    blocks : Blocks
    sample : Block
    n_components : int
        At most min(n, p).
    seed : int
    fill : str
        ``"nndsvd"`` leaves zeros, ``"nndsvda"`` puts the mean of X in their place, ``"nndsvdar"``
        small random values.

    Returns
    -------
    H : ndarray of shape (n_components, p), float64
    """
    values, V, u_norms = singular_vectors(blocks, sample, n_components, seed)
    H = np.empty((n_components, len(V)))
    for j, (value, v) in enumerate(zip(values, V.T, strict=True)):
        parts = (np.abs(v),) if j == 0 else (np.maximum(v, 0), np.maximum(-v, 0))
        shares = [np.linalg.norm(part) * u for part, u in zip(parts, u_norms[:, j], strict=False)]
        best = 0 if j == 0 else int(np.argmax(shares))
        size = 1.0 if j == 0 else shares[best]
        norm = np.linalg.norm(parts[best])
        H[j] = np.sqrt(value * size) * (parts[best] / norm if norm else 0)
    H[1e-6 * np.max(H, initial=0) > H] = 0
    if fill != "nndsvd":
        mean, empty = mean_of(sample), H == 0
        rng = np.random.RandomState(seed)
        noise = np.abs(rng.standard_normal(size=int(empty.sum()))) / 100
        H[empty] = mean if fill == "nndsvda" else mean * noise
    return H


def singular_vectors(
    blocks: Blocks, sample: Block, count: int, seed: int
) -> tuple[Array, Array, Array]:
    """Compute the leading singular values and right vectors of X in three reads.

    Missing pixels count as 0; images as their weights say.

    Returns
    -------
    values : ndarray of shape (count,), float64
    V : ndarray of shape (p, count), float64
    u_norms : ndarray of shape (2, count), float64
        Norms of the positive and of the negative part of each left vector.
    """
    n, p = blocks.shape
    width = min(2 * count + OVERSAMPLING, n, p)
    Q = np.linalg.qr(np.random.default_rng([seed, 3]).standard_normal((p, width)))[0]
    for _ in range(POWER_STEPS):
        Q = np.linalg.qr(_power(sample, Q=Q))[0]
    Q = np.linalg.qr(blocks.map_sum(partial(_power, Q=Q)))[0]
    Y = blocks.map_sum(partial(_power, Q=Q), check=False)
    if not np.isfinite(Y).all():
        raise DataError(OVERFLOW)
    # Q^T (X^T X) Q is small: its eigenvectors turn Q, and one more step of the iteration, into
    # singular vectors.
    _, turn = np.linalg.eigh(Q.T @ Y)
    V = np.linalg.qr(Y @ turn[:, ::-1])[0][:, :count]
    squares = blocks.map_sum(partial(_halves, V=V), check=False)
    values = np.sqrt(squares.sum(axis=0))
    order = np.argsort(-values, kind="stable")
    norms = np.sqrt(squares) / np.where(values > 0, values, 1)
    return values[order], V[:, order], norms[:, order]


def _power(block: Block, *, Q: Array) -> Array:
    """Compute X^T X Q of a block, (p, l)."""
    Y = np.zeros(Q.shape)
    dtype = compute_dtype(block.X.dtype)
    for _, strip in block.strips(dtype):
        Z = strip.X @ Q.astype(dtype)
        Y += strip.X.T @ (Z if strip.weights is None else strip.weights[:, None] * Z)
    return Y


def _halves(block: Block, *, V: Array) -> Array:
    """Sum the squares of the positive and of the negative entries of X V, (2, l)."""
    squares = np.zeros((2, V.shape[1]))
    dtype = compute_dtype(block.X.dtype)
    for _, strip in block.strips(dtype):
        Z = (strip.X @ V.astype(dtype)).astype(np.float64)
        weights = np.ones(len(Z)) if strip.weights is None else strip.weights
        squares[0] += weights @ np.maximum(Z, 0) ** 2
        squares[1] += weights @ np.minimum(Z, 0) ** 2
    return squares


def initial_H(
    blocks: Blocks, sample: Block, n_components: int, seed: int, init: str
) -> tuple[Array, int]:
    """Draw H or take it from singular vectors; say how many reads of X that took."""
    if init == "random" or not len(sample):
        return random_H(sample, n_components, seed), 0
    return nndsvd_H(blocks, sample, n_components, seed, init), 3


def warm_up(objective: Objective, H: Array, sample: Block, seed: int, tol: float) -> Array:
    """Improve H on the sample by rounds of online updates, until they gain little.

    Parameters
    ----------
    objective : Objective
    H : ndarray of shape (d, p), float64
    sample : Block
    seed : int
    tol : float
        Of the passes that follow. Rounds go on while they lower the loss on some of the sample by
        `ROUND_GAIN` times as much, or nearly; the best H of all counts.

    Returns
    -------
    H : ndarray of shape (d, p), float64
    """
    rng = np.random.default_rng([seed, 2])
    if not isinstance(objective, Quadratic):
        # Squared error is the cheap way from a poor H to a fair one.
        plain = Quadratic() if sample.observed is None else MaskedQuadratic()
        for part in (plain, objective):
            updates = _short(part, len(H), len(sample))
            H = objective.alive(online_round(part, H, sample, rng, updates))
        return H
    probe = sample.take(np.sort(rng.permutation(len(sample))[:PROBE_ROWS]))
    d, p = H.shape
    quick = replace(objective, sweeps=min(objective.sweeps, max(ROUND_STEPS // d, 1)))
    most, updates = _rounds(objective, d, p, tol)
    patience = _patience(tol)
    best, lowest, idle = H, np.inf, 0
    for _ in range(most):
        H = online_round(quick, H, sample, rng, updates)
        if most == 1:
            return H
        loss = loss_of(objective, H, probe)
        idle = idle + 1 if loss >= (1 - ROUND_GAIN * max(tol, LEAST_TOL)) * lowest else 0
        if loss < lowest:
            best, lowest = H, loss
        if idle == patience:
            break
    return best


def updates_between(objective: Objective, d: int, blocks: Blocks, tol: float) -> tuple[int, int]:
    """Say how many updates of H a warm-up makes, at least and at most."""
    n, p = blocks.shape
    if not isinstance(objective, Quadratic):
        # Those on squared error cost next to nothing beside the objective's own.
        return (_short(objective, d, sample_rows(n, p, blocks.dtype.itemsize)),) * 2
    most, updates = _rounds(objective, d, p, tol)
    return updates * min(1 + _patience(tol), most), updates * most


def _short(objective: Objective, d: int, n_sample: int) -> int:
    return max(SHORT, n_sample // objective.round_rows(d))


def _patience(tol: float) -> int:
    return 1 if tol >= COARSE_TOL else PATIENCE


def _rounds(objective: Objective, d: int, p: int, tol: float) -> tuple[int, int]:
    """Choose how many rounds there may be, and the updates of each."""
    if tol >= ROUGH_TOL:
        least, most = ROUGH
        return 1, min(max(least, round(2.2 * d)), most)
    flops = ROUND * objective.round_rows(d) * (4 * d * p + SOLVE_FLOPS * d**2)
    return min(MAX_ROUNDS, max(int(MAX_FLOPS / flops), 1)), ROUND


def loss_of(objective: Objective, H: Array, block: Block) -> float:
    """Compute the loss of a block, with the weights that H gives it."""
    stats, _ = objective.measure(block, Basis.for_pixels(H, block.X.dtype), weights=False)
    return objective.outcome(stats, H, H)[2]


def online_round(
    objective: Objective, H: Array, sample: Block, rng: np.random.Generator, updates: int
) -> Array:
    """Improve H by small batches with a running, forgetting sum, one sweep over H per batch.

    Images are taken in a random order, and in another when all have had their turn.
    """
    size = objective.round_rows(len(H))
    together = _share_masks(sample)
    batches: list[Array] = []
    while len(batches) < updates:
        batches += _shuffled(together, size, rng)
    keeps = np.interp(np.arange(updates) / updates, (0, 1), FORGET)
    dtype = objective.running_dtype(compute_dtype(sample.X.dtype))
    each = zip(batches[:updates], keeps.tolist(), strict=True)
    return follow(objective, Running(H.astype(dtype)), sample, each, CPU_COUNT).H.astype(np.float64)


def _share_masks(sample: Block) -> list[Array]:
    """Cut a sample into images that share their mask, where many do."""
    rows = np.arange(len(sample))
    together = [] if sample.observed is None else alike(sample.observed)
    many = len(rows) >= 2 * SHARED * len(together) > 0
    return [rows[some] for some in together] if many else [rows]


def _shuffled(together: list[Array], size: int, rng: np.random.Generator) -> list[Array]:
    """Split rows into batches at random, of few parts each: images that share a mask cost less."""
    pieces = [some for part in together for some in batches_of(rng.permutation(part), size)]
    if len(together) <= 1:
        return pieces
    batches: list[Array] = []
    waiting: list[Array] = []
    for i in rng.permutation(len(pieces)):
        waiting.append(pieces[i])
        if sum(map(len, waiting)) >= size:
            batches, waiting = [*batches, np.concatenate(waiting)], []
    return batches or [np.concatenate(waiting)]
