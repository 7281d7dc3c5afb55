"""Describe a model as it is now, for `save`; it may differ from the model that its fit left."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dnmf._typing import Array
from dnmf.estimators.parameters import as_json, is_int
from dnmf.numerics.state import State
from dnmf.storage.checkpoint.spec import PARAMETERS, SETTINGS, FitSpec
from dnmf.storage.store import crc32c

if TYPE_CHECKING:
    from dnmf.estimators.base import FittedNMF

EDITED = "edited"
"""`stop_reason_` of a model whose components are not those of its fit."""

BEGIN = ("start", "hidden")
"""Parameters of a spec, besides those of `NMF`, that say what the fit started from."""


def describe_in_hand(model: FittedNMF) -> tuple[FitSpec, State, str]:
    """Return the spec of a model as it is now, its state, and why its fit stopped.

    The losses, errors and shares of the fit are kept if they hold for the components as they are:
    if no component was changed, or if components were only reordered or, in a fit without
    penalties, rescaled.

    Raises
    ------
    DataError
        If `components_` is not a matrix of finite numbers >= 0.
    """
    H = model._known_components()
    H = H.astype(np.result_type(H, np.float32), copy=False)
    known: State | None = getattr(model, "_state", None)
    spec = _describe(model, H)
    wide = H.astype(np.float64)
    reason = getattr(model, "stop_reason_", EDITED)
    if known is not None and _has_loss_of(model, spec):
        if known.H.shape == H.shape and (known.H.astype(H.dtype) == H).all():
            return spec, known, reason
        eps = float(np.finfo(model._spec.X["compute_dtype"]).eps)
        may_scale = not model.alpha_W and model.alpha_H in ("same", 0)
        rows = _find_rows(known.H, wide, may_scale=may_scale, eps=eps)
        if rows is not None:
            energies = tuple(known.energies[row] for row in rows) if known.energies else ()
            moved = replace(known, H=wide, Y=wide, Z=wide, energies=energies)
            return _with_start(spec, wide), moved, reason
    return _with_start(spec, wide), State.at(wide), EDITED


def _describe(model: FittedNMF, H: Array) -> FitSpec:
    """Return the spec of a model as it is now. Its X is that of the fit, if there was one."""
    known: FitSpec | None = getattr(model, "_spec", None)
    d, p = H.shape
    if known is not None and known.X["shape"][1] == p:
        X, start = known.X, {n: known.parameters[n] for n in BEGIN if n in known.parameters}
    else:  # the number of images is unknown
        X, start = {"shape": [0, p], "dtype": str(H.dtype), "block_rows": 1}, {}
    image_shape = tuple(getattr(model, "image_shape_", ()))
    names = getattr(model, "feature_names_in_", None)
    seed = model.random_state if is_int(model.random_state) else 0
    return FitSpec(
        n_components=d,
        seed=int(seed) if known is None else known.seed,  # type: ignore[arg-type]
        X={
            **X,
            "compute_dtype": str(H.dtype),
            "image_shape": list(map(int, image_shape)) if math.prod(image_shape) == p else [p],
        },
        parameters={**start, **model._spec_parameters()},
        settings={name: as_json(getattr(model, name)) for name in SETTINGS},
        feature_names=None if names is None or len(names) != p else tuple(map(str, names)),
    )


def _with_start(spec: FitSpec, H: Array) -> FitSpec:
    """Return the spec of a fit that starts from given components, which no other fit continues."""
    return replace(spec, parameters={**spec.parameters, "start": crc32c(H)})


def _has_loss_of(model: FittedNMF, spec: FitSpec) -> bool:
    """Check whether a spec has the loss with which a model was fitted."""
    then, now = (
        {name: found.parameters[name] for name in PARAMETERS if name not in ("init", "n_init")}
        for found in (model._spec, spec)
    )
    return then == now


def _find_rows(before: Array, now: Array, *, may_scale: bool, eps: float) -> Array | None:
    """Return, for each row of `now`, the number of the row of `before` that it equals.

    With `may_scale`, a multiple counts as equal. Return None if the rows are not the same in
    another order, up to rounding of relative size `eps`.
    """
    if before.shape != now.shape:
        return None
    lengths, old_lengths = (np.linalg.norm(H, axis=1) for H in (now, before))
    unit, old_unit = (
        H / np.where(n > 0, n, 1.0)[:, None] for H, n in ((now, lengths), (before, old_lengths))
    )
    dark, old_dark = np.flatnonzero(lengths == 0), np.flatnonzero(old_lengths == 0)
    rows = np.argmax(unit @ old_unit.T, axis=1)
    if len(dark) != len(old_dark):
        return None
    rows[dark] = old_dark
    same = np.allclose(unit, old_unit[rows], rtol=0, atol=64 * eps) and (
        may_scale or np.allclose(lengths, old_lengths[rows], rtol=64 * eps)
    )
    return rows if same and len(set(rows.tolist())) == len(rows) else None
