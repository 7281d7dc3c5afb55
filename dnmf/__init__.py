"""Non-negative matrix factorisation of image corpora larger than memory.

In the order of the data: `ingest` turns images into a corpus, `open_corpus` opens it, `NMF`
factorises it (or any NumPy, Dask or Zarr matrix), `load` opens a saved model, and `dnmf.plot`
draws it. `rank_sweep` compares numbers of components in the reads of one fit, and `load_sweep`
opens a saved sweep. `non_negative_factorization` is `NMF` as a function. `open_weights` opens what
`dnmf transform` wrote. `verify` looks for damage in all of these. Errors are in `dnmf.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dnmf._version import __version__ as __version__

if TYPE_CHECKING:
    from dnmf.errors import DnmfError
    from dnmf.estimators.factorization import non_negative_factorization
    from dnmf.estimators.load import load
    from dnmf.estimators.minibatch import MiniBatchNMF
    from dnmf.estimators.nmf import NMF
    from dnmf.io.ingest import ingest
    from dnmf.io.verify import verify
    from dnmf.model_selection.rank_sweep import load_sweep, rank_sweep
    from dnmf.storage.corpus import Corpus, open_corpus
    from dnmf.storage.weights import open_weights

__all__ = [
    "NMF",
    "Corpus",
    "DnmfError",
    "MiniBatchNMF",
    "ingest",
    "load",
    "load_sweep",
    "non_negative_factorization",
    "open_corpus",
    "open_weights",
    "rank_sweep",
    "verify",
]

_HOMES = {
    "Corpus": "storage.corpus",
    "DnmfError": "errors",
    "MiniBatchNMF": "estimators.minibatch",
    "NMF": "estimators.nmf",
    "ingest": "io.ingest",
    "load": "estimators.load",
    "load_sweep": "model_selection.rank_sweep",
    "non_negative_factorization": "estimators.factorization",
    "open_corpus": "storage.corpus",
    "open_weights": "storage.weights",
    "rank_sweep": "model_selection.rank_sweep",
    "verify": "io.verify",
}

_MODULES = ("data", "errors", "plot")


def __getattr__(name: str) -> Any:
    # scikit-learn, numba, Dask and Zarr take seconds to import, so load only what is used.
    if name in _MODULES:
        return import_module(f"dnmf.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'dnmf' has no attribute {name!r}")
    value = getattr(import_module(f"dnmf.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
