"""Models of several ranks, seeds or held-out cells that are fitted in the reads of one fit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from dnmf.engine.blocks import Blocks
from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.errors import CheckpointError, OutputExistsError
from dnmf.numerics.state import State, stop_reason
from dnmf.solvers.loop import ModelRun, solve
from dnmf.solvers.memory_model import groups_that_fit, passes_bytes
from dnmf.solvers.warm_start import start
from dnmf.storage.atomic import (
    MEMBERS,
    bytes_at,
    check_free,
    is_absent,
    is_free,
    remove_store,
    require_space,
)
from dnmf.storage.checkpoint.checkpoint import Checkpoint, create_checkpoint, open_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT, KEEP
from dnmf.storage.checkpoint.spec import FitSpec
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.store import ObjectStore


@dataclass(frozen=True)
class Progress:
    """Progress of models that are fitted together.

    Attributes
    ----------
    n_pass : int
        Number of passes over X of this group.
    group, groups : int
        Number of the group of models that runs now, from 1, and of all groups.
    active, models : int
        Number of models of the group that need further passes, and of all its models.
    states : tuple of State
        States of the models of the group, in their order.
    """

    n_pass: int
    group: int
    groups: int
    active: int
    models: int
    states: tuple[State, ...]


def fit_together(
    blocks: Blocks,
    runs: Sequence[ModelRun],
    *,
    tol: float,
    max_iter: int,
    folder: str | None = None,
    keep: int = KEEP,
    on_pass: Callable[[Progress], None] = lambda progress: None,
) -> float:
    """Fit models, in as few groups as memory allows, and return the number of reads of X.

    Parameters
    ----------
    blocks : Blocks
    runs : sequence of ModelRun
        Changed in place. The seed of the first chooses the sample that all start from.
    tol, max_iter
        As in `dnmf.solvers.loop.solve`.
    folder : str, optional
        Folder for a checkpoint of each model, which no other process writes to. A model continues
        from its checkpoint if there is one.
    keep : int
        Number of passes that a checkpoint keeps.
    on_pass : callable
        Called with the progress after each pass, once all checkpoints have it.

    Returns
    -------
    float
        Number of reads of X, in units of the whole of it.

    Raises
    ------
    CheckpointError
        A checkpoint is damaged or belongs to another fit.
    """
    if folder is not None:
        needed = sum(passes_bytes(blocks, run.spec.n_components, keep, max_iter) for run in runs)
        require_space(folder, needed - bytes_at(folder), "the checkpoints")
    groups = groups_that_fit(blocks, runs)
    task_blocks = blocks_per_task(blocks, *(run.spec.n_components for run in runs))
    n_reads = 0.0
    for number, chosen in enumerate(groups, 1):
        group = runs[chosen]
        _begin(blocks, group, runs[0].spec.seed, tol, folder, keep)

        def report(group: Sequence[ModelRun] = group, number: int = number) -> None:
            states = tuple(run.state for run in group)
            active = sum(stop_reason(state, tol, max_iter) is None for state in states)
            n_pass = max(state.n_iter for state in states)
            on_pass(Progress(n_pass, number, len(groups), active, len(group), states))

        solve(blocks, group, tol=tol, max_iter=max_iter, on_pass=report, task_blocks=task_blocks)
        n_reads += max(run.state.n_reads for run in group)
    return n_reads


def _begin(
    blocks: Blocks,
    runs: Sequence[ModelRun],
    sample_seed: int,
    tol: float,
    folder: str | None,
    keep: int,
) -> None:
    """Open the checkpoints that exist, start the other models and create their checkpoints."""
    new = []
    for run in runs:
        run.weights_every = 0
        found = None
        if folder is not None:
            found = resume_checkpoint(checkpoint_of(run, folder), run.spec, keep)
        if found is None:
            new.append(run)
        else:
            run.recorder, run.state = found, found.state
    if new and folder is not None and not is_url(folder):
        os.makedirs(folder, exist_ok=True)
    for run in start(blocks, new, sample_seed, tol) if new else ():
        if folder is not None:
            run.recorder = create_checkpoint(checkpoint_of(run, folder), run.spec, run.state, keep)


@contextmanager
def explain_interrupt(path: str, anew: str) -> Iterator[None]:
    """Add a note to a KeyboardInterrupt that says how to go on from a checkpoint.

    Parameters
    ----------
    path : str
        Checkpoint of a fit or of a sweep.
    anew : str
        Keyword that would start it again from the beginning.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note(
            f"{path} keeps the passes that are finished: make the same call again to go on from "
            f"there, without {anew}=True"
        )
        raise


def checkpoint_of(run: ModelRun, folder: str) -> str:
    """Return the path of the checkpoint of one of several models."""
    cells = "whole" if run.holdout is None else "part"
    return os.path.join(folder, f"k{run.spec.n_components:04d}-{cells}-{run.spec.seed}")


def starts_of(checkpoint: str | os.PathLike[str]) -> str:
    """Return the folder beside a checkpoint for the fits of `n_init`, until the best is known."""
    return f"{normalize_path(checkpoint)}.starts"


def require_starts(checkpoint: str | os.PathLike[str]) -> None:
    """Raise OutputExistsError if the folder for fits of `n_init` holds something else."""
    folder = starts_of(checkpoint)
    names = ObjectStore(folder).list_dir()
    others = [name for name in names if not _is_start(name)]
    if others or not (names or is_absent(folder)):
        raise OutputExistsError(
            f"{folder} is for the fits of n_init, but holds {', '.join(others[:3]) or 'a file'}: "
            "move that elsewhere, or choose another path for the model"
        )


def remove_starts(checkpoint: str | os.PathLike[str]) -> None:
    """Remove the fits of `n_init` beside a checkpoint, if there are any, and nothing else."""
    folder = starts_of(checkpoint)
    with suppress(OSError):  # what cannot be removed does no harm
        for name in filter(_is_start, ObjectStore(folder).list_dir()):
            with suppress(OutputExistsError):  # somebody's
                remove_store(os.path.join(folder, name), FORMAT)
        os.rmdir(folder)


def _is_start(name: str) -> bool:
    return re.fullmatch(MEMBERS["dnmf-sweep"], name) is not None


def resume_checkpoint(
    path: str,
    spec: FitSpec,
    keep: int,
    resume_from: int | None = None,
    *,
    any_seed: bool = False,
) -> Checkpoint | None:
    """Open the checkpoint of a fit to continue from it, if there is one.

    Parameters
    ----------
    path : str
    spec : FitSpec
        Spec of the fit, which the checkpoint must have, too.
    keep, resume_from
        As in `dnmf.storage.checkpoint.checkpoint.open_checkpoint`.
    any_seed : bool
        Whether the checkpoint may have any seed; the fit then continues with that seed.

    Returns
    -------
    Checkpoint or None
        None if there is none. Also None if another fit began it and never finished a pass (because
        of bad data, for example); then it has been removed.

    Raises
    ------
    CheckpointError
        If it is damaged, cannot be read, or belongs to another fit.
    """
    if resume_from is None and is_free(path, FORMAT, error=CheckpointError):
        return None
    checkpoint = open_checkpoint(path, resume_from, keep)
    if not _is_of_fit(checkpoint, spec, any_seed=any_seed):
        remove_store(path, FORMAT)
        return None
    checkpoint.resume()
    return checkpoint


def refuse_other_fit(
    path: str, spec: FitSpec, resume_from: int | None = None, *, any_seed: bool = False
) -> None:
    """Raise an error if `resume_checkpoint` would refuse a path, as far as is known without X.

    Parameters
    ----------
    path, resume_from, any_seed
        As in `resume_checkpoint`.
    spec : FitSpec
        Spec of the fit, without the checksums of X.
    """
    if resume_from is None and is_free(path, FORMAT, error=CheckpointError):
        check_free(path, FORMAT, force=False)
        return
    checkpoint = open_checkpoint(path, resume_from)
    checksums = {**checkpoint.spec.X, **spec.X}
    _is_of_fit(checkpoint, replace(spec, X=checksums), any_seed=any_seed)


def _is_of_fit(checkpoint: Checkpoint, spec: FitSpec, *, any_seed: bool) -> bool:
    """Check whether a checkpoint belongs to a fit; raise CheckpointError if another has passes."""
    if any_seed:
        spec = replace(spec, seed=checkpoint.spec.seed)
    differences = checkpoint.spec.differences(spec)
    began = checkpoint.state.losses or checkpoint.stop_reason is not None
    if differences and began:
        before, after = checkpoint.spec.X["shape"], spec.X["shape"]
        grown = after[0] > before[0] and after[1] == before[1]
        raise CheckpointError(
            f"{checkpoint.path} belongs to another fit: {'; '.join(differences)}; choose another "
            "path, or replace it (--force on the command line, overwrite=True in Python)"
            + f"; to continue from it with more images, add --continue {checkpoint.path}" * grown
            + f"; dnmf {checkpoint.spec.dnmf} can finish it" * (checkpoint.spec.dnmf != spec.dnmf)
        )
    return not differences
