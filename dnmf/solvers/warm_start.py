"""The first H: drawn or from singular vectors, then improved on a sample of images in memory.

A full pass updates H once. The warm start updates H hundreds of times on the same images. After one
read of X or less, H has a loss that dozens of full passes from a random start would reach. The warm
start needs few images and runs in the driver, so it takes hardly any time of a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import issparse

from dnmf._progress import say
from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.executors import map_on_threads
from dnmf.engine.local import LocalBlocks
from dnmf.engine.threads import one_blas_thread, thread_count
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block, compute_dtype, equal_mask_slices
from dnmf.numerics.masked import MIN_IMAGES_PER_MASK, MaskedQuadratic
from dnmf.numerics.multiplicative import alternate
from dnmf.numerics.objective import Objective, reconstruct
from dnmf.numerics.online import OnlineState, split_batches, update_on_batches
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import State
from dnmf.solvers.loop import ModelRun
from dnmf.solvers.nndsvd import nndsvd_H
from dnmf.solvers.sample import mean_of, sample_rows, take_sample, whole
from dnmf.solvers.sketch import is_sketched, warm_up_on_sketch
from dnmf.solvers.small import SMALL

ROUND, ROUGH = 360, (240, 500)
"""Number of H updates in a round, which matters more than the number of images in each update, and
bounds of that number in the only round for a rough answer, where it is 2.2 per component."""

ROUGH_TOL, FINE_TOL = 1e-2, 1e-3
"""Values of `tol` from which on one short round is enough, and up to which rounds are `ROUND` long;
in between the length is interpolated."""

MAX_ROUNDS, LEAST_TOL = 12, 5e-5
"""Largest number of rounds, and smallest `tol` that adds rounds: passes gain the last digits."""

WORTH, MOST_COST, USUAL_RATIO = 3, 4, 0.25
"""A further round must be expected to lower the loss by three times `tol`, and by up to four times
as much if it costs more than a pass. Gains of rounds shrink: the first by that ratio, as a rule."""

SURE_ROUNDS = 3
"""Number of rounds before a warm start may end, because first gains vary; 2 for ``tol >= 1e-3``."""

EPOCHS = 40
"""Largest number of times that a round uses an image: on few images passes learn as fast."""

MAX_FLOPS, SOLVE_FLOPS = 2e12, 20
"""Bound of the flops of all rounds, if a single one does not take more: a minute on a few cores.
Further work is left to the passes, which run on a cluster. Ten sweeps over d weights take 20 d^2
flops."""

PROBE_ROWS = 8192
"""Number of images of the sample on which the loss after a round is computed."""

LIKE_MEAN = 1e-2
"""Share of ``||X||^2`` that the squared differences of images from the mean image must have for the
warm start to compute in float32: fits get down to a hundredth of it, `objective.RESOLVED`."""

DEAD, REVIVAL_ROWS = 1e-12, 1024
"""Length of a component, relative to the longest, up to which it is taken to be zero, and number of
images from which components are drawn that replace those."""

FAIR, FAIR_SWEEPS = 1e-4, 100
"""Tolerance of the weights in rounds, for squared error, and greatest number of sweeps over them.
With more, or fewer sweeps, H is worse where components are much alike; with less it is no better.
"""

SHORT = (256, 512)
"""Bounds of the number of updates for losses other than squared error, which is that of an epoch
between them: so many on squared error, then on the loss itself. These updates are dearer."""

FORGET = (0.2, 0.99)
"""Forgetting factor of the running sums at the first and the last update of a round. The first sums
come from a poor H and should fade fast; the last should average over many images, or H jitters. To
start again with each round moves H further than continued averaging."""


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
        Tolerance of the passes that follow. If they may end early, the warm start may, too.
    """
    if not all(run.in_memory for run in runs):  # those have no warm start
        say(f"warm start: reading a sample of {blocks.shape[0]:,} images")
    for run in runs:
        run.moment = time.monotonic()
    with one_blas_thread():
        if isinstance(blocks, LocalBlocks) and issparse(blocks.array) and _all_drawn(runs):
            sample, reads = whole(blocks), 0.0
        else:
            sample, reads = take_sample(blocks, sample_seed)
        for holdout in dict.fromkeys(run.holdout for run in runs):
            shown = sample if holdout is None else holdout(sample).visible
            alike = [run for run in runs if run.holdout == holdout]
            first = partial(_first_state, blocks, shown, reads, tol)
            for run, state in zip(alike, map_on_threads(first, alike), strict=True):
                run.state = state
                yield run


def _all_drawn(runs: Sequence[ModelRun]) -> bool:
    """Check whether models need only the mean of X for their start."""
    return all(run.in_memory and run.spec.parameters["init"] == "random" for run in runs)


def _first_state(blocks: Blocks, sample: Block, reads: float, tol: float, run: ModelRun) -> State:
    spec = run.spec
    H, more = initial_H(blocks, sample, spec.n_components, spec.seed, spec.parameters["init"])
    as_it_is = run.in_memory or is_one_batch(run.objective, spec.n_components, blocks.shape[0])
    if len(sample) and not as_it_is:
        if sample.observed is None and sketches(run.objective, spec.n_components, blocks):
            H = _warm_up_on_sketch(run.objective, H, sample, spec.seed, tol)
        else:
            H = warm_up(run.objective, H, sample, spec.seed, tol, blocks.shape[0])
    return State.at(H, more if run.in_memory else reads + more)


def sketches(objective: Objective, d: int, blocks: Blocks) -> bool:
    """Check whether the warm start of a fit to blocks without a mask is one on a sketch."""
    n, p = blocks.shape
    return is_sketched(objective, d, sample_rows(n, p, blocks.dtype.itemsize), p)


def _warm_up_on_sketch(
    objective: Objective, H: Array, sample: Block, seed: int, tol: float
) -> Array:
    assert isinstance(objective, Quadratic)  # `sketches` has checked it
    few = sample.take(slice(None, None, max(len(sample) // 256, 1)))  # enough to know the dtype
    H = warm_up_on_sketch(objective, H, sample, seed, max(tol, LEAST_TOL), _dtype_for(few))
    return revive(objective, H, sample, np.random.default_rng([seed, 2]))


def is_one_batch(objective: Objective, d: int, n: int) -> bool:
    """Check whether n images are one batch: then passes are better, because they extrapolate."""
    small = n <= objective.warm_up_batch_size(d)
    return small and objective.exact and not objective.has_penalties


def random_H(sample: Block, n_components: int, seed: int) -> Array:
    """Draw H as scikit-learn's ``init="random"`` does for the same seed and mean.

    ``|N(0, 1)| sqrt(mean(X) / d)``, drawn by the legacy generator, H before W.

    Returns
    -------
    H : ndarray of shape (n_components, p), float64
    """
    scale = np.sqrt(max(mean_of(sample), 0.0) / n_components)
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


def custom_H(
    blocks: Blocks, objective: Objective, H: Array, W: Any, seed: int
) -> tuple[Array, float]:
    """Return a given H with other components for those that are zero although they are in use.

    A component is in use if the given W has a weight above 0 for it. Without W, it is in use unless
    a penalty may have made it zero.

    Parameters
    ----------
    blocks : Blocks
    objective : Objective
    H : ndarray of shape (d, p), float64
    W : array of shape (n, d), or None
    seed : int

    Returns
    -------
    H : ndarray of shape (d, p), float64
    reads : float
        Reads of X that this took, in units of the whole of it.
    """
    in_use = [not objective.has_penalties] if W is None else np.asarray(W).any(axis=0)
    replaced = np.logical_and(in_use, ~H.any(axis=1))
    if not replaced.any():
        return H, 0.0
    sample, reads = take_sample(blocks, seed)
    revived = revive(objective, H, sample, np.random.default_rng([seed, 3]))
    return np.where(replaced.reshape(-1, 1), revived, H), reads


def warm_up(objective: Objective, H: Array, sample: Block, seed: int, tol: float, n: int) -> Array:
    """Improve H on the sample by rounds of online updates, until they gain little.

    Parameters
    ----------
    objective : Objective
    H : ndarray of shape (d, p), float64
    sample : Block
    seed : int
    tol : float
        Tolerance of the passes that follow. Rounds are added while the expected gain of the next is
        worth its cost; see `WORTH`.
    n : int
        Number of images of X, of which the sample is a part.

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
            say(f"warm start: {what}, {len(H)} components")
            if isinstance(stage, BetaDivergence) and sample.X.size <= SMALL:
                *_, (H, _) = alternate(stage, H, sample, tol)
                return stage.raise_zeros(H)
            updates = _short_round(stage, len(H), len(sample))
            H = objective.raise_zeros(online_round(stage, H, sample, rng, updates))
        return H
    d, p = H.shape
    probe = sample.take(np.sort(rng.permutation(len(sample))[:PROBE_ROWS]))
    max_rounds, updates = _rounds(objective, (n, p), d, tol)
    cost = updates * objective.warm_up_batch_size(d) / n
    worth = WORTH * max(tol, LEAST_TOL) * min(max(cost, 1), MOST_COST)
    best, losses, dtype = H, [np.inf], _dtype_for(probe)
    for number in range(1, max_rounds + 1):
        say(
            f"warm start: round {number} of at most {max_rounds} on {len(sample):,} images, "
            f"{d} components"
        )
        H = online_round(objective, H, sample, rng, updates, dtype)
        if max_rounds == 1:
            return H
        loss = loss_of(objective, H, probe)
        best = H if loss < min(losses) else best
        losses.append(loss)
        if number >= _sure_rounds(tol) and expected_gain(losses[1:]) < worth:
            break
        H = revive(objective, H, sample, rng)
    return best


def expected_gain(losses: Sequence[float]) -> float:
    """Return the share of the loss that the next of some rounds is expected to gain.

    Gains of successive rounds are taken to shrink by the ratio of the last two.
    """
    if len(losses) < 2 or losses[-1] <= 0:
        return np.inf if losses[-1] > 0 else 0.0
    *earlier, last = (before / now - 1 for before, now in pairwise(losses[-3:]))
    ratio = last / earlier[0] if earlier and earlier[0] > 0 else USUAL_RATIO
    return last * min(max(ratio, 0.0), 1.0)


def _dtype_for(probe: Block) -> np.dtype[Any]:
    """Return the dtype of the rounds: float64 for images that differ little from their mean.

    The components of images on a bright background are much alike, and float32 cannot tell them
    apart.
    """
    dtype = compute_dtype(probe.X.dtype)
    xx, sums, counts = np.zeros((3, probe.X.shape[1]))
    for _, strip in probe.strips(dtype):
        weights = np.ones(len(strip.X)) if strip.weights is None else strip.weights
        xx += strip.pixel_norms
        sums += weights @ strip.X
        counts += weights @ strip.observed_mask
    of_mean = np.divide(sums**2, counts, out=np.zeros_like(xx), where=counts > 0)
    like_mean = xx.sum() - of_mean.sum() < LIKE_MEAN * xx.sum()
    return np.dtype(np.float64) if like_mean else dtype


def revive(objective: Objective, H: Array, sample: Block, rng: np.random.Generator) -> Array:
    """Replace components that are zero by residuals of random images.

    Neither the weights of such a component nor its pixels would change again. Images are drawn in
    proportion to their squared errors, as k-means++ draws its centers (Arthur and Vassilvitskii,
    2007).

    Parameters
    ----------
    objective : Objective
    H : ndarray of shape (d, p), float64
    sample : Block
    rng : Generator

    Returns
    -------
    ndarray of shape (d, p), float64
        H itself if no component is zero, or all are.
    """
    sizes = np.sqrt(np.einsum("jp,jp->j", H, H))
    dead = np.flatnonzero(sizes <= DEAD * sizes.max())
    if not 0 < len(dead) < len(H):
        return H
    images = sample.take(np.sort(rng.permutation(len(sample))[:REVIVAL_ROWS]))
    basis = objective.project_onto(H, images.X.dtype).basis
    residuals = np.concatenate(
        [
            np.maximum(strip.X - reconstruct(strip, objective.solve_W(strip, basis), basis.H), 0)
            for _, strip in images.strips(basis.H.dtype)
        ]
    ).astype(np.float64)
    squares = np.einsum("ip,ip->i", residuals, residuals)
    count = min(len(dead), int(np.count_nonzero(squares)))
    if not count:
        return H
    chosen = rng.choice(len(squares), count, replace=False, p=squares / squares.sum())
    H = H.copy()
    lengths = np.sqrt(squares[chosen])[:, None]
    H[dead[:count]] = residuals[chosen] * (np.median(sizes[sizes > 0]) / lengths)
    return H


def warm_up_updates(objective: Objective, d: int, blocks: Blocks, tol: float) -> tuple[int, int]:
    """Return the least and the greatest number of updates of H that a warm start makes."""
    n, p = blocks.shape
    if is_one_batch(objective, d, n):
        return 0, 0
    if not isinstance(objective, Quadratic):
        # The updates on squared error cost next to nothing compared with those on the objective.
        return (_short_round(objective, d, sample_rows(n, p, blocks.dtype.itemsize)),) * 2
    max_rounds, updates = _rounds(objective, (n, p), d, tol)
    return updates * min(_sure_rounds(tol), max_rounds), updates * max_rounds


def _short_round(objective: Objective, d: int, n_sample: int) -> int:
    """Return the number of updates of the only round for a loss other than squared error."""
    least, most = SHORT
    return min(max(least, n_sample // objective.warm_up_batch_size(d)), most)


def _sure_rounds(tol: float) -> int:
    return SURE_ROUNDS if tol < FINE_TOL else 2


def _rounds(objective: Objective, shape: tuple[int, int], d: int, tol: float) -> tuple[int, int]:
    """Return the greatest number of rounds, and the number of updates of each."""
    (n, p), size = shape, objective.warm_up_batch_size(d)
    rough = min(max(ROUGH[0], round(2.2 * d)), ROUGH[1])
    logs = np.log([FINE_TOL, ROUGH_TOL])
    updates = round(float(np.interp(np.log(max(tol, FINE_TOL)), logs, (ROUND, rough))))
    updates = min(updates, max(EPOCHS * n // size, EPOCHS))
    flops = updates * size * (4 * d * p + SOLVE_FLOPS * d**2)
    rounds = 1 if tol >= ROUGH_TOL else min(MAX_ROUNDS, max(int(MAX_FLOPS / flops), 1))
    return rounds, updates


def loss_of(objective: Objective, H: Array, block: Block) -> float:
    """Compute the loss of a block for the best weights given H."""
    basis = objective.project_onto(H, block.X.dtype).basis
    stats, _ = objective.block_stats(block, basis, weights=False)
    return objective.known_loss(stats, H, H)[2]


def online_round(
    objective: Objective,
    H: Array,
    sample: Block,
    rng: np.random.Generator,
    updates: int,
    dtype: np.dtype[Any] | None = None,
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
    dtype = compute_dtype(sample.X.dtype) if dtype is None else dtype
    objective = replace(objective, exact_W=False)
    if isinstance(objective, Quadratic):
        objective = replace(objective, W_tolerance=FAIR, max_sweeps=FAIR_SWEEPS)
    if isinstance(objective, Quadratic) and sample.observed is None:
        from dnmf.numerics.rounds import run_round  # imports numba

        drawn = batches[:updates]
        return run_round(objective, H.astype(dtype), sample, drawn, forget, thread_count())
    state = OnlineState(H.astype(objective.running_dtype(dtype)))
    steps = zip(batches[:updates], forget.tolist(), strict=True)
    updated = update_on_batches(objective, state, sample, steps, thread_count(), dtype)
    return updated.H.astype(np.float64)


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
