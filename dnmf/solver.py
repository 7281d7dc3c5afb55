"""The only loop: full passes over X, from an explicit state to a reason to stop.

A pass evaluates W at a point Y and brings home sums; the H step on these sums gives Z:

    W, sums = pass over X at Y;   Z = step(Y, sums);   Y' = Z + beta (Z - Z_before), kept >= 0

For squared error the loss of (W, Z) is known exactly, and Z is the next H. For other objectives the
pass knows the loss of (W, Y), and Y is the next H. Either way beta grows while the loss falls. When
it rises, the pass is thrown away: the next starts from the best Z without extrapolation and with a
smaller beta (Ang and Gillis, Neural Computation 2019, algorithm 3, with rejection). So the loss of
successive states never rises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from dnmf.block import NO_WEIGHT, Block
from dnmf.blockwise import Blocks, blocks_per_task
from dnmf.errors import DataError
from dnmf.initialization import initial_H, warm_up
from dnmf.kernels import compute_dtype
from dnmf.objective import OVERFLOW, SQUARED, Objective
from dnmf.sample import take_sample
from dnmf.step import Step, joined, steps
from dnmf.sums import Basis, Stats
from dnmf.threads import one_blas_thread

Array = np.ndarray[Any, np.dtype[Any]]

BETA = 0.8
BETA_GROWTH, BETA_MAX_GROWTH, BETA_DECAY = 1.05, 1.01, 1.5
"""Growth of beta, growth of its bound, and its decay after a rejected pass."""

LEAST_SQUARE = 1e-38
"""Mean square of the pixels, computed in float64, below which float32 has no digits for it."""

CONVERGED, MAX_ITER = "converged", "max_iter"

WeightSink = Callable[[Array, int], int | None]
"""Takes the weights of a block and its first row, and may return a checksum; runs in the tasks,
must be safe to repeat."""

Written = Sequence[tuple[int, int]]
"""First row and checksum of each block that a sink took."""


@dataclass(frozen=True)
class State:
    """All that the next pass depends on, besides X.

    Attributes
    ----------
    H : ndarray of shape (d, p), float64
        Best components so far.
    Y : ndarray of shape (d, p), float64
        Where the next pass evaluates W.
    Z : ndarray of shape (d, p), float64
        What the H step made of H, before extrapolation; H itself for squared error.
    beta, beta_max : float
        Extrapolation and its bound.
    losses : tuple of float
        Objective of the best H after each pass, penalties included.
    divergence : float
        That of the best H without penalties: ``1/2 ||X - W H||^2`` for squared error.
    accepted : bool
        Whether the last pass improved the loss.
    n_reads : float
        Reads of X so far, in units of the whole of X.
    xx : float
        ``||X||^2``, known after the first pass: what the losses are relative to.
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

    @classmethod
    def at(cls, H: Array, n_reads: float = 0.0) -> State:
        """Start from a given H."""
        return cls(H, H, H, n_reads=n_reads)

    @property
    def n_iter(self) -> int:
        """Full passes so far."""
        return len(self.losses)

    @property
    def error(self) -> float:
        """``sqrt(2 D)`` after the last pass: ``||X - W H||`` for squared error."""
        return float(np.sqrt(2 * self.divergence))

    @property
    def relative_error(self) -> float:
        """The error as a share of ``||X||``; 0 where X is 0."""
        return self.error / float(np.sqrt(self.xx)) if self.xx else 0.0


class Recorder(Protocol):
    """What keeps states and weights between passes; see `dnmf.checkpoint.Checkpoint`.

    Attributes
    ----------
    weights_pass : int
        The last pass whose weights were kept; 0 before the first.
    """

    weights_pass: int

    @property
    def has_weights(self) -> bool:
        """Whether weights are kept that belong to the H of the last state it was given."""
        ...

    def weight_sink(self) -> WeightSink:
        """Give a place for the weights of the pass that is about to run."""
        ...

    def keep(self, state: State, written: Written | None) -> None:
        """Take a state and, if the sink now holds the weights of its H, what it took."""
        ...

    def finish(self, stop_reason: str) -> None:
        """Take the reason why no pass follows."""
        ...


def start(
    blocks: Blocks,
    objective: Objective,
    n_components: int,
    seed: int,
    init: str = "random",
    tol: float = 1e-4,
) -> State:
    """Make the first state: H drawn or from singular vectors, warmed up on a sample of the images.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    n_components : int
    seed : int
    init : str
        ``"random"`` or one of the ``"nndsvd"`` family.
    tol : float
        Of the passes to follow: where they may end early, the warm-up may.
    """
    with one_blas_thread():
        sample, reads = take_sample(blocks, seed)
        H, more = initial_H(blocks, sample, n_components, seed, init)
        if len(sample):
            H = warm_up(objective, H, sample, seed, tol)
    return State.at(H, reads + more)


def solve(
    blocks: Blocks,
    state: State,
    *,
    objective: Objective = SQUARED,
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
    objective : Objective
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
            sink = None
            # A pass that is thrown away has no weights to keep: then the next is due.
            if recorder is not None and state.n_iter + 1 - recorder.weights_pass >= every:
                sink = recorder.weight_sink()
            step = run_pass(blocks, objective, state.Y, sink)
            _require_scale(step, blocks)
            state = advance(objective, state, step)
            if recorder is not None:
                recorder.keep(state, step.written if sink and state.accepted else None)
            on_pass(state)
        if recorder is not None:
            if not recorder.has_weights:
                # The last pass was not due to write its weights: read once more for those of H.
                written = measure(blocks, objective, state.H, recorder.weight_sink()).written
                state = replace(state, n_reads=state.n_reads + 1)
                recorder.keep(state, written)
            recorder.finish(reason)
    return state, reason


def _require_scale(step: Step, blocks: Blocks) -> None:
    """Refuse pixels whose squares are next to nothing in float32: the weights would be noise."""
    least = LEAST_SQUARE * step.rows * blocks.shape[1]
    if compute_dtype(blocks.dtype) == np.float32 and 0 < step.xx < least:
        raise DataError(OVERFLOW)


def stop_reason(state: State, tol: float, max_iter: int) -> str | None:
    """Say why no further pass should follow a state; None to go on."""
    if tol > 0 and state.n_iter > 1:
        before, now = state.losses[-2:]
        if state.accepted and before - now <= tol * before:
            return CONVERGED
        if not state.accepted and state.losses[-3:] == (now,) * 3:
            return CONVERGED  # not even without extrapolation: rounding is all that is left
    return MAX_ITER if state.n_iter >= max_iter else None


def advance(objective: Objective, state: State, step: Step) -> State:
    """Follow a pass: take its step and extrapolate, or step back when the loss rose.

    Parameters
    ----------
    objective : Objective
    state : State
    step : Step
        Of the pass over X at ``state.Y``.
    """
    if step.rows <= 0:
        raise DataError(NO_WEIGHT)
    improved, loss = step.H, step.loss
    if not (np.isfinite(loss) and np.isfinite(improved).all()):
        raise DataError(OVERFLOW)
    known = replace(state, n_reads=state.n_reads + 1, xx=step.xx)
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
        Y=np.maximum(objective.keeps * improved, further),
        beta=min(beta_max, BETA_GROWTH * state.beta),
        beta_max=beta_max,
        losses=(*state.losses, loss),
        divergence=step.divergence,
        accepted=True,
    )


def run_pass(
    blocks: Blocks, objective: Objective, Y: Array, sink: WeightSink | None = None
) -> Step:
    """Run one pass over X at Y, a read of X, and the H step on its sums, where these lie.

    Parameters
    ----------
    blocks, objective, Y, sink
        As in `measure`.
    """
    ends = steps(objective, Y)
    group = blocks_per_task(blocks, len(Y))
    if len(ends) > 1:
        return joined(blocks.map_finish(_pass(blocks, objective, Y, sink), ends, group=group))
    return ends[0](measure(blocks, objective, Y, sink))


def measure(
    blocks: Blocks,
    objective: Objective,
    Y: Array,
    sink: WeightSink | None = None,
    only: list[int] | None = None,
) -> Stats:
    """Run one pass over X at Y: a read of X, and its sums.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    Y : ndarray of shape (d, p), float64
    sink : callable, optional
        Given the weights of each block.
    only : list of int, optional
        Blocks to read; all by default.
    """
    task = _pass(blocks, objective, Y, sink)
    return blocks.map_sum(task, only, group=blocks_per_task(blocks, len(Y)))


def _pass(
    blocks: Blocks, objective: Objective, Y: Array, sink: WeightSink | None
) -> Callable[[Block], Stats]:
    basis = Basis.for_pixels(Y, blocks.dtype)
    return partial(_pass_block, objective=objective, basis=basis, sink=sink)


def _pass_block(
    block: Block, *, objective: Objective, basis: Basis, sink: WeightSink | None
) -> Stats:
    stats, W = objective.measure(block, basis, weights=sink is not None)
    if sink is None or W is None:
        return stats
    return replace(stats, written=((block.start, sink(W, block.start) or 0),))
