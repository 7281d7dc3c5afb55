"""What `NMF.partial_fit` continues: its last call, a fit, or a first block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf.engine.blocks import Blocks
from dnmf.errors import ParameterError
from dnmf.estimators.parameters import check_start
from dnmf.estimators.weights import LAZY_WEIGHTS, require_range
from dnmf.numerics.block import Block
from dnmf.numerics.objective import Objective
from dnmf.numerics.online import OnlineState
from dnmf.solvers.loop import measure
from dnmf.solvers.sample import first_block
from dnmf.solvers.warm_start import custom_H, initial_H, random_H
from dnmf.storage.checkpoint.spec import FitSpec

if TYPE_CHECKING:
    from dnmf.estimators.nmf import NMF


def unit_of_stream(model: NMF, unit: float) -> float:
    """Return the unit of the weights in the running sums, which is that of the first call.

    Raises
    ------
    DataError
        If the weights of this call are too small or too large to be added to earlier ones.
    """
    first = getattr(model, "_weight_unit", 1.0) if hasattr(model, "components_") else unit
    low, high = LAZY_WEIGHTS
    require_range("the largest, to a factor of 4,", unit, (low * first, high * first))
    return first


def begin_stream(
    model: NMF, X: Any, blocks: Blocks, objective: Objective, H: Any, W: Any
) -> tuple[FitSpec, OnlineState]:
    """Return the spec and the sums that `partial_fit` continues or begins with."""
    if hasattr(model, "components_"):
        return _spec_in_hand(model, X, blocks), _resume_stream(model, blocks, objective)
    spec = model._describe(X, blocks, H)
    k, p = spec.n_components, blocks.shape[1]
    if model.init == "custom":
        H = check_start(H, W, blocks, k)
        return spec, OnlineState(custom_H(blocks, objective, H, W, spec.seed)[0])
    first_blocks, sample = first_block(blocks)
    first, _ = initial_H(first_blocks, sample, k, spec.seed, model.init or "random")
    if not first.any():  # all pixels of the block are 0: the scale comes from a later block
        first = random_H(Block(np.ones((1, p))), k, spec.seed)
    return spec, OnlineState(first)


def _spec_in_hand(model: NMF, X: Any, blocks: Blocks) -> FitSpec:
    """Return the spec of the fit that set `components_`, or a new one if a user set them."""
    known = hasattr(model, "_spec")
    spec = model._spec if known else model._describe(X, blocks, None)
    return replace(spec, n_components=len(model.components_))


def _resume_stream(model: NMF, blocks: Blocks, objective: Objective) -> OnlineState:
    """Return the sums of earlier calls; after a fit, the sums of images that equal W H."""
    H = model._known_components().astype(np.float64)
    if model.n_components not in ("auto", None, len(H)):
        raise ParameterError(
            f"n_components is {model.n_components!r}, but partial_fit continues from {len(H)} "
            "components; set n_components to that, or clone the model to start afresh"
        )
    running: OnlineState | None = getattr(model, "_running", None)
    known = None if running is None else running.objective
    if running is not None and known is not None and known.has_same_sums(objective):
        return running
    stats = measure(blocks, objective, H, only=[0])
    if not stats.total_weight:
        return OnlineState(H, settled=True)
    n_before = model._spec.X["shape"][0] if hasattr(model, "_spec") else 0
    images = n_before or blocks.shape[0]  # components that a user set have no known images
    before = objective.stats_of_exact_fit(H, stats.scaled(images / stats.total_weight))
    return OnlineState(H, before, settled=True, objective=objective)
