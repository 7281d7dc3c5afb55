"""`non_negative_factorization`: `NMF` as a function with the signature of scikit-learn's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn import config_context

from dnmf.errors import ParameterError
from dnmf.estimators.inputs import take_mask, validate_images
from dnmf.estimators.nmf import NMF
from dnmf.estimators.parameters import check_factor, require, resolve_count


def non_negative_factorization(
    X: Any,
    W: Any = None,
    H: Any = None,
    n_components: int | str | None = "auto",
    *,
    init: str | None = None,
    update_H: bool = True,
    solver: str = "cd",
    beta_loss: float | str = "frobenius",
    tol: float = 1e-4,
    max_iter: int = 200,
    alpha_W: float = 0.0,
    alpha_H: float | str = "same",
    l1_ratio: float = 0.0,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
    shuffle: bool = False,
) -> tuple[Any, Any, int]:
    """Compute non-negative W and H whose product is close to X.

    This is `NMF` as a function. Its parameters and results are those of
    `sklearn.decomposition.non_negative_factorization`.

    Parameters
    ----------
    X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
        One row per image, numbers >= 0, as in `NMF.fit`.
    W : array of shape (n, d), optional
        With ``init="custom"``, its shape and values are checked. It has no influence.
    H : array of shape (d, p), optional
        Components that ``init="custom"`` starts from. With ``update_H=False``, the components to
        compute W for.
    n_components : int, "auto" or None, default "auto"
        Number of components d. ``"auto"`` means the number of rows of H if H is used, else the
        number of pixels. None always means the number of pixels.
    init
        As in `NMF`.
    update_H : bool, default True
        Whether to fit H. If False, W is computed for the given H, as `NMF.transform` does.
    solver, beta_loss, tol, max_iter, alpha_W, alpha_H, l1_ratio, random_state, verbose, shuffle
        As in `NMF`. As in scikit-learn, losses other than Frobenius need ``solver="mu"`` or
        ``"auto"``, and the default is ``"cd"``.

    Returns
    -------
    W : ndarray or dask.array.Array of shape (n, d)
        Weights. A lazy Dask array if X is outside memory.
    H : ndarray of shape (d, p)
        Components.
    n_iter : int
        Number of full passes over X; 1 with ``update_H=False``.

    Raises
    ------
    DataError, ParameterError (both a ValueError), DtypeError (a TypeError)
        As in `NMF.fit`.

    See Also
    --------
    NMF : The same as an estimator, with more parameters.

    Examples
    --------
    >>> import numpy as np, dnmf
    >>> X = np.random.default_rng(0).random((100, 16))
    >>> W, H, n_iter = dnmf.non_negative_factorization(X, n_components=4, random_state=0)
    >>> W.shape, H.shape
    ((100, 4), (4, 16))
    """
    model = NMF(
        n_components,
        init=init,
        solver=solver,
        beta_loss=beta_loss,
        tol=tol,
        max_iter=max_iter,
        alpha_W=alpha_W,
        alpha_H=alpha_H,
        l1_ratio=l1_ratio,
        random_state=random_state,
        verbose=verbose,
        shuffle=shuffle,
    )
    require(isinstance(update_H, (bool, np.bool_)), "update_H", update_H, "True or False")
    if update_H:
        with config_context(transform_output="default"):  # scikit-learn's function returns arrays
            weights = model.fit_transform(X, W=W, H=H)
        return weights, model.components_, model.n_iter_
    model.check_parameters()
    if W is not None:
        warnings.warn(
            "When update_H=False, the provided initial W is not used.",
            RuntimeWarning,
            stacklevel=2,
        )
    if H is None:
        raise ParameterError("update_H=False needs H, of shape (n_components, pixels)")
    X, mask = take_mask(X, None)
    X = validate_images(model, X, reset=True)
    d = resolve_count(n_components, H, X.shape[1])
    check_factor("H", H, (d, X.shape[1]), X.dtype, fixed=True)
    model.components_ = np.asarray(H)
    with config_context(transform_output="default"):
        return model.transform(X, mask), model.components_, 1
