"""The objective of a fit, and the steps that lower it: W of a block, sums of a pass, H from sums.

    F(W, H) = sum_i s_i ( D(x_i | w_i H) + l1_W |w_i|_1 + l2_W/2 ||w_i||^2 )
              + n ( l1_H |H|_1 + l2_H/2 ||H||^2 )

with s_i the weight of image i, n their sum, and D summed over observed pixels. For a fixed H every
image has a problem of its own, so W is a function of (X, H), and a pass over X returns only sums
over images (`SufficientStats`). There are three kinds of objective:

- `quadratic.Quadratic`: squared error, all pixels observed. S = W^T W and T = W^T X determine the
  loss for every H: the H update and the loss after it are exact.
- `masked.MaskedQuadratic`: squared error, some pixels missing. W is exact; the H update is the same
  one on X with the missing pixels filled in from W H, which bounds the loss from above (Kim and
  Choi, ICASSP 2009).
- `beta_divergence.BetaDivergence`: any beta divergence. W is solved by coordinate descent from the
  least-squares solution. The H update is multiplicative, which also minimises an upper bound
  (Fevotte and Idier, Neural Computation 2011).

For the last two the loss of H is known only after a pass has evaluated it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.numerics.beta import divergences, floors_of_means
from dnmf.numerics.block import DEFAULT_RULES, Block, PixelRules, Strip
from dnmf.numerics.statistics import NO_HELD_OUT, Basis, SufficientStats

OVERFLOW = (
    "the squares of the pixels are too large or too small for the type they are computed in, "
    "float32 unless they are float64: multiply X by a constant, or convert it to float64"
)
"""Message of the error for a loss or weights that are not finite."""

W_SWEEPS = 30
"""Number of sweeps over the weights of an image, of which four or five are usual, after which the
image is solved exactly in another way."""

H_SWEEPS = 10
"""Largest number of sweeps over H in the H update of a pass."""

W_TOLERANCE = 1e-6
"""Relative decrease of the loss to be expected of further sweeps below which the weights of an
image have converged."""


RESOLVED = 1e-4
"""Share of ``||x||^2`` that a squared error must have to be computed in float32. Below it, at an
error of 1 %, the differences of products that it and its gradients are get lost in rounding."""


@dataclass(frozen=True)
class HUpdate:
    """Result of the H update of a pass, for all pixels or for a block of columns.

    Attributes
    ----------
    H : ndarray of shape (d, p), float64
        Improved components.
    divergence, loss : float
        Divergence and loss, which includes penalties, for the H of `Objective.known_loss`.
    total_weight : float
        Sum of the weights of the images.
    xx : float
        ``||X||^2``.
    energies : ndarray of shape (d,), float64
        Energies of the components of that H; see `Objective.energies`.
    written, held_out
        As in `SufficientStats`.
    """

    H: Array
    divergence: float
    loss: float
    total_weight: float
    xx: float
    energies: Array
    written: tuple[tuple[int, int], ...] = ()
    held_out: Array = field(default_factory=lambda: NO_HELD_OUT)

    def for_weights_times(self, factor: float) -> HUpdate:
        """Return the result for images whose weights are multiplied by a factor."""
        return replace(
            self,
            divergence=factor * self.divergence,
            loss=factor * self.loss,
            total_weight=factor * self.total_weight,
            xx=factor * self.xx,
            energies=factor * self.energies,
            held_out=factor * self.held_out,
        )


@dataclass(frozen=True)
class Objective(ABC):
    """Base class of objectives; picklable, as it is sent to the tasks of each pass.

    Attributes
    ----------
    beta : float
        Parameter of the divergence.
    l1_W, l2_W : float
        Penalties on the weights of one image.
    l1_H, l2_H : float
        Penalties on H per image.
    max_sweeps : int
        Largest number of sweeps over the weights of an image, for squared error.
    W_tolerance : float
        Relative decrease of the loss that may be left when the solve for weights ends.
    exact_W : bool
        Whether images that sweeps do not solve well, for squared error, are solved exactly; for
        other losses, whether weights are solved for to the end.
    in_float64 : bool
        Whether sums are formed in float64 whatever the error at the components of the pass, as
        that after the update of H is known to be too small for float32.
    """

    beta: float = 2.0
    l1_W: float = 0.0
    l2_W: float = 0.0
    l1_H: float = 0.0
    l2_H: float = 0.0
    max_sweeps: int = W_SWEEPS
    W_tolerance: float = W_TOLERANCE
    exact_W: bool = True
    in_float64: bool = False

    exact: ClassVar[bool] = False
    """Whether the sums of a pass determine the loss of the H that is made from them."""

    extrapolation_floor: ClassVar[float] = 0.0
    """Least value of an entry of H after extrapolation, as a fraction of the one before."""

    default_batch_size: ClassVar[int] = 128
    """Number of images per online update."""

    S_per_pixel: ClassVar[bool] = False
    """Whether S has a column for each pixel, as T does."""

    @abstractmethod
    def solve_W(self, strip: Strip, basis: Basis) -> Array:
        """Solve for the weights of a strip.

        Returns
        -------
        W : ndarray of shape (b, d)
        """

    @abstractmethod
    def strip_sums(
        self, strip: Strip, W: Array, V: Array, basis: Basis
    ) -> tuple[Array, Array, float]:
        """Form the sums of a strip.

        Parameters
        ----------
        strip : Strip
        W : ndarray of shape (b, d)
        V : ndarray of shape (b, d)
            W with its rows multiplied by the weights of the images.
        basis : Basis

        Returns
        -------
        S, T, divergence
            As in `SufficientStats`.
        """

    @abstractmethod
    def update_H(self, H: Array, stats: SufficientStats, sweeps: int = H_SWEEPS) -> Array:
        """Lower the objective over H for fixed weights.

        Parameters
        ----------
        H : ndarray of shape (d, p), float64
            Components for which the weights behind the sums were solved.
        stats : SufficientStats
        sweeps : int
            Largest number of sweeps over H, where steps are sweeps.

        Returns
        -------
        ndarray of shape (d, p)
        """

    def columns(self, stats: SufficientStats, pixels: slice) -> SufficientStats:
        """Select the sums of some pixels.

        What belongs to no pixel, such as the penalty, goes to the selection with the first pixel,
        so that it is counted once.
        """
        S = stats.S[:, pixels] if self.S_per_pixel else stats.S
        part = replace(stats, S=S, T=stats.T[:, pixels], xx=stats.xx[pixels])
        if pixels.start == 0:
            return part
        return replace(part, divergence=0.0, penalty=0.0, written=(), held_out=NO_HELD_OUT)

    def energies(self, stats: SufficientStats, H: Array) -> Array:
        """Compute the energies of the components, ``<w_j h_j, Y^(beta - 1)>`` with Y = W H.

        They add up to the sum of ``Y^beta``: the energy of the reconstruction for squared error,
        its mass for Kullback-Leibler.

        Returns
        -------
        ndarray of shape (d,), float64
        """
        return np.asarray(np.einsum("jp,jp->j", stats.S @ H, H))

    @property
    def has_penalties(self) -> bool:
        """Whether the scales of W and H matter, and not only their product."""
        return bool(self.l1_W or self.l2_W or self.l1_H or self.l2_H)

    def running_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the sums of online updates, given that of the computation."""
        return np.dtype(np.float64)

    def stats_of_exact_fit(self, H: Array, stats: SufficientStats) -> SufficientStats:
        """Return the sums of images with the same S whose reconstruction from H is exact."""
        return replace(stats, T=stats.S @ H, xx=np.einsum("jp,jp->p", H, stats.S @ H))

    def has_same_sums(self, other: Objective) -> bool:
        """Check whether sums for one objective may be added to those for the other."""
        return self.beta == other.beta and self.S_per_pixel == other.S_per_pixel

    def batch_size(self, n_components: int, limit: int | None = None) -> int:
        """Choose the number of images of a batch for online updates.

        Small batches learn more per image. For squared error, fewer images than half the number of
        components would leave the running sums without rank, and H without bounds.

        Parameters
        ----------
        n_components : int
        limit : int, optional
            Largest number of images that is wanted.
        """
        wanted = min(self.default_batch_size, limit or self.default_batch_size)
        return max(wanted, n_components // 2)

    def warm_up_batch_size(self, n_components: int) -> int:
        """Choose the number of images of a batch in the warm start, which repeats a sample."""
        return self.batch_size(n_components)

    def raise_zeros(self, H: Array) -> Array:
        """Raise the entries of H that steps cannot change."""
        return H

    def normalize_components(self, H: Array, stats: SufficientStats) -> Array:
        """Scale the components to length 1 where the objective allows it, and the sums in place."""
        return H

    def block_stats(
        self, block: Block, basis: Basis, *, weights: bool = True, dtype: Any = np.float64
    ) -> tuple[SufficientStats, Array | None]:
        """Solve for the weights of a block and form its sums.

        Parameters
        ----------
        block : Block
        basis : Basis
        weights : bool
            Whether to return the weights.
        dtype : dtype
            Dtype of the sums. A pass, which adds up 10^3 to 10^6 strips, needs float64.

        Returns
        -------
        stats : SufficientStats
        W : ndarray of shape (b, d), or None
        """
        d, p = basis.H.shape
        S: Array | None = None
        T: Array | None = None
        xx = np.zeros(p)
        W = np.empty((len(block), d), basis.H.dtype) if weights else None
        divergence = penalty = 0.0
        with np.errstate(all="ignore"):  # the loss is checked after the pass
            for rows, strip in block.strips(basis.H.dtype):
                part = self.solve_W(strip, basis)
                if W is not None:
                    W[rows] = part
                V = part if strip.weights is None else weight_rows(part, strip.weights)
                strip_S, strip_T, strip_divergence = self.strip_sums(strip, part, V, basis)
                S, T = _add(S, strip_S, dtype), _add(T, strip_T, dtype)
                xx += strip.pixel_norms
                divergence += strip_divergence
                penalty += self.penalty_of_W(part, V)
        if S is None or T is None:
            S, T = np.zeros((d, p if self.S_per_pixel else d), dtype), np.zeros((d, p), dtype)
        return SufficientStats(S, T, xx, block.total_weight, divergence, penalty), W

    def divergence(self, strip: Strip, W: Array, H: Array) -> tuple[Array, Array]:
        """Compute ``D(x | w H)`` over the observed pixels.

        Returns
        -------
        images : ndarray of shape (b,), float64
            Sums over the pixels of each image.
        pixels : ndarray of shape (p,), float64
            Sums over the images of each pixel.
        """
        return divergences(strip.X, reconstruct(strip, W, H), floors(strip), self.beta)  # type: ignore[no-any-return]

    def finish_pass(self, Y: Array, stats: SufficientStats) -> HUpdate:
        """Update H on the sums of a pass, and compute the loss that follows from them.

        Parameters
        ----------
        Y : ndarray of shape (d, p), float64
            Components for which the pass solved the weights.
        stats : SufficientStats

        Returns
        -------
        HUpdate
        """
        # Arrays from a message may be unaligned, and those round differently.
        Y = np.require(Y, requirements=["C", "A", "W"])
        with np.errstate(all="ignore"):  # the loss is checked later
            H = self.update_H(Y, stats)
            known, divergence, loss = self.known_loss(stats, Y, H)
            energies = self.energies(stats, known)
        xx = float(stats.xx.sum())
        return HUpdate(
            H, divergence, loss, stats.total_weight, xx, energies, stats.written, stats.held_out
        )

    def project_onto(
        self, H: Array, dtype: np.dtype[Any], rules: PixelRules = DEFAULT_RULES
    ) -> Projection:
        """Return the projection of images of a dtype onto components."""
        return Projection(self, Basis.for_pixels(H, dtype), rules)

    def known_loss(
        self, stats: SufficientStats, Y: Array, improved: Array
    ) -> tuple[Array, float, float]:
        """Return the H whose loss follows from the sums of a pass, and that loss.

        Parameters
        ----------
        stats : SufficientStats
        Y : ndarray of shape (d, p)
            Components for which the pass solved the weights.
        improved : ndarray of shape (d, p)
            Components that `update_H` made from Y.

        Returns
        -------
        H : ndarray of shape (d, p)
            The improved components if the objective is `exact`, else Y.
        divergence : float
            Divergence for that H.
        loss : float
            Divergence and penalties.
        """
        H = improved if self.exact else Y
        divergence = self._known_divergence(stats, H)
        return H, divergence, divergence + stats.penalty + self._penalty_of_H(H, stats.total_weight)

    def _known_divergence(self, stats: SufficientStats, H: Array) -> float:
        return stats.divergence

    def penalty_of_W(self, W: Array, V: Array) -> float:
        """Compute the penalties on W; V is W with the weights of the images."""
        if not (self.l1_W or self.l2_W):
            return 0.0
        l1, l2 = V.sum(dtype=np.float64), np.einsum("ij,ij->", W, V, dtype=np.float64)
        return float(self.l1_W * l1 + 0.5 * self.l2_W * l2)

    def _penalty_of_H(self, H: Array, rows: float) -> float:
        return float(rows * (self.l1_H * H.sum() + 0.5 * self.l2_H * np.vdot(H, H)))


def _add(total: Array | None, addend: Array, dtype: Any) -> Array:
    if total is None:
        return addend.astype(dtype, copy=False)
    total += addend
    return total


def weight_rows(W: Array, weights: Array) -> Array:
    """Multiply the weights of each image by the weight of the image in the corpus."""
    return weights.astype(W.dtype)[:, None] * W


def reconstruct(strip: Strip, W: Array, H: Array) -> Array:
    """Compute ``W H``, 0 at missing pixels."""
    Y: Array = W @ H
    return Y if strip.observed is None else Y * strip.observed


def floors(strip: Strip) -> Array:
    """Compute the least value of each image's reconstruction."""
    count = strip.X.shape[1] if strip.observed is None else strip.observed.sum(axis=1)
    return floors_of_means(strip.X.sum(axis=1, dtype=np.float64) / np.maximum(count, 1))


def join_columns(parts: Sequence[HUpdate]) -> HUpdate:
    """Join the updates of blocks of columns of one H."""
    if len(parts) == 1:
        return parts[0]
    H = np.concatenate([part.H for part in parts], axis=1)
    divergence, loss, xx, energies = (
        sum(getattr(part, name) for part in parts)
        for name in ("divergence", "loss", "xx", "energies")
    )
    first = parts[0]
    return HUpdate(
        H, divergence, loss, first.total_weight, xx, energies, first.written, first.held_out
    )


@dataclass(frozen=True)
class Projection:
    """Projection of images onto fixed components; picklable, as it is sent to tasks.

    Attributes
    ----------
    objective : Objective
        Objective that the weights of an image minimise.
    basis : Basis
        Components.
    rules : PixelRules
        Which values pixels may have.
    """

    objective: Objective
    basis: Basis
    rules: PixelRules = DEFAULT_RULES

    def weights(self, block: Block) -> Array:
        """Compute the weights of a block of any real dtype.

        Returns
        -------
        W : ndarray of shape (b, d)

        Raises
        ------
        DataError
            Weights overflow the dtype of the computation.
        """
        W = np.empty((len(block), len(self.basis.H)), self.basis.H.dtype)
        with np.errstate(all="ignore"):  # checked below
            for rows, strip in block.strips(self.basis.H.dtype):
                W[rows] = self.objective.solve_W(strip, self.basis)
        if not np.isfinite(W).all():
            raise DataError(OVERFLOW)
        return W

    def losses(self, block: Block) -> tuple[Array, Array]:
        """Compute the divergence ``D(x | w H)`` of a block, without penalties.

        Returns
        -------
        images, pixels
            As of `Objective.divergence`.
        """
        images, pixels = np.empty(len(block)), np.zeros(self.basis.H.shape[1])
        with np.errstate(all="ignore"):
            for rows, strip in block.strips(self.basis.H.dtype):
                W = self.objective.solve_W(strip, self.basis)
                images[rows], strip_pixels = self.objective.divergence(strip, W, self.basis.H)
                pixels += strip_pixels
        return images, pixels
