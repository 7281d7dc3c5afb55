"""Whether components come out the same from other starts and other samples of the images.

Components of several fits are put into clusters, one of each fit in every cluster, and silhouettes
(Rousseeuw, J. Comput. Appl. Math. 20, 1987) say how much closer they are to their own cluster than
to the next: Alexandrov, Nik-Zainal, Wedge, Campbell and Stratton, Cell Reports 3(1), 2013, on
bootstrap samples; NMFk (Alexandrov and Vesselinov, Water Resources Research 50(9), 2014). All is
done on components, in d x p numbers for each fit; no matrix over images is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from dnmf._typing import Array

ROUNDS = 3
"""Of matching components to the means of their clusters."""

NEAR = 1e-12
"""Distance below which there is nothing but rounding."""


def silhouettes(fits: Sequence[Array]) -> Array:
    """Compute how well each component is told from the others, over several fits.

    Parameters
    ----------
    fits : sequence of ndarray of shape (d, p)
        Two or more H; the first gives the order.

    Returns
    -------
    ndarray of shape (d,)
        Silhouette of each cluster, the mean over its members of ``(b - a) / max(a, b)``: a is the
        mean distance, one minus the cosine, to the other members, b that to the nearest other
        cluster. 1 is the same in every fit, 0 no more like itself than like another. For a single
        component, which has no other, ``1 - a``.
    """
    unit = [_unit(H) for H in fits]
    means = unit[0]
    for _ in range(ROUNDS):
        unit = [U[matching(means, U)] for U in unit]
        means = sum(unit[1:], unit[0]) / len(unit)
    return np.asarray(np.mean([_silhouettes(U, means, len(unit)) for U in unit], axis=0))


def matching(one: Array, other: Array) -> Array:
    """Match the rows of two matrices one to one, by the largest sum of products (Hungarian).

    Returns
    -------
    ndarray of shape (d,), int
        For each row of the one its row of the other.
    """
    return np.asarray(linear_sum_assignment(one @ other.T, maximize=True)[1])


def _unit(H: Array) -> Array:
    sizes = np.linalg.norm(H, axis=1, keepdims=True)
    return np.asarray(np.divide(H, sizes, out=np.zeros_like(H), where=sizes > 0))


def _silhouettes(U: Array, means: Array, count: int) -> Array:
    """Compute the silhouettes of the components of one fit."""
    cosines = U @ means.T  # the mean over the members of each cluster
    own = np.einsum("jp,jp->j", U, U)
    a = 1 - (count * cosines.diagonal() - own) / (count - 1)
    if len(U) == 1:
        return np.asarray(1 - a)
    np.fill_diagonal(cosines, -1)
    b = 1 - cosines.max(axis=1)
    return np.asarray((b - a) / np.maximum(np.maximum(a, b), NEAR))
