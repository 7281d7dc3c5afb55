"""The scikit-learn face: `NMF`, and `load` for a saved one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from dnmf.blockwise import (
    Blocks,
    as_dask,
    blocks_of,
    check_block,
    check_matrix,
    fingerprint_of,
    is_dask,
    is_zarr,
)
from dnmf.checkpoint import Checkpoint, Fit, create_checkpoint, open_checkpoint, save_model
from dnmf.corpus import Corpus
from dnmf.errors import CheckpointError, DataError
from dnmf.kernels import Basis, compute_dtype, project_block
from dnmf.output import is_absent
from dnmf.solver import MAX_ITER, State, solve, start
from dnmf.validation import is_int, is_real, require, require_even_blocks, seed_of

Array = np.ndarray[Any, np.dtype[Any]]


class NMF(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Non-negative matrix factorisation ``X ~ W H`` of images, in memory or far larger.

    Minimises ``1/2 ||X - W H||^2`` (Frobenius) over non-negative W and H. W is a function of
    (X, H): for each image a small non-negative least-squares problem, solved by coordinate descent
    while its block is in memory. So one pass over X reads every block once, updates both, and
    gives the exact loss. H starts from online updates on a sample of images; full passes follow,
    with extrapolation (Ang and Gillis, Neural Computation 2019).

    Parameters
    ----------
    n_components : int or "auto", default "auto"
        Number of components d. ``"auto"`` takes the number of pixels, as scikit-learn does.
    init : None or "random", default None
        Both draw H as scikit-learn's ``"random"`` does, then warm it up on the sample.
    tol : float, default 1e-4
        Stop when a pass lowers the loss by less than this share; 0 runs all `max_iter` passes.
    max_iter : int, default 200
        Most full passes over X.
    random_state : int, RandomState or None, default None
        With an int, results are the same bits on any number of workers or threads (of one machine
        type and one set of library builds).
    verbose : int, default 0
        Print a line per pass.
    checkpoint : str, path or None, default None
        Where to keep the state and the weights between passes, as a model that `load` opens. If
        it holds an unfinished fit of the same X and parameters, `fit` goes on where that one was.
    checkpoint_every : int, default 1
        Passes between those that write their weights to the checkpoint.
    on_pass : callable or None, default None
        Called with the `dnmf.solver.State` after each pass.

    Attributes
    ----------
    components_ : ndarray of shape (d, p)
        H; float64 for float64 pixels, else float32.
    n_components_ : int
    reconstruction_err_ : float
        ``||X - W H||``, Frobenius norm, for the W of the last accepted pass.
    loss_history_ : ndarray of shape (n_iter_,)
        ``1/2 ||X - W H||^2`` of the best H after each pass; never rises.
    n_iter_ : int
        Full passes over X.
    n_reads_ : float
        Reads of X in units of the whole of it: passes, and the share that the sample read.
    stop_reason_ : str
        ``"converged"`` or ``"max_iter"``.
    n_features_in_ : int
        Pixels p.
    image_shape_ : tuple of int
        Of a corpus; ``(p,)`` otherwise.

    Examples
    --------
    >>> import numpy as np, dnmf
    >>> X = np.random.default_rng(0).random((100, 16))
    >>> model = dnmf.NMF(n_components=4, random_state=0).fit(X)
    >>> model.transform(X).shape, model.components_.shape
    ((100, 4), (4, 16))
    """

    def __init__(
        self,
        n_components: int | str = "auto",
        *,
        init: str | None = None,
        tol: float = 1e-4,
        max_iter: int = 200,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        on_pass: Callable[[State], None] | None = None,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.on_pass = on_pass

    def fit(self, X: Any, y: None = None) -> NMF:
        """Factorise X.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array or array-like, of shape (n, p)
            One row per image. Only an array-like must be in memory; `dnmf.open_corpus` opens a
            corpus.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        DataError (a ValueError)
            A pixel is negative, NaN or infinite, or X is no numeric matrix.
        ParameterError (a ValueError)
            A parameter is out of its range.
        CheckpointError
            `checkpoint` belongs to another fit.
        """
        self.check_parameters()
        X = self._validate(X, reset=True)
        blocks = blocks_of(X)
        fit = self._describe(X, blocks)
        recorder, state = self._begin(fit, blocks)
        # H of a resumed fit is that of the seed the fit began with.
        fit = recorder.fit if recorder is not None else fit
        state, reason = solve(
            blocks,
            state,
            tol=self.tol,
            max_iter=self.max_iter,
            on_pass=self._report,
            recorder=recorder,
            every=self.checkpoint_every,
        )
        if reason == MAX_ITER and self.tol > 0:
            warnings.warn(
                f"Maximum number of iterations {self.max_iter} reached before a pass lowered the "
                f"loss by less than tol={self.tol}. Increase max_iter to improve convergence.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self._set_fitted(fit, state, reason)

    def fit_transform(self, X: Any, y: None = None) -> Any:
        """Factorise X and return its weights, lazy where X is: `fit`, then `transform`."""
        return self.fit(X).transform(X)

    def transform(self, X: Any) -> Any:
        """Compute the weights of images for the fitted components.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array or array-like, of shape (n, p)

        Returns
        -------
        W : ndarray or dask.array.Array of shape (n, d)
            An ndarray for an array-like, else lazy: one task per block.

        Raises
        ------
        DataError (a ValueError)
            X has another number of pixels, or pixels that are negative, NaN or infinite (found
            when the block is computed, if X is lazy).
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        basis = self._basis(X.dtype)
        if isinstance(X, np.ndarray):
            W = np.empty((len(X), len(basis.H)), basis.H.dtype)
            blocks_of(X).map_sum(partial(project_rows, basis=basis, sink=partial(_put, W)))
            return W
        import dask.array as da

        lazy = as_dask(X)
        return da.map_blocks(
            _project_lazily,
            lazy,
            basis=basis,
            starts=np.cumsum([0, *lazy.chunks[0]]),
            dtype=basis.H.dtype,
            chunks=(lazy.chunks[0], (len(basis.H),)),
            meta=np.empty((0, 0), basis.H.dtype),
        )

    def inverse_transform(self, X: Any) -> Any:
        """Reconstruct images from their weights: ``X H``.

        Parameters
        ----------
        X : ndarray or dask.array.Array of shape (n, d)
            Weights, called X as in scikit-learn.

        Returns
        -------
        ndarray or dask.array.Array of shape (n, p)
            Lazy where the weights are.
        """
        check_is_fitted(self)
        X = X if is_dask(X) else np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.n_components_:
            raise DataError(
                f"weights have shape {X.shape}; this model needs (n, {self.n_components_})"
            )
        if not is_dask(X):
            return X @ self.components_
        import dask.array as da

        p = (self.n_features_in_,)
        lazy = X.rechunk({1: -1})
        return da.map_blocks(
            np.matmul,
            lazy,
            self.components_,
            dtype=np.result_type(X.dtype, self.components_.dtype),
            chunks=(lazy.chunks[0], p),
        )

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

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validate(self, X: Any, *, reset: bool) -> Any:
        """Let scikit-learn check what is in memory; pixels are checked in the pass."""
        if not (isinstance(X, Corpus) or is_dask(X) or is_zarr(X)):
            return validate_data(
                self, X, reset=reset, dtype="numeric", ensure_all_finite=False, order="C"
            )
        check_matrix(X)
        if reset:
            self.n_features_in_ = int(X.shape[1])
        elif X.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {X.shape[1]} features, but NMF is expecting {self.n_features_in_} features "
                "as input: use the corpus the model was fitted on, or images of the same size"
            )
        return X

    def check_parameters(self) -> None:
        """Raise ParameterError (a ValueError) for a parameter out of its range, as `fit` does."""
        k = self.n_components
        valid = k == "auto" or (is_int(k) and int(k) >= 1)
        require(valid, "n_components", k, "an int >= 1 or 'auto'")
        require(self.init in (None, "random"), "init", self.init, "None or 'random'")
        require(is_real(self.tol) and self.tol >= 0, "tol", self.tol, "a number >= 0")
        for name in ("max_iter", "checkpoint_every"):
            value = getattr(self, name)
            require(is_int(value) and value >= 1, name, value, "an int >= 1")
        if is_int(self.random_state):
            seed_of(self.random_state)

    def _describe(self, X: Any, blocks: Blocks) -> Fit:
        start, stop = blocks.ranges[0]
        k = blocks.shape[1] if self.n_components == "auto" else self.n_components
        return Fit(
            n_components=int(k),
            seed=seed_of(self.random_state),
            X={
                "shape": list(blocks.shape),
                "dtype": str(blocks.dtype),
                "compute_dtype": str(compute_dtype(blocks.dtype)),
                "block_rows": stop - start,
                "image_shape": list(getattr(X, "image_shape", blocks.shape[1:])),
                "fingerprint": fingerprint_of(X, blocks) if self.checkpoint is not None else None,
            },
        )

    def _begin(self, fit: Fit, blocks: Blocks) -> tuple[Checkpoint | None, State]:
        """Start afresh, or from the checkpoint of the same fit."""
        if self.checkpoint is None:
            return None, start(blocks, fit.n_components, fit.seed)
        require_even_blocks(blocks)
        if is_absent(self.checkpoint):
            state = start(blocks, fit.n_components, fit.seed)
            return create_checkpoint(self.checkpoint, fit, state), state
        recorder = open_checkpoint(self.checkpoint)
        if not is_int(self.random_state):  # any seed would do: the one it began with
            fit = Fit(fit.n_components, recorder.fit.seed, fit.X)
        if differences := recorder.fit.differences(fit):
            raise CheckpointError(
                f"{self.checkpoint} belongs to another fit: {'; '.join(differences)}; "
                "choose another path, or replace it with --force"
            )
        return recorder, recorder.state

    def _report(self, state: State) -> None:
        if self.verbose:
            print(f"pass {state.n_iter}: error {state.error:.6g}")  # noqa: T201 - what verbose is for
        if self.on_pass is not None:
            self.on_pass(state)

    def _set_fitted(self, fit: Fit, state: State, reason: str) -> NMF:
        self._fit, self._state = fit, state
        self.components_ = state.H.astype(fit.X["compute_dtype"])
        self.n_components_ = fit.n_components
        self.n_features_in_ = fit.X["shape"][1]
        self.image_shape_ = tuple(fit.X["image_shape"])
        self.loss_history_ = np.array(state.losses)
        self.reconstruction_err_ = state.error
        self.n_iter_ = state.n_iter
        self.n_reads_ = state.n_reads
        self.stop_reason_ = reason
        return self

    def _basis(self, dtype: np.dtype[Any]) -> Basis:
        return Basis.of(self.components_, np.result_type(compute_dtype(dtype), self.components_))


def load(path: str | os.PathLike[str]) -> NMF:
    """Open a saved model, or the checkpoint of a fit (finished or not), as a fitted `NMF`.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    NMF

    Raises
    ------
    CheckpointError
        There is no model, it is damaged, or it has no pass behind it yet.
    """
    checkpoint = open_checkpoint(path)
    if not checkpoint.state.losses:
        raise CheckpointError(
            f"{checkpoint.path} has no finished pass yet; run its `dnmf fit` again to go on"
        )
    model = NMF(n_components=checkpoint.fit.n_components, random_state=checkpoint.fit.seed)
    reason = checkpoint.stop_reason or "unfinished"
    return model._set_fitted(checkpoint.fit, checkpoint.state, reason)


def project_rows(X: Array, start: int, *, basis: Basis, sink: Callable[[Array, int], None]) -> int:
    """Solve a block's weights into a sink; a task for `Blocks.map_sum` that counts rows."""
    sink(project_block(X, basis), start)
    return len(X)


def _put(out: Array, rows: Array, start: int) -> None:
    out[start : start + len(rows)] = rows


def _project_lazily(
    X: Array, *, basis: Basis, starts: Array, block_id: tuple[int, ...] = (0, 0)
) -> Array:
    check_block(X, int(starts[block_id[0]]))
    return project_block(X, basis)
