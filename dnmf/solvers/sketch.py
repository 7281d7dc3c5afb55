"""The warm start for images of many pixels, on a sketch: the images in terms of a few directions.

With V an orthonormal basis of the leading right singular directions of the sample X, all that the
steps need of X is in the small Z = X V: the linear terms of W are ``Z (H V)^T``, and ``W^T X`` is
``(W^T Z) V^T`` but for directions that hold little more than noise. H stays non-negative in every
pixel (compressed NMF: Tepper and Sapiro, IEEE Transactions on Signal Processing 2016; Erichson,
Mendible, Wihlborn and Kutz, Pattern Recognition Letters 2018). A step is one of a pass
over the whole sample, extrapolated like one, and costs a small part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import qr

from dnmf._progress import say
from dnmf._typing import Array
from dnmf.engine.executors import map_on_threads
from dnmf.errors import DataError
from dnmf.numerics.block import Block, squared_norms
from dnmf.numerics.objective import OVERFLOW, HUpdate, Objective, join_columns
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import State, advance, objective_of_pass
from dnmf.numerics.statistics import Basis, SufficientStats, compute_ridge_inverse, gram

Part = TypeVar("Part")

OVERSAMPLING = 10
"""Number of directions beyond twice the number of components. More cost little, and a step of
subspace iteration shrinks an error by the squared ratio of the first singular value that is left
out to a wanted one."""

POWER_STEPS = 2
"""Number of steps of subspace iteration for a sketch (Halko, Martinsson and Tropp, SIAM Review
2011): after one alone the loss of the components ends up to a percent higher."""

PARTS = 8
"""Number of parts of the images and of the pixels, one per thread. The bits depend on it."""

SWEEPS = 3
"""Number of sweeps over H in a step: one gains less for the time of a step, ten gain no more."""

LOOK, MAX_STEPS, LOOK_GAIN = 20, 300, 3
"""Steps end when `LOOK` of them have lowered the loss by a share of less than three times the
tolerance of the fit, or after 300."""

CHUNK_PIXELS, MIN_CHUNK = 2**21, 32
"""Pixels that a thread converts at a time, and the least number of images that they make up."""

CHEAPER = 4
"""How many times fewer flops than a pass over the sample a step must take to be worth it."""


@dataclass(frozen=True)
class Sketch:
    """Images in terms of a few directions, ``X ~ Z V^T``.

    Attributes
    ----------
    images : Block
        Z, of shape (n, l), and the weights of the images.
    V : ndarray of shape (p, l)
        Orthonormal directions.
    xx : ndarray of shape (p,), float64
        Sum of x^2 over the images of the sample for each pixel, weighted.
    """

    images: Block
    V: Array
    xx: Array

    @classmethod
    def of_sample(cls, sample: Block, d: int, seed: int, dtype: np.dtype[Any]) -> Sketch:
        """Return the sketch of a sample for d components, computed in a dtype."""
        width = sketch_width(d, *sample.X.shape)
        V = leading_directions(sample, width, seed, POWER_STEPS, dtype)
        images = Block(_times(sample.X, V), weights=sample.weights)
        if not np.isfinite(images.X).all():
            raise DataError(OVERFLOW)
        return cls(images, V, _pixel_norms(sample, dtype))

    def repeat(self, rows: int) -> Sketch:
        """Repeat the images until there are so many rows.

        The sums of squares grow with them. If they were too small, each loss would be 0, so that
        no step was ever rejected, and H would grow without bounds.
        """
        count = len(self.images)
        images = self.images.take(np.resize(np.arange(count), rows))
        return replace(self, images=images, xx=self.xx * -(-rows // count))

    def step(self, objective: Quadratic, state: State) -> HUpdate:
        """Solve for the weights of all images at the Y of a state, then update H."""
        Y, pixels = state.Y, _even_parts(len(self.V))
        HV, G = (
            sum(parts[1:], parts[0])
            for parts in zip(*_map(lambda part: self._project(Y, part), pixels), strict=True)
        )
        basis = Basis(HV, G, compute_ridge_inverse(G))
        at_Y = objective_of_pass(objective, state)
        sums = _map(
            lambda part: at_Y.block_stats(self.images.take(part), basis, weights=False)[0],
            _even_parts(len(self.images)),
        )
        update = partial(self._update, objective, Y, sums[0].scale_and_add(1, sums[1:]))
        return join_columns(_map(update, pixels))

    def _project(self, H: Array, pixels: slice) -> tuple[Array, Array]:
        part = np.ascontiguousarray(H[:, pixels])
        return part @ self.V[pixels], gram(part)

    def _update(
        self, objective: Quadratic, Y: Array, sums: SufficientStats, pixels: slice
    ) -> HUpdate:
        """Update H for some pixels, given the sums of all images over Z in the place of X."""
        T, xx = sums.T.astype(Y.dtype) @ self.V[pixels].T, self.xx[pixels]
        penalty = sums.penalty if pixels.start == 0 else 0.0
        stats = replace(sums, S=sums.S.astype(Y.dtype), T=T, xx=xx, divergence=0.0, penalty=penalty)
        H = objective.update_H(Y[:, pixels], stats, SWEEPS)
        exact, wide = replace(stats, S=sums.S, T=T.astype(np.float64)), H.astype(np.float64)
        _, divergence, loss = objective.known_loss(exact, wide, wide)
        return HUpdate(H, divergence, loss, sums.total_weight, float(xx.sum()), np.zeros(0))


def warm_up_on_sketch(
    objective: Quadratic, H: Array, sample: Block, seed: int, tol: float, dtype: np.dtype[Any]
) -> Array:
    """Improve H by steps on a sketch of the sample, until they gain little.

    Parameters
    ----------
    objective : Quadratic
    H : ndarray of shape (d, p), float64
    sample : Block
    seed : int
    tol : float
        Tolerance of the passes that follow; see `LOOK`.
    dtype : dtype
        Dtype to compute in.

    Returns
    -------
    H : ndarray of shape (d, p), float64
    """
    say(f"warm start: sketch of {len(sample):,} images, {len(H)} components")
    sketch = Sketch.of_sample(sample, len(H), seed, dtype)
    objective = replace(objective, exact_W=False)
    state = State.at(H.astype(dtype))
    with np.errstate(all="ignore"):  # `advance` checks the loss
        while state.n_iter < MAX_STEPS and not _gains_little(state.losses, tol):
            state = advance(objective, state, sketch.step(objective, state))
    return state.H.astype(np.float64)


def _gains_little(losses: tuple[float, ...], tol: float) -> bool:
    """Check after every `LOOK` steps whether the last of them have gained little."""
    if len(losses) <= LOOK or len(losses) % LOOK:
        return False
    return losses[-1] >= (1 - LOOK_GAIN * tol) * losses[-1 - LOOK]


def is_sketched(objective: Objective, d: int, rows: int, p: int) -> bool:
    """Check whether the warm start uses a sketch: if it is far cheaper than the pixels.

    Parameters
    ----------
    objective : Objective
    d : int
        Number of components.
    rows, p : int
        Numbers of images of the sample and of pixels.
    """
    if type(objective) is not Quadratic or rows > p:
        return False
    width = sketch_width(d, rows, p)
    step = p * d * (4 * width + 2 * (SWEEPS + 1) * d) + rows * d * (4 * width + 20 * d)
    return CHEAPER * step <= 4 * rows * p * d


def sketch_width(d: int, rows: int, p: int) -> int:
    """Return the number of directions for d components."""
    return min(2 * d + OVERSAMPLING, rows, p)


def leading_directions(
    sample: Block, width: int, seed: int, steps: int, dtype: np.dtype[Any]
) -> Array:
    """Compute an orthonormal basis of nearly the leading right singular directions of a sample.

    Missing pixels count as 0, and images by their weights.

    Parameters
    ----------
    sample : Block
    width : int
        Number of directions.
    seed : int
    steps : int
        Number of steps of subspace iteration, each of which reads the sample twice.
    dtype : dtype
        Dtype of the products.

    Returns
    -------
    ndarray of shape (p, width)
    """
    X, weights = sample.X, sample.weights
    p = X.shape[1]
    draw = np.random.default_rng([seed, 3]).standard_normal((p, width))
    Q: Array = draw.astype(dtype)
    for _ in range(steps):
        Z = _times(X, Q)
        if weights is not None:
            Z *= weights.astype(dtype)[:, None]
        Y = np.concatenate(_map(partial(_times_transposed, X, Z), _even_parts(p)))
        # NumPy would compute in float64. Overflows are found in the sketch.
        Q = np.ascontiguousarray(qr(Y, mode="economic", overwrite_a=True, check_finite=False)[0])
    return Q


def _times(X: Array, V: Array) -> Array:
    """Compute ``X V`` for images in their stored dtype."""

    def products(images: slice) -> Array:
        return np.concatenate([chunk @ V for _, chunk in _chunks(X[images], V.dtype)])

    return np.concatenate(_map(products, _even_parts(len(X))))


def _times_transposed(X: Array, Z: Array, pixels: slice) -> Array:
    """Compute some rows of ``X^T Z``."""
    Y = np.zeros((pixels.stop - pixels.start, Z.shape[1]), Z.dtype)
    for rows, chunk in _chunks(X[:, pixels], Z.dtype):
        Y += chunk.T @ Z[rows]
    return Y


def _pixel_norms(sample: Block, dtype: np.dtype[Any]) -> Array:
    """Compute the weighted sum of x^2 over the images for each pixel, (p,) float64."""
    weights = np.ones(len(sample)) if sample.weights is None else sample.weights

    def norms(pixels: slice) -> Array:
        chunks = _chunks(sample.X[:, pixels], dtype)
        return np.asarray(sum(squared_norms(chunk, weights[rows])[1] for rows, chunk in chunks))

    return np.concatenate(_map(norms, _even_parts(sample.X.shape[1])))


def _chunks(X: Array, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Array]]:
    """Convert a few images at a time."""
    step = chunk_rows(X.shape[1])
    for first in range(0, len(X), step):
        rows = slice(first, first + step)
        yield rows, np.ascontiguousarray(X[rows], dtype)


def chunk_rows(p: int) -> int:
    """Return the number of images of p pixels that are converted at a time."""
    return max(CHUNK_PIXELS // p, MIN_CHUNK)


def _map(function: Callable[[slice], Part], parts: list[slice]) -> list[Part]:
    return list(map_on_threads(function, parts))


def _even_parts(n: int) -> list[slice]:
    """Cut n images or pixels into `PARTS` slices, or fewer where some would be empty."""
    parts = max(min(PARTS, n), 1)
    return [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]
