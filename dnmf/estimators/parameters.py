"""Parameters of `NMF`: their allowed values, and the objective that they define."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.errors import DataError, DtypeError, ParameterError
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import PixelRules
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import Objective
from dnmf.numerics.quadratic import Quadratic
from dnmf.storage.checkpoint.spec import PARAMETERS

BETAS = {"frobenius": 2.0, "kullback-leibler": 1.0, "itakura-saito": 0.0}
"""Beta of each loss that has a name."""

NNDSVD = ("nndsvd", "nndsvda", "nndsvdar")
INITS = (None, "random", *NNDSVD, "custom")
"""Allowed values of `init`; the NNDSVD family starts from singular vectors."""

SOLVERS = ("auto", "cd", "mu")

COUNTS = {
    "n_init": 1,
    "max_iter": 1,
    "checkpoint_every": 1,
    "checkpoint_keep": 1,
    "batch_size": 1,
    "resume_from": 0,
}
"""Least allowed value of each parameter that is a count."""


class NMFParameters(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of `NMF` that checks the parameters and makes the objective from them."""

    n_components: int | str | None
    init: str | None
    n_init: int
    solver: str
    beta_loss: float | str
    tol: float
    max_iter: int
    random_state: int | np.random.RandomState | None
    alpha_W: float
    alpha_H: float | str
    l1_ratio: float
    missing: str
    verbose: int
    shuffle: bool
    warm_start: bool
    checkpoint: str | os.PathLike[str] | None
    on_pass: Callable[..., None] | None
    resume_from: int | None
    n_features_in_: int
    image_shape_: tuple[int, ...]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.missing == "ignore"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def check_parameters(self) -> None:
        """Raise ParameterError (a ValueError) if a parameter is out of its range, as `fit` does."""
        k = self.n_components
        allowed = "an int >= 1, None or 'auto'"
        require(k in ("auto", None) or (is_int(k) and int(k) >= 1), "n_components", k, allowed)
        self._check_choices()
        self._check_numbers()
        self._check_combinations()

    def _check_choices(self) -> None:
        choices = {"init": INITS, "solver": SOLVERS, "missing": ("error", "ignore")}
        for name, values in choices.items():
            value = getattr(self, name)
            require(_is_among(value, values), name, value, _listed(values))
        for name in ("shuffle", "warm_start"):
            value = getattr(self, name)
            require(isinstance(value, (bool, np.bool_)), name, value, "True or False")
        level = self.verbose
        valid = isinstance(level, (bool, np.bool_)) or (is_int(level) and level >= 0)
        require(valid, "verbose", level, "an int >= 0, True or False")
        beta = self.beta_loss
        valid = (is_real(beta) and np.isfinite(beta)) or _is_among(beta, tuple(BETAS))
        require(valid, "beta_loss", beta, f"a number or {_listed(tuple(BETAS))}")

    def _check_numbers(self) -> None:
        for name in ("tol", "alpha_W", "alpha_H", "l1_ratio", "forget_factor"):
            value = getattr(self, name)
            most = 1.0 if name in ("l1_ratio", "forget_factor") else np.inf
            same = name == "alpha_H" and value == "same"
            words = "a number >= 0" if most > 1 else "a number from 0 to 1"
            allowed = f"{words} or 'same'" if name == "alpha_H" else words
            require((is_real(value) and 0 <= value <= most) or same, name, value, allowed)
        for name, least in COUNTS.items():
            value, may_be_none = getattr(self, name), name in ("batch_size", "resume_from")
            valid = (is_int(value) and value >= least) or (may_be_none and value is None)
            require(valid, name, value, f"an int >= {least}" + " or None" * may_be_none)
        if is_int(self.random_state):
            self._seed()
        for name in ("on_pass", "checkpoint"):
            value, is_call = getattr(self, name), name == "on_pass"
            valid = callable(value) if is_call else isinstance(value, (str, os.PathLike))
            allowed = f"{'a callable' if is_call else 'a path'} or None"
            require(value is None or valid, name, value, allowed)

    def _check_combinations(self) -> None:
        if self.resume_from is not None and self.checkpoint is None:
            raise ParameterError(
                f"resume_from is {self.resume_from}, but checkpoint is None: give the path of the "
                "checkpoint to resume"
            )
        if self.n_init > 1 and self.init not in (None, "random"):
            raise ParameterError(
                f"n_init is {self.n_init}, but all starts with init={self.init!r} are the same: "
                "use init='random', or n_init=1"
            )
        if self.solver == "cd" and beta_of(self.beta_loss) != 2:
            raise ParameterError(
                f"Invalid beta_loss parameter: solver 'cd' does not handle beta_loss = "
                f"{self.beta_loss!r}; use solver='mu', or beta_loss='frobenius'"
            )

    def _solver(self) -> str:
        """Return the solver, "cd" or "mu"; for "auto" the one for the loss."""
        if self.solver != "auto":
            return self.solver
        return "cd" if beta_of(self.beta_loss) == 2 else "mu"

    def _objective(self, mask: Any = None, n_pixels: int | None = None) -> Objective:
        """Return the objective for images with or without a mask.

        The penalties are scikit-learn's: alpha_W is multiplied by the number of pixels (by default
        that of the validated X), and alpha_H by the number of images (or the sum of their weights).
        Neither penalty then outweighs the other or the loss, however many pixels or images there
        are.
        """
        beta = beta_of(self.beta_loss)
        alpha_H = self.alpha_W if self.alpha_H == "same" else self.alpha_H
        l1, l2 = float(self.l1_ratio), 1 - float(self.l1_ratio)
        on_W = (n_pixels or self.n_features_in_) * float(self.alpha_W)
        on_H = float(alpha_H)
        penalties = (l1 * on_W, l2 * on_W, l1 * on_H, l2 * on_H)
        if self._solver() == "mu":
            return BetaDivergence(beta, *penalties)
        masked = mask is not None or self.missing == "ignore"
        return (MaskedQuadratic if masked else Quadratic)(2.0, *penalties)

    def _rules(self) -> PixelRules:
        """Return the rules that pixels must follow."""
        positive = beta_of(self.beta_loss) <= 0
        return PixelRules(nan_is_missing=self.missing == "ignore", positive=positive)

    def _component_count(self, blocks: Blocks, H: Any) -> int:
        """Return the number of components, as scikit-learn chooses it.

        Raises
        ------
        ParameterError
            If `init` cannot give so many components.
        """
        n, p = blocks.shape
        k = resolve_count(self.n_components, H if self.init == "custom" else None, p)
        if self.init in NNDSVD and k > min(n, p):
            raise ParameterError(
                f"init = {self.init!r} can only be used when n_components <= min(n_samples, "
                f"n_features); n_components is {k}, X has {n} images of {p} pixels: use init=None"
            )
        return k

    def _spec_parameters(self) -> dict[str, Any]:
        """Return the parameters that define a fit, by name, as JSON types; see `FitSpec`."""
        return {
            **{name: as_json(getattr(self, name)) for name in PARAMETERS},
            "solver": self._solver(),
            "beta_loss": loss_of(self.beta_loss),
            "alpha_H": as_json(self.alpha_W if self.alpha_H == "same" else self.alpha_H),
            "init": self.init or "random",
        }

    def _seed(self) -> int:
        """Return `random_state` if it is an integer, else a seed drawn from it."""
        state = self.random_state
        if is_int(state):
            allowed = "an int from 0 to 2**32 - 1, a RandomState or None"
            require(0 <= state < 2**32, "random_state", state, allowed)  # type: ignore[operator]
            return int(state)  # type: ignore[arg-type]
        return int(check_random_state(state).randint(2**31 - 1))

    def _warn_about_zeros(self) -> None:
        """Warn, as scikit-learn does, if H starts with zeros, which solver "mu" would keep."""
        if self._solver() == "mu" and self.init == "nndsvd":
            warnings.warn(
                "The multiplicative update ('mu') solver cannot update zeros present in the "
                "initialization: the zeros of init='nndsvd' are set to a small number first; "
                "init='nndsvda' sets them to a larger one, which may give better results.",
                UserWarning,
                stacklevel=5,
            )


def beta_of(beta_loss: float | str) -> float:
    """Return the beta of a loss, given by its name or by its beta."""
    return BETAS[beta_loss] if isinstance(beta_loss, str) else float(beta_loss)


def loss_of(beta_loss: float | str) -> float | str:
    """Return the name of a loss if it has one, else its beta."""
    beta = beta_of(beta_loss)
    return next((name for name, known in BETAS.items() if known == beta), beta)


def as_json(value: Any) -> Any:
    """Return a parameter as a type that JSON has, not as a NumPy scalar."""
    return value.item() if isinstance(value, np.generic) else value


def check_start(H: Any, W: Any, blocks: Blocks, n_components: int) -> Array:
    """Check the H and W of ``init="custom"`` and return H in float64.

    Only H is needed, because W is a function of X and H. If W is passed, it must still be valid.

    Raises
    ------
    ParameterError
        If there is no H.
    DataError, DtypeError
        If the shape or dtype of H or W does not fit X, or an entry is negative or not finite.
    """
    if H is None:
        raise ParameterError("init='custom' needs H: fit(X, H=...) of shape (n_components, pixels)")
    n, p = blocks.shape
    check_factor("H", H, (n_components, p), blocks.dtype)
    if W is not None:
        check_factor("W", W, (n, n_components), blocks.dtype)
    return np.array(H, np.float64)


def check_factor(
    name: str,
    given: Any,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    *,
    fixed: bool = False,
) -> None:
    """Check a W or an H that a caller gives. Messages have the words of scikit-learn.

    Parameters
    ----------
    name : str
        "W" or "H".
    given : array-like
        The factor to check.
    shape : tuple of int
        Shape that it must have.
    dtype : dtype
        Dtype of X. If it is a floating-point dtype, the factor must have it, too.
    fixed : bool
        Whether the factor is not fitted. Then all entries may be zero; a fit cannot start so.

    Raises
    ------
    DataError, DtypeError
        If the factor is not valid.
    """
    A = np.asarray(given)
    where = f"NMF (input {name})"
    if A.ndim != 2:
        raise DataError(f"Expected 2D array passed to {where}, of shape {shape}; got {A.ndim}D.")
    for which, wanted, found in zip(("first", "second"), shape, A.shape, strict=True):
        if found != wanted:
            raise DataError(
                f"Array with wrong {which} dimension passed to {where}. Expected {wanted}, but "
                f"got {found}."
            )
    if not (A.dtype.kind in "uif" and np.isfinite(A).all() and A.min(initial=0) >= 0):
        raise DataError(f"Negative values in data passed to {where}, or not finite numbers")
    if not (fixed or A.any()):
        raise DataError(f"Array passed to {where} is full of zeros.")
    if dtype.kind == "f" and A.dtype != dtype:
        raise DtypeError(
            f"{'H' if fixed else 'H and W'} should have the same dtype as X. Got {name}.dtype = "
            f"{A.dtype}, and X has {dtype}: convert one of them"
        )


def require_even_blocks(blocks: Blocks) -> None:
    """Raise DataError if blocks cannot be the chunks of a Zarr array of weights."""
    rows = [stop - start for start, stop in blocks.ranges]
    if len({*rows[:-1]}) > 1 or rows[-1] > rows[0]:
        raise DataError(
            f"X has chunks of {min(rows)} to {max(rows)} rows; a checkpoint needs chunks of equal "
            f"size: use X.rechunk({{0: {max(rows)}}})"
        )


def resolve_count(n_components: int | str | None, H: Any, n_pixels: int) -> int:
    """Return the number of components that the parameter `n_components` means.

    Parameters
    ----------
    n_components : int, "auto" or None
        Value of the parameter.
    H : array-like of shape (d, p), optional
        Components that the caller gives.
    n_pixels : int
        Number of pixels.
    """
    if n_components == "auto" and np.ndim(H) == 2:  # `check_factor` refuses an H of another ndim
        return int(np.shape(H)[0])
    return n_pixels if n_components in ("auto", None) else int(n_components)


def is_int(value: Any) -> bool:
    """Check whether a value is a Python or NumPy integer, not a boolean."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Check whether a value is a real Python or NumPy number, not a boolean."""
    return is_int(value) or isinstance(value, (float, np.floating))


def require(valid: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ParameterError unless a parameter is valid."""
    if not valid:
        raise ParameterError(f"{name} is {value!r}; it must be {allowed}")


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    return (value is None or isinstance(value, str)) and value in values


def _listed(values: tuple[Any, ...]) -> str:
    *most, last = map(repr, values)
    return f"{', '.join(most)} or {last}"
