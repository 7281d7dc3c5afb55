"""What speaks for a number of components: errors, errors on hidden cells, stability; the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dnmf.solver import State
from dnmf.stability import silhouettes

Array = np.ndarray[Any, np.dtype[Any]]

STABLE, UNSTABLE = 0.8, 0.5
"""Mean silhouette from which components count as the same in every fit, and below which they are
no more than a basis."""

ALONE = "no other number was tried"


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
        Mean and least of the components' silhouettes (see `dnmf.stability`) over all fits; None
        with a single fit.
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
class Choice:
    """Which number of components is recommended, and why.

    Attributes
    ----------
    n_components : int
    clear : bool
        Whether the data give a clear answer.
    reason : str
    lowest : int or None
        Number of components with the lowest held-out error.
    """

    n_components: int
    clear: bool
    reason: str
    lowest: int | None


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


def choose(scores: Sequence[Score], held_out: HeldOut | None) -> Choice:
    """Recommend a number of components, and say why.

    With hidden cells, the fewest components whose held-out error is within one standard error of
    the lowest (the one-standard-error rule of Breiman et al., *Classification and Regression
    Trees*, 1984). Without, the most whose components are all stable, as in NMFk.
    """
    if held_out is None:
        return _by_stability(scores)
    chosen, lowest = scores[held_out.chosen], scores[held_out.lowest]
    doubts = [*_at_the_ends(scores, held_out), *_unstable(chosen, scores)]
    reason = f"{_components(chosen)}: {_why(scores, held_out)}."
    if not doubts:
        reason += _comes_out(chosen)
    return _choice(chosen, reason, doubts, lowest.n_components)


def _choice(chosen: Score, reason: str, doubts: Sequence[str], lowest: int | None) -> Choice:
    if doubts:
        reason = f"No clear answer. {reason} But {'; and '.join(doubts)}."
    return Choice(chosen.n_components, not doubts, reason, lowest)


def _why(scores: Sequence[Score], held_out: HeldOut) -> str:
    chosen, lowest = held_out.chosen, held_out.lowest
    its = f"{'its' if scores[chosen].n_components == 1 else 'their'} error on hidden cells is"
    if len(scores) == 1:
        return f"{its} {scores[0].held_out_error:.3g}"
    why, that = f"{its} the lowest", "that"
    if chosen != lowest:
        why = (
            "the fewest whose error on hidden cells is within one standard error of the lowest, "
            f"which is that of {scores[lowest].n_components:,}"
        )
        that = "the error"
    if chosen > 0:
        fewer = chosen - 1
        above = (held_out.means[fewer] - held_out.means[lowest]) / held_out.errors[fewer]
        why += (
            f"; {that} of {scores[fewer].n_components:,} is {above:,.1f} standard errors above it"
        )
    return why


def _at_the_ends(scores: Sequence[Score], held_out: HeldOut) -> list[str]:
    smallest, largest = scores[0].n_components, scores[-1].n_components
    if len(scores) == 1:
        return [ALONE]
    if held_out.chosen == len(scores) - 1:
        return [
            f"the error still falls at {largest:,}, the largest number tried: try larger ones; "
            "where it falls on and on, the number is a trade-off between error and cost"
        ]
    if held_out.lowest == len(scores) - 1:
        return ["the lowest is that of the largest number tried: try larger ones"]
    if held_out.chosen == 0 and smallest > 1:
        return [f"{smallest:,} is the smallest number tried: try smaller ones"]
    return []


def _unstable(score: Score, scores: Sequence[Score]) -> list[str]:
    if score.stability is None or score.least_stable is None:
        return []
    if score.stability < UNSTABLE:
        return [
            f"the components differ from fit to fit (stability {score.stability:.2f}): take them "
            "as a basis, not as parts of the images"
        ]
    if score.least_stable >= UNSTABLE:
        return []
    doubt = f"some components differ from fit to fit (the least stable {score.least_stable:.2f})"
    stable = [one for one in _all_stable(scores) if one.n_components < score.n_components]
    if stable:
        doubt += f", while those of {stable[-1].n_components:,} all come out the same"
    return [doubt]


def _all_stable(scores: Sequence[Score]) -> list[Score]:
    """Choose the numbers of which all components come out the same."""
    return [score for score in scores if (score.least_stable or -1.0) >= STABLE]


def _comes_out(score: Score) -> str:
    """Say how much of a choice comes out again, where that is known."""
    if score.stability is None or score.least_stable is None:
        return ""
    known = f"stability {score.stability:.2f}"
    if score.n_components == 1:
        what = f"it comes out {'the' if score.stability >= STABLE else 'much the'} same"
    else:
        known += f", of the least stable {score.least_stable:.2f}"
        who = "all" if score.least_stable >= STABLE else "most"
        what = f"{who} components come out the same"
    return f" From other starts and samples {what} ({known})."


def _by_stability(scores: Sequence[Score]) -> Choice:
    stable = _all_stable(scores)
    chosen = stable[-1] if stable else max(scores, key=lambda score: score.stability or -1.0)
    mean, least = f"{chosen.stability:.2f}", f"{chosen.least_stable:.2f}"
    doubts = []
    if len(scores) == 1:
        why, doubts = f"stability {mean}, of the least stable {least}", [ALONE]
    elif not stable:
        why = f"the highest mean stability, {mean}"
        doubts = ["whatever the number, some components differ from start to start"]
    else:
        why = (
            "the most that all come out the same from every start (stability of the least stable "
            f"{least})"
        )
        if chosen is scores[-1]:
            doubts = [f"{chosen.n_components:,} is the largest number tried: try larger ones"]
    reason = f"{_components(chosen)}: {why}. No cells were hidden to ask about."
    return _choice(chosen, reason, doubts, None)


def _components(score: Score) -> str:
    count = score.n_components
    return f"{count:,} component{'s' * (count != 1)}"
