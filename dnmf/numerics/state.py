"""State of a fit between two passes, and how the H update of a pass changes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.numerics.block import ALL_WEIGHTS_ZERO
from dnmf.numerics.objective import OVERFLOW, RESOLVED, HUpdate, Objective
from dnmf.numerics.statistics import NO_HELD_OUT

WeightSink = Callable[[Array, int], int | None]
"""Function that stores the weights of a block, given these and their first row, and returns a
checksum or None. It is called inside the tasks of a pass and must be safe to repeat."""

Written = Sequence[tuple[int, int]]
"""First row and checksum of each block of weights that a sink has stored."""

BETA = 0.8
"""Extrapolation of the second pass (Ang and Gillis, 2019)."""

BETA_GROWTH, BETA_MAX_GROWTH, BETA_DECAY = 1.05, 1.01, 1.5
"""Growth of beta, growth of its bound, and its decay after a rejected pass."""

LEAST_W_TOLERANCE = 1e-12
"""Least tolerance of the weights of a pass, next to the rounding of float64."""

EXACT = 1e-14
"""Share of ``||X||^2`` that a loss must exceed to be more than rounding."""

CONVERGED, MAX_ITER = "converged", "max_iter"
"""Reasons to stop."""


@dataclass(frozen=True)
class State:
    """State of a fit between two passes: all that the next pass depends on, besides X.

    Attributes
    ----------
    H : ndarray of shape (d, p), float64
        Best components so far.
    Y : ndarray of shape (d, p), float64
        Components at which the next pass evaluates the weights.
    Z : ndarray of shape (d, p), float64
        Result of the last accepted H update, before extrapolation; H itself for squared error.
    beta, beta_max : float
        Extrapolation and its bound.
    losses : tuple of float
        Objective of the best H after each pass, penalties included.
    divergence : float
        Divergence at the best H, without penalties: ``1/2 ||X - W H||^2`` for squared error.
    accepted : bool
        Whether the last pass improved the loss.
    n_reads : float
        Number of reads of X so far, in units of the whole of X.
    xx : float
        ``||X||^2``, known after the first pass.
    energies : tuple of float
        Energies of the components of the best H, see `Objective.energies`; empty before the first
        pass.
    held_out : ndarray of shape (buckets, 2), or of shape (0, 2)
        Divergence and number of the cells that were hidden from the best H; see
        `dnmf.numerics.holdout`.
    seconds : tuple of float
        Wall-clock time of the start, then of each pass; empty if it is not known. No number
        depends on it, nor on the memory.
    memory : int
        Most memory in bytes that the process which drives the fit held after a pass; 0 if it is
        not known, and of small arrays in memory.
    """

    H: Array
    Y: Array
    Z: Array
    beta: float = BETA
    beta_max: float = 1.0
    losses: tuple[float, ...] = ()
    divergence: float = float("nan")
    accepted: bool = True
    n_reads: float = 0.0
    xx: float = 0.0
    energies: tuple[float, ...] = ()
    held_out: Array = field(default_factory=lambda: NO_HELD_OUT)
    seconds: tuple[float, ...] = ()
    memory: int = 0

    @classmethod
    def at(cls, H: Array, n_reads: float = 0.0) -> State:
        """Return the state before the first pass, for a given H."""
        return cls(H, H, H, n_reads=n_reads)

    @property
    def n_iter(self) -> int:
        """Number of full passes so far."""
        return len(self.losses)

    @property
    def error(self) -> float:
        """``sqrt(2 D)`` after the last pass: ``||X - W H||`` for squared error."""
        return float(np.sqrt(2 * self.divergence))

    @property
    def relative_error(self) -> float:
        """Error as a share of ``||X||``; 0 where X is 0."""
        return self.error / float(np.sqrt(self.xx)) if self.xx else 0.0


def objective_of_pass(objective: Objective, state: State) -> Objective:
    """Return the objective of the next pass, as exact as its sums must be.

    The error of the weights must be small beside what passes gain, or good updates of H look like
    bad ones: it may be a tenth of the last gain, and a tenth of that after each pass in a row that
    was rejected.
    """
    losses, rejected = state.losses, 0
    while rejected + 1 < len(losses) and losses[-2 - rejected] == losses[-1]:
        rejected += 1
    tolerance = objective.W_tolerance
    if len(losses) >= rejected + 2 and losses[-1] > 0:
        gain = losses[-2 - rejected] / losses[-1] - 1
        tolerance = min(tolerance, 0.1 * gain)
    tolerance = max(tolerance * 0.1**rejected, LEAST_W_TOLERANCE)
    unresolved = bool(losses) and 2 * state.divergence < 1.01 * RESOLVED * state.xx
    return replace(objective, W_tolerance=tolerance, in_float64=unresolved)


def stop_reason(state: State, tol: float, max_iter: int) -> str | None:
    """Return why no further pass should follow a state, or None if one should."""
    if tol > 0 and state.n_iter > 1:
        before, now = state.losses[-2:]
        if now <= EXACT * state.xx:
            return CONVERGED
        if state.accepted and before - now <= tol * before:
            return CONVERGED
        if not state.accepted and state.losses[-3:] == (now,) * 3:
            return CONVERGED  # not even without extrapolation: rounding is all that is left
    return MAX_ITER if state.n_iter >= max_iter else None


def advance(objective: Objective, state: State, update: HUpdate) -> State:
    """Return the state after a pass: extrapolate its H update, or step back if the loss rose.

    Parameters
    ----------
    objective : Objective
    state : State
    update : HUpdate
        Of the pass over X at ``state.Y``.

    Raises
    ------
    DataError
        The weights of all images are zero, or the loss is not finite.
    """
    if update.total_weight <= 0:
        raise DataError(ALL_WEIGHTS_ZERO)
    improved, loss = update.H, update.loss
    if not (np.isfinite(loss) and np.isfinite(improved).all()):
        raise DataError(OVERFLOW)
    known = replace(state, n_reads=state.n_reads + 1, xx=update.xx)
    if state.losses and loss > state.losses[-1]:
        return replace(
            known,
            Y=state.Z,
            beta=state.beta / BETA_DECAY,
            beta_max=state.beta,
            losses=(*state.losses, state.losses[-1]),
            accepted=False,
        )
    beta_max = min(1.0, BETA_MAX_GROWTH * state.beta_max)
    further = improved + state.beta * (improved - state.Z)
    return replace(
        known,
        H=improved if objective.exact else state.Y,
        Z=improved,
        Y=np.maximum(objective.extrapolation_floor * improved, further),
        beta=min(beta_max, BETA_GROWTH * state.beta),
        beta_max=beta_max,
        losses=(*state.losses, loss),
        divergence=update.divergence,
        accepted=True,
        energies=tuple(update.energies.tolist()),
        held_out=update.held_out,
    )
