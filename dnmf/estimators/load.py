"""Open saved models."""

from __future__ import annotations

import os

import numpy as np

from dnmf._access import StorageOptions, remember_options
from dnmf.errors import CheckpointError
from dnmf.estimators.nmf import NMF
from dnmf.numerics.state import State
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.checkpoint.spec import PARAMETERS, FitSpec


def load(path: str | os.PathLike[str], *, storage_options: StorageOptions = None) -> NMF:
    """Open a saved model, or the checkpoint of a fit (finished or not), as a fitted `NMF`.

    The sums of `partial_fit` are not saved: a further call continues from the components alone.

    Parameters
    ----------
    path : str or path
        Folder or URL of the model.
    storage_options : dict, optional
        Options of the file systems behind URLs, as in `dnmf.open_corpus`.

    Returns
    -------
    NMF
        The fitted model.

    Raises
    ------
    CheckpointError
        If there is no model, it is damaged, or no pass is finished yet.

    See Also
    --------
    NMF : Its method `save`, and its parameter `checkpoint`, write models.

    Examples
    --------
    >>> import numpy as np, dnmf
    >>> X = np.random.default_rng(0).random((100, 16))
    >>> dnmf.NMF(n_components=4).fit(X).save("faces.model")  # doctest: +SKIP
    >>> dnmf.load("faces.model").components_.shape  # doctest: +SKIP
    (4, 16)
    """
    remember_options(storage_options, path)
    checkpoint = open_checkpoint(path)
    if not checkpoint.state.losses and checkpoint.stop_reason is None:
        raise CheckpointError(
            f"{checkpoint.path} has no finished pass yet; run its `dnmf fit` again to continue"
        )
    return fitted_model(checkpoint.spec, checkpoint.state, checkpoint.stop_reason)


def fitted_model(spec: FitSpec, state: State, stop_reason: str | None) -> NMF:
    """Return the fitted `NMF` with a spec, a state and a reason to stop."""
    parameters = {name: spec.parameters[name] for name in PARAMETERS}
    model = NMF(spec.n_components, random_state=spec.seed, **parameters, **spec.settings)
    model._set_fitted(spec, state, stop_reason)
    if spec.feature_names is not None:
        model.feature_names_in_ = np.array(spec.feature_names, dtype=object)
    return model
