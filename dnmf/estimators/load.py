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

    A stream of `partial_fit` goes on from its components alone: its sums are not saved.

    Parameters
    ----------
    path : str or path
    storage_options : dict, optional
        Options of the file systems behind URLs, as of `dnmf.open_corpus`.

    Returns
    -------
    NMF

    Raises
    ------
    CheckpointError
        There is no model, it is damaged, or it has no pass behind it yet.
    """
    remember_options(storage_options, path)
    checkpoint = open_checkpoint(path)
    if not checkpoint.state.losses and checkpoint.stop_reason is None:
        raise CheckpointError(
            f"{checkpoint.path} has no finished pass yet; run its `dnmf fit` again to go on"
        )
    return fitted_model(checkpoint.spec, checkpoint.state, checkpoint.stop_reason)


def fitted_model(spec: FitSpec, state: State, stop_reason: str | None) -> NMF:
    """Return the fitted model of a fit that was specified so and came to a state."""
    parameters = {name: spec.parameters[name] for name in PARAMETERS}
    model = NMF(spec.n_components, random_state=spec.seed, **parameters, **spec.settings)
    model._set_fitted(spec, state, stop_reason)
    if spec.feature_names is not None:
        model.feature_names_in_ = np.array(spec.feature_names, dtype=object)
    return model
