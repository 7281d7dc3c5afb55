"""Single models through the solvers, for tests: each a list of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.numerics.block import compute_dtype
from dnmf.numerics.holdout import Holdout
from dnmf.numerics.objective import HUpdate, Objective
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import State
from dnmf.solvers import loop, warm_start
from dnmf.solvers.loop import ModelRun
from dnmf.storage.checkpoint.spec import FitSpec

SQUARED = Quadratic()
"""Squared error without penalties."""


def model_run(
    objective: Objective = SQUARED,
    n_components: int = 3,
    seed: int = 0,
    *,
    init: str = "random",
    holdout: Holdout | None = None,
    pixels: Any = np.uint8,
) -> ModelRun:
    """Return a run that has no state yet."""
    X = {"compute_dtype": str(compute_dtype(np.dtype(pixels)))}
    return ModelRun(FitSpec(n_components, seed, X, {"init": init}), objective, holdout)


def run_at(objective: Objective, Y: np.ndarray, **more: Any) -> ModelRun:
    """Return a run whose next pass evaluates the weights at Y."""
    run = model_run(objective, len(Y), **more)
    run.state = State.at(Y)
    return run


def start(
    blocks: Any,
    objective: Objective,
    n_components: int,
    seed: int,
    init: str = "random",
    tol: float = 1e-4,
) -> State:
    """Return the first state of a model."""
    run = model_run(objective, n_components, seed, init=init)
    (started,) = warm_start.start(blocks, [run], seed, tol)
    return started.state


def solve(
    blocks: Any,
    state: State,
    *,
    objective: Objective = SQUARED,
    on_pass: Callable[[State], None] = lambda state: None,
    **limits: Any,
) -> tuple[State, str]:
    """Run passes for one model; return its last state and the reason to stop."""
    run = model_run(objective, len(state.H), pixels=blocks.dtype)
    run.state = state
    loop.solve(blocks, [run], on_pass=lambda: on_pass(run.state), **limits)
    return run.state, run.stop_reason


def run_passes(
    blocks: Any,
    runs: Sequence[ModelRun],
    task_blocks: int | None = None,
    sinks: Sequence[Any] | None = None,
) -> list[HUpdate]:
    """Run one pass for several models."""
    task_blocks = task_blocks or blocks_per_task(blocks, *(len(run.state.H) for run in runs))
    return loop.run_pass(blocks, runs, sinks or [None] * len(runs), task_blocks)


def run_pass(blocks: Any, objective: Objective, Y: np.ndarray) -> HUpdate:
    """Run one pass for one model at Y."""
    return run_passes(blocks, [run_at(objective, Y)])[0]
