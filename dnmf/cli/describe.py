"""Facts about what is at a path, which ``dnmf info`` prints."""

from __future__ import annotations

import os
from typing import Any

from dnmf.errors import CorpusError
from dnmf.io.components import FORMAT as COMPONENTS
from dnmf.model_selection.sweep_store import FORMAT as SWEEP
from dnmf.storage.atomic import format_at, is_absent, read_record
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT as MODEL
from dnmf.storage.corpus import open_corpus
from dnmf.storage.corpus_writer import FORMAT as CORPUS
from dnmf.storage.paths import normalize_path
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
        Facts in JSON types: its kind, numbers of images, blocks and components, sizes in bytes.

    Raises
    ------
    CorpusError
        The path holds none of these.
    """
    location = normalize_path(path)
    kind = format_at(location)
    if kind == CORPUS:
        return _describe_corpus(location)
    if kind == MODEL:
        return _describe_model(location)
    if kind == SWEEP:
        from dnmf.model_selection.rank_sweep import load_sweep

        return {"kind": "sweep", "path": location, **load_sweep(location).as_dict()}
    if kind == WEIGHTS:
        n, d = open_weights(location).shape
        return {"kind": "weights", "path": location, "images": n, "components": d}
    if kind == COMPONENTS:
        record = read_record(location) or {}
        facts = {name: record.get(name) for name in ("components", "image_shape", "file_format")}
        return {"kind": "components", "path": location, **facts}
    if is_absent(location, error=CorpusError):
        raise CorpusError(f"{location}: nothing is there")
    raise CorpusError(
        f"{location} is neither a corpus nor a model of dnmf's; make one with "
        f"`dnmf ingest SOURCE {location}` or `dnmf fit CORPUS {location}`"
    )


def _describe_corpus(path: str) -> dict[str, Any]:
    corpus = open_corpus(path)
    optional = {
        "order": corpus.order,
        "axes": list(corpus.axes),
        "rows": corpus.rows,
        "choices": corpus.choices,
        "columns": corpus.columns,
        "generations": [n for n, _ in corpus.generations] if corpus.generations[1:] else None,
        "rejects": corpus.n_rejects,
        "skipped": corpus.skipped,
    }
    return {
        "kind": "corpus",
        "path": path,
        "images": len(corpus),
        "image_shape": list(corpus.image_shape),
        "dtype": str(corpus.dtype),
        "bytes": corpus.nbytes,
        "stored_bytes": corpus.stored_bytes,
        "codec": corpus.codec,
        "blocks": corpus.n_blocks,
        "block_rows": corpus.block_rows,
        "fingerprint": f"{corpus.fingerprint:08x}",
        **{name: value for name, value in optional.items() if value},
    }


def _describe_model(path: str) -> dict[str, Any]:
    checkpoint = open_checkpoint(path)
    state, spec = checkpoint.state, checkpoint.spec
    # Other losses are no norm, of which an error could be a share.
    squared = spec.parameters["beta_loss"] == "frobenius"
    weights = None if checkpoint.weights_name is None else f"{path}/{checkpoint.weights_name}"
    return {
        "kind": "model",
        "path": path,
        "components": spec.n_components,
        "empty_components": int((~state.H.any(axis=1)).sum()),
        "image_shape": spec.X["image_shape"],
        "images": spec.X["shape"][0] or None,  # None of components that were set by hand
        "loss": spec.parameters["beta_loss"],
        **_penalties(spec.parameters),
        "init": spec.parameters["init"],
        **{name: "yes" for name in ("mask", "sample_weight") if spec.X.get(name) is not None},
        "error": state.error if state.losses else None,
        "relative_error": state.relative_error if state.losses and squared else None,
        "passes": state.n_iter,
        "reads": state.n_reads,
        "stop_reason": checkpoint.stop_reason or "unfinished",
        "seed": spec.seed,
        "weights": weights,
    }


def _penalties(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the penalties; none, where there are no penalties."""
    if not parameters["alpha_W"] and parameters["alpha_H"] in ("same", 0):
        return {}
    return {name: parameters[name] for name in ("alpha_W", "alpha_H", "l1_ratio")}
