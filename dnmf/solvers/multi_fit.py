"""Models that advance together: of other ranks, seeds or cells of X, in the reads of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dnmf.engine.blocks import Blocks
from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.errors import CheckpointError
from dnmf.numerics.holdout import Holdout
from dnmf.numerics.objective import Objective
from dnmf.numerics.state import State
from dnmf.solvers.loop import Course, solve_together
from dnmf.solvers.memory_model import groups_that_fit, passes_bytes
from dnmf.solvers.warm_start import Start, start_together
from dnmf.storage.atomic import bytes_at, is_absent, remove_store, require_space
from dnmf.storage.checkpoint.checkpoint import Checkpoint, create_checkpoint, open_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT
from dnmf.storage.checkpoint.prune import KEEP
from dnmf.storage.checkpoint.spec import FitSpec


@dataclass(frozen=True)
class Run:
    """One of the models.

    Attributes
    ----------
    fit : FitSpec
    objective : Objective
    resample : Holdout, optional
        What of X it is shown.
    """

    fit: FitSpec
    objective: Objective
    resample: Holdout | None = None

    @property
    def name(self) -> str:
        """Of its checkpoint."""
        kind = "whole" if self.resample is None else "part"
        return f"k{self.fit.n_components:04d}-{kind}-{self.fit.seed}"


@dataclass(frozen=True)
class Progress:
    """How far the models are.

    Attributes
    ----------
    n_pass : int
        Passes over X of this group.
    group, groups : int
        Of models that run together, from 1.
    going, models : int
        Models of the group that go on, and all of it.
    states : tuple of State
        Theirs, in the order of the runs.
    """

    n_pass: int
    group: int
    groups: int
    going: int
    models: int
    states: tuple[State, ...]


@dataclass(frozen=True)
class Ran:
    """What became of the models.

    Attributes
    ----------
    states : list of State
    reasons : list of str
        Why each stopped.
    n_reads : float
        Reads of X, in units of the whole of it.
    """

    states: list[State]
    reasons: list[str]
    n_reads: float


def run_together(
    blocks: Blocks,
    runs: Sequence[Run],
    *,
    tol: float,
    max_iter: int,
    place: str | None = None,
    keep: int = KEEP,
    on_pass: Callable[[Progress], None] = lambda progress: None,
) -> Ran:
    """Bring models to their end, in as few groups as there is memory for.

    Parameters
    ----------
    blocks : Blocks
    runs : sequence of Run
        Those that are shown the same of X should follow each other. The seed of the first chooses
        the sample that all start from.
    tol, max_iter
        As in `dnmf.solvers.loop.solve_together`.
    place : str, optional
        Folder for a checkpoint of each, which nobody else writes to. What is there is gone on from.
    keep : int
        Passes that a checkpoint keeps.
    on_pass : callable
        Told of each pass, once all checkpoints have it.

    Raises
    ------
    CheckpointError
        A checkpoint is another fit's, or damaged.
    """
    if place is not None:
        each = (passes_bytes(blocks, run.fit.n_components, keep, max_iter) for run in runs)
        require_space(place, sum(each) - bytes_at(place), "the checkpoints")
    models = [(run.objective, run.fit.n_components, run.resample is not None) for run in runs]
    groups = groups_that_fit(blocks, models)
    together = blocks_per_task(blocks, *(run.fit.n_components for run in runs))
    courses: list[Course] = []
    n_reads = 0.0
    for number, some in enumerate(groups, 1):
        group = _begin(blocks, runs[some], runs[0].fit.seed, tol, place, keep)

        def told(group: list[Course] = group, number: int = number) -> None:
            states = tuple(course.state for course in group)
            going = sum(course.going(tol, max_iter) for course in group)
            n_pass = max(state.n_iter for state in states)
            on_pass(Progress(n_pass, number, len(groups), going, len(group), states))

        solve_together(
            blocks, group, tol=tol, max_iter=max_iter, on_pass=told, blocks_of_task=together
        )
        courses += group
        n_reads += max(course.state.n_reads for course in group)
    states = [course.state for course in courses]
    return Ran(states, [course.reason or "" for course in courses], n_reads)


def _begin(
    blocks: Blocks, runs: Sequence[Run], seed: int, tol: float, place: str | None, keep: int
) -> list[Course]:
    """Open what is there of the models of a group, and start the others."""
    paths = [None if place is None else os.path.join(place, run.name) for run in runs]
    there = [
        None if path is None or is_absent(path) else resumed(path, run.fit, keep)
        for run, path in zip(runs, paths, strict=True)
    ]
    missing = [run for run, checkpoint in zip(runs, there, strict=True) if checkpoint is None]
    wanted = [
        Start(run.objective, run.fit.n_components, run.fit.seed, resample=run.resample)
        for run in missing
    ]
    states = start_together(blocks, wanted, seed, tol) if wanted else iter(())
    courses = []
    for run, path, checkpoint in zip(runs, paths, there, strict=True):
        state = next(states) if checkpoint is None else checkpoint.state
        if path is not None and checkpoint is None:
            checkpoint = create_checkpoint(path, run.fit, state, keep)
        courses.append(Course(run.objective, state, checkpoint, 0, run.resample))
    return courses


def resumed(
    path: str | os.PathLike[str],
    fit: FitSpec,
    keep: int,
    resume_from: int | None = None,
    *,
    any_seed: bool = False,
) -> Checkpoint | None:
    """Open the checkpoint of a fit, to go on from.

    Parameters
    ----------
    path : str or path
    fit : FitSpec
        It must be of.
    keep, resume_from
        As in `dnmf.storage.checkpoint.checkpoint.open_checkpoint`.
    any_seed : bool
        Whether the seed may be any: then it is the one that the checkpoint began with.

    Returns
    -------
    Checkpoint or None
        None if it was of another fit whose start came to nothing, on bad data, say: it is removed.

    Raises
    ------
    CheckpointError
        It is another fit's, or damaged.
    """
    checkpoint = open_checkpoint(path, resume_from, keep)
    if any_seed:
        fit = replace(fit, seed=checkpoint.fit.seed)
    differences = checkpoint.fit.differences(fit)
    if differences and not checkpoint.state.losses:
        remove_store(path, FORMAT)
        return None
    if differences:
        raise CheckpointError(
            f"{path} belongs to another fit: {'; '.join(differences)}; choose another path, or "
            "replace it (--force on the command line)"
        )
    checkpoint.go_on()
    return checkpoint
