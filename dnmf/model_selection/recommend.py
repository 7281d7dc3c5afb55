"""Recommendation of a number of components, and the sentences that explain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnmf.model_selection.scores import HeldOutErrors, Score

STABLE, UNSTABLE = 0.8, 0.5
"""Silhouettes from which components count as the same in every fit, and below which they count as
different. Components that differ are a basis, not parts of the images."""

SINGLE_RANK = "no other number was tried"


@dataclass(frozen=True)
class Choice:
    """Recommended number of components, and the reason.

    Attributes
    ----------
    n_components : int
        The recommended number.
    clear : bool
        Whether the data give a clear answer.
    reason : str
        Sentences that say why this number is recommended, and what speaks against it.
    lowest : int or None
        Number of components with the lowest held-out error; None if no cells were held out.
    """

    n_components: int
    clear: bool
    reason: str
    lowest: int | None


def choose(scores: Sequence[Score], held_out: HeldOutErrors | None) -> Choice:
    """Recommend a number of components, with the reason.

    With held-out cells, it is the smallest number whose held-out error is within one standard error
    of the lowest (the one-standard-error rule of Breiman et al., *Classification and Regression
    Trees*, 1984). Without held-out cells, it is the largest number whose components are all stable,
    as in NMFk.
    """
    if held_out is None:
        return _by_stability(scores)
    chosen, lowest = scores[held_out.chosen], scores[held_out.lowest]
    doubts = [*_doubts_about_range(scores, held_out), *_doubts_about_stability(chosen, scores)]
    reason = f"{_components(chosen)}: {_explain(scores, held_out)}."
    if not doubts:
        reason += _describe_stability(chosen)
    return _choice(chosen, reason, doubts, lowest.n_components)


def _choice(chosen: Score, reason: str, doubts: Sequence[str], lowest: int | None) -> Choice:
    if doubts:
        reason = f"No clear answer. {reason} But {'; and '.join(doubts)}."
    return Choice(chosen.n_components, not doubts, reason, lowest)


def _explain(scores: Sequence[Score], held_out: HeldOutErrors) -> str:
    chosen, lowest = held_out.chosen, held_out.lowest
    subject = f"{'its' if scores[chosen].n_components == 1 else 'their'} error on held-out cells is"
    if len(scores) == 1:
        return f"{subject} {scores[0].held_out_error:.3g}"
    why, reference = f"{subject} the lowest", "that"
    if chosen != lowest:
        why = (
            "the fewest whose error on held-out cells is within one standard error of the lowest, "
            f"which is that of {scores[lowest].n_components:,}"
        )
        reference = "the error"
    if chosen > 0:
        fewer = chosen - 1
        above = (held_out.means[fewer] - held_out.means[lowest]) / held_out.standard_errors[fewer]
        smaller = f"{scores[fewer].n_components:,}"
        why += f"; {reference} of {smaller} is {above:,.1f} standard errors above it"
    return why


def _doubts_about_range(scores: Sequence[Score], held_out: HeldOutErrors) -> list[str]:
    smallest, largest = scores[0].n_components, scores[-1].n_components
    if len(scores) == 1:
        return [SINGLE_RANK]
    if held_out.chosen == len(scores) - 1:
        return [
            f"the error still falls at {largest:,}, the largest number tried: try larger ones; "
            "if it never stops falling, the number is a trade-off between error and cost"
        ]
    if held_out.lowest == len(scores) - 1:
        return ["the lowest is that of the largest number tried: try larger ones"]
    if held_out.chosen == 0 and smallest > 1:
        return [f"{smallest:,} is the smallest number tried: try smaller ones"]
    return []


def _doubts_about_stability(score: Score, scores: Sequence[Score]) -> list[str]:
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
    stable = [
        smaller for smaller in _all_stable(scores) if smaller.n_components < score.n_components
    ]
    if stable:
        doubt += f", while those of {stable[-1].n_components:,} all come out the same"
    return [doubt]


def _all_stable(scores: Sequence[Score]) -> list[Score]:
    """Return the scores of the numbers whose components are all stable."""
    return [score for score in scores if (score.least_stable or -1.0) >= STABLE]


def _describe_stability(score: Score) -> str:
    """Describe how stable the recommended components are, if that is known."""
    if score.stability is None or score.least_stable is None:
        return ""
    known = f"stability {score.stability:.2f}"
    if score.n_components == 1:
        what = f"it comes out {'the' if score.stability >= STABLE else 'much the'} same"
    else:
        known += f", of the least stable {score.least_stable:.2f}"
        share = "all" if score.least_stable >= STABLE else "most"
        what = f"{share} components come out the same"
    return f" From other starts and samples {what} ({known})."


def _by_stability(scores: Sequence[Score]) -> Choice:
    stable = _all_stable(scores)
    chosen = stable[-1] if stable else max(scores, key=lambda score: score.stability or -1.0)
    mean, least = f"{chosen.stability:.2f}", f"{chosen.least_stable:.2f}"
    doubts = []
    if len(scores) == 1:
        why, doubts = f"stability {mean}, of the least stable {least}", [SINGLE_RANK]
    elif not stable:
        why = f"the highest mean stability, {mean}"
        doubts = ["with every number, some components differ from start to start"]
    else:
        why = (
            "the largest number whose components are all the same from every start (stability of "
            f"the least stable {least})"
        )
        if chosen is scores[-1]:
            doubts = [f"{chosen.n_components:,} is the largest number tried: try larger ones"]
    reason = f"{_components(chosen)}: {why}. No cells were held out."
    return _choice(chosen, reason, doubts, None)


def _components(score: Score) -> str:
    count = score.n_components
    return f"{count:,} component{'s' * (count != 1)}"
