"""Checks of parameters and of how X is cut, in the words of the estimator's errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from dnmf.blockwise import Blocks
from dnmf.corpus import Corpus
from dnmf.errors import DataError, ParameterError


def require_even_blocks(blocks: Blocks) -> None:
    """Refuse blocks that cannot be the chunks of a Zarr array of weights."""
    rows = [stop - start for start, stop in blocks.ranges]
    if len({*rows[:-1]}) > 1 or rows[-1] > rows[0]:
        raise DataError(
            f"X has chunks of {min(rows)} to {max(rows)} rows; weights in a checkpoint need even "
            f"ones: use X.rechunk({{0: {max(rows)}}})"
        )


def require_same_pixels(model: Any, corpus: Corpus) -> None:
    """Refuse a corpus whose images have another number of pixels than the model's."""
    if corpus.shape[1] != model.n_features_in_:
        raise DataError(
            f"{corpus.path} has images of {corpus.shape[1]} pixels, but the model was fitted on "
            f"{model.n_features_in_}: ingest the images at the model's size "
            f"({' x '.join(map(str, model.image_shape_))})"
        )


def seed_of(random_state: Any) -> int:
    """Reduce scikit-learn's random_state to an integer."""
    if is_int(random_state):
        allowed = "an int from 0 to 2**32 - 1, a RandomState or None"
        require(0 <= random_state < 2**32, "random_state", random_state, allowed)
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def is_int(value: Any) -> bool:
    """Tell integers, NumPy's too, from booleans and the rest."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Tell real numbers from the rest."""
    return is_int(value) or isinstance(value, (float, np.floating))


def require(valid: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ParameterError unless a parameter is valid."""
    if not valid:
        raise ParameterError(f"{name} is {value!r}; it must be {allowed}")
