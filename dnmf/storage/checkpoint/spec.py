"""The spec of a fit, which a checkpoint and the fit that resumes it must have in common."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from dnmf._typing import Array
from dnmf._version import __version__, installed_versions
from dnmf.storage.store import crc32c

NAMES = "feature-names"
"""Name of the array with the names of pixels in a model, and of its size in the record."""

PARAMETERS = ("solver", "beta_loss", "alpha_W", "alpha_H", "l1_ratio", "init", "n_init", "missing")
"""Names of the parameters of `NMF` that must not change when a fit is resumed."""

SETTINGS = ("tol", "max_iter", "forget_factor", "batch_size")
"""Names of the parameters of `NMF` that are stored and may change when a fit is resumed."""


LIBRARIES = ("numpy", "scipy", "scikit-learn", "numba", "dask", "zarr")
"""Libraries whose versions a model keeps."""


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of dnmf, Python, the libraries that compute, and the BLAS."""
    found = {"dnmf": __version__, "python": platform.python_version()}
    found |= {name: number for name, number in installed_versions(LIBRARIES).items() if number}
    for library in threadpool_info():
        if library["user_api"] == "blas":
            found["blas"] = f"{library['internal_api']} {library['version'] or ''}".strip()
    return {**found, "machine": f"{platform.system()} {platform.machine()}".strip()}


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
    feature_names : tuple of str, optional
        Names of the pixels, of an X that has some. Not compared: `X` has what identifies the data.
    versions : dict of str to str
        Versions of dnmf and of libraries when the fit began; empty if they are not known. Not
        compared.
    """

    n_components: int
    seed: int
    X: dict[str, Any]
    parameters: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    dnmf: str = ".".join(__version__.split(".")[:2])
    feature_names: tuple[str, ...] | None = None
    versions: dict[str, str] = field(default_factory=library_versions)

    def as_record(self) -> dict[str, Any]:
        """Return the specification in JSON types, with the place of the names alone."""
        record = {name: value for name, value in vars(self).items() if name != "feature_names"}
        if self.feature_names is not None:
            names = self.encode_names()
            record["X"] = {**self.X, NAMES: [names.size, crc32c(names)]}
        return record

    def encode_names(self) -> Array:
        """Return the names as JSON, an array of bytes of shape (1, n)."""
        text = json.dumps(self.feature_names)
        return np.frombuffer(text.encode(), np.uint8).reshape(1, -1)

    def differences(self, other: FitSpec) -> list[str]:
        """Return a list of phrases that describe how another fit differs from this one."""
        before, after = ({**vars(fit), **fit.X, **fit.parameters} for fit in (self, other))
        groups = ("X", "parameters", "settings", "feature_names", "versions")
        names = [name for name in before if name not in groups and before[name] != after.get(name)]
        said = {"hidden": "holdout"}  # in a record, and as a parameter
        return [
            f"{said.get(name, name)} was {before[name]}, is {after.get(name)}" for name in names
        ]
