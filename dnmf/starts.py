"""First states, of one model or of several: all from one sample of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from dnmf.block import Block
from dnmf.blockwise import Blocks
from dnmf.initialization import initial_H, warm_up
from dnmf.objective import Objective
from dnmf.resampling import Resample
from dnmf.sample import take_sample
from dnmf.solver import State
from dnmf.threads import one_blas_thread, side_by_side


@dataclass(frozen=True)
class Start:
    """A model that is to start.

    Attributes
    ----------
    objective : Objective
    n_components : int
    seed : int
    init : str
        ``"random"`` or one of the ``"nndsvd"`` family.
    resample : Resample, optional
        What of X the model is shown.
    """

    objective: Objective
    n_components: int
    seed: int
    init: str = "random"
    resample: Resample | None = None


def start(
    blocks: Blocks,
    objective: Objective,
    n_components: int,
    seed: int,
    init: str = "random",
    tol: float = 1e-4,
) -> State:
    """Make the first state of a model: H drawn or from singular vectors, warmed up on a sample.

    Parameters
    ----------
    blocks : Blocks
    objective, n_components, seed, init
        As in `Start`; the seed also chooses the sample.
    tol : float
        Of the passes to follow: where they may end early, the warm-up may.
    """
    return next(start_together(blocks, [Start(objective, n_components, seed, init)], seed, tol))


def start_together(
    blocks: Blocks, wanted: Sequence[Start], seed: int, tol: float
) -> Iterator[State]:
    """Make the first states of models, in their order, from one sample.

    Parameters
    ----------
    blocks : Blocks
    wanted : sequence of Start
        Those that are shown the same of X should follow each other.
    seed : int
        Chooses the sample.
    tol : float
        As in `start`.
    """
    with one_blas_thread():
        sample, reads = take_sample(blocks, seed)

        def first(start: Start, shown: Block) -> State:
            k, init = start.n_components, start.init
            H, more = initial_H(blocks, shown, k, start.seed, init)
            if len(shown):
                H = warm_up(start.objective, H, shown, start.seed, tol)
            return State.at(H, reads + more)

        for resample, alike in groupby(wanted, lambda start: start.resample):
            shown = sample if resample is None else resample(sample).visible
            yield from side_by_side(partial(first, shown=shown), list(alike))
