"""What makes two fits the same fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dnmf._version import __version__

BOUND = ("solver", "beta_loss", "alpha_W", "alpha_H", "l1_ratio", "init", "n_init", "missing")
"""Parameters that a checkpoint is bound to."""

FREE = ("tol", "max_iter", "forget_factor", "batch_size")
"""Parameters that it keeps and is not bound to."""


@dataclass(frozen=True)
class FitSpec:
    """What makes two fits the same fit: a checkpoint continues only the fit it belongs to.

    Attributes
    ----------
    n_components : int
    seed : int
    X : dict
        Shape, dtype, rows per block, image shape and, for a corpus, its fingerprint.
    parameters : dict
        Those of `NMF` that say what is minimised and where it starts.
    settings : dict
        Other parameters of `NMF`, which may differ.
    dnmf : str
        Major and minor version of the code: those after may change the path of a fit.
    """

    n_components: int
    seed: int
    X: dict[str, Any]
    parameters: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    dnmf: str = ".".join(__version__.split(".")[:2])

    def differences(self, other: FitSpec) -> list[str]:
        """List what differs from another fit, in words."""
        mine, theirs = ({**vars(fit), **fit.X, **fit.parameters} for fit in (self, other))
        groups = ("X", "parameters", "settings")
        names = [name for name in mine if name not in groups and mine[name] != theirs.get(name)]
        return [f"{name} was {mine[name]}, is {theirs.get(name)}" for name in names]
