"""The estimator `NMF`: its parameters, its methods, and how a fit begins."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dnmf._access import StorageOptions, remember_options
from dnmf._progress import bar_of, report_pass
from dnmf.engine.blocks import Blocks
from dnmf.errors import ParameterError
from dnmf.estimators.base import FittedNMF
from dnmf.estimators.inputs import (
    blocks_of,
    compute_fingerprints,
    gives_lazy_results,
    take_mask,
    validate_images,
)
from dnmf.estimators.notebook import pass_line
from dnmf.estimators.parameters import as_json, check_start, is_int, require, require_even_blocks
from dnmf.estimators.stream import begin_stream, unit_of_stream
from dnmf.numerics.block import compute_dtype
from dnmf.numerics.online import OnlineState, update_on_block
from dnmf.numerics.state import MAX_ITER, State
from dnmf.solvers.loop import ModelRun, solve
from dnmf.solvers.memory_model import checkpoint_bytes, require_memory
from dnmf.solvers.multi_fit import (
    Progress,
    explain_interrupt,
    fit_together,
    refuse_other_fit,
    remove_starts,
    require_starts,
    resume_checkpoint,
    starts_of,
)
from dnmf.solvers.plan import Plan, plan_fit
from dnmf.solvers.small import is_small
from dnmf.solvers.warm_start import custom_H, start
from dnmf.storage.atomic import bytes_at, check_free, remove_store, require_space
from dnmf.storage.checkpoint.checkpoint import Checkpoint, create_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT, KEEP
from dnmf.storage.checkpoint.spec import SETTINGS, FitSpec
from dnmf.storage.lock import locked
from dnmf.storage.paths import normalize_path
from dnmf.storage.store import crc32c

OF_A_FIT = ("loss_history_", "reconstruction_err_", "n_iter_", "n_reads_", "energy_shares_")
"""Fitted attributes that `fit` sets and `partial_fit` does not."""


class NMF(FittedNMF):
    """Non-negative matrix factorisation ``X ~ W H`` of images, in memory or far larger than memory.

    Minimises a divergence of X from W H, plus penalties, over non-negative W and H. The weights W
    are a function of X and H: the weights of each image are a small problem of their own, which is
    solved while its block is in memory. One pass over X therefore reads every block once, and
    improves both W and H. A fit first improves H on a sample of images (the warm start), then by
    full passes with extrapolation [1]_. Small arrays in memory are fitted without a warm start,
    with W kept in memory, unless there is a checkpoint.

    Parameters
    ----------
    n_components : int, "auto" or None, default "auto"
        Number of components d, as in scikit-learn. None means the number of pixels. ``"auto"``
        means the number of rows of the H given to `fit` with ``init="custom"``, and the number of
        pixels with any other `init`.
    init : None, "random", "nndsvd", "nndsvda", "nndsvdar" or "custom", default None
        The H that a fit starts from. ``"random"`` and None draw it as scikit-learn's ``"random"``
        does. The three whose names begin with nndsvd compute it from singular vectors, with three
        reads of X. The warm start then improves it on the sample. ``"custom"`` starts the passes
        from the H given to `fit`, without a warm start.
    n_init : int, default 1
        Number of random starts, with the seeds `random_state`, `random_state` + 1 and so on. All
        are fitted in the same reads of X, and the one with the lowest loss is kept.
    solver : "auto", "cd" or "mu", default "auto"
        ``"cd"`` is coordinate descent (HALS), for the Frobenius loss only. ``"mu"`` is
        majorise-minimise steps on H, for every loss. ``"auto"`` takes ``"cd"`` for the Frobenius
        loss and ``"mu"`` for all others.
    beta_loss : float or "frobenius", "kullback-leibler", "itakura-saito", default "frobenius"
        Beta divergence of X from W H. The names mean beta = 2, 1 and 0. With beta <= 0 no pixel may
        be 0.
    tol : float, default 1e-4
        The fit stops when a pass lowers the objective by less than this share of it. With 0 it runs
        all `max_iter` passes. A larger `tol` also makes the warm start shorter; 0.01 gives a rough
        answer. On a small array in memory, 20 iterations count as one pass unless `tol` is 0.
    max_iter : int, default 200
        Largest number of full passes over X, or of iterations on a small array in memory.
    random_state : int, RandomState or None, default None
        With an int, results are the same bits for any number of workers or threads (on one type of
        machine, with the same builds of the libraries).
    alpha_W : float, default 0.0
        Weight of the penalty on W. The penalty is
        ``alpha_W p (l1_ratio |W|_1 + (1 - l1_ratio) / 2 ||W||^2)`` with p pixels.
    alpha_H : float or "same", default "same"
        Weight of the penalty on H, which is scaled by the number of images in place of p.
        ``"same"`` takes the value of `alpha_W`.
    l1_ratio : float from 0 to 1, default 0.0
        Share of the l1 norm in both penalties.
    verbose : int, default 0
        Show the warm start and each pass, unless it is 0: as a bar in a notebook and on a terminal,
        else as lines.
    shuffle : bool, default False
        Has no effect; scikit-learn's callers may pass it. Coordinates keep their order, so that
        results can be repeated.
    missing : "error" or "ignore", default "error"
        Whether NaN pixels raise an error, or count as missing and influence nothing.
    warm_start : bool, default False
        Whether `fit` starts from the components of the previous fit, if there was one.
    forget_factor : float from 0 to 1, default 0.7
        Share of the influence of earlier images that is left after a call of `partial_fit`.
    batch_size : int or None, default None
        Largest number of images per update of `partial_fit`. It counts only where it is below the
        number that `partial_fit` chooses: 128 for the Frobenius loss (or d / 2 if that is more,
        which is also the least), 64 for other losses. Smaller batches learn more from each image.
    checkpoint : str, path or None, default None
        Path or URL of a model on disk in which `fit` saves its state and weights after passes;
        `load` opens it. If it holds an unfinished fit of the same X and parameters, `fit` continues
        that fit.
    checkpoint_every : int, default 1
        Write the weights W to the checkpoint after every so many passes. The state is written after
        every pass.
    checkpoint_keep : int, default 2
        Number of passes that the checkpoint keeps. An earlier one is used if the storage damages
        the last.
    resume_from : int or None, default None
        Number of the pass in the checkpoint to continue from, if not the last. Later passes are
        removed.
    on_pass : callable or None, default None
        Called with a `dnmf.numerics.state.State` after each pass, once the checkpoint has the pass.
        An exception that it raises ends the fit; the same call of `fit` continues it.

    Attributes
    ----------
    components_ : ndarray of shape (d, p)
        H. The dtype is float64 for float64 pixels, and for 32-bit and 64-bit integers in memory;
        otherwise it is float32.
    reconstruction_err_ : float
        ``sqrt(2 D)`` for the divergence D of X from W H, without penalties and for the W of the
        last accepted pass. For the Frobenius loss this is ``||X - W H||``. The `sample_weight` of
        `fit` counts.
    energy_shares_ : ndarray of shape (d,)
        Share of each component in the reconstruction, ``<w_j h_j, Y^(beta - 1)>`` with ``Y = W H``.
        The shares add up to 1. Missing pixels count with their reconstructed values for solver
        ``"cd"``, and do not count for ``"mu"``.
    loss_history_ : ndarray of float, one for each pass
        Objective (loss plus penalties) of the best H after each pass. It never rises.
    n_iter_ : int
        Number of full passes over X, or of iterations on a small array in memory.
    n_reads_ : float
        Number of reads of the whole X, those of the warm start included: a sample of a tenth of the
        blocks counts as 0.1.
    n_steps_ : int
        Number of updates that `partial_fit` has made.
    stop_reason_ : str
        ``"converged"``, ``"max_iter"``, ``"partial_fit"`` or ``"unfinished"`` (a checkpoint that is
        loaded before its fit has ended). ``"edited"`` is that of a saved model whose components
        were changed after its fit.
    n_features_in_ : int
        Number of pixels p.
    image_shape_ : tuple of int
        Shape of an image if X was a corpus or a list of images, else ``(p,)``.

    See Also
    --------
    MiniBatchNMF : The same under the parameters of scikit-learn's `MiniBatchNMF`.
    load : Open a saved model.
    rank_sweep : Compare numbers of components.

    References
    ----------
    .. [1] A. M. S. Ang and N. Gillis, "Accelerating nonnegative matrix factorization algorithms
       using extrapolation", Neural Computation 31, 2019.

    Examples
    --------
    >>> import numpy as np, dnmf
    >>> X = np.random.default_rng(0).random((100, 16))
    >>> model = dnmf.NMF(n_components=4, random_state=0).fit(X)
    >>> model.transform(X).shape, model.components_.shape
    ((100, 4), (4, 16))
    """

    _running: OnlineState | None

    def __init__(
        self,
        n_components: int | str | None = "auto",
        *,
        init: str | None = None,
        n_init: int = 1,
        solver: str = "auto",
        beta_loss: float | str = "frobenius",
        tol: float = 1e-4,
        max_iter: int = 200,
        random_state: int | np.random.RandomState | None = None,
        alpha_W: float = 0.0,
        alpha_H: float | str = "same",
        l1_ratio: float = 0.0,
        verbose: int = 0,
        shuffle: bool = False,
        missing: str = "error",
        warm_start: bool = False,
        forget_factor: float = 0.7,
        batch_size: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        checkpoint_keep: int = KEEP,
        resume_from: int | None = None,
        on_pass: Callable[[State], None] | None = None,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.n_init = n_init
        self.solver = solver
        self.beta_loss = beta_loss
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.verbose = verbose
        self.shuffle = shuffle
        self.missing = missing
        self.warm_start = warm_start
        self.forget_factor = forget_factor
        self.batch_size = batch_size
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.checkpoint_keep = checkpoint_keep
        self.resume_from = resume_from
        self.on_pass = on_pass

    def fit(
        self,
        X: Any,
        y: None = None,
        W: Any = None,
        H: Any = None,
        sample_weight: Any = None,
        mask: Any = None,
        *,
        overwrite: bool = False,
        storage_options: StorageOptions = None,
    ) -> NMF:
        """Factorise X: find components, from which `transform` computes weights.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
            One row per image, numbers >= 0. `dnmf.open_corpus` opens a corpus. An HDF5 dataset, and
            any other array outside memory that returns slices of rows, is read in blocks. A list of
            PIL images or 2-D arrays, all of one size, is allowed, too. Only an array-like, a sparse
            matrix and a list must fit in memory.
        y : None
            Ignored; scikit-learn's pipelines pass it.
        W : array of shape (n, d), optional
            With ``init="custom"``, its shape and values are checked. It has no influence, because W
            follows from X and H.
        H : array of shape (d, p), optional
            Components that ``init="custom"`` starts from.
        sample_weight : array of shape (n,), optional
            Weight of each image in the loss: 2 has the effect of having the image twice in X.
            Multiplying all weights by one number multiplies the losses, and changes nothing else.
            It may be a NumPy, Dask or Zarr array; Zarr is best for many millions of images. If X is
            outside memory, weights must be 0 or from 1e-15 to 1e15.
        mask : array of shape (n, p), bool, optional
            True where a pixel is to be ignored. It may be a NumPy, Dask or Zarr array, and is read
            in blocks with X. If X is a NumPy masked array, or a Dask array of them, the pixels that
            X masks are ignored, too.
        overwrite : bool, default False
            Remove the model that is at `checkpoint`, if dnmf wrote it, instead of continuing its
            fit.
        storage_options : dict, optional
            Options of the file system behind the URL of `checkpoint`, as in `dnmf.open_corpus`.

        Returns
        -------
        NMF
            The fitted model itself.

        Raises
        ------
        DataError (a ValueError)
            If a pixel is negative, NaN or infinite, or X is not a numeric matrix.
        ParameterError (a ValueError)
            If a parameter is out of its range.
        DtypeError (a TypeError)
            If W or H does not have the dtype of X.
        CheckpointError
            If `checkpoint` belongs to another fit, is damaged, or another process writes to it.
        SpaceError
            If the disk of `checkpoint` has too little space.
        CapacityError (a MemoryError)
            If a worker, or this process, has less memory than the fit needs; see `plan`.
        """
        self.check_parameters()
        if overwrite and (self.checkpoint is None or self.resume_from is not None):
            raise ParameterError(
                "overwrite is True (--force): it needs a checkpoint to replace, and no resume_from"
            )
        remember_options(storage_options, self.checkpoint)
        X, mask = take_mask(X, mask)
        X = validate_images(self, X, reset=True)
        blocks = blocks_of(X, sample_weight, mask, self._rules())
        spec = self._describe(X, blocks, H)
        if self.init == "custom":
            check_start(H, W, blocks, spec.n_components)
        run = ModelRun(spec, self._objective(mask), weights_every=self.checkpoint_every)
        if self.checkpoint is None:
            run.in_memory = is_small(blocks, run.objective, self.tol)
        require_memory(blocks, run.objective, spec.n_components)
        with bar_of(self.verbose), self._recorded(run, X, blocks, H, W, overwrite):
            solve(
                blocks,
                [run],
                tol=self.tol,
                max_iter=self.max_iter,
                on_pass=lambda: self._report(run.state, run.in_memory),
            )
        if run.stop_reason == MAX_ITER and self.tol > 0:
            warnings.warn(
                f"Maximum number of iterations {self.max_iter} reached. Increase it to improve "
                f"convergence. The fit has not converged to tol={self.tol}.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self._set_fitted(run.spec, run.state, run.stop_reason)

    def fit_transform(
        self,
        X: Any,
        y: None = None,
        W: Any = None,
        H: Any = None,
        sample_weight: Any = None,
        mask: Any = None,
    ) -> Any:
        """Factorise X and return its weights: `fit`, then `transform`.

        Parameters
        ----------
        X, y, W, H, sample_weight, mask
            As in `fit`.

        Returns
        -------
        ndarray or dask.array.Array of shape (n, d)
            Weights W. A lazy Dask array if X is outside memory.
        """
        if gives_lazy_results(X):
            self._require_array_output()
        return self.fit(X, y, W, H, sample_weight, mask).transform(X, mask)

    def partial_fit(
        self,
        X: Any,
        y: None = None,
        W: Any = None,
        H: Any = None,
        sample_weight: Any = None,
        mask: Any = None,
    ) -> NMF:
        """Improve the components on more images, without reading earlier images again.

        Blocks of X are read one after the other. H is updated after every batch of `batch_size`
        images of a block, where the block is read. Only sums go from one block to the next.

        Parameters
        ----------
        X, y, W, H, sample_weight, mask
            As in `fit`. W and H are used in the first call only.

        Returns
        -------
        NMF
            The model itself.
        """
        self.check_parameters()
        free = self.checkpoint is None
        require(free, "checkpoint", self.checkpoint, "None for partial_fit; `save` keeps a stream")
        X, mask = take_mask(X, mask)
        X = validate_images(self, X, reset=not hasattr(self, "components_"))
        blocks = blocks_of(X, sample_weight, mask, self._rules())
        objective = self._objective(mask)
        unit = unit_of_stream(self, blocks.rules.weight_unit)
        blocks.rules = replace(blocks.rules, weight_unit=unit)
        spec, running = begin_stream(self, X, blocks, objective, H, W)
        n_updates = running.n_updates
        for i in range(len(blocks.ranges)):
            task = partial(
                update_on_block,
                objective=objective,
                state=running,
                forget_factor=self.forget_factor,
                n_rows=blocks.shape[0],
                batch_size=self.batch_size,
            )
            running = blocks.map_sum(task, only=[i])
        n_steps = getattr(self, "n_steps_", 0) + running.n_updates - n_updates
        self._set_fitted(spec, State.at(running.H), "partial_fit")
        self._running, self.n_steps_, self._weight_unit = running, n_steps, unit
        return self

    def plan(self, X: Any, mask: Any = None, *, trial: bool = True) -> Plan:
        """Predict the memory, disk space and time that `fit` takes on this machine or cluster.

        Parameters
        ----------
        X, mask
            As in `fit`.
        trial : bool, default True
            Whether to run parts of the fit for about ten seconds, to predict times. Without it,
            only memory and disk space are predicted.

        Returns
        -------
        dnmf.solvers.plan.Plan
            Predicted numbers as attributes; `print` shows them.
        """
        self.check_parameters()
        X, mask = take_mask(X, mask)
        X = validate_images(NMF(), X, reset=True)  # another estimator: this one stays as it is
        blocks = blocks_of(X, mask=mask, rules=self._rules())
        objective = self._objective(mask, blocks.shape[1])
        d = self._component_count(blocks, None)
        disk = checkpoint_bytes(blocks, d, self.checkpoint_keep, self.max_iter)
        return plan_fit(blocks, objective, d, self.tol, disk, trial=trial)

    def _describe(self, X: Any, blocks: Blocks, H: Any) -> FitSpec:
        """Describe a fit without reading X; `_with_fingerprints` adds what must be read.

        Parameters
        ----------
        X, H
            As in `fit`; X is validated.
        blocks : Blocks
            X in blocks.
        """
        first, stop = blocks.ranges[0]
        custom = self.init == "custom" and H is not None
        names = getattr(self, "feature_names_in_", None)
        return FitSpec(
            n_components=self._component_count(blocks, H),
            seed=self._seed(),
            X={
                "shape": list(blocks.shape),
                "dtype": str(blocks.dtype),
                "compute_dtype": str(compute_dtype(blocks.dtype)),
                "block_rows": stop - first,
                "image_shape": list(self.image_shape_),
            },
            parameters={
                **self._spec_parameters(),
                "start": crc32c(np.asarray(H, np.float64)) if custom else None,
            },
            settings={name: as_json(getattr(self, name)) for name in SETTINGS},
            feature_names=None if names is None else tuple(names),
        )

    def _with_fingerprints(self, spec: FitSpec, X: Any, blocks: Blocks) -> FitSpec:
        """Add the checksums of X, its mask and its weights, for which they are read."""
        return replace(spec, X={**spec.X, **compute_fingerprints(X, blocks)})

    @contextmanager
    def _recorded(
        self, run: ModelRun, X: Any, blocks: Blocks, H: Any, W: Any, overwrite: bool
    ) -> Iterator[None]:
        """Lock the checkpoint, set the recorder and state of a run, and clean up after an error."""
        if self.checkpoint is None:
            run.state = self._first_state(run, blocks, H, W)
            yield
            return
        path = normalize_path(self.checkpoint)
        require_even_blocks(blocks)
        with locked(path):
            if self.n_init > 1:
                require_starts(path)
            if overwrite:
                remove_store(path, FORMAT)
                remove_starts(path)
            checkpoint = self._open_checkpoint(path, run, X, blocks, H, W)
            remove_starts(path)
            # The spec of a resumed fit has the seed that the fit began with.
            run.recorder, run.spec, run.state = checkpoint, checkpoint.spec, checkpoint.state
            try:
                with explain_interrupt(path, "overwrite"):
                    yield
            except BaseException:
                checkpoint.discard_uncommitted()
                raise

    def _open_checkpoint(
        self, path: str, run: ModelRun, X: Any, blocks: Blocks, H: Any, W: Any
    ) -> Checkpoint:
        """Open the checkpoint of the same fit, or create one with a first state."""
        keep, any_seed = self.checkpoint_keep, not is_int(self.random_state)
        needed = checkpoint_bytes(blocks, run.spec.n_components, keep, self.max_iter)
        require_space(path, needed - bytes_at(path), "a checkpoint")
        refuse_other_fit(path, run.spec, self.resume_from, any_seed=any_seed)
        run.spec = self._with_fingerprints(run.spec, X, blocks)
        found = resume_checkpoint(path, run.spec, keep, self.resume_from, any_seed=any_seed)
        if found is not None:
            return found
        check_free(path, FORMAT, force=False)
        return create_checkpoint(path, run.spec, self._first_state(run, blocks, H, W), keep)

    def _first_state(self, run: ModelRun, blocks: Blocks, H: Any, W: Any) -> State:
        """Return the state before the first pass: custom, from the previous fit, or warmed up."""
        shape = (run.spec.n_components, blocks.shape[1])
        if self.init == "custom":
            H = check_start(H, W, blocks, shape[0])
            return State.at(*custom_H(blocks, run.objective, H, W, run.spec.seed))
        if H is not None or W is not None:
            warnings.warn(
                "When init!='custom', provided W or H are ignored. Set init='custom' to use them "
                "as initialization.",
                RuntimeWarning,
                stacklevel=5,
            )
        known = getattr(self, "components_", None)
        if self.warm_start and known is not None:
            if known.shape == shape:
                return State.at(known.astype(np.float64))
            warnings.warn(
                f"warm_start finds components of shape {known.shape} where {shape} are asked for: "
                "the fit starts afresh",
                UserWarning,
                stacklevel=5,
            )
        self._warn_about_zeros()
        if self.n_init > 1:
            return self._best_start(run, blocks)
        (started,) = start(blocks, [run], run.spec.seed, self.tol)
        return started.state

    def _best_start(self, run: ModelRun, blocks: Blocks) -> State:
        """Fit from several seeds in the same reads, and return the end with the lowest loss."""
        specs = [replace(run.spec, seed=(run.spec.seed + i) % 2**32) for i in range(self.n_init)]
        runs = [ModelRun(spec, run.objective, in_memory=run.in_memory) for spec in specs]

        def report(progress: Progress) -> None:
            self._report(_lowest(progress.states), run.in_memory)

        n_reads = fit_together(
            blocks,
            runs,
            tol=self.tol,
            max_iter=self.max_iter,
            folder=None if self.checkpoint is None else starts_of(self.checkpoint),
            keep=self.checkpoint_keep,
            on_pass=report,
        )
        best = min(runs, key=lambda run: run.state.losses[-1])
        run.stop_reason = best.stop_reason if run.in_memory else None
        return replace(best.state, n_reads=n_reads)

    def _report(self, state: State, in_memory: bool) -> None:
        if self.verbose:
            report_pass(pass_line(state, self.tol, in_memory))
        if self.on_pass is not None:
            self.on_pass(state)

    def _set_fitted(self, spec: FitSpec, state: State, reason: str | None) -> NMF:
        """Set the attributes of a fitted model."""
        for name in (*OF_A_FIT, "n_steps_"):  # of an earlier fit, or stream
            self.__dict__.pop(name, None)
        self._spec, self._state, self._running = spec, state, None
        self.__dict__.pop("_weight_unit", None)
        self.n_features_in_ = spec.X["shape"][1]
        self.image_shape_ = tuple(spec.X["image_shape"])
        self.components_ = state.H.astype(spec.X["compute_dtype"])
        self.stop_reason_ = reason or "unfinished"
        if state.losses:
            self.loss_history_ = np.array(state.losses)
            self.reconstruction_err_ = state.error
            self.n_iter_ = state.n_iter
            self.n_reads_ = state.n_reads
            self.energy_shares_ = np.array(state.energies) / (sum(state.energies) or 1.0)
        return self


def _lowest(states: Sequence[State]) -> State:
    return min(states, key=lambda state: state.losses[-1] if state.losses else np.inf)
