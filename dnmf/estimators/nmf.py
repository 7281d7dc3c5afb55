"""The scikit-learn face: `NMF`, and `load` for a saved one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from dnmf.errors import CheckpointError
from dnmf.estimators.base import FittedNMF
from dnmf.estimators.beginning import begin_stream, describe_fit, recorded
from dnmf.estimators.inputs import blocks_of, validated
from dnmf.estimators.parameters import check_parameters, components_of, objective_of, require
from dnmf.numerics.online import OnlineState, update_on_block
from dnmf.numerics.state import MAX_ITER, State
from dnmf.solvers.loop import solve
from dnmf.solvers.memory_model import checkpoint_bytes, require_memory
from dnmf.solvers.plan import Plan, plan_fit
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.checkpoint.prune import KEEP
from dnmf.storage.checkpoint.spec import BOUND, FitSpec

OF_A_FIT = ("loss_history_", "reconstruction_err_", "n_iter_", "n_reads_", "energy_shares_")


class NMF(FittedNMF):
    """Non-negative matrix factorisation ``X ~ W H`` of images, in memory or far larger.

    Minimises a divergence of X from W H, with penalties, over non-negative W and H. W is a function
    of (X, H): each image's weights are a small problem of their own, solved while its block is in
    memory. So one pass over X reads every block once and updates both. H starts from online updates
    on a sample of images; full passes follow, with extrapolation (Ang and Gillis, Neural
    Computation 2019).

    Parameters
    ----------
    n_components : int, "auto" or None, default "auto"
        Number of components d. ``"auto"`` and None take the number of pixels, as scikit-learn does,
        or that of the rows of a custom H.
    init : None, "random", "nndsvd", "nndsvda", "nndsvdar" or "custom", default None
        Where H starts. ``"random"``, and None, draw it as scikit-learn's ``"random"`` does; the
        nndsvd family takes singular vectors, in three reads of X. All these are then warmed up on
        the sample. ``"custom"`` starts from the H given to `fit`, as it is.
    n_init : int, default 1
        Random starts, of the seeds `random_state`, `random_state` + 1 and so on; all are fitted, in
        the reads of one, and the end with the lowest loss is kept.
    solver : "cd" or "mu", default "cd"
        ``"cd"``, coordinate descent (HALS), for the Frobenius loss; ``"mu"``, majorise-minimise
        steps on H, for every loss.
    beta_loss : float or "frobenius", "kullback-leibler", "itakura-saito", default "frobenius"
        Divergence of X from W H; the names are those of beta = 2, 1 and 0. With beta <= 0 no pixel
        may be 0.
    tol : float, default 1e-4
        Stop when a pass lowers the objective by less than this share; 0 runs all `max_iter` passes.
        The larger it is, the sooner ends the warm-up; 0.01 asks for a rough answer.
    max_iter : int, default 200
        Most full passes over X.
    random_state : int, RandomState or None, default None
        With an int, results are the same bits on any number of workers or threads (of one machine
        type and one set of library builds).
    alpha_W, alpha_H : float, default 0.0; alpha_H also "same", its default
        Weight of the penalties on W, scaled by the number of pixels, and on H, scaled by the number
        of images: ``alpha_W p (l1_ratio |W|_1 + (1 - l1_ratio) / 2 ||W||^2)`` and so on.
    l1_ratio : float from 0 to 1, default 0.0
        Share of the l1 norm in the penalties.
    verbose : int, default 0
        Print a line per pass.
    shuffle : bool, default False
        Accepted for scikit-learn's callers; coordinates keep their order, so that bits repeat.
    missing : "error" or "ignore", default "error"
        What NaN pixels are: an error, or missing values that influence nothing.
    warm_start : bool, default False
        Whether `fit` starts from the components of the fit before, where there are any.
    forget_factor : float from 0 to 1, default 0.7
        Share of earlier images' influence that is left after a call of `partial_fit`.
    batch_size : int or None, default None
        Images per update of `partial_fit`, if fewer than it takes by itself: 128 for the Frobenius
        loss (or d / 2, where that is more, and never fewer than that), 64 for others. Small batches
        learn more from each image.
    checkpoint : str, path or None, default None
        Where to keep the state and the weights between passes, as a model that `load` opens. If
        it holds an unfinished fit of the same X and parameters, `fit` goes on where that one was.
    checkpoint_every : int, default 1
        Passes between those that write their weights to the checkpoint; all write their state.
    checkpoint_keep : int, default 2
        Passes that are kept, should storage damage the last, which is also the best.
    resume_from : int or None, default None
        Pass in the checkpoint to go on from, if not the last; those after it are removed.
    on_pass : callable or None, default None
        Called with the `dnmf.numerics.state.State` after each pass, once the checkpoint has it.
        What it raises ends the fit there; the same `fit` again goes on.

    Attributes
    ----------
    components_ : ndarray of shape (d, p)
        H; float64 for float64 pixels, else float32.
    reconstruction_err_ : float
        ``sqrt(2 D)`` without penalties: for the Frobenius loss ``||X - W H||``, for the W of the
        last accepted pass. Images count as their weights say.
    energy_shares_ : ndarray of shape (d,)
        Each component's share of the reconstruction, ``<w_j h_j, Y^(beta - 1)>``; they add up to 1.
        Missing pixels count as the model fills them in for solver "cd", and not at all for "mu".
    loss_history_ : ndarray of shape (n_iter_,)
        Objective, penalties included, of the best H after each pass; never rises.
    n_iter_ : int
        Full passes over X.
    n_reads_ : float
        Reads of X in units of the whole of it: passes, and what the start read.
    n_steps_ : int
        Updates that `partial_fit` has made.
    stop_reason_ : str
        ``"converged"``, ``"max_iter"`` or ``"partial_fit"``.
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

    _running: OnlineState | None

    def __init__(
        self,
        n_components: int | str | None = "auto",
        *,
        init: str | None = None,
        n_init: int = 1,
        solver: str = "cd",
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
    ) -> NMF:
        """Factorise X.

        Parameters
        ----------
        X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
            One row per image. Only an array-like must be in memory; `dnmf.open_corpus` opens a
            corpus.
        y : ignored
        W, H : array of shape (n, d) and (d, p), optional
            Start, for ``init="custom"``. W is checked and no more: it follows from X and H.
        sample_weight : array of shape (n,), optional
            Weight of each image in the loss; 2 does what the image twice in X would. NumPy's,
            Dask's or, best for many millions of images, Zarr's.
        mask : array of shape (n, p), bool, optional
            True where a pixel is to be ignored. NumPy's, Dask's or Zarr's; read in blocks with X.

        Returns
        -------
        self

        Raises
        ------
        DataError (a ValueError)
            A pixel is negative, NaN or infinite, or X is no numeric matrix.
        ParameterError (a ValueError)
            A parameter is out of its range.
        DtypeError (a TypeError)
            W or H does not have the dtype of X.
        CheckpointError
            `checkpoint` belongs to another fit, is damaged, or another process is writing to it.
        SpaceError
            Its disk has not the room.
        CapacityError (a MemoryError)
            A worker, or this process, has less memory than the fit needs; `plan` tells more.
        """
        self.check_parameters()
        X = validated(self, X, reset=True)
        blocks = blocks_of(X, sample_weight, mask, self.rules())
        objective = self.objective(mask)
        fit = describe_fit(self, X, blocks, H)
        require_memory(blocks, objective, fit.n_components)
        with recorded(self, fit, blocks, objective, H, W) as (recorder, state):
            state, reason = solve(
                blocks,
                state,
                objective=objective,
                tol=self.tol,
                max_iter=self.max_iter,
                on_pass=self._report,
                recorder=recorder,
                every=self.checkpoint_every,
            )
        # H of a resumed fit is that of the seed the fit began with.
        fit = recorder.fit if recorder is not None else fit
        if reason == MAX_ITER and self.tol > 0:
            warnings.warn(
                f"Maximum number of iterations {self.max_iter} reached before a pass lowered the "
                f"loss by less than tol={self.tol}. Increase it to improve convergence.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self._set_fitted(fit, state, reason)

    def fit_transform(
        self,
        X: Any,
        y: None = None,
        W: Any = None,
        H: Any = None,
        sample_weight: Any = None,
        mask: Any = None,
    ) -> Any:
        """Factorise X and return its weights, lazy where X is: `fit`, then `transform`."""
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
        """Improve the components on some more images, without looking at earlier ones again.

        Each block of X is taken in batches of `batch_size`, with one update of H after each (see
        `dnmf.numerics.online`), where the block is read; only sums travel from block to block.

        Parameters
        ----------
        X, y, W, H, sample_weight, mask
            As in `fit`; W and H count in the first call only.

        Returns
        -------
        self
        """
        self.check_parameters()
        free = self.checkpoint is None
        require(free, "checkpoint", self.checkpoint, "None for partial_fit; `save` keeps a stream")
        X = validated(self, X, reset=not hasattr(self, "components_"))
        blocks = blocks_of(X, sample_weight, mask, self.rules())
        objective = self.objective(mask)
        fit, running = begin_stream(self, X, blocks, objective, H, W)
        for i in range(len(blocks.ranges)):
            task = partial(
                update_on_block,
                objective=objective,
                running=running,
                forget=self.forget_factor,
                n_rows=blocks.shape[0],
                batch_size=self.batch_size,
            )
            running = blocks.map_sum(task, only=[i])
        self._set_fitted(fit, State.at(running.H), "partial_fit")
        self._running, self.n_steps_ = running, running.n_updates
        return self

    def plan(self, X: Any, mask: Any = None, *, trial: bool = True) -> Plan:
        """Say what `fit` would take of memory and time where it would run; X as in `fit`.

        Parameters
        ----------
        X, mask
            As in `fit`.
        trial : bool, default True
            Whether to run parts of the fit for about ten seconds: without, no times are known.

        Returns
        -------
        dnmf.solvers.plan.Plan
            Its attributes are the figures; `print` shows them.
        """
        self.check_parameters()
        X = validated(NMF(), X, reset=True)  # another, which is thrown away: nothing is fitted
        blocks = blocks_of(X, mask=mask, rules=self.rules())
        objective = objective_of(
            self, blocks.shape[1], mask is not None or self.missing == "ignore"
        )
        d = components_of(self, blocks, None)
        disk = checkpoint_bytes(blocks, d, self.checkpoint_keep, self.max_iter)
        return plan_fit(blocks, objective, d, self.tol, disk, trial=trial)

    def check_parameters(self) -> None:
        """Raise ParameterError (a ValueError) for a parameter out of its range, as `fit` does."""
        check_parameters(self)

    def _report(self, state: State) -> None:
        if self.verbose:
            print(f"pass {state.n_iter}: error {state.error:.6g}")  # noqa: T201 - what verbose is for
        if self.on_pass is not None:
            self.on_pass(state)

    def _set_model(self, fit: FitSpec) -> None:
        self._fit = fit
        self.n_components_ = fit.n_components
        self.n_features_in_ = fit.X["shape"][1]
        self.image_shape_ = tuple(fit.X["image_shape"])

    def _set_fitted(self, fit: FitSpec, state: State, reason: str) -> NMF:
        self._set_model(fit)
        for name in (*OF_A_FIT, "n_steps_"):  # of an earlier fit, or stream
            self.__dict__.pop(name, None)
        self._state, self._running = state, None
        self.components_ = state.H.astype(fit.X["compute_dtype"])
        self.stop_reason_ = reason
        if state.losses:
            self.loss_history_ = np.array(state.losses)
            self.reconstruction_err_ = state.error
            self.n_iter_ = state.n_iter
            self.n_reads_ = state.n_reads
            self.energy_shares_ = np.array(state.energies) / (sum(state.energies) or 1.0)
        return self


def load(path: str | os.PathLike[str]) -> NMF:
    """Open a saved model, or the checkpoint of a fit (finished or not), as a fitted `NMF`.

    A stream of `partial_fit` goes on from its components alone: its sums are not saved.

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
    if not checkpoint.state.losses and checkpoint.stop_reason is None:
        raise CheckpointError(
            f"{checkpoint.path} has no finished pass yet; run its `dnmf fit` again to go on"
        )
    return model_of(checkpoint.fit, checkpoint.state, checkpoint.stop_reason or "unfinished")


def model_of(fit: FitSpec, state: State, reason: str) -> NMF:
    """Make a fitted model of what a fit came to."""
    parameters = {name: fit.parameters[name] for name in BOUND}
    model = NMF(fit.n_components, random_state=fit.seed, **parameters, **fit.settings)
    return model._set_fitted(fit, state, reason)
