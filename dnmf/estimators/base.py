"""What a fitted model does with images: compute weights, reconstructions and losses, and save."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_array, check_is_fitted

from dnmf._access import StorageOptions, remember_options
from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.errors import DataError, ParameterError
from dnmf.estimators.in_hand import describe_in_hand
from dnmf.estimators.inputs import (
    blocks_of,
    check_width,
    chunks_of,
    in_memory,
    is_lazy,
    take_mask,
    unwrap,
    validate_images,
)
from dnmf.estimators.parameters import NMFParameters, require
from dnmf.numerics.block import Block, compute_dtype
from dnmf.numerics.objective import Projection
from dnmf.numerics.state import State, WeightSink
from dnmf.storage.checkpoint.checkpoint import save_model
from dnmf.storage.checkpoint.spec import FitSpec


class FromComponents:
    """Fitted attribute that is computed from `components_` if no fit has set it.

    With it, a model whose `components_` a user sets counts as fitted.

    Parameters
    ----------
    compute : callable
        Computes the value from the shape of the components.
    """

    def __init__(self, compute: Callable[[tuple[int, ...]], Any]) -> None:
        self._compute = compute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: Any, owner: type | None = None) -> Any:
        known = vars(model).get("components_") if model is not None else None
        shape = () if known is None else np.shape(known)
        if not shape:
            raise AttributeError(f"{self._name} is set by fit: call fit first")
        return self._compute(shape)


class FittedNMF(NMFParameters):
    """Base of `NMF` with the methods that need components, from a fit or set by the user."""

    components_: Array
    n_components_: int = FromComponents(lambda shape: shape[0])  # type: ignore[assignment]
    n_features_in_: int = FromComponents(lambda shape: shape[-1])  # type: ignore[assignment]
    image_shape_: tuple[int, ...] = FromComponents(lambda shape: shape[-1:])  # type: ignore[assignment]
    stop_reason_: str
    _spec: FitSpec
    _state: State

    def transform(self, X: Any, mask: Any = None) -> Any:
        """Compute the weights of images for the fitted components.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
            One row per image, numbers >= 0, as in `fit`.
        mask : array of shape (n, p), bool, optional
            True where a pixel is to be ignored.

        Returns
        -------
        ndarray or dask.array.Array of shape (n, d)
            Weights W. An ndarray if X is in memory, else a lazy Dask array with one task per block.

        Raises
        ------
        DataError (a ValueError)
            If X has another number of pixels, or pixels that are negative, NaN or infinite. Pixels
            of a lazy X are checked when their block is computed.
        """
        X, mask = take_mask(X, mask)
        X = self._validate(X)
        projection = self._projection(X.dtype, mask)
        if not in_memory(X):
            from dnmf.estimators.lazy import lazy_weights

            self._require_array_output()
            return lazy_weights(X, mask, projection)
        W = np.empty((X.shape[0], len(projection.basis.H)), projection.basis.H.dtype)
        task = partial(store_weights, projection=projection, sink=partial(_copy_rows, W))
        blocks_of(X, mask=mask, rules=projection.rules).map_sum(task)
        return W

    def inverse_transform(self, X: Any) -> Any:
        """Reconstruct images from their weights: the product W H.

        Parameters
        ----------
        X : array-like, sparse matrix, dask.array.Array or zarr.Array of shape (n, d)
            Weights W. The parameter is called X as in scikit-learn.

        Returns
        -------
        ndarray or dask.array.Array of shape (n, p)
            Reconstructions, one row per image. A lazy Dask array if the weights are lazy.
        """
        H, X = self._known_components(), unwrap(X)
        if is_lazy(X):
            from dnmf.estimators.lazy import lazy_product

            W = chunks_of(X).array
            check_width(W, len(H))
            return lazy_product(W, H)
        X = check_array(X, accept_sparse="csr", dtype="numeric", ensure_min_samples=0)
        check_width(X, len(H))
        return X @ H

    def score(self, X: Any, y: None = None, sample_weight: Any = None, mask: Any = None) -> float:
        """Compute the negative mean loss per image, without penalties: a greater score is better.

        Parameters
        ----------
        X, y, sample_weight, mask
            As in `fit`.

        Returns
        -------
        float
            Minus the mean over images of the divergence from their reconstructions.
        """
        X, mask = take_mask(X, mask)
        X = self._validate(X)
        losses = self._sum_losses(X, blocks_of(X, sample_weight, mask, self._rules()), mask)
        return -float(losses.total / losses.rows) if losses.rows else 0.0

    def reconstruct_error(self, X: Any, mask: Any = None, *, per: str = "image") -> Any:
        """Compute the divergence of images from their reconstructions, over observed pixels.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
            One row per image, as in `fit`.
        mask : array of shape (n, p), bool, optional
            True where a pixel is to be ignored.
        per : "image" or "pixel", default "image"
            Whether to return a number for each image or for each pixel.

        Returns
        -------
        ndarray or dask.array.Array
            With ``per="image"``, the divergence of each image summed over pixels, of shape (n,); a
            lazy Dask array if X is outside memory. With ``per="pixel"``, the mean divergence of
            each pixel over the images in which it is observed (NaN if there are none), of shape
            `image_shape_`. For the Frobenius loss the divergence of a pixel is ``1/2 (x - y)^2``.
        """
        require(per in ("image", "pixel"), "per", per, "'image' or 'pixel'")
        X, mask = take_mask(X, mask)
        X = self._validate(X)
        projection = self._projection(X.dtype, mask)
        if per == "image" and not in_memory(X):
            from dnmf.estimators.lazy import lazy_losses

            return lazy_losses(X, mask, projection)
        blocks = blocks_of(X, mask=mask, rules=projection.rules)
        if per == "pixel":
            _, pixels, _, seen = self._sum_losses(X, blocks, mask)
            means = np.divide(pixels, seen, out=np.full(len(pixels), np.nan), where=seen > 0)
            return means.reshape(self.image_shape_)
        losses = np.empty(X.shape[0])
        sink = partial(_copy_rows, losses)
        blocks.map_sum(partial(store_losses, projection=projection, sink=sink))
        return losses

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        storage_options: StorageOptions = None,
    ) -> None:
        """Write the model as it is now, without weights W, as Zarr and JSON; `load` opens it.

        Attributes and parameters may have been changed since the fit. Losses and errors are written
        only if they still hold for `components_`: if the components are those of the fit in any
        order and, in a fit without penalties, on any scale.

        Parameters
        ----------
        path : str or path
            Folder or URL to write.
        force : bool, default False
            Replace a model that dnmf has written at `path`.
        storage_options : dict, optional
            Options of the file system behind a URL, as in `dnmf.open_corpus`.

        Raises
        ------
        OutputExistsError
            If something is at `path`.
        DataError
            If `components_` is not a matrix of finite numbers >= 0.
        """
        remember_options(storage_options, path)
        save_model(path, *describe_in_hand(self), force=force)

    def _projection(self, dtype: np.dtype[Any], mask: Any = None) -> Projection:
        """Return the projection onto the components, for pixels of a dtype."""
        H = self._known_components()
        dtype = np.result_type(compute_dtype(dtype), H)
        return self._objective(mask).project_onto(H, dtype, self._rules())

    def _validate(self, X: Any) -> Any:
        """Check that the model is fitted and has the pixels of X; return X for `blocks_of`."""
        self._known_components()
        return validate_images(self, X, reset=False)

    def _known_components(self) -> Array:
        """Return `components_` as a floating-point array.

        Raises
        ------
        NotFittedError
            If there are no components.
        DataError
            If a user has set components that are not a matrix of finite numbers >= 0.
        """
        check_is_fitted(self, "components_")
        H = np.asarray(self.components_)
        if H.ndim != 2 or 0 in H.shape:
            raise DataError(
                f"components_ are of shape {H.shape}; they must be a matrix with a row for each "
                "component and a column for each pixel"
            )
        if not (H.dtype.kind in "buif" and np.isfinite(H).all() and H.min() >= 0):
            raise DataError("components_ must be finite numbers >= 0")
        if H.shape[1] != self.n_features_in_:
            raise DataError(
                f"components_ have {H.shape[1]} pixels, and the model was fitted on images of "
                f"{self.n_features_in_}"
            )
        return H if H.dtype.kind == "f" else H.astype(np.float64)

    def _require_pixels_of(self, corpus: Any) -> None:
        """Raise DataError for a corpus, or an array at a path, with another number of pixels."""
        if corpus.shape[1] != self.n_features_in_:
            raise DataError(
                f"{corpus.path} has images of {corpus.shape[1]} pixels, but the model was fitted "
                f"on {self.n_features_in_}: ingest the images at the model's size "
                f"({' x '.join(map(str, self.image_shape_))})"
            )

    def _require_array_output(self) -> None:
        """Raise ParameterError if `set_output` asks for a frame, which would load all weights."""
        # scikit-learn has no public way to ask for the setting of `set_output`: look at a result.
        probe = copy.copy(self)
        for name in ("n_features_in_", "feature_names_in_"):
            probe.__dict__.pop(name, None)
        probe.components_ = np.ones((1, 1))
        output = probe.transform(np.ones((1, 1)))
        if not isinstance(output, np.ndarray):
            raise ParameterError(
                "set_output asks for a frame, which would load the weights of all images: use "
                'set_output(transform="default") for lazy input, or compute X first'
            )

    def _html_with(self, diagram: str) -> str:
        from dnmf.estimators.notebook import fitted_html

        return diagram + fitted_html(self)

    @property
    def _repr_html_(self) -> Callable[[], str]:
        """scikit-learn's diagram and, of a fitted model, its components; for notebooks."""
        diagram = super()._repr_html_  # an AttributeError if display is not "diagram"
        return lambda: self._html_with(diagram())

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] = self._html_with(bundle["text/html"])
        return bundle

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _sum_losses(self, X: Any, blocks: Blocks, mask: Any) -> LossSums:
        return blocks.map_sum(partial(sum_losses, projection=self._projection(X.dtype, mask)))


class LossSums(NamedTuple):
    """Losses summed over images. Sums of blocks are added with ``+``.

    Attributes
    ----------
    total : float
        Loss of all images.
    pixels : ndarray of shape (p,)
        Loss of each pixel.
    rows : float
        Number of images, or the sum of their weights.
    seen : ndarray of shape (p,)
        Number of images in which a pixel is observed.
    """

    total: float
    pixels: Array
    rows: float
    seen: Array

    def __add__(self, other: Any) -> LossSums:
        return LossSums(*(one + more for one, more in zip(self, other, strict=True)))


def sum_losses(block: Block, *, projection: Projection) -> LossSums:
    """Sum the losses of the images of a block."""
    images, pixels = projection.losses(block)
    total = images.sum() if block.weights is None else block.weights @ images
    n = len(block)
    seen = np.full(len(pixels), n) if block.observed is None else block.observed.sum(axis=0)
    return LossSums(float(total), pixels, block.total_weight, seen)


def store_losses(block: Block, *, projection: Projection, sink: WeightSink) -> int:
    """Write the loss of each image to a sink and return the number of images."""
    sink(projection.losses(block)[0], block.start)
    return len(block)


def store_weights(block: Block, *, projection: Projection, sink: WeightSink) -> int:
    """Write the weights of a block to a sink and return the number of images."""
    sink(projection.weights(block), block.start)
    return len(block)


def _copy_rows(out: Array, rows: Array, start: int) -> None:
    out[start : start + len(rows)] = rows
