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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from dnmf.block import NO_WEIGHT
from dnmf.blockwise import Blocks, blocks_per_task
from dnmf.errors import DataError
from dnmf.kernels import compute_dtype
from dnmf.objective import OVERFLOW, SQUARED, Objective
from dnmf.passes import Point, WeightSink, measure, run_passes
from dnmf.resampling import Resample
from dnmf.step import Step
from dnmf.sums import NOTHING_HIDDEN
from dnmf.threads import one_blas_thread

Array = np.ndarray[Any, np.dtype[Any]]

BETA = 0.8
BETA_GROWTH, BETA_MAX_GROWTH, BETA_DECAY = 1.05, 1.01, 1.5
"""Growth of beta, growth of its bound, and its decay after a rejected pass."""

LEAST_SQUARE = 1e-38
"""Mean square of the pixels, computed in float64, below which float32 has no digits for it."""

CONVERGED, MAX_ITER = "converged", "max_iter"

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
    energies : tuple of float
        Of the components of the best H, see `Objective.energies`; empty before the first pass.
    held_out : ndarray of shape (buckets, 2), or of shape (0, 2)
        How far the best H is from cells that were hidden from it; see `dnmf.resampling`.
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
    held_out: Array = field(default_factory=lambda: NOTHING_HIDDEN)

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


@dataclass
class Course:
    """A model on its way: what it minimises, where it is, and what keeps it.

    Attributes
    ----------
    objective : Objective
    state : State
        From `dnmf.starts`, or from a checkpoint: the same passes follow from either.
    recorder : Recorder, optional
    every : int
        Passes between those whose weights the recorder is given; 0 for none.
    resample : Resample, optional
        What of X the model is shown.
    reason : str or None
        Why no pass follows.
    """

    objective: Objective
    state: State
    recorder: Recorder | None = None
    every: int = 1
    resample: Resample | None = None
    reason: str | None = None
    _sink: WeightSink | None = None

    def going(self, tol: float, max_iter: int) -> bool:
        """Tell whether a pass follows."""
        return stop_reason(self.state, tol, max_iter) is None

    def point(self) -> Point:
        """Say where the next pass evaluates the model."""
        recorder, self._sink = self.recorder, None
        # A pass that is thrown away has no weights to keep: then the next is due.
        if recorder is not None and 0 < self.every <= self.state.n_iter + 1 - recorder.weights_pass:
            self._sink = recorder.weight_sink()
        return Point(self.objective, self.state.Y, self._sink, self.resample)

    def follow(self, step: Step, blocks: Blocks) -> None:
        """Go on by a pass."""
        _require_scale(step, blocks)
        self.state = advance(self.objective, self.state, step)
        if self.recorder is not None:
            kept = self._sink is not None and self.state.accepted
            self.recorder.keep(self.state, step.written if kept else None)

    def end(self, blocks: Blocks, reason: str) -> None:
        """Stop, with weights if any are wanted."""
        self.reason, recorder = reason, self.recorder
        if recorder is None:
            return
        if self.every and not recorder.has_weights:
            # The last pass was not due to write its weights: read once more for those of H.
            sink = recorder.weight_sink()
            written = measure(blocks, self.objective, self.state.H, sink).written
            self.state = replace(self.state, n_reads=self.state.n_reads + 1)
            recorder.keep(self.state, written)
        recorder.finish(reason)


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
    """Run passes for one model until a reason to stop.

    Parameters
    ----------
    blocks : Blocks
    state, objective, recorder, every
        As in `Course`.
    tol, max_iter
        As in `solve_together`.
    on_pass : callable
        Told of each new state.

    Returns
    -------
    state : State
    reason : str
        ``"converged"`` or ``"max_iter"``.
    """
    course = Course(objective, state, recorder, every)
    solve_together(
        blocks, [course], tol=tol, max_iter=max_iter, on_pass=lambda: on_pass(course.state)
    )
    assert course.reason is not None
    return course.state, course.reason


def solve_together(
    blocks: Blocks,
    courses: Sequence[Course],
    *,
    tol: float,
    max_iter: int,
    on_pass: Callable[[], None] = lambda: None,
    blocks_of_task: int | None = None,
) -> None:
    """Run passes for several models, each a read of X for all of them, until all have stopped.

    What becomes of a model does not depend on how long the others go on.

    Parameters
    ----------
    blocks : Blocks
    courses : sequence of Course
        Changed in place. Those that are shown the same of X should follow each other.
    tol : float
        A model stops when a pass lowers its loss by less than this share of it.
    max_iter : int
        It stops when its state has this many passes behind it.
    on_pass : callable
        Called after each pass.
    blocks_of_task : int, optional
        As many as suits these models, by default.

    Raises
    ------
    DataError
        A pixel is negative, NaN or infinite; names the first.
    """
    group = blocks_of_task or blocks_per_task(blocks, *(len(course.state.H) for course in courses))
    with one_blas_thread():
        while True:
            going = []
            for course in courses:
                reason = stop_reason(course.state, tol, max_iter)
                if reason is None:
                    going.append(course)
                elif course.reason is None:
                    course.end(blocks, reason)
            if not going:
                return
            points = [course.point() for course in going]
            for course, step in zip(going, run_passes(blocks, points, group), strict=True):
                course.follow(step, blocks)
            on_pass()


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
        energies=tuple(step.energies.tolist()),
        held_out=step.held_out,
    )
