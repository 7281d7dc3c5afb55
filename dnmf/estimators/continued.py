"""Fits that continue the model of fewer images, with all images or with only the new ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dnmf._typing import Array
from dnmf.errors import DataError
from dnmf.estimators.nmf import NMF
from dnmf.storage.corpus import Corpus


def start_of(model: NMF, dtype: Any) -> Array:
    """Return the components of a model as the H that a fit of images of a dtype starts from."""
    H = model._known_components()
    return H.astype(dtype) if dtype.kind == "f" else H


def learn_new_images(model: NMF, corpus: Corpus, mask: Any = None) -> int:
    """Improve a model on the images that were appended to its corpus after its fit.

    Earlier images are not read again; see `NMF.partial_fit`. Afterwards the model belongs to the
    corpus as it is now, so that only images appended later are new to it.

    Parameters
    ----------
    model : NMF
        Model of a fit, or of this function.
    corpus : Corpus
        The corpus with the new images.
    mask : array of shape (n, p), bool, optional
        True where a pixel is to be ignored.

    Returns
    -------
    int
        Number of new images.

    Raises
    ------
    DataError
        If the model does not belong to this corpus before or after an append.
    """
    known = model._spec.X.get("fingerprint", -1)
    n_before = {crc: n for n, crc in corpus.generations}.get(known)
    if n_before is None:
        raise DataError(
            f"the model was fitted neither to {corpus.path} nor to it before images were appended, "
            "so it is unknown which images are new: fit all images, without --new-images"
        )
    n_new: int = len(corpus) - n_before
    if n_new:
        images = corpus.to_dask()[n_before:]
        model.partial_fit(images, mask=None if mask is None else _rows_from(mask, n_before))
    X = {**model._spec.X, "shape": list(corpus.shape), "fingerprint": corpus.fingerprint}
    model._spec = replace(model._spec, X=X)
    return n_new


def _rows_from(mask: Any, start: int) -> Any:
    import dask.array as da

    return (da.from_array(mask) if not hasattr(mask, "__dask_graph__") else mask)[start:]
