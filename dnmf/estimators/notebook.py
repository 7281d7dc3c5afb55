"""What a model shows of its passes, and in a notebook below scikit-learn's diagram once fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dnmf._format import format_shape, format_share
from dnmf._html import format_html
from dnmf._progress import relative_change
from dnmf.numerics.state import State

if TYPE_CHECKING:
    from dnmf.estimators.base import FittedNMF

STOPS = {
    "converged": "converged",
    "max_iter": "stopped by max_iter",
    "unfinished": "unfinished",
}
"""What is said of the reasons to stop."""


def fitted_html(model: FittedNMF) -> str:
    """Return facts and components of a model as HTML; nothing without components that fit.

    It never raises, as users may have set attributes to anything.
    """
    if getattr(model, "components_", None) is None:
        return ""
    try:
        return format_html(_facts(model)) + _draw_components(model)
    except Exception:  # what is wrong with the model is said when somebody uses it
        return ""


def pass_line(state: State, tol: float, in_memory: bool) -> str:
    """Write what a pass has come to: its error, and what it has gained beside `tol`.

    An iteration on a small array in memory is compared with `tol` only together with others.
    """
    unit = "iteration" if in_memory else "pass"
    line, gain = f"{unit} {state.n_iter}: error {state.error:.6g}", relative_change(state.losses)
    if gain is not None:
        line += f", gain {gain:.1e}" if state.accepted else ", step back"
        line += f" (tol {tol:g})" * (tol > 0 and not in_memory)
    return line


def _facts(model: FittedNMF) -> dict[str, str]:
    d, shape = model.n_components_, format_shape(model.image_shape_)
    facts = {"Components": f"{d:,} of {shape} pixels"}
    if hasattr(model, "n_iter_") and hasattr(model, "_spec"):
        stop = STOPS.get(model.stop_reason_)
        facts["Fit"] = (
            f"{model._spec.X['shape'][0]:,} images, {model.n_iter_:,} passes"
            f"{f', {stop}' if stop else ''}; {model.n_reads_:.3g} reads"
        )
        facts["Error"] = f"{model.reconstruction_err_:.6g}"
        if model.beta_loss in ("frobenius", 2):
            facts["Error"] += f" (relative error {format_share(model._state.relative_error)})"
    elif hasattr(model, "n_steps_"):
        facts["Fit"] = f"{model.n_steps_:,} updates by partial_fit"
    return facts


def _draw_components(model: FittedNMF) -> str:
    """Draw the first components, in descending order of their shares where these are known."""
    from dnmf.storage.thumbnails import HTML_COMPONENTS, draw_each

    H = model._known_components()
    shares = getattr(model, "energy_shares_", None)
    order, labels = np.arange(len(H)), [f"{j}" for j in range(len(H))]
    if shares is not None and len(shares) == len(H):  # else a user has set components_
        order = np.argsort(-shares, kind="stable")
        labels = [f"{j} · {format_share(share)}" for j, share in enumerate(shares)]
    chosen = order[:HTML_COMPONENTS]
    return draw_each(H[chosen].reshape(-1, *model.image_shape_), [labels[j] for j in chosen])
