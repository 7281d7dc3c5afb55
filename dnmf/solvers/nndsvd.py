"""Starts from singular vectors (NNDSVD), computed in three reads of X."""

from __future__ import annotations

from functools import partial

import numpy as np

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.errors import DataError
from dnmf.numerics.block import Block, compute_dtype
from dnmf.numerics.objective import OVERFLOW
from dnmf.solvers.sample import mean_of
from dnmf.solvers.sketch import leading_directions, sketch_width

POWER_STEPS = 7
"""Number of steps of subspace iteration on the sample before the first on all of X."""


def nndsvd_H(blocks: Blocks, sample: Block, n_components: int, seed: int, fill: str) -> Array:
    """Compute H from the non-negative parts of the leading singular vectors, in three reads of X.

    This is the H of NNDSVD (Boutsidis and Gallopoulos, Pattern Recognition 2008). The right
    singular vectors come from subspace iteration: X^T (X Q) is a sum over blocks, read once per
    iteration; the first Q comes from the sample. A third read finds which sign of each component
    carries more.

    Parameters
    ----------
    blocks : Blocks
    sample : Block
    n_components : int
        Number of components, at most min(n, p).
    seed : int
    fill : str
        Treatment of zeros: ``"nndsvd"`` leaves them, ``"nndsvda"`` replaces them by the mean of X,
        ``"nndsvdar"`` by small random values.

    Returns
    -------
    H : ndarray of shape (n_components, p), float64
    """
    values, V, u_norms = singular_vectors(blocks, sample, n_components, seed)
    values *= np.sqrt(blocks.rules.weight_unit)
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

    Missing pixels count as 0, and images by their weights.

    Returns
    -------
    values : ndarray of shape (count,), float64
    V : ndarray of shape (p, count), float64
    u_norms : ndarray of shape (2, count), float64
        Norms of the positive and of the negative part of each left vector.
    """
    width, dtype = sketch_width(count, *blocks.shape), compute_dtype(blocks.dtype)
    Q = leading_directions(sample, width, seed, POWER_STEPS, dtype)
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
