"""Scores of each number of components: error, error on held-out cells and stability."""

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
    """Scores of one number of components: a row of the table of a sweep.

    Attributes
    ----------
    n_components : int
        Number of components.
    error : float
        ``sqrt(2 D)`` of the best fit to all cells, with D the loss; ``||X - W H||`` for squared
        error. It falls with the number of components for any data.
    error_per_cell : float
        Root mean square error per cell, ``sqrt(2 D / (n p))``; to compare with `held_out_error`.
    held_out_error : float or None
        Root mean square error on the held-out cells; None if no cells were held out.
    standard_error : float or None
        Standard error of the difference between this held-out error and the lowest of the sweep.
    stability, least_stable : float or None
        Mean and least silhouette of the components over all fits, from -1 to 1; see
        `dnmf.model_selection.stability`. None with a single fit.
    passes : int
        Number of passes of the best fit.
    seed : int
        Seed of the best fit.
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
        """Return the row as a dict.

        Returns
        -------
        dict
            The attributes by name, in JSON types.
        """
        return asdict(self)


@dataclass(frozen=True)
class HeldOutErrors:
    """Errors on held-out cells of all ranks (numbers of components).

    The standard error is that of the difference to the lowest error. It is far smaller than that of
    the error itself, because the held-out cells are the same for all ranks. It adds two variances:
    the variance over images (estimated from groups of images, called buckets), and the variance
    over folds, which differ in their held-out cells, starts and bootstrap samples.

    Attributes
    ----------
    means : ndarray of shape (ranks,)
        Mean divergence per held-out cell.
    standard_errors : ndarray of shape (ranks,)
        Standard error of the difference to the lowest mean.
    """

    means: Array
    standard_errors: Array

    @classmethod
    def from_sums(cls, sums: Array) -> HeldOutErrors:
        """Estimate the errors from the sums of passes.

        Parameters
        ----------
        sums : ndarray of shape (ranks, folds, buckets, 2)
            Divergence and number of the held-out cells of each bucket of images.
        """
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
        """Index of the rank with the lowest mean."""
        return int(np.argmin(self.means))

    @property
    def chosen(self) -> int:
        """Index of the first rank whose mean is within one standard error of the lowest."""
        return int(np.argmax(self.means <= self.means[self.lowest] + self.standard_errors))


@dataclass(frozen=True)
class RankFits:
    """Fits of one rank (number of components).

    Attributes
    ----------
    full : dict of int to State
        Last states of the fits to all cells, by their seeds.
    with_holdout : dict of int to State
        Last states of the fits without the held-out cells, by their seeds.
    n_cells : float
        Number of observed cells of X; the cells of an image count as its weight says.
    """

    full: Mapping[int, State]
    with_holdout: Mapping[int, State]
    n_cells: float

    @property
    def best_seed(self) -> int:
        """Seed of the best fit to all cells."""
        return min(self.full, key=lambda seed: self.full[seed].losses[-1])


def held_out_errors(fits: Sequence[RankFits]) -> HeldOutErrors | None:
    """Estimate the errors on the held-out cells that all ranks share.

    Parameters
    ----------
    fits : sequence of RankFits
        Fits of each rank.

    Returns
    -------
    HeldOutErrors or None
        None if the ranks share no held-out cells.
    """
    folds = sorted(set.intersection(*(set(rank_fits.with_holdout) for rank_fits in fits)))
    if not folds:
        return None
    return HeldOutErrors.from_sums(
        np.array([[rank_fits.with_holdout[i].held_out for i in folds] for rank_fits in fits])
    )


def score_ranks(
    ranks: Sequence[int], fits: Sequence[RankFits], held_out: HeldOutErrors | None
) -> list[Score]:
    """Return the scores of each rank, in the order of the ranks."""
    rows = []
    for i, (rank, rank_fits) in enumerate(zip(ranks, fits, strict=True)):
        best_seed = rank_fits.best_seed
        best = rank_fits.full[best_seed]
        hidden: tuple[float | None, float | None] = (None, None)
        if held_out is not None:
            rms = float(np.sqrt(2 * held_out.means[i]))
            # rms = sqrt(2 m), so a change of m by e changes rms by e / rms.
            hidden = rms, float(held_out.standard_errors[i] / rms) if rms else 0.0
        others = [state.H for seed, state in rank_fits.full.items() if seed != best_seed]
        all_fits = [best.H, *others, *(state.H for state in rank_fits.with_holdout.values())]
        values = silhouettes(all_fits) if len(all_fits) > 1 else None
        rows.append(
            Score(
                rank,
                best.error,
                float(np.sqrt(2 * best.divergence / rank_fits.n_cells)),
                *hidden,
                None if values is None else float(values.mean()),
                None if values is None else float(values.min()),
                best.n_iter,
                best_seed,
            )
        )
    return rows
