"""The first H: drawn, or from singular vectors, then warmed up on a sample of images in memory.

A full pass updates H once. The warm-up updates it hundreds of times on the same pixels, and after
one read of X or less H is at a loss that forty full passes from a random start do not reach
(`docs/how-it-works.md` has the figures). It needs few images and runs in one place, so it costs a
cluster next to nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.executors import map_on_threads
from dnmf.engine.threads import one_blas_thread, thread_count
from dnmf.numerics.block import Block, compute_dtype, equal_mask_slices
from dnmf.numerics.masked import MIN_IMAGES_PER_MASK, MaskedQuadratic
from dnmf.numerics.objective import Objective, Quadratic
from dnmf.numerics.online import OnlineState, split_batches, update_on_batches
from dnmf.numerics.state import State
from dnmf.solvers.loop import ModelRun
from dnmf.solvers.nndsvd import nndsvd_H
from dnmf.solvers.sample import mean_of, sample_rows, take_sample

log = logging.getLogger("dnmf")

LIVE = {"live": True}
"""Mark of a record of the log that the next one may replace on a terminal."""

ROUND = 360
"""Number of H updates in a round: it matters more than the number of images behind each update."""

ROUGH = (240, 500)
"""Bounds of the number of H updates in the only round for a rough answer, 2.2 per component."""

MAX_ROUNDS, ROUND_GAIN, LEAST_TOL = 12, 3, 5e-5
"""The warm-up ends with rounds that lower the loss by less than three times `tol`, which counts as
5e-5 at least. A round costs about as much as a pass over the sample and gains far more."""

ROUGH_TOL = 1e-2
"""Value of `tol` from which on one short round is enough."""

PATIENCE, COARSE_TOL = 2, 1e-3
"""Number of such rounds in a row that end the warm-up, since one may gain little by chance; one
is enough from ``tol=1e-3`` on."""

ROUND_STEPS = 10_000
"""Bound of sweeps times components per image in one update. Where components are very many and
much alike, to solve for the weights to the end takes many times as long and lowers the loss
less."""

MAX_FLOPS, SOLVE_FLOPS = 2e12, 20
"""Bound of the flops of all rounds, if a single one does not take more: a minute on a few cores.
More is left to the passes, which have a cluster. Ten sweeps over d weights take 20 d^2 flops."""

PROBE_ROWS = 8192
"""Number of images of the sample on which the loss after a round is computed."""

SHORT = 256
"""Least number of updates for losses other than squared error: these updates, or an epoch if that
is more, on squared error, then as many on the loss itself. Updates for these losses are dearer."""

FORGET = (0.5, 0.99)
"""Forgetting factor of the running sums at the first and the last update of a round. The first sums
come from a poor H and should fade fast; the last should average over many images, or H jitters. To
start again with each round moves H further than to go on averaging."""


def start(
    blocks: Blocks, runs: Sequence[ModelRun], sample_seed: int, tol: float
) -> Iterator[ModelRun]:
    """Set the first state of models, all from one sample; yield each as soon as its state is set.

    Parameters
    ----------
    blocks : Blocks
    runs : sequence of ModelRun
    sample_seed : int
        Seed that chooses the images of the sample.
    tol : float
        Tolerance of the passes to follow: where they may end early, the warm-up may too.
    """
    log.info("warm start: reading a sample of %s images", f"{blocks.shape[0]:,}", extra=LIVE)
    with one_blas_thread():
        sample, reads = take_sample(blocks, sample_seed)
        for holdout in dict.fromkeys(run.holdout for run in runs):
            shown = sample if holdout is None else holdout(sample).visible
            alike = [run for run in runs if run.holdout == holdout]
            first = partial(_first_state, blocks, shown, reads, tol)
            for run, state in zip(alike, map_on_threads(first, alike), strict=True):
                run.state = state
                yield run


def _first_state(blocks: Blocks, sample: Block, reads: float, tol: float, run: ModelRun) -> State:
    spec = run.spec
    H, more = initial_H(blocks, sample, spec.n_components, spec.seed, spec.parameters["init"])
    if len(sample):
        H = warm_up(run.objective, H, sample, spec.seed, tol)
    return State.at(H, reads + more)


def random_H(sample: Block, n_components: int, seed: int) -> Array:
    """Draw H as scikit-learn's ``init="random"`` does for the same seed and mean.

    ``|N(0, 1)| sqrt(mean(X) / d)``, drawn by the legacy generator, H before W.

    Returns
    -------
    H : ndarray of shape (n_components, p), float64
    """
    scale = np.sqrt(mean_of(sample) / n_components)
    rng = np.random.RandomState(seed)
    draw = rng.standard_normal(size=(n_components, sample.X.shape[1]))
    return np.asarray(np.abs(scale * draw))


def initial_H(
    blocks: Blocks, sample: Block, n_components: int, seed: int, init: str
) -> tuple[Array, int]:
    """Return H, drawn or from singular vectors, and the number of reads of X that this took."""
    if init == "random" or not len(sample):
        return random_H(sample, n_components, seed), 0
    return nndsvd_H(blocks, sample, n_components, seed, init), 3


def warm_up(objective: Objective, H: Array, sample: Block, seed: int, tol: float) -> Array:
    """Improve H on the sample by rounds of online updates, until they gain little.

    Parameters
    ----------
    objective : Objective
    H : ndarray of shape (d, p), float64
    sample : Block
    seed : int
    tol : float
        Tolerance of the passes that follow. Rounds go on while each lowers the loss on a part of
        the sample by a share of at least `ROUND_GAIN` times `tol`; see `PATIENCE`.

    Returns
    -------
    H : ndarray of shape (d, p), float64
        That of the round with the lowest loss.
    """
    rng = np.random.default_rng([seed, 2])
    if not isinstance(objective, Quadratic):
        # Squared error is the cheap way from a poor H to a fair one.
        plain = Quadratic() if sample.observed is None else MaskedQuadratic()
        for stage in (plain, objective):
            what = "squared error" if stage is plain else "the loss itself"
            log.info("warm start: %s, %d components", what, len(H), extra=LIVE)
            updates = _short_round(stage, len(H), len(sample))
            H = objective.raise_zeros(online_round(stage, H, sample, rng, updates))
        return H
    probe = sample.take(np.sort(rng.permutation(len(sample))[:PROBE_ROWS]))
    d, p = H.shape
    bounded = replace(objective, max_sweeps=min(objective.max_sweeps, max(ROUND_STEPS // d, 1)))
    max_rounds, updates = _rounds(objective, d, p, tol)
    patience = _patience(tol)
    best, lowest, idle = H, np.inf, 0
    for number in range(max_rounds):
        log.info(
            "warm start: round %d of at most %d on %s images, %d components",
            number + 1,
            max_rounds,
            f"{len(sample):,}",
            d,
            extra=LIVE,
        )
        H = online_round(bounded, H, sample, rng, updates)
        if max_rounds == 1:
            return H
        loss = loss_of(objective, H, probe)
        idle = idle + 1 if loss >= (1 - ROUND_GAIN * max(tol, LEAST_TOL)) * lowest else 0
        if loss < lowest:
            best, lowest = H, loss
        if idle == patience:
            break
    return best


def warm_up_updates(objective: Objective, d: int, blocks: Blocks, tol: float) -> tuple[int, int]:
    """Return the least and the greatest number of updates of H that a warm-up makes."""
    n, p = blocks.shape
    if not isinstance(objective, Quadratic):
        # The updates on squared error cost next to nothing compared with those on the objective.
        return (_short_round(objective, d, sample_rows(n, p, blocks.dtype.itemsize)),) * 2
    max_rounds, updates = _rounds(objective, d, p, tol)
    return updates * min(1 + _patience(tol), max_rounds), updates * max_rounds


def _short_round(objective: Objective, d: int, n_sample: int) -> int:
    """Return the number of updates of the only round for a loss other than squared error."""
    return max(SHORT, n_sample // objective.warm_up_batch_size(d))


def _patience(tol: float) -> int:
    return 1 if tol >= COARSE_TOL else PATIENCE


def _rounds(objective: Objective, d: int, p: int, tol: float) -> tuple[int, int]:
    """Return the greatest number of rounds, and the number of updates of each."""
    if tol >= ROUGH_TOL:
        least, most = ROUGH
        return 1, min(max(least, round(2.2 * d)), most)
    flops = ROUND * objective.warm_up_batch_size(d) * (4 * d * p + SOLVE_FLOPS * d**2)
    return min(MAX_ROUNDS, max(int(MAX_FLOPS / flops), 1)), ROUND


def loss_of(objective: Objective, H: Array, block: Block) -> float:
    """Compute the loss of a block for the best weights given H."""
    basis = objective.project_onto(H, block.X.dtype).basis
    stats, _ = objective.block_stats(block, basis, weights=False)
    return objective.known_loss(stats, H, H)[2]


def online_round(
    objective: Objective, H: Array, sample: Block, rng: np.random.Generator, updates: int
) -> Array:
    """Improve H by small batches, one sweep over H per batch, on running sums that forget.

    Batches hold images in random order; once all images were in a batch, a new order is drawn.
    """
    size = objective.warm_up_batch_size(len(H))
    groups = _share_masks(sample)
    batches: list[Array] = []
    while len(batches) < updates:
        batches += _shuffled(groups, size, rng)
    forget = np.interp(np.arange(updates) / updates, (0, 1), FORGET)
    dtype = objective.running_dtype(compute_dtype(sample.X.dtype))
    steps = zip(batches[:updates], forget.tolist(), strict=True)
    return update_on_batches(
        objective, OnlineState(H.astype(dtype)), sample, steps, thread_count()
    ).H.astype(np.float64)


def _share_masks(sample: Block) -> list[Array]:
    """Group the rows of a sample by their mask, where many images share theirs."""
    rows = np.arange(len(sample))
    slices = [] if sample.observed is None else equal_mask_slices(sample.observed)
    many = len(rows) >= 2 * MIN_IMAGES_PER_MASK * len(slices) > 0
    return [rows[equal] for equal in slices] if many else [rows]


def _shuffled(groups: list[Array], size: int, rng: np.random.Generator) -> list[Array]:
    """Split groups of rows into random batches.

    A batch holds rows of few groups, because images that share a mask cost less.
    """
    pieces = [piece for rows in groups for piece in split_batches(rng.permutation(rows), size)]
    if len(groups) <= 1:
        return pieces
    batches: list[Array] = []
    waiting: list[Array] = []
    for i in rng.permutation(len(pieces)):
        waiting.append(pieces[i])
        if sum(map(len, waiting)) >= size:
            batches, waiting = [*batches, np.concatenate(waiting)], []
    return batches or [np.concatenate(waiting)]
