"""The only loop: full passes over X with extrapolated HALS, from an explicit state to a reason.

A pass evaluates W at an extrapolated point Y, then improves H exactly on the sums it brings home:

    W, S, T = pass over X at Y;   H' = argmin_{H >= 0} loss(S, T);   Y' = max(0, H' + beta (H' - H))

beta grows while the loss falls. When it rises, the pass is thrown away: the next starts from the
best H without extrapolation and with a smaller beta (Ang and Gillis, Neural Computation 2019,
algorithm 3, with rejection). So the loss of successive states never rises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from dnmf.blockwise import Blocks
from dnmf.errors import DataError
from dnmf.initialization import online_updates, random_H, take_sample
from dnmf.kernels import (
    OVERFLOW,
    Basis,
    Stats,
    block_stats,
    compute_dtype,
    frobenius_loss,
    update_H,
)
from dnmf.threads import one_blas_thread

Array = np.ndarray[Any, np.dtype[Any]]

BETA = 0.8
BETA_GROWTH, BETA_MAX_GROWTH, BETA_DECAY = 1.05, 1.01, 1.5
"""Growth of beta, growth of its bound, and its decay after a rejected pass."""

CONVERGED, MAX_ITER = "converged", "max_iter"

WeightSink = Callable[[Array, int], None]
"""Takes the weights of a block and its first row; runs in the tasks, must be safe to repeat."""


@dataclass(frozen=True)
class State:
    """All that the next pass depends on, besides X.

    Attributes
    ----------
    H : ndarray of shape (d, p), float64
        Best components so far.
    Y : ndarray of shape (d, p), float64
        Where the next pass evaluates W.
    beta, beta_max : float
        Extrapolation and its bound.
    losses : tuple of float
        ``1/2 ||X - W H||^2`` of the best H after each pass.
    accepted : bool
        Whether the last pass improved the loss.
    n_reads : float
        Reads of X so far, in units of the whole of X.
    xx : float
        ``||X||^2``, known after the first pass: what the losses are relative to.
    """

    H: Array
    Y: Array
    beta: float = BETA
    beta_max: float = 1.0
    losses: tuple[float, ...] = ()
    accepted: bool = True
    n_reads: float = 0.0
    xx: float = 0.0

    @property
    def n_iter(self) -> int:
        """Full passes so far."""
        return len(self.losses)

    @property
    def error(self) -> float:
        """``||X - W H||`` after the last pass."""
        return float(np.sqrt(2 * self.losses[-1]))

    @property
    def relative_error(self) -> float:
        """The error as a share of ``||X||``; 0 where X is 0."""
        return self.error / float(np.sqrt(self.xx)) if self.xx else 0.0


class Recorder(Protocol):
    """What keeps states and weights between passes; see `dnmf.checkpoint.Checkpoint`.

    Attributes
    ----------
    has_weights : bool
        Whether weights are kept that belong to the H of the last state it was given.
    """

    has_weights: bool

    def weight_sink(self) -> WeightSink:
        """Give a place for the weights of the pass that is about to run."""
        ...

    def keep(self, state: State, *, weights: bool) -> None:
        """Take a state, and whether the sink now holds the weights that belong to its H."""
        ...

    def finish(self, stop_reason: str) -> None:
        """Take the reason why no pass follows."""
        ...


def start(blocks: Blocks, n_components: int, seed: int) -> State:
    """Make the first state: a random H, warmed up on a sample of the images.

    Parameters
    ----------
    blocks : Blocks
    n_components : int
    seed : int
    """
    with one_blas_thread():
        sample, reads = take_sample(blocks, seed)
        H = random_H(sample, n_components, seed)
        if len(sample):
            H = online_updates(H, sample, seed)
    return State(H, H, n_reads=reads)


def solve(
    blocks: Blocks,
    state: State,
    *,
    tol: float,
    max_iter: int,
    on_pass: Callable[[State], None] = lambda state: None,
    recorder: Recorder | None = None,
    every: int = 1,
) -> tuple[State, str]:
    """Run passes until a reason to stop.

    Parameters
    ----------
    blocks : Blocks
    state : State
        From `start`, or from a checkpoint: the same passes follow from either.
    tol : float
        Stop when a pass lowers the loss by less than this share of it.
    max_iter : int
        Stop when the state has this many passes behind it.
    on_pass : callable
        Told of each new state.
    recorder : Recorder, optional
    every : int
        Passes between those whose weights the recorder is given.

    Returns
    -------
    state : State
    reason : str
        ``"converged"`` or ``"max_iter"``.

    Raises
    ------
    DataError
        A pixel is negative, NaN or infinite; names the first.
    """
    with one_blas_thread():
        while (reason := stop_reason(state, tol, max_iter)) is None:
            due = recorder is not None and (state.n_iter + 1) % every == 0
            sink = recorder.weight_sink() if recorder is not None and due else None
            state = advance(state, _run_pass(blocks, state.Y, sink))
            if recorder is not None:
                recorder.keep(state, weights=due and state.accepted)
            on_pass(state)
        if recorder is not None:
            if not recorder.has_weights:
                # The last pass was not due to write its weights: read once more for those of H.
                _run_pass(blocks, state.H, recorder.weight_sink())
                state = replace(state, n_reads=state.n_reads + 1)
                recorder.keep(state, weights=True)
            recorder.finish(reason)
    return state, reason


def stop_reason(state: State, tol: float, max_iter: int) -> str | None:
    """Say why no further pass should follow a state; None to go on."""
    if tol > 0 and state.n_iter > 1:
        before, now = state.losses[-2:]
        if state.accepted and before - now <= tol * before:
            return CONVERGED
        if not state.accepted and state.losses[-3:] == (now,) * 3:
            return CONVERGED  # not even without extrapolation: rounding is all that is left
    return MAX_ITER if state.n_iter >= max_iter else None


def advance(state: State, stats: Stats) -> State:
    """Follow a pass: improve H on its sums, extrapolate, or step back when the loss rose.

    Parameters
    ----------
    state : State
    stats : Stats
        Of the pass over X at ``state.Y``.
    """
    H = update_H(state.Y, stats)
    loss = frobenius_loss(stats, H)
    if not np.isfinite(loss):
        raise DataError(OVERFLOW)
    known = replace(state, n_reads=state.n_reads + 1, xx=float(stats.xx.sum()))
    if state.losses and loss > state.losses[-1]:
        return replace(
            known,
            Y=state.H,
            beta=state.beta / BETA_DECAY,
            beta_max=state.beta,
            losses=(*state.losses, state.losses[-1]),
            accepted=False,
        )
    beta_max = min(1.0, BETA_MAX_GROWTH * state.beta_max)
    return replace(
        known,
        H=H,
        Y=np.maximum(0, H + state.beta * (H - state.H)),
        beta=min(beta_max, BETA_GROWTH * state.beta),
        beta_max=beta_max,
        losses=(*state.losses, loss),
        accepted=True,
    )


def _run_pass(blocks: Blocks, Y: Array, sink: WeightSink | None) -> Stats:
    basis = Basis.of(Y, compute_dtype(blocks.dtype))
    return blocks.map_sum(partial(_pass_block, basis=basis, sink=sink))


def _pass_block(X: Array, start: int, *, basis: Basis, sink: WeightSink | None) -> Stats:
    stats, W = block_stats(X, basis)
    if sink is not None:
        sink(W, start)
    return stats
