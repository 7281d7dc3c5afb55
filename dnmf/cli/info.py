"""What a path holds, as facts that `dnmf info` prints."""

from __future__ import annotations

import os
from typing import Any

from dnmf.errors import CorpusError
from dnmf.model_selection.sweep_store import FORMAT as SWEEP
from dnmf.storage.atomic import is_absent, read_record
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT as MODEL
from dnmf.storage.corpus import open_corpus
from dnmf.storage.corpus_writer import FORMAT as CORPUS
from dnmf.storage.weights import FORMAT as WEIGHTS
from dnmf.storage.weights import open_weights


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe a corpus, a model, a sweep, or weights.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict
        Sizes in images, pixels and bytes; JSON types only.

    Raises
    ------
    CorpusError
        The path holds neither.
    """
    location = os.fspath(path)
    record = read_record(location) or {}
    if record.get("format") == CORPUS:
        return _corpus(location)
    if record.get("format") == MODEL:
        return _model(location)
    if record.get("format") == SWEEP:
        from dnmf.model_selection.rank_sweep import load_sweep

        return {"kind": "sweep", "path": location, **load_sweep(location).as_dict()}
    if record.get("format") == WEIGHTS:
        n, d = open_weights(location).shape
        return {"kind": "weights", "path": location, "images": n, "components": d}
    if is_absent(location):
        raise CorpusError(f"{location}: nothing is there")
    raise CorpusError(
        f"{location} is neither a corpus nor a model of dnmf's; make one with "
        f"`dnmf ingest SOURCE {location}` or `dnmf fit CORPUS {location}`"
    )


def _corpus(path: str) -> dict[str, Any]:
    corpus = open_corpus(path)
    return {
        "kind": "corpus",
        "path": path,
        "images": len(corpus),
        "image_shape": list(corpus.image_shape),
        "dtype": str(corpus.dtype),
        "bytes": corpus.nbytes,
        "stored_bytes": corpus.stored_bytes,
        "blocks": corpus.n_blocks,
        "block_rows": corpus.block_rows,
        "fingerprint": f"{corpus.fingerprint:08x}",
    }


def _model(path: str) -> dict[str, Any]:
    checkpoint = open_checkpoint(path)
    state, fit = checkpoint.state, checkpoint.fit
    squared = fit.parameters["beta_loss"] == "frobenius"  # else no share of a norm means anything
    weights = None if checkpoint.weights_name is None else f"{path}/{checkpoint.weights_name}"
    return {
        "kind": "model",
        "path": path,
        "components": fit.n_components,
        "empty_components": int((~state.H.any(axis=1)).sum()),
        "image_shape": fit.X["image_shape"],
        "images": fit.X["shape"][0],
        "loss": fit.parameters["beta_loss"],
        **{name: fit.parameters[name] for name in _penalties(fit.parameters)},
        "init": fit.parameters["init"],
        **{name: "yes" for name in ("mask", "sample_weight") if fit.X.get(name) is not None},
        "error": state.error if state.losses else None,
        "relative_error": state.relative_error if state.losses and squared else None,
        "passes": state.n_iter,
        "reads": state.n_reads,
        "stop_reason": checkpoint.stop_reason or "unfinished",
        "seed": fit.seed,
        "weights": weights,
    }


def _penalties(parameters: dict[str, Any]) -> tuple[str, ...]:
    none = not parameters["alpha_W"] and parameters["alpha_H"] in ("same", 0)
    return () if none else ("alpha_W", "alpha_H", "l1_ratio")
