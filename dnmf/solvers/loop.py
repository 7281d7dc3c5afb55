"""The only loop: full passes over X, from the first state of a model to a reason to stop.

A pass evaluates W at a point Y and returns sums; the H update on these sums gives Z:

    W, sums = pass over X at Y;   Z = update(Y, sums);   Y' = Z + beta (Z - Z_before), kept >= 0

For squared error the loss of (W, Z) is known exactly, and Z is the next H. For other objectives the
pass knows the loss of (W, Y), and Y is the next H. In both cases beta grows while the loss falls.
If the loss rises, the pass is rejected: the next starts from the best Z without extrapolation and
with a smaller beta (Ang and Gillis, Neural Computation 2019, algorithm 3). Therefore the loss of
successive states never rises.

A pass evaluates any number of models in one read of X, with different ranks, seeds or held-out
cells. A single fit is a list of one model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import psutil

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.executors import map_on_threads
from dnmf.engine.local import LocalBlocks
from dnmf.engine.threads import one_blas_thread
from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.errors import DataError
from dnmf.numerics.block import Block
from dnmf.numerics.holdout import HeldOutBlock, Holdout
from dnmf.numerics.objective import OVERFLOW, HUpdate, Objective, Projection, join_columns
from dnmf.numerics.state import (
    CONVERGED,
    MAX_ITER,
    State,
    WeightSink,
    Written,
    advance,
    objective_of_pass,
    stop_reason,
)
from dnmf.numerics.statistics import StatsPerModel, SufficientStats
from dnmf.solvers.small import iterate
from dnmf.storage.checkpoint.spec import FitSpec

COLUMNS = 2**16
"""Number of pixels in a block of columns of H: a multiple of the number that is solved side by
side, so that the bits of a column do not depend on where blocks of columns end."""

LEAST_SQUARE = 1e-38
"""Smallest mean square of the pixels that float32 can hold with all its digits."""


class Recorder(Protocol):
    """Keeps states and weights between passes, as `dnmf.storage.checkpoint` does.

    Attributes
    ----------
    weights_pass : int
        Number of the last pass whose weights were kept; 0 before the first.
    """

    weights_pass: int

    @property
    def has_weights(self) -> bool:
        """Whether weights are kept that belong to the H of the last kept state."""
        ...

    def weight_sink(self) -> WeightSink:
        """Return a sink for the weights of the pass that is about to run."""
        ...

    def keep(self, state: State, written: Written | None) -> None:
        """Keep a state and, if the sink now holds the weights of its H, what the sink stored."""
        ...

    def finish(self, stop_reason: str) -> None:
        """Record why no further pass follows."""
        ...


@dataclass
class ModelRun:
    """A model that is being fitted.

    Attributes
    ----------
    spec : FitSpec
        What is fitted, and from which seed.
    objective : Objective
    holdout : Holdout or None
        Cells of X that are hidden from the model; None for none.
    recorder : Recorder or None
        Where states and weights are kept between passes.
    weights_every : int
        Number of passes between two whose weights the recorder keeps; 0 to keep no weights.
    in_memory : bool
        Whether `dnmf.solvers.small` fits the model: X is small, and no state is recorded.
    stop_reason : str or None
        Why no further pass follows; None while the model needs more passes.
    moment : float
        When the last pass ended, or the start began, on the clock of `time.monotonic`.
    state : State
        Set by `dnmf.solvers.warm_start.start`, or read from a checkpoint: the same passes follow
        from either.
    """

    spec: FitSpec
    objective: Objective
    holdout: Holdout | None = None
    recorder: Recorder | None = None
    weights_every: int = 1
    in_memory: bool = False
    stop_reason: str | None = None
    moment: float = field(default_factory=time.monotonic, repr=False)
    state: State = field(init=False, repr=False)

    def become(self, state: State) -> None:
        """Set the state, and note in it the time since the last one."""
        now, memory = time.monotonic(), self.state.memory
        seconds = (*self.state.seconds, round(now - self.moment, 4))
        if not self.in_memory:  # to ask takes a tenth of a millisecond
            memory = max(memory, psutil.Process().memory_info().rss)
        self.state, self.moment = replace(state, seconds=seconds, memory=memory), now

    def begin(self) -> None:
        """Note how long the start took, or that a fit is continued now."""
        if not (self.state.losses or self.state.seconds):
            self.become(self.state)
        self.moment = time.monotonic()

    def projection(self, dtype: np.dtype[Any]) -> Projection:
        """Return the projection of the next pass."""
        return objective_of_pass(self.objective, self.state).project_onto(self.state.Y, dtype)

    def due_sink(self) -> WeightSink | None:
        """Return a sink for the weights of the next pass, or None if they are not to be kept."""
        if self.recorder is None or not self.weights_every:
            return None
        # A rejected pass has no weights to keep, so those of the next pass are kept.
        passes = self.state.n_iter + 1 - self.recorder.weights_pass
        return self.recorder.weight_sink() if passes >= self.weights_every else None

    def follow(self, update: HUpdate, sink: WeightSink | None) -> None:
        """Advance by one pass, whose weights went to a sink, and record the new state."""
        self.become(advance(self.objective, self.state, update))
        if self.recorder is not None:
            kept = sink is not None and self.state.accepted
            self.recorder.keep(self.state, update.written if kept else None)

    def finish(self, blocks: Blocks, reason: str) -> None:
        """Record the reason to stop, and the weights of the last H where they are still missing."""
        self.stop_reason, recorder = reason, self.recorder
        if recorder is None:
            return
        if self.weights_every and not recorder.has_weights:
            # The weights of the last pass were not kept: read X once more to compute them.
            sink = recorder.weight_sink()
            written = measure(blocks, self.objective, self.state.H, sink).written
            self.state = replace(self.state, n_reads=self.state.n_reads + 1)
            recorder.keep(self.state, written)
        recorder.finish(reason)


def solve(
    blocks: Blocks,
    runs: Sequence[ModelRun],
    *,
    tol: float,
    max_iter: int,
    on_pass: Callable[[], None] = lambda: None,
    task_blocks: int | None = None,
) -> None:
    """Run passes for several models, each a read of X for all of them, until all have stopped.

    The result for a model does not depend on the other models.

    Parameters
    ----------
    blocks : Blocks
    runs : sequence of ModelRun
        Changed in place; each has a first state.
    tol : float
        A model stops when a pass lowers its loss by less than this share of it.
    max_iter : int
        A model stops after this many passes.
    on_pass : callable
        Called after each pass.
    task_blocks : int, optional
        Number of blocks per task; the default depends on these models.

    Raises
    ------
    DataError
        If a pixel is negative, NaN or infinite; the message names the first.
    """
    task_blocks = task_blocks or blocks_per_task(blocks, *(len(run.state.H) for run in runs))
    runs = [run for run in runs if run.stop_reason is None]
    for run in runs:
        run.begin()
    with one_blas_thread():
        for run in runs:
            if run.in_memory:
                _fit_in_memory(blocks, run, tol, max_iter, on_pass)
        runs = [run for run in runs if run.stop_reason is None]
        while active := _active(blocks, runs, tol, max_iter):
            sinks = [run.due_sink() for run in active]
            updates = run_pass(blocks, active, sinks, task_blocks)
            for run, sink, update in zip(active, sinks, updates, strict=True):
                _require_scale(update, run)
                run.follow(update.for_weights_times(blocks.rules.weight_unit), sink)
            on_pass()


def _fit_in_memory(
    blocks: Blocks, run: ModelRun, tol: float, max_iter: int, on_pass: Callable[[], None]
) -> None:
    """Fit a model to a small array, and measure the loss of its H with exact weights."""
    objective, state = run.objective, run.state
    assert isinstance(blocks, LocalBlocks)  # as `is_small` has found
    for following in iterate(blocks, objective, state, tol, max_iter):
        if following.n_iter > 1:
            run.become(state)
            on_pass()
        state = following  # the last is reported below, with its exact loss
    stats = measure(blocks, objective, state.H)
    with np.errstate(all="ignore"):  # the loss is checked
        H, divergence, loss = objective.known_loss(stats, state.H, state.H)
        xx, energies = float(stats.xx.sum()), objective.energies(stats, H)
    update = HUpdate(H, divergence, loss, stats.total_weight, xx, energies)
    _require_scale(update, run)
    update = update.for_weights_times(blocks.rules.weight_unit)
    end = advance(objective, replace(state, losses=()), update)
    # Losses on the way are those of other weights, in float32: none is lower than the last.
    losses = (*(max(end.losses[0], loss) for loss in state.losses[:-1]), *end.losses)
    run.become(replace(end, losses=losses))
    on_pass()
    run.finish(blocks, MAX_ITER if len(losses) >= max_iter else CONVERGED)


def _active(blocks: Blocks, runs: Sequence[ModelRun], tol: float, max_iter: int) -> list[ModelRun]:
    """Return the models that need a further pass; finish those that have just stopped."""
    active = []
    for run in runs:
        reason = stop_reason(run.state, tol, max_iter)
        if reason is None:
            active.append(run)
        elif run.stop_reason is None:
            run.finish(blocks, reason)
    return active


def run_pass(
    blocks: Blocks,
    runs: Sequence[ModelRun],
    sinks: Sequence[WeightSink | None],
    task_blocks: int,
) -> list[HUpdate]:
    """Read X once, evaluate all models at their Y, and update their H in the tasks with the sums.

    Parameters
    ----------
    blocks : Blocks
    runs : sequence of ModelRun
    sinks : sequence of WeightSink or None
        For the weights of each model.
    task_blocks : int
        Number of blocks per task.
    """
    evaluate = partial(
        solve_sum,
        models=[
            Evaluation(run.projection(blocks.dtype), run.holdout, sink)
            for run, sink in zip(runs, sinks, strict=True)
        ],
    )
    label = f"pass-{1 + max(run.state.n_iter for run in runs)}"
    if blocks.shape[1] <= COLUMNS:
        stats = blocks.map_sum(evaluate, group=task_blocks, label=label).each
        pairs = list(zip(runs, stats, strict=True))
        return list(map_on_threads(lambda pair: _update(*pair), pairs))
    p = blocks.shape[1]
    cuts = [slice(first, min(first + COLUMNS, p)) for first in range(0, p, COLUMNS)]
    finish = [
        UpdateColumns(i, run.objective, np.ascontiguousarray(run.state.Y[:, cut]), cut)
        for i, run in enumerate(runs)
        for cut in cuts
    ]
    parts = iter(blocks.map_finish(evaluate, finish, group=task_blocks, label=label))
    return [join_columns([next(parts) for _ in cuts]) for _ in runs]


def _update(run: ModelRun, stats: SufficientStats) -> HUpdate:
    return run.objective.finish_pass(run.state.Y, stats)


def measure(
    blocks: Blocks,
    objective: Objective,
    H: Array,
    sink: WeightSink | None = None,
    only: list[int] | None = None,
) -> SufficientStats:
    """Read X once and return its sums at a given H.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    H : ndarray of shape (d, p), float64
    sink : WeightSink, optional
        For the weights of each block.
    only : list of int, optional
        Blocks to read; all by default.
    """
    model = Evaluation(objective.project_onto(H, blocks.dtype), sink=sink)
    evaluate = partial(solve_sum, models=[model])
    return blocks.map_sum(evaluate, only, group=blocks_per_task(blocks, len(H))).each[0]


@dataclass(frozen=True)
class Evaluation:
    """What a task needs to know of one model.

    Attributes
    ----------
    projection : Projection
        Onto the components at which the pass evaluates the weights.
    holdout : Holdout or None
    sink : WeightSink or None
    """

    projection: Projection
    holdout: Holdout | None = None
    sink: WeightSink | None = None

    def stats(self, block: Block, shown: HeldOutBlock | None) -> SufficientStats:
        """Return the sums of a block, of which the model is shown all or a part."""
        objective, basis = self.projection.objective, self.projection.basis
        if shown is not None:
            stats, W = objective.block_stats(shown.visible, basis)
            assert W is not None
            return replace(stats, held_out=shown.held_out_sums(W, basis, objective.beta))
        stats, W = objective.block_stats(block, basis, weights=self.sink is not None)
        if self.sink is None or W is None:
            return stats
        return replace(stats, written=((block.start, self.sink(W, block.start) or 0),))


def solve_sum(block: Block, *, models: Sequence[Evaluation]) -> StatsPerModel:
    """Return the sums of a block for each model; models with the same held-out cells share them."""
    stats: dict[int, SufficientStats] = {}
    for holdout in dict.fromkeys(model.holdout for model in models):
        shown = None  # frees the previous one before the next is made
        shown = None if holdout is None else holdout(block)
        for i, model in enumerate(models):
            if model.holdout == holdout:
                stats[i] = model.stats(block, shown)
    return StatsPerModel(tuple(stats[i] for i in range(len(models))))


@dataclass(frozen=True)
class UpdateColumns:
    """Updates a block of columns of the H of one model; see `dnmf.engine.blocks.Finish`.

    Given the sums, the column of H for each pixel is a problem of its own. For images of a hundred
    thousand pixels and more the H update therefore runs in the tasks of the cluster that hold the
    sums, and no process needs the sums of all pixels.

    Attributes
    ----------
    index : int
        Position of the model among those of the pass.
    objective : Objective
    Y : ndarray of shape (d, columns), float64
        Components at which the pass evaluated the weights.
    columns : slice
    """

    index: int
    objective: Objective
    Y: Array
    columns: slice

    def select(self, sums: StatsPerModel) -> StatsPerModel:
        """Return a copy of the sums of this model and these columns, so that the rest is freed."""
        stats = sums.each[self.index]
        part = self.objective.columns(stats, self.columns)
        return StatsPerModel((part if part.T.shape == stats.T.shape else part.scaled(1),))

    def __call__(self, sums: StatsPerModel) -> HUpdate:
        """Update H on the sums of a whole pass."""
        return self.objective.finish_pass(self.Y, sums.each[0])


def _require_scale(update: HUpdate, run: ModelRun) -> None:
    """Raise DataError for pixels whose squares are too small for float32."""
    least = LEAST_SQUARE * update.total_weight * update.H.shape[1]
    if run.spec.X["compute_dtype"] == "float32" and 0 < update.xx < least:
        raise DataError(OVERFLOW)
