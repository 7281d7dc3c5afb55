"""What speaks for a number of components: errors, errors on hidden cells, stability; the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.model_selection.stability import silhouettes
from dnmf.numerics.state import State


@dataclass(frozen=True)
class Score:
    """A row of the table: what speaks for and against a number of components.

    Attributes
    ----------
    n_components : int
    error : float
        ``sqrt(2 D)`` of the best fit to all cells, ``||X - W H||`` for squared error. It falls with
        the number of components, whatever the data.
    error_per_cell : float
        Root mean square of that: ``sqrt(2 D / (n p))``, to be compared with the next.
    held_out_error : float or None
        The same for cells that the model was not shown; None if none were hidden.
    standard_error : float or None
        Of the difference of the held-out error to the lowest of all ranks.
    stability, least_stable : float or None
        Mean and least of the components' silhouettes over all fits, see
        `dnmf.model_selection.stability`; None with a single fit.
    passes : int
        Of the best fit.
    seed : int
        It started from.
    """

    n_components: int
    error: float
    error_per_cell: float
    held_out_error: float | None
    standard_error: float | None
    stability: float | None
    least_stable: float | None
    passes: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """Give the record."""
        return asdict(self)


@dataclass(frozen=True)
class HeldOut:
    """Mean divergence per hidden cell of each rank, and its standard error against the lowest.

    The standard error is that of the difference, which is far smaller than that of the error: all
    ranks are asked about the same cells of the same images. It counts both what another sample of
    images would change (by buckets of them) and what other cells, starts and bootstrap samples
    would.
    """

    means: Array
    errors: Array

    @classmethod
    def of(cls, sums: Array) -> HeldOut:
        """Take them from sums of shape (ranks, folds, buckets, 2)."""
        totals = sums.sum(axis=2)
        folds = totals[..., 0] / totals[..., 1]
        means = folds.mean(axis=1)
        best = int(np.argmin(means))
        _, n_folds, n_buckets, _ = sums.shape
        cells = totals[..., 1].mean() / n_buckets
        buckets = ((sums - sums[best])[..., 0] / cells).mean(axis=1)
        variance = buckets.var(axis=1, ddof=1) / n_buckets
        if n_folds > 1:
            variance = variance + (folds - folds[best]).var(axis=1, ddof=1) / n_folds
        return cls(means, np.sqrt(variance))

    @property
    def lowest(self) -> int:
        """Index of the lowest."""
        return int(np.argmin(self.means))

    @property
    def chosen(self) -> int:
        """Index of the first that is within one standard error of the lowest."""
        return int(np.argmax(self.means <= self.means[self.lowest] + self.errors))


@dataclass(frozen=True)
class Fits:
    """The fits of one rank.

    Attributes
    ----------
    whole : dict of int to State
        Those to all cells, by their seeds.
    parts : dict of int to State
        Those that cells were hidden from.
    cells : float
        Of X: those that are observed, as often as their images count.
    """

    whole: Mapping[int, State]
    parts: Mapping[int, State]
    cells: float

    @property
    def best(self) -> int:
        """Seed of the best fit to all cells."""
        return min(self.whole, key=lambda seed: self.whole[seed].losses[-1])


def held_out_of(fits: Sequence[Fits]) -> HeldOut | None:
    """Bring together what the fits of all ranks say of hidden cells that they have in common."""
    folds = sorted(set.intersection(*(set(some.parts) for some in fits)))
    if not folds:
        return None
    return HeldOut.of(np.array([[some.parts[i].held_out for i in folds] for some in fits]))


def scores_of(ranks: Sequence[int], fits: Sequence[Fits], held_out: HeldOut | None) -> list[Score]:
    """Make the table, a row for each rank."""
    rows = []
    for i, (rank, some) in enumerate(zip(ranks, fits, strict=True)):
        best = some.whole[some.best]
        hidden: tuple[float | None, float | None] = (None, None)
        if held_out is not None:
            rms = float(np.sqrt(2 * held_out.means[i]))
            # Of a square root: the error of what is under it, over twice the root.
            hidden = rms, float(held_out.errors[i] / rms) if rms else 0.0
        others = [some.whole[seed].H for seed in some.whole if seed != some.best]
        all_fits = [best.H, *others, *(state.H for state in some.parts.values())]
        values = silhouettes(all_fits) if len(all_fits) > 1 else None
        rows.append(
            Score(
                rank,
                best.error,
                float(np.sqrt(2 * best.divergence / some.cells)),
                *hidden,
                None if values is None else float(values.mean()),
                None if values is None else float(values.min()),
                best.n_iter,
                some.best,
            )
        )
    return rows
