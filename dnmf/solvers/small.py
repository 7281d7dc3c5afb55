"""Fits of small arrays: sweeps over W and H in turn on the whole of X, with W kept in memory.

That nothing is kept between passes over blocks costs time where all of X, W and H fits in memory. A
few sweeps over W, as many over H, and extrapolation of both (E-A-HALS: Ang and Gillis, Neural
Computation 2019, algorithms 2 and 3) lower the loss by as much in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import issparse

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.local import LocalBlocks
from dnmf.numerics.block import Strip, compute_dtype, find_invalid, squared_norms
from dnmf.numerics.objective import RESOLVED, Objective
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import BETA_DECAY, BETA_GROWTH, BETA_MAX_GROWTH, State
from dnmf.numerics.statistics import Basis, SufficientStats, gram

SMALL, FEW_IMAGES, SMALL_OF_FEW = 2**22, 1024, 2**24
"""Number of stored values up to which an array is small; up to 1,024 images, whose online updates
would see all of them in a few batches, more values are."""

SWEEPS = 3
"""Number of sweeps over W, and over H, for one product with X: these cost more than sweeps."""

BETA = 0.5
"""Extrapolation after the first iteration."""

WINDOW = 20
"""Number of iterations whose gain is compared with `tol`: together they do about what a pass does, and
the gain of a single one varies with the extrapolation."""


def is_small(blocks: Blocks, objective: Objective) -> bool:
    """Check whether `iterate` is the faster way for an array: small, in memory, all observed."""
    if type(objective) is not Quadratic or not isinstance(blocks, LocalBlocks):
        return False
    if not (issparse(blocks.array) or blocks.is_plain):
        return False
    values = blocks.array.nnz if issparse(blocks.array) else blocks.array.size
    return bool(values <= (SMALL_OF_FEW if blocks.shape[0] <= FEW_IMAGES else SMALL))


def iterate(
    blocks: LocalBlocks, objective: Objective, state: State, tol: float, max_iter: int
) -> Iterator[State]:
    """Improve H until iterations lower the loss little; yield the state after each of them.

    Parameters
    ----------
    blocks : LocalBlocks
    objective : Objective
    state : State
        With the first H.
    tol : float
        Iterations end with the first `WINDOW` in a row that have lowered the loss by less than this
        share of it; 0 for no end.
    max_iter : int
        Largest number of iterations.

    Yields
    ------
    State
        Its losses are those of H and of the W that is kept, which is not quite the best for H.

    Raises
    ------
    DataError
        A pixel is negative, NaN or infinite.
    """
    X = blocks.array
    values = X.data.reshape(1, -1) if issparse(X) else X
    if find_invalid(values, 0, None, blocks.rules.positive):
        blocks.map_sum(len)  # raises the error, which names the image
    unit = blocks.rules.weight_unit
    weights = None if blocks.weights is None else blocks.weights / unit
    factors = _Factors(objective, _strip(X, weights, compute_dtype(X.dtype)), state.H)
    losses: list[float] = []
    while len(losses) < max_iter and not _has_converged(losses, tol):
        factors.improve()
        losses.append(unit * factors.loss)
        H = factors.H.astype(np.float64)
        yield replace(
            state,
            H=H,
            Y=H,
            Z=H,
            losses=tuple(losses),
            divergence=unit * factors.divergence,
            n_reads=state.n_reads + len(losses),
            xx=unit * float(factors.strip.pixel_norms.sum()),
        )


def _has_converged(losses: list[float], tol: float) -> bool:
    if losses and losses[-1] <= 0:
        return tol > 0
    return len(losses) > WINDOW and losses[-1 - WINDOW] - losses[-1] < tol * losses[-1]


def _strip(X: Any, weights: Array | None, dtype: np.dtype[Any]) -> Strip:
    """Return all images as one strip, whose X is sparse where the array is."""
    X = X.astype(dtype, copy=False)
    of_images = np.ones(X.shape[0]) if weights is None else weights
    if not issparse(X):
        X = np.ascontiguousarray(X)
        return Strip(X, None, weights, *squared_norms(X, of_images))
    squares = X.astype(np.float64).power(2)
    return Strip(X, None, weights, squares @ np.ones(X.shape[1]), squares.T @ of_images)


class _Factors:
    """W and H of a strip, those that the next sweeps start from, and the extrapolation.

    Attributes
    ----------
    H : ndarray of shape (d, p)
        Best components so far; W, of shape (d, n), is that before the last extrapolation.
    W_next, H_next : ndarray
        Factors, extrapolated, that the next sweeps start from.
    loss, divergence : float
        Of the best H and the W with which it was found.
    """

    def __init__(self, objective: Objective, strip: Strip, H: Array) -> None:
        self.objective, self.strip = replace(objective, max_sweeps=SWEEPS), strip
        self.H = self.H_next = H.astype(strip.X.dtype)
        self.W = self.W_next = np.zeros((len(H), strip.X.shape[0]), strip.X.dtype)
        self.beta, self.beta_max, self.loss, self.divergence = BETA, 1.0, np.inf, np.inf

    def improve(self) -> None:
        """Sweep over W and over H; keep the result unless the loss has risen."""
        W = self._sweep_W()
        further = np.maximum(W + self.beta * (W - self.W), 0) if self.loss < np.inf else W
        stats = self._sums(further)
        H = self.objective.update_H(self.H_next, stats, SWEEPS)
        _, divergence, loss = self.objective.known_loss(stats, self.H_next, H)
        if loss > self.loss:
            self.W, self.H_next = self.W_next, self.H
            self.beta, self.beta_max = self.beta / BETA_DECAY, self.beta
            return
        beyond = H if self.loss == np.inf else np.maximum(H + self.beta * (H - self.H), 0)
        self.W, self.W_next, self.H, self.H_next = W, further, H, beyond
        self.loss, self.divergence = loss, divergence
        self.beta_max = min(1.0, BETA_MAX_GROWTH * self.beta_max)
        self.beta = min(self.beta_max, BETA_GROWTH * self.beta)
        if W.dtype == np.float32 and 2 * divergence < RESOLVED * stats.xx.sum():
            self._widen()

    def _widen(self) -> None:
        """Go on in float64, as float32 cannot resolve the loss any further."""
        strip, wide = self.strip, np.float64
        self.strip = strip._replace(X=strip.X.astype(wide))
        self.H, self.H_next = self.H.astype(wide), self.H_next.astype(wide)
        self.W, self.W_next = self.W.astype(wide), self.W_next.astype(wide)
        stats = self._sums(self.W_next)  # whose last digits were not known
        _, self.divergence, self.loss = self.objective.known_loss(stats, self.H, self.H)

    def _sweep_W(self) -> Array:
        basis = Basis.from_H(self.H_next, self.H_next.dtype)
        A = np.ascontiguousarray(self.objective.linear_terms(self.strip, basis))
        W = self.W_next.copy()
        self.objective.descend(A, basis.G, self.strip.norms, W)
        return W

    def _sums(self, W: Array) -> SufficientStats:
        strip, V = self.strip, W if self.strip.weights is None else W * self.strip.weights.astype(W.dtype)
        S = gram(W) if strip.weights is None else V @ W.T
        T = np.ascontiguousarray(V @ strip.X)
        total = float(len(W.T) if strip.weights is None else strip.weights.sum())
        penalty = self.objective.penalty_of_W(W, V)
        return SufficientStats(S, T, strip.pixel_norms, total, 0.0, penalty)
