"""The H step of a pass: each pixel's column of H is a problem of its own, given the sums.

So it runs in blocks of columns, where the sums are: for images of a hundred thousand pixels and
more that is on the cluster, and no place needs the sums of all pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.objective import Objective
from dnmf.numerics.statistics import NO_HELD_OUT, SufficientStats

COLUMNS = 2**16
"""Pixels of a block of columns, a multiple of those that are solved side by side: the bits of a
column do not depend on where the blocks end."""


@dataclass(frozen=True)
class Step:
    """What an H step made of a pass, or of some columns of it.

    Attributes
    ----------
    H : ndarray of shape (d, p), float64
        Improved.
    divergence, loss : float
        Those of the H of `Objective.known_loss`, without penalties and with them.
    rows : float
        Images behind the pass.
    xx : float
        ``||X||^2``.
    energies : ndarray of shape (d,), float64
        Of the components of that H; see `Objective.energies`.
    written, held_out
        As in `SufficientStats`.
    """

    H: Array
    divergence: float
    loss: float
    rows: float
    xx: float
    energies: Array
    written: tuple[tuple[int, int], ...] = ()
    held_out: Array = field(default_factory=lambda: NO_HELD_OUT)


@dataclass(frozen=True)
class StepColumns:
    """The step for some columns; a `dnmf.engine.blocks.Finish` of a pass.

    Attributes
    ----------
    objective : Objective
    Y : ndarray of shape (d, columns), float64
        Where the pass evaluated the weights.
    pixels : slice
    """

    objective: Objective
    Y: Array
    pixels: slice

    def cut(self, stats: SufficientStats) -> SufficientStats:
        """Take the sums of these columns; copies, so that the others can go."""
        part = self.objective.columns(stats, self.pixels)
        return part if part.T.shape == stats.T.shape else part.scaled(1)

    def __call__(self, stats: SufficientStats) -> Step:
        """Improve H on the sums of a whole pass."""
        # Arrays that came in a message may lie unaligned, and round otherwise.
        Y = np.require(self.Y, requirements=["C", "A", "W"])
        H = self.objective.update_H(Y, stats)
        known, divergence, loss = self.objective.known_loss(stats, Y, H)
        with np.errstate(over="ignore", invalid="ignore"):  # then so is the loss, and refused
            energies = self.objective.energies(stats, known)
        return Step(
            H,
            divergence,
            loss,
            stats.total_weight,
            float(stats.xx.sum()),
            energies,
            stats.written,
            stats.held_out,
        )


def steps(objective: Objective, Y: Array) -> list[StepColumns]:
    """Cut the step into blocks of columns, by the number of pixels alone."""
    p = Y.shape[1]
    cuts = [slice(first, min(first + COLUMNS, p)) for first in range(0, p, COLUMNS)]
    return [StepColumns(objective, np.ascontiguousarray(Y[:, cut]), cut) for cut in cuts]


def joined(parts: Sequence[Step]) -> Step:
    """Put the columns together."""
    if len(parts) == 1:
        return parts[0]
    H = np.concatenate([part.H for part in parts], axis=1)
    divergence, loss, xx, energies = (
        sum(getattr(part, name) for part in parts)
        for name in ("divergence", "loss", "xx", "energies")
    )
    first = parts[0]
    return Step(H, divergence, loss, first.rows, xx, energies, first.written, first.held_out)
