"""Parameters: which values are allowed, and what they say is to be minimised."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.errors import DataError, DtypeError, ParameterError
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import PixelRules
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import Objective, Quadratic
from dnmf.storage.corpus import Corpus

BETAS = {"frobenius": 2.0, "kullback-leibler": 1.0, "itakura-saito": 0.0}
NNDSVD = ("nndsvd", "nndsvda", "nndsvdar")
INITS = (None, "random", *NNDSVD, "custom")


def check_parameters(model: Any) -> None:
    """Raise ParameterError for the first parameter of an `NMF` that is out of its range."""
    k = model.n_components
    allowed = "an int >= 1, None or 'auto'"
    require(k in ("auto", None) or (is_int(k) and int(k) >= 1), "n_components", k, allowed)
    one_of = {"init": INITS, "solver": ("cd", "mu"), "missing": ("error", "ignore")}
    for name, values in one_of.items():
        value = getattr(model, name)
        require(_among(value, values), name, value, _listed(values))
    beta = model.beta_loss
    valid = (is_real(beta) and np.isfinite(beta)) or _among(beta, tuple(BETAS))
    require(valid, "beta_loss", beta, f"a number or {_listed(tuple(BETAS))}")
    for name in ("tol", "alpha_W", "alpha_H", "l1_ratio", "forget_factor"):
        value = getattr(model, name)
        most = 1.0 if name in ("l1_ratio", "forget_factor") else np.inf
        valid = (is_real(value) and 0 <= value <= most) or (name == "alpha_H" and value == "same")
        words = "a number >= 0" if most > 1 else "a number from 0 to 1"
        require(valid, name, value, f"{words} or 'same'" if name == "alpha_H" else words)
    counts = (
        "n_init",
        "max_iter",
        "checkpoint_every",
        "checkpoint_keep",
        "batch_size",
        "resume_from",
    )
    for name in counts:
        value, least = getattr(model, name), 0 if name == "resume_from" else 1
        may_be_none = name in ("batch_size", "resume_from")
        valid = (is_int(value) and value >= least) or (may_be_none and value is None)
        require(valid, name, value, f"an int >= {least}" + " or None" * may_be_none)
    if is_int(model.random_state):
        seed_of(model.random_state)
    _require_together(model)


def _require_together(model: Any) -> None:
    if model.resume_from is not None and model.checkpoint is None:
        raise ParameterError(
            f"resume_from is {model.resume_from}, and there is no checkpoint to resume: give its "
            "path as checkpoint"
        )
    if model.n_init > 1 and model.init not in (None, "random"):
        raise ParameterError(
            f"n_init is {model.n_init} and init is {model.init!r}, from which every start is the "
            "same: use init='random', or n_init=1"
        )
    if model.solver == "cd" and beta_of(model.beta_loss) != 2:
        raise ParameterError(
            f"Invalid beta_loss parameter: solver 'cd' does not handle beta_loss = "
            f"{model.beta_loss!r}; use solver='mu', or beta_loss='frobenius'"
        )


def warn_of_zeros(model: Any) -> None:
    """Warn, as scikit-learn does, of a start with zeros for steps that cannot leave them."""
    if model.solver == "mu" and model.init == "nndsvd":
        warnings.warn(
            "The multiplicative update ('mu') solver cannot update zeros present in the "
            "initialization: those of init='nndsvd' are raised to a little above zero first; "
            "init='nndsvda' starts higher, and may lead to better results.",
            UserWarning,
            stacklevel=5,
        )


def beta_of(beta_loss: float | str) -> float:
    """Give the beta of a loss by its name or number."""
    return BETAS[beta_loss] if isinstance(beta_loss, str) else float(beta_loss)


def loss_of(beta_loss: float | str) -> float | str:
    """Give a loss by its name if it has one, else by its beta: one way for each."""
    beta = beta_of(beta_loss)
    return next((name for name, known in BETAS.items() if known == beta), beta)


def objective_of(model: Any, n_pixels: int, masked: bool) -> Objective:
    """Say what a model minimises.

    The penalties are scikit-learn's: alpha_W is scaled by the number of pixels, alpha_H by that of
    images (their weights, where they have any), so that neither drowns the other or the loss.
    """
    beta = beta_of(model.beta_loss)
    alpha_H = model.alpha_W if model.alpha_H == "same" else model.alpha_H
    l1, l2 = float(model.l1_ratio), 1 - float(model.l1_ratio)
    on_W, on_H = n_pixels * float(model.alpha_W), float(alpha_H)
    penalties = (l1 * on_W, l2 * on_W, l1 * on_H, l2 * on_H)
    if model.solver == "mu":
        return BetaDivergence(beta, *penalties)
    return (MaskedQuadratic if masked else Quadratic)(2.0, *penalties)


def rules_of(model: Any) -> PixelRules:
    """Say which pixels a model takes."""
    return PixelRules(
        nan_is_missing=model.missing == "ignore", positive=beta_of(model.beta_loss) <= 0
    )


def components_of(model: Any, blocks: Blocks, H: Any) -> int:
    """Choose the number of components as scikit-learn does, and refuse what init cannot give."""
    n, p = blocks.shape
    if model.n_components in ("auto", None):
        k = p if H is None or model.init != "custom" else int(np.shape(H)[0])
    else:
        k = int(model.n_components)
    if model.init in NNDSVD and k > min(n, p):
        raise ParameterError(
            f"init = {model.init!r} can only be used when n_components <= min(n_samples, "
            f"n_features); n_components is {k}, X has {n} images of {p} pixels: use init=None"
        )
    return k


def check_start(H: Any, W: Any, blocks: Blocks, n_components: int) -> Array:
    """Check the H and W of ``init="custom"`` and give H in float64.

    Only H is needed: W is a function of X and H. A W that is given has to fit all the same.
    """
    if H is None:
        raise ParameterError("init='custom' needs H: fit(X, H=...) of shape (n_components, pixels)")
    n, p = blocks.shape
    for name, given, shape in (("H", H, (n_components, p)), ("W", W, (n, n_components))):
        if given is None:
            continue
        A = np.asarray(given)
        whom = f"NMF (input {name})"
        if A.shape != shape:
            raise DataError(
                f"Array with wrong shape passed to {whom}. Expected {shape}, but got {A.shape}."
            )
        if blocks.dtype.kind == "f" and A.dtype != blocks.dtype:
            raise DtypeError(
                f"H and W should have the same dtype as X. Got {name}.dtype = {A.dtype}, X has "
                f"{blocks.dtype}: convert one of them"
            )
        if not (A.dtype.kind in "uif" and np.isfinite(A).all() and A.min(initial=0) >= 0):
            raise DataError(f"Negative values in data passed to {whom}, or not finite numbers")
        if not A.any():
            raise DataError(f"Array passed to {whom} is full of zeros.")
    return np.array(H, np.float64)


def require_even_blocks(blocks: Blocks) -> None:
    """Refuse blocks that cannot be the chunks of a Zarr array of weights."""
    rows = [stop - start for start, stop in blocks.ranges]
    if len({*rows[:-1]}) > 1 or rows[-1] > rows[0]:
        raise DataError(
            f"X has chunks of {min(rows)} to {max(rows)} rows; weights in a checkpoint need even "
            f"ones: use X.rechunk({{0: {max(rows)}}})"
        )


def require_same_pixels(model: Any, corpus: Corpus) -> None:
    """Refuse a corpus whose images have another number of pixels than the model's."""
    if corpus.shape[1] != model.n_features_in_:
        raise DataError(
            f"{corpus.path} has images of {corpus.shape[1]} pixels, but the model was fitted on "
            f"{model.n_features_in_}: ingest the images at the model's size "
            f"({' x '.join(map(str, model.image_shape_))})"
        )


def seed_of(random_state: Any) -> int:
    """Reduce scikit-learn's random_state to an integer."""
    if is_int(random_state):
        allowed = "an int from 0 to 2**32 - 1, a RandomState or None"
        require(0 <= random_state < 2**32, "random_state", random_state, allowed)
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def is_int(value: Any) -> bool:
    """Tell integers, NumPy's too, from booleans and the rest."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Tell real numbers from the rest."""
    return is_int(value) or isinstance(value, (float, np.floating))


def require(valid: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ParameterError unless a parameter is valid."""
    if not valid:
        raise ParameterError(f"{name} is {value!r}; it must be {allowed}")


def _among(value: Any, values: tuple[Any, ...]) -> bool:
    return (value is None or isinstance(value, str)) and value in values


def _listed(values: tuple[Any, ...]) -> str:
    *most, last = map(repr, values)
    return f"{', '.join(most)} or {last}"
