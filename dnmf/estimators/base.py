"""What a fitted model does with images: weights, reconstructions, errors, a file."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_array, check_is_fitted

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.errors import ParameterError
from dnmf.estimators.inputs import (
    as_dask,
    blocks_of,
    check_width,
    in_memory,
    is_dask,
    is_zarr,
    validated,
)
from dnmf.estimators.lazy import image_losses, losses_of, product, weights_of
from dnmf.estimators.parameters import objective_of, require, rules_of
from dnmf.numerics.block import Block, PixelRules, compute_dtype
from dnmf.numerics.objective import Objective
from dnmf.numerics.state import State, WeightSink
from dnmf.numerics.statistics import Basis
from dnmf.storage.checkpoint.checkpoint import save_model
from dnmf.storage.checkpoint.spec import FitSpec


class FittedNMF(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of `dnmf.NMF`: all that needs components and not how they were found."""

    missing: str
    components_: Array
    n_components_: int
    n_features_in_: int
    image_shape_: tuple[int, ...]
    stop_reason_: str
    _fit: FitSpec
    _state: State

    def transform(self, X: Any, mask: Any = None) -> Any:
        """Compute the weights of images for the fitted components.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
        mask : array of shape (n, p), bool, optional
            True where a pixel is to be ignored.

        Returns
        -------
        W : ndarray or dask.array.Array of shape (n, d)
            An ndarray for what is in memory, else lazy: one task per block.

        Raises
        ------
        DataError (a ValueError)
            X has another number of pixels, or pixels that are negative, NaN or infinite (found
            when the block is computed, if X is lazy).
        """
        check_is_fitted(self)
        X = validated(self, X, reset=False)
        objective, basis = self.objective(mask), self.basis(X.dtype)
        if not in_memory(X):
            _require_lazy_output(self)
            return weights_of(X, mask, objective, basis, self.rules())
        W = np.empty((X.shape[0], len(basis.H)), basis.H.dtype)
        task = partial(project_rows, objective=objective, basis=basis, sink=partial(_put, W))
        blocks_of(X, mask=mask, rules=self.rules()).map_sum(task)
        return W

    def inverse_transform(self, X: Any) -> Any:
        """Reconstruct images from their weights: ``X H``.

        Parameters
        ----------
        X : array-like, sparse matrix, dask.array.Array or zarr.Array of shape (n, d)
            Weights, called X as in scikit-learn.

        Returns
        -------
        ndarray or dask.array.Array of shape (n, p)
            Lazy where the weights are.
        """
        check_is_fitted(self)
        if is_dask(X) or is_zarr(X):
            W = as_dask(X)
            check_width(W, self.n_components_)
            return product(W, self.components_)
        X = check_array(X, accept_sparse="csr", dtype="numeric", ensure_min_samples=0)
        check_width(X, self.n_components_)
        return X @ self.components_

    def score(self, X: Any, y: None = None, sample_weight: Any = None, mask: Any = None) -> float:
        """Compute the negative mean loss per image, penalties not included: greater is better.

        Parameters
        ----------
        X, y, sample_weight, mask
            As in `fit`.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        X = validated(self, X, reset=False)
        blocks = blocks_of(X, sample_weight, mask, self.rules())
        loss, _, weight, _ = self._sum_losses(X, blocks, mask)
        return -float(loss / weight) if weight else 0.0

    def reconstruct_error(self, X: Any, mask: Any = None, *, per: str = "image") -> Any:
        """Compute how far images are from their reconstructions, over observed pixels.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
        mask : array of shape (n, p), bool, optional
        per : "image" or "pixel", default "image"

        Returns
        -------
        ndarray or dask.array.Array
            Divergence of each image, of shape (n,), lazy where X is; or of each pixel, its mean
            over the images that it is observed in (NaN without any), of shape `image_shape_`.
            ``1/2 (x - y)^2`` summed, for Frobenius.
        """
        check_is_fitted(self)
        require(per in ("image", "pixel"), "per", per, "'image' or 'pixel'")
        X = validated(self, X, reset=False)
        objective, basis = self.objective(mask), self.basis(X.dtype)
        if per == "image" and not in_memory(X):
            return losses_of(X, mask, objective, basis, self.rules())
        blocks = blocks_of(X, mask=mask, rules=self.rules())
        if per == "pixel":
            _, pixels, _, seen = self._sum_losses(X, blocks, mask)
            means = np.divide(pixels, seen, out=np.full(len(pixels), np.nan), where=seen > 0)
            return means.reshape(self.image_shape_)
        losses = np.empty(X.shape[0])
        sink = partial(_put, losses)
        blocks.map_sum(partial(put_losses, objective=objective, basis=basis, sink=sink))
        return losses

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the fitted model, without weights, as Zarr and JSON; `load` reads it.

        Parameters
        ----------
        path : str or path
        force : bool, default False
            Replace what dnmf wrote there before.

        Raises
        ------
        OutputExistsError
        """
        check_is_fitted(self)
        save_model(path, self._fit, self._state, self.stop_reason_, force=force)

    def objective(self, mask: Any = None) -> Objective:
        """Say what is minimised for the pixels that `validated` has seen."""
        masked = mask is not None or self.missing == "ignore"
        return objective_of(self, self.n_features_in_, masked)

    def rules(self) -> PixelRules:
        """Say which pixels are taken."""
        return rules_of(self)

    def basis(self, dtype: np.dtype[Any]) -> Basis:
        """Give the components for pixels of a dtype."""
        return Basis.from_H(
            self.components_, np.result_type(compute_dtype(dtype), self.components_)
        )

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.missing == "ignore"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _sum_losses(self, X: Any, blocks: Blocks, mask: Any) -> Losses:
        task = partial(add_losses, objective=self.objective(mask), basis=self.basis(X.dtype))
        return blocks.map_sum(task)


class Losses(NamedTuple):
    """Loss of some images, loss of each pixel, weight of the images, images that show a pixel."""

    loss: float
    pixels: Array
    weight: float
    seen: Array

    def __add__(self, other: Any) -> Losses:
        return Losses(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def add_losses(block: Block, *, objective: Objective, basis: Basis) -> Losses:
    """Sum up a block's losses; a task for `Blocks.map_sum`."""
    images, pixels = image_losses(objective, block, basis)
    total = images.sum() if block.weights is None else block.weights @ images
    n = len(block)
    seen = np.full(len(pixels), n) if block.observed is None else block.observed.sum(axis=0)
    return Losses(float(total), pixels, block.total_weight, seen)


def put_losses(block: Block, *, objective: Objective, basis: Basis, sink: WeightSink) -> int:
    """Put each image's loss into a sink; a task that counts rows."""
    sink(image_losses(objective, block, basis)[0], block.start)
    return len(block)


def project_rows(block: Block, *, objective: Objective, basis: Basis, sink: WeightSink) -> int:
    """Solve a block's weights into a sink; a task that counts rows."""
    sink(objective.solve_W_block(block, basis), block.start)
    return len(block)


def _require_lazy_output(model: Any) -> None:
    """Refuse to load lazy weights into a frame."""
    if _get_output_config("transform", model)["dense"] != "default":
        raise ParameterError(
            "set_output asks for a frame, which would load the weights of all images: use "
            'set_output(transform="default") for lazy input, or compute X first'
        )


def _put(out: Array, rows: Array, start: int) -> None:
    out[start : start + len(rows)] = rows
