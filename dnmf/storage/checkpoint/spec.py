"""Specification of a fit: what a checkpoint must have in common with the fit that resumes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dnmf._version import __version__

PARAMETERS = ("solver", "beta_loss", "alpha_W", "alpha_H", "l1_ratio", "init", "n_init", "missing")
"""Names of the parameters of `NMF` that must not change when a fit is resumed."""

SETTINGS = ("tol", "max_iter", "forget_factor", "batch_size")
"""Names of the parameters of `NMF` that are stored and may change when a fit is resumed."""


@dataclass(frozen=True)
class FitSpec:
    """Specification of a fit; a checkpoint can only be resumed by a fit with the same one.

    Attributes
    ----------
    n_components : int
    seed : int
    X : dict
        Shape, dtype, rows per block, image shape and, for a corpus, its fingerprint.
    parameters : dict
        Parameters that define what is minimised and where it starts: `PARAMETERS` and others.
    settings : dict
        Parameters that may differ: `SETTINGS`.
    dnmf : str
        Major and minor version of dnmf: another may compute other bits.
    """

    n_components: int
    seed: int
    X: dict[str, Any]
    parameters: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    dnmf: str = ".".join(__version__.split(".")[:2])

    def differences(self, other: FitSpec) -> list[str]:
        """Return a list of phrases that describe how another fit differs from this one."""
        before, after = ({**vars(fit), **fit.X, **fit.parameters} for fit in (self, other))
        groups = ("X", "parameters", "settings")
        names = [name for name in before if name not in groups and before[name] != after.get(name)]
        return [f"{name} was {before[name]}, is {after.get(name)}" for name in names]
