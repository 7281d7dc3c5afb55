"""The estimator `MiniBatchNMF`: `NMF` with the parameters of scikit-learn's `MiniBatchNMF`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from dnmf._access import StorageOptions, remember_options
from dnmf.estimators.nmf import NMF
from dnmf.estimators.parameters import is_int, require
from dnmf.numerics.state import State
from dnmf.storage.checkpoint.commit import KEEP


class MiniBatchNMF(NMF):
    """`NMF` with the parameters of `sklearn.decomposition.MiniBatchNMF`.

    `NMF` uses mini-batches in its warm start and in `partial_fit`. This class differs from it only
    in the names and defaults of parameters, and in `n_steps_`.

    Parameters
    ----------
    n_components, init
        As in `NMF`.
    batch_size : int, default 1024
        Largest number of images per update of `partial_fit`; see `NMF`.
    beta_loss, tol
        As in `NMF`.
    max_no_improvement : int or None, default 10
        Checked, but without effect: a fit ends when a pass lowers the loss little.
    max_iter, alpha_W, alpha_H, l1_ratio, forget_factor
        As in `NMF`.
    fresh_restarts : bool, default False
        Checked, but without effect: weights are always computed from the start.
    fresh_restarts_max_iter : int, default 30
        Checked, but without effect, like `fresh_restarts`.
    transform_max_iter : int or None, default None
        Checked, but without effect: the weights of an image are improved until its loss falls
        little.
    random_state, verbose, missing, warm_start
        As in `NMF`.
    checkpoint, checkpoint_every, checkpoint_keep, resume_from, on_pass
        As in `NMF`.

    Attributes
    ----------
    n_steps_ : int
        Number of mini-batches of `batch_size` images in all passes, plus the number of updates that
        `partial_fit` has made.
    components_, reconstruction_err_, energy_shares_, loss_history_
        As in `NMF`.
    n_iter_, n_reads_, stop_reason_, n_features_in_, image_shape_
        As in `NMF`.

    See Also
    --------
    NMF : The same with the parameters of scikit-learn's `NMF`, and more.

    Examples
    --------
    >>> import numpy as np, dnmf
    >>> X = np.random.default_rng(0).random((100, 16))
    >>> model = dnmf.MiniBatchNMF(n_components=4, random_state=0).partial_fit(X)
    >>> model.partial_fit(X).components_.shape
    (4, 16)
    """

    solver, shuffle, n_init = "auto", False, 1

    def __init__(
        self,
        n_components: int | str | None = "auto",
        *,
        init: str | None = None,
        batch_size: int = 1024,
        beta_loss: float | str = "frobenius",
        tol: float = 1e-4,
        max_no_improvement: int | None = 10,
        max_iter: int = 200,
        alpha_W: float = 0.0,
        alpha_H: float | str = "same",
        l1_ratio: float = 0.0,
        forget_factor: float = 0.7,
        fresh_restarts: bool = False,
        fresh_restarts_max_iter: int = 30,
        transform_max_iter: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        missing: str = "error",
        warm_start: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        checkpoint_keep: int = KEEP,
        resume_from: int | None = None,
        on_pass: Callable[[State], None] | None = None,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.batch_size = batch_size
        self.beta_loss = beta_loss
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.max_iter = max_iter
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.forget_factor = forget_factor
        self.fresh_restarts = fresh_restarts
        self.fresh_restarts_max_iter = fresh_restarts_max_iter
        self.transform_max_iter = transform_max_iter
        self.random_state = random_state
        self.verbose = verbose
        self.missing = missing
        self.warm_start = warm_start
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
    ) -> MiniBatchNMF:
        """Factorise X as `NMF.fit` does, and set `n_steps_`.

        Parameters
        ----------
        X, y, W, H, sample_weight, mask, overwrite, storage_options
            As in `NMF.fit`.

        Returns
        -------
        MiniBatchNMF
            The fitted model itself.
        """
        remember_options(storage_options, self.checkpoint)
        super().fit(X, y, W, H, sample_weight, mask, overwrite=overwrite)
        self.n_steps_ = self.n_iter_ * math.ceil(self._spec.X["shape"][0] / self.batch_size)
        return self

    def check_parameters(self) -> None:
        """Raise ParameterError (a ValueError) if a parameter is out of its range, as `fit` does."""
        super().check_parameters()
        for name, may_be_none in (
            ("max_no_improvement", True),
            ("fresh_restarts_max_iter", False),
            ("transform_max_iter", True),
        ):
            value = getattr(self, name)
            valid = (is_int(value) and value >= 1) or (value is None and may_be_none)
            require(valid, name, value, "an int >= 1" + " or None" * may_be_none)
        restarts = self.fresh_restarts
        require(isinstance(restarts, bool), "fresh_restarts", restarts, "True or False")
