"""Which number of components is recommended, and the words that say why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnmf.model_selection.scores import HeldOut, Score

STABLE, UNSTABLE = 0.8, 0.5
"""Mean silhouette from which components count as the same in every fit, and below which they are
no more than a basis."""

ALONE = "no other number was tried"


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
