"""Where a fit begins: from its checkpoint, from given components, or from a start of its own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from dnmf.engine.blocks import Blocks
from dnmf.errors import ParameterError
from dnmf.estimators.inputs import fingerprints_of
from dnmf.estimators.parameters import (
    check_start,
    components_of,
    is_int,
    loss_of,
    require_even_blocks,
    seed_of,
    warn_of_zeros,
)
from dnmf.numerics.block import Block, compute_dtype
from dnmf.numerics.objective import Objective
from dnmf.numerics.online import OnlineState
from dnmf.numerics.state import State
from dnmf.solvers.memory_model import checkpoint_bytes
from dnmf.solvers.multi_fit import Progress, Run, resumed, run_together
from dnmf.solvers.passes import measure
from dnmf.solvers.sample import first_block
from dnmf.solvers.warm_start import initial_H, random_H, start
from dnmf.storage.atomic import bytes_at, is_absent, is_url, remove_store, require_space
from dnmf.storage.checkpoint.checkpoint import Checkpoint, create_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT
from dnmf.storage.checkpoint.spec import BOUND, FREE, FitSpec
from dnmf.storage.lock import claimed
from dnmf.storage.store import crc32c


def describe_fit(model: Any, X: Any, blocks: Blocks, H: Any) -> FitSpec:
    """Say what a fit is of, so that a checkpoint can tell it from others."""
    first, stop = blocks.ranges[0]
    custom = model.init == "custom" and H is not None
    return FitSpec(
        n_components=components_of(model, blocks, H),
        seed=seed_of(model.random_state),
        X={
            "shape": list(blocks.shape),
            "dtype": str(blocks.dtype),
            "compute_dtype": str(compute_dtype(blocks.dtype)),
            "block_rows": stop - first,
            "image_shape": list(getattr(X, "image_shape", blocks.shape[1:])),
            **(fingerprints_of(X, blocks) if model.checkpoint is not None else {}),
        },
        parameters={
            **{name: _json(getattr(model, name)) for name in BOUND},
            "beta_loss": loss_of(model.beta_loss),
            "alpha_H": _json(model.alpha_W if model.alpha_H == "same" else model.alpha_H),
            "init": model.init or "random",
            "start": crc32c(np.asarray(H, np.float64)) if custom else None,
        },
        settings={name: _json(getattr(model, name)) for name in FREE},
    )


@contextmanager
def recorded(
    model: Any, fit: FitSpec, blocks: Blocks, objective: Objective, H: Any, W: Any
) -> Iterator[tuple[Checkpoint | None, State]]:
    """Give where a fit begins and what it is kept in, which is nobody else's meanwhile."""
    with claimed(model.checkpoint):
        recorder, state = begin_fit(model, fit, blocks, objective, H, W)
        try:
            yield recorder, state
        except BaseException:
            if recorder is not None:
                recorder.give_up()
            raise


def begin_fit(
    model: Any, fit: FitSpec, blocks: Blocks, objective: Objective, H: Any, W: Any
) -> tuple[Checkpoint | None, State]:
    """Start afresh, or from the checkpoint of the same fit."""
    if model.checkpoint is None:
        return None, _first_state(model, fit, blocks, objective, H, W)
    require_even_blocks(blocks)
    keep = model.checkpoint_keep
    needed = checkpoint_bytes(blocks, fit.n_components, keep, model.max_iter)
    require_space(model.checkpoint, needed - bytes_at(model.checkpoint), "a checkpoint")
    if is_absent(model.checkpoint) and model.resume_from is None:
        state = _first_state(model, fit, blocks, objective, H, W)
        recorder = create_checkpoint(model.checkpoint, fit, state, keep)
        remove_starts(model.checkpoint)
        return recorder, state
    any_seed = not is_int(model.random_state)
    there = resumed(model.checkpoint, fit, keep, model.resume_from, any_seed=any_seed)
    if there is None:
        return begin_fit(model, fit, blocks, objective, H, W)
    remove_starts(model.checkpoint)
    return there, there.state


def _first_state(
    model: Any, fit: FitSpec, blocks: Blocks, objective: Objective, H: Any, W: Any
) -> State:
    k = fit.n_components
    if model.init == "custom":
        return State.at(check_start(H, W, blocks, k))
    if H is not None or W is not None:
        warnings.warn(
            "When init!='custom', provided W or H are ignored. Set init='custom' to use them as "
            "initialization.",
            RuntimeWarning,
            stacklevel=4,
        )
    known = getattr(model, "components_", None)
    if model.warm_start and known is not None:
        if known.shape == (k, blocks.shape[1]):
            return State.at(known.astype(np.float64))
        warnings.warn(
            f"warm_start finds components of shape {known.shape} where {(k, blocks.shape[1])} are "
            "asked for: the fit starts afresh",
            UserWarning,
            stacklevel=4,
        )
    warn_of_zeros(model)
    if model.n_init > 1:
        return _best_start(model, fit, blocks, objective)
    return start(blocks, objective, k, fit.seed, model.init or "random", model.tol)


def _best_start(model: Any, fit: FitSpec, blocks: Blocks, objective: Objective) -> State:
    """Fit from several seeds in the same reads, and give the end with the lowest loss."""
    runs = [Run(replace(fit, seed=(fit.seed + i) % 2**32), objective) for i in range(model.n_init)]

    def tell(progress: Progress) -> None:
        model._report(_lowest(progress.states))

    ran = run_together(
        blocks,
        runs,
        tol=model.tol,
        max_iter=model.max_iter,
        place=None if model.checkpoint is None else starts_of(model.checkpoint),
        keep=model.checkpoint_keep,
        on_pass=tell,
    )
    return replace(_lowest(ran.states), n_reads=ran.n_reads)


def _lowest(states: Sequence[State]) -> State:
    return min(states, key=lambda state: state.losses[-1])


def starts_of(checkpoint: str | os.PathLike[str]) -> str:
    """Name the folder of the fits that a checkpoint keeps the best of, until they are done."""
    return f"{os.fspath(checkpoint)}.starts"


def remove_starts(checkpoint: str | os.PathLike[str]) -> None:
    """Remove the checkpoints of starts beside a checkpoint, if there are any."""
    folder = starts_of(checkpoint)
    if not is_url(folder) and os.path.isdir(folder):
        for name in os.listdir(folder):
            remove_store(os.path.join(folder, name), FORMAT)
        os.rmdir(folder)


def begin_stream(
    model: Any, X: Any, blocks: Blocks, objective: Objective, H: Any, W: Any
) -> tuple[FitSpec, OnlineState]:
    """Say where `partial_fit` goes on from: its last call, a fit, or a start on the first block."""
    if hasattr(model, "components_"):
        return model._fit, _resumed(model, blocks, objective)
    fit = describe_fit(model, X, blocks, H)
    k, p = fit.n_components, blocks.shape[1]
    if model.init == "custom":
        return fit, OnlineState(check_start(H, W, blocks, k))
    some, sample = first_block(blocks)
    first, _ = initial_H(some, sample, k, fit.seed, model.init or "random")
    if not first.any():  # a dark block has no scale to start from: the first lit one will set it
        first = random_H(Block(np.ones((1, p))), k, fit.seed)
    return fit, OnlineState(first)


def _resumed(model: Any, blocks: Blocks, objective: Objective) -> OnlineState:
    """Go on with a stream; after a fit, as if its images had been just what H makes of them."""
    if model.n_components not in ("auto", None, model.n_components_):
        raise ParameterError(
            f"n_components is {model.n_components!r}, but the components that partial_fit goes on "
            f"from are {model.n_components_}; clone the model to start afresh"
        )
    running: OnlineState | None = getattr(model, "_running", None)
    if running is not None and _same_sums(running.objective, objective):
        return running
    H = model.components_.astype(np.float64)
    some = measure(blocks, objective, H, only=[0])
    if not some.total_weight:
        return OnlineState(H, settled=True)
    before = objective.stats_of_exact_fit(
        H, some.scaled(model._fit.X["shape"][0] / some.total_weight)
    )
    return OnlineState(H, before, settled=True, objective=objective)


def _same_sums(one: Objective | None, other: Objective) -> bool:
    return one is not None and one.has_same_sums(other)


def _json(value: Any) -> Any:
    """Give a parameter as JSON has it: without NumPy's types."""
    return value.item() if isinstance(value, np.generic) else value
