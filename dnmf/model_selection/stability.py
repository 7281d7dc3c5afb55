"""Stability of components: how similar they are in fits from other starts and other samples.

Components of several fits are grouped into clusters, with one component of each fit in every
cluster. A silhouette (Rousseeuw, J. Comput. Appl. Math. 20, 1987) measures how much closer a
component is to its own cluster than to the next. Alexandrov, Nik-Zainal, Wedge, Campbell and
Stratton (Cell Reports 3(1), 2013) do this on bootstrap samples; see also NMFk (Alexandrov and
Vesselinov, Water Resources Research 50(9), 2014). Only components are needed, d x p numbers for
each fit, and no matrix over images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from dnmf._typing import Array

ROUNDS = 3
"""Number of times that components are assigned to the means of their clusters."""

NEAR = 1e-12
"""Distance below which differences are due to rounding."""


def silhouettes(fits: Sequence[Array]) -> Array:
    """Compute how stable each component is over several fits.

    Parameters
    ----------
    fits : sequence of ndarray of shape (d, p)
        Two or more H. The result has the order of the first.

    Returns
    -------
    ndarray of shape (d,)
        Silhouette of each cluster: the mean over its members of ``(b - a) / max(a, b)``. Distances
        are one minus the cosine; a is the mean distance to the other members of the cluster, b the
        mean distance to the members of the nearest other cluster. The silhouette is 1 for a
        component that is the same in every fit, and 0 for one that is equally close to another
        cluster. With one component it is ``1 - a``.
    """
    unit = [_unit(H) for H in fits]
    means = unit[0]
    for _ in range(ROUNDS):
        unit = [U[matching(means, U)] for U in unit]
        means = sum(unit[1:], unit[0]) / len(unit)
    return np.asarray(np.mean([_silhouettes(U, means, len(unit)) for U in unit], axis=0))


def matching(A: Array, B: Array) -> Array:
    """Match the rows of two matrices one to one, with the largest sum of dot products.

    Returns
    -------
    ndarray of shape (d,), int
        For each row of A the index of its row in B.
    """
    return np.asarray(linear_sum_assignment(A @ B.T, maximize=True)[1])


def _unit(H: Array) -> Array:
    """Scale each row to unit norm; rows of zeros stay zero."""
    sizes = np.linalg.norm(H, axis=1, keepdims=True)
    return np.asarray(np.divide(H, sizes, out=np.zeros_like(H), where=sizes > 0))


def _silhouettes(U: Array, means: Array, count: int) -> Array:
    """Compute the silhouettes of the components of one fit."""
    cosines = U @ means.T  # means over the members of each cluster
    own = np.einsum("jp,jp->j", U, U)
    a = 1 - (count * cosines.diagonal() - own) / (count - 1)
    if len(U) == 1:
        return np.asarray(1 - a)
    np.fill_diagonal(cosines, -1)
    b = 1 - cosines.max(axis=1)
    return np.asarray((b - a) / np.maximum(np.maximum(a, b), NEAR))
