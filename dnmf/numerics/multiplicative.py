"""Multiplicative steps on W and H in turn, for losses other than squared error, on few images.

A pass solves for the weights anew, since a corpus has no room for them. Where the images fit a
cache, their weights are kept from one step to the next: a step then costs four matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.beta_divergence import BetaDivergence, relaxed
from dnmf.numerics.block import Block, Strip, compute_dtype
from dnmf.numerics.objective import weight_rows

STEPS, STEPS_PER_CHECK = 100, 10
"""Usual bound of the number of steps of a round, and number of those between two looks at the
loss."""

ROUNDS, FINE_TOL = 2, 1e-4
"""Number of rounds, and tolerance from which on one is enough. Zeros of H, which steps cannot
leave, are raised at the beginning of a round; a second one takes as long and gains a percent."""


def alternate(
    objective: BetaDivergence, H: Array, block: Block, tol: float, max_steps: int = STEPS
) -> Iterator[tuple[Array, float]]:
    """Improve H, and weights that are kept, until steps gain little.

    Parameters
    ----------
    objective : BetaDivergence
    H : ndarray of shape (d, p), float64
    block : Block
    tol : float
        Relative decrease of the loss per step below which a round ends.
    max_steps : int
        Largest number of steps of a round.

    Yields
    ------
    H : ndarray of shape (d, p), float64
        Best components after each `STEPS_PER_CHECK` steps, and at the end.
    loss : float
        That of H and of the weights that are kept.
    """
    dtype = objective.dtype_of_powers(compute_dtype(block.X.dtype))
    strips = [strip for _, strip in block.strips(dtype)]
    for _ in range(1 if tol >= FINE_TOL else ROUNDS):
        H = objective.raise_zeros(H)
        basis = objective.project_onto(H, dtype).basis
        weights = [objective.first_W(strip, basis) for strip in strips]
        best, lowest, exponent = (H, weights), np.inf, objective.relaxed_exponent
        for number in range(max_steps + 1):
            if number % STEPS_PER_CHECK == 0:
                loss = sum(objective.loss(*each, H) for each in zip(strips, weights, strict=True))
                gain = lowest - loss
                if not loss < lowest and exponent > objective.exponent:
                    (H, weights), exponent = best, objective.exponent  # steps were too long
                elif not gain >= STEPS_PER_CHECK * tol * loss:
                    break
                else:
                    best, lowest = (H, weights), loss
                    yield H, loss
            H, weights = _step(objective, strips, weights, H, exponent)
        H, _ = best
    yield H, lowest


def _step(
    objective: BetaDivergence,
    strips: Sequence[Strip],
    weights: Sequence[Array],
    H: Array,
    exponent: float,
) -> tuple[Array, list[Array]]:
    """Return H and the weights after a step on the weights, then one on H."""
    S, T = np.zeros((2, *H.shape))
    rows, stepped = 0.0, []
    for strip, before in zip(strips, weights, strict=True):
        W = objective.step_W(strip, before, H, exponent)
        stepped.append(W)
        down, up = objective.gradient_terms_at(strip, W, H)
        V = W if strip.weights is None else weight_rows(W, strip.weights)
        S += V.T @ down
        T += V.T @ up
        rows += len(W) if strip.weights is None else strip.weights.sum()
    S += rows * (objective.l1_H + objective.l2_H * H)
    return H * relaxed(T, S, exponent), stepped
