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
from typing import Protocol

import numpy as np

from dnmf.engine.blocks import Blocks
from dnmf.engine.executors import one_blas_thread
from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.errors import DataError
from dnmf.numerics.block import compute_dtype
from dnmf.numerics.h_update import Step
from dnmf.numerics.holdout import Holdout
from dnmf.numerics.objective import OVERFLOW, SQUARED, Objective
from dnmf.numerics.state import (
    State,
    WeightSink,
    Written,
    advance,
    stop_reason,
)
from dnmf.solvers.passes import Point, measure, run_passes

LEAST_SQUARE = 1e-38
"""Mean square of the pixels, computed in float64, below which float32 has no digits for it."""


class Recorder(Protocol):
    """Keep states and weights between passes, as `dnmf.storage.checkpoint` does.

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
        From `dnmf.solvers.warm_start`, or from a checkpoint: the same passes follow from either.
    recorder : Recorder, optional
    every : int
        Passes between those whose weights the recorder is given; 0 for none.
    resample : Holdout, optional
        What of X the model is shown.
    reason : str or None
        Why no pass follows.
    """

    objective: Objective
    state: State
    recorder: Recorder | None = None
    every: int = 1
    resample: Holdout | None = None
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
