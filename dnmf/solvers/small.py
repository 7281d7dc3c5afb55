"""Fits of small arrays: sweeps over W and H in turn on the whole of X, with W kept in memory.

Passes over blocks do not keep W. If X, W and H fit in memory, keeping W saves time: a few sweeps
over W, as many over H, and extrapolation of both (E-A-HALS: Ang and Gillis, Neural Computation
2019, algorithms 2 and 3) lower the loss by as much in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from scipy.sparse import issparse

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.local import LocalBlocks
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block, compute_dtype, find_invalid, squared_norms
from dnmf.numerics.multiplicative import FINE_TOL, STEPS_PER_CHECK, alternate
from dnmf.numerics.objective import RESOLVED, Objective
from dnmf.numerics.quadratic import Quadratic, quadratic_loss
from dnmf.numerics.state import BETA_DECAY, BETA_GROWTH, BETA_MAX_GROWTH, EXACT, State
from dnmf.numerics.statistics import SufficientStats, gram
from dnmf.solvers.sample import whole

SMALL, FEW_IMAGES, SMALL_OF_FEW = 2**22, 1024, 2**24
"""Number of stored values up to which an array is small; up to 1,024 images, whose online updates
would see all of them in a few batches, more values are."""

TINY = 2**16
"""Number of stored values up to which the computation is in float64, which costs no more there."""

SWEEPS = 3
"""Number of sweeps over W, and over H, for one product with X: these cost more than sweeps."""

BETA = 0.5
"""Extrapolation after the first iteration."""

WINDOW = 20
"""Number of iterations whose gain is compared with `tol`: together they do about what a pass does,
and the gain of a single one varies with the extrapolation."""


def is_small(blocks: Blocks, objective: Objective, tol: float) -> bool:
    """Check whether `iterate` is to fit an array: small, in memory, without mask and penalties.

    With ``tol=0``, and with a `tol` below 1e-4 for losses other than squared error, the user asks
    for the last digits, which need exact weights.
    """
    if not tol or (tol < FINE_TOL and not isinstance(objective, Quadratic)):
        return False
    if objective.has_penalties or type(objective) not in (Quadratic, BetaDivergence):
        return False
    if not isinstance(blocks, LocalBlocks):
        return False
    X: Any = blocks.array
    if issparse(X):  # what is dense are the products with it, but for other losses all of W H
        return type(objective) is Quadratic and bool(X.nnz <= SMALL)
    return blocks.is_plain and bool(X.size <= (SMALL_OF_FEW if len(X) <= FEW_IMAGES else SMALL))


def iterate(
    blocks: LocalBlocks, objective: Objective, state: State, tol: float, max_iter: int
) -> Iterator[State]:
    """Improve H until iterations lower the loss little; yield the state after each of them.

    Parameters
    ----------
    blocks : LocalBlocks
    objective : Objective
        Of those that `is_small` takes.
    state : State
        State with the first H.
    tol : float
        Iterations end with the first `WINDOW` in a row that have lowered the loss by less than this
        share of it. For losses other than squared error an iteration is ten multiplicative steps;
        the last lowers the loss by less than ten times this share.
    max_iter : int
        Largest number of iterations.

    Yields
    ------
    State
        Its losses are of H and the W that is kept, which is nearly the best for H.

    Raises
    ------
    DataError
        A pixel is negative, NaN or infinite.
    """
    block, unit = whole(blocks), blocks.rules.weight_unit
    X: Any = block.X
    values = X.data.reshape(1, -1) if issparse(X) else X
    if find_invalid(values, 0, None, blocks.rules.positive):
        blocks.map_sum(len)  # raises the error, which names the image
    wide = values.size <= TINY
    X = X.astype(np.float64 if wide else compute_dtype(X.dtype), copy=False)
    X = X if issparse(X) else np.ascontiguousarray(X)
    squared = objective if isinstance(objective, Quadratic) else Quadratic()
    factors = _Factors(squared, X, block.weights, state.H)
    improvements = (
        _sweeps(factors, tol)
        if squared is objective
        else _steps(objective, factors, replace(block, X=X), tol, max_iter)
    )
    losses: list[float] = []
    for H, loss in islice(improvements, max_iter):
        losses.append(min(unit * loss, losses[-1] if losses else np.inf))
        yield replace(
            state,
            H=H,
            Y=H,
            Z=H,
            losses=tuple(losses),
            divergence=losses[-1],
            n_reads=state.n_reads + len(losses),
            xx=unit * factors.xx,
        )


def _sweeps(factors: _Factors, tol: float) -> Iterator[tuple[Array, float]]:
    """Yield H and the loss after each iteration for squared error."""
    losses: list[float] = []
    while not _has_converged(losses, factors.xx, tol):
        with np.errstate(all="ignore"):
            factors.improve()
        losses.append(factors.loss)
        yield factors.H.astype(np.float64), factors.loss


def _steps(
    objective: Objective, fair: _Factors, block: Block, tol: float, max_iter: int
) -> Iterator[tuple[Array, float]]:
    """Yield H and the loss after every ten steps for other losses."""
    assert isinstance(objective, BetaDivergence)
    fair.first, fair.beta = fair.objective, 0.0  # H must not settle yet
    with np.errstate(all="ignore"):
        for _ in range(WINDOW):
            fair.improve()  # the cheap way from a poor H to a fair one
        H = fair.H.astype(np.float64)
        yield from alternate(objective, H, block, tol, STEPS_PER_CHECK * max_iter)


def _has_converged(losses: list[float], xx: float, tol: float) -> bool:
    if len(losses) < 2:
        return False
    before = losses[max(len(losses) - 1 - WINDOW, 0)]
    return losses[-1] <= EXACT * xx or before - losses[-1] < tol * before


class _Factors:
    """W and H, those that the next sweeps start from, and the extrapolation.

    Attributes
    ----------
    H : ndarray of shape (d, p)
        Best components so far.
    loss : float
        That of H and of the W with which it was found.
    xx : float
        ``||X||^2``.
    """

    def __init__(self, objective: Quadratic, X: Any, weights: Array | None, H: Array) -> None:
        n, p = X.shape
        self.loss, self.beta, self.beta_max = np.inf, BETA, 1.0
        self.weights = weights
        counts = np.ones(n) if weights is None else weights
        if issparse(X):
            squares = X.astype(np.float64).power(2)
            self.norms, self.pixel_norms = squares @ np.ones(p), squares.T @ counts
        else:
            self.norms, self.pixel_norms = squared_norms(X, counts)
        self.xx = float(self.pixel_norms.sum())
        self.objective, self.first = replace(objective, max_sweeps=SWEEPS), objective
        self._set(X, np.zeros((len(H), n)), H)

    def _set(self, X: Any, W: Array, H: Array) -> None:
        """Go on from given factors, in the dtype of X."""
        self.X = X
        self.H = self.H_next = H.astype(X.dtype)
        self.W = self.W_next = W.astype(X.dtype)

    def improve(self) -> None:
        """Sweep over W and over H, and keep the result unless the loss has risen."""
        W = self._sweep_W()
        first = self.loss == np.inf
        W_next = W if first else np.maximum(W + self.beta * (W - self.W), 0)
        stats = self._sums(W_next)
        H = self.objective.update_H(self.H_next, stats, SWEEPS)
        loss = quadratic_loss(stats, H)
        if self.X.dtype == np.float32 and not 2 * loss >= RESOLVED * self.xx:
            # The numbers are too small or too large for float32.
            self._set(self.X.astype(np.float64), self.W_next, self.H_next)
            self.loss = np.inf
            self.improve()
        elif loss > self.loss:
            self.W, self.H_next = self.W_next, self.H
            self.beta, self.beta_max = self.beta / BETA_DECAY, self.beta
        else:
            self.H_next = H if first else np.maximum(H + self.beta * (H - self.H), 0)
            self.W, self.W_next, self.H, self.loss = W, W_next, H, loss
            self.beta_max = min(1.0, BETA_MAX_GROWTH * self.beta_max)
            self.beta = min(self.beta_max, BETA_GROWTH * self.beta)

    def _sweep_W(self) -> Array:
        A, W = _product(self.H_next, self.X.T), self.W_next.copy()
        # The first H may be the result of an earlier fit, and no sweep must make it worse.
        objective = self.first if self.loss == np.inf else self.objective
        objective.descend(A, gram(self.H_next), self.norms, W)
        return W

    def _sums(self, W: Array) -> SufficientStats:
        V = W if self.weights is None else W * self.weights.astype(W.dtype)
        S = gram(W) if V is W else V @ W.T
        return SufficientStats(S, _product(V, self.X), self.pixel_norms)


def _product(A: Array, B: Any) -> Array:
    """Compute ``A B`` for a dense or a sparse B."""
    return np.ascontiguousarray((B.T @ A.T).T if issparse(B) else A @ B)
