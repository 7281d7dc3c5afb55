"""What a report says in words and tables: of the model, its fit, its components and its costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._format import format_bytes, format_duration, format_shape
from dnmf.plot.model import is_squared_error
from dnmf.plot.style import count_components
from dnmf.storage.checkpoint.spec import library_versions

if TYPE_CHECKING:
    from dnmf._typing import Array
    from dnmf.estimators.nmf import NMF
    from dnmf.plot.page.sample import Sample
    from dnmf.storage.corpus import Corpus

Facts = list[tuple[str, Any]]

ENDS = {
    "converged": "converged",
    "max_iter": "stopped at the largest number of passes",
    "partial_fit": "learnt from a stream of images",
    "edited": "were edited after their fit",
}
"""What the reasons to stop mean, in a sentence about a fit."""

NAMES = {
    "python": "Python",
    "numpy": "NumPy",
    "scipy": "SciPy",
    "dask": "Dask",
    "zarr": "Zarr",
    "blas": "BLAS",
    "machine": "Machine",
}
"""How to write what has a version; others by the name of their package."""


def summarize(model: NMF, images: int) -> str:
    """Say in a sentence what the model is and how good it is."""
    what = f"{count_components(model.n_components_)} of {describe_shape(model.image_shape_)}"
    of = f", fitted to {images:,} images" if images else ""
    if not hasattr(model, "loss_history_"):
        end = ENDS.get(model.stop_reason_, "are unfinished")
        return f"{what}{of}, which {end}: no error of theirs is known."
    state = model._state
    good = f"an error of {state.error:.6g}"
    if is_squared_error(model) and state.xx:
        good = f"a relative error of {state.relative_error:.1%}"
    passes = f"{model.n_iter_} pass{'es' * (model.n_iter_ != 1)}"
    took = f", in {format_duration(sum(state.seconds))}" if has_seconds(model) else ""
    end = ENDS.get(model.stop_reason_, "unfinished")
    return f"{what}{of}, with {good} after {passes}{took}: {end}."


def has_seconds(model: NMF) -> bool:
    """Check whether the model has the time of its start and of each of its passes."""
    return len(model._state.seconds) == model._state.n_iter + 1 > 1


def describe_shape(shape: Sequence[int]) -> str:
    """Say what images of a shape are, such as ``28 x 28 pixels``."""
    if len(shape) == 1:
        return f"{shape[0]:,} values"
    colors = f" in {shape[2]} channels" if len(shape) == 3 else ""
    return f"{format_shape(shape[:2])} pixels{colors}"


def describe_data(model: NMF, corpus: Corpus | None) -> Facts:
    """List what the model was fitted on, and what is known of the corpus that is given."""
    X = model._spec.X
    n, p = X["shape"]
    facts: Facts = [
        ("Images", f"{n:,}" if n else "not known"),
        ("Image", describe_shape(X["image_shape"])),
        ("Numbers", f"{n * p:,} of {X['dtype']}, computed in {X['compute_dtype']}"),
        ("Images in a block", f"{X['block_rows']:,}"),
    ]
    if X.get("mask") is not None:
        facts.append(("Mask", "some pixels were masked; the mask is not in the model"))
    if X.get("sample_weight") is not None:
        facts.append(("Weights of images", "given"))
    fingerprint = X.get("fingerprint")
    if fingerprint is not None:
        facts.append(("Fingerprint", f"{fingerprint:08x}"))
    return [*facts, *_describe_corpus(corpus, fingerprint)] if corpus is not None else facts


def _describe_corpus(corpus: Corpus, fingerprint: int | None) -> Iterator[tuple[str, Any]]:
    same = "the same images" if corpus.fingerprint == fingerprint else "other images than the fit's"
    yield "Corpus given", f"{corpus.path} ({same})"
    yield "It holds", f"{len(corpus):,} images, {format_bytes(corpus.nbytes)}"
    yield "Stored as", f"{format_bytes(corpus.stored_bytes)}, {corpus.codec}"
    yield "First id", corpus.id_of(0)
    yield "Last id", corpus.id_of(len(corpus) - 1)
    for name, value in corpus.choices.items():
        yield f"Ingested with {name}", str(value)


def describe_fit(model: NMF) -> Facts:
    """List the parameters of the fit."""
    spec = model._spec
    parameters = {**spec.parameters, **spec.settings}
    facts = [("Components", f"{spec.n_components:,}"), ("Loss", str(parameters["beta_loss"]))]
    said = {
        "Solver": "solver",
        "Start": "init",
        "Starts tried": "n_init",
        "Penalty on W": "alpha_W",
        "Penalty on H": "alpha_H",
        "l1 ratio": "l1_ratio",
        "Missing pixels": "missing",
        "Tolerance": "tol",
        "Passes at most": "max_iter",
    }
    facts += [(name, str(parameters[key])) for name, key in said.items() if key in parameters]
    return [*facts, ("Seed", str(spec.seed))]


def describe_versions(model: NMF) -> tuple[Facts, bool]:
    """List versions, and say whether they are those of the fit, or only those of now."""
    kept = model._spec.versions
    versions = kept or library_versions()
    return [(NAMES.get(name, name), version) for name, version in versions.items()], bool(kept)


def describe_costs(model: NMF, corpus: Corpus | None, disk: int) -> list[tuple[str, str, str]]:
    """List what the fit took, and what the plan of a fit like it says here.

    Parameters
    ----------
    model : NMF
    corpus : Corpus, optional
        Images to plan for.
    disk : int
        Bytes of the model on its disk; 0 if they are not known.

    Returns
    -------
    list of (str, str, str)
        What it is, how much was used, and how much is planned.
    """
    state, X = model._state, model._spec.X
    plan = None if corpus is None else model.plan(corpus, trial=False)
    unknown = "not kept in the model"
    start = max(0.0, state.n_reads - state.n_iter)
    used = f"{state.n_reads:.3g}: {start:.2g} for the start, {state.n_iter} passes"
    most = f"{plan.reads:.2g} for the start, at most {model.max_iter} passes" if plan else ""
    costs = [("Reads of all images", used if state.losses else unknown, most)]
    if state.losses:
        n_bytes = state.n_reads * X["shape"][0] * X["shape"][1] * np.dtype(X["dtype"]).itemsize
        each = f"{format_bytes(plan.bytes_per_pass)} a pass, as computed" if plan else ""
        costs.append(("Pixels read", format_bytes(n_bytes), each))
    costs += _times(model)
    driver = format_bytes(plan.driver_memory) if plan else ""
    held = format_bytes(state.memory) if state.memory else unknown
    costs.append(("Memory of the process that drives the fit", held, driver))
    if plan and plan.workers:
        costs.append(("Memory of a worker", "not measured", format_bytes(plan.worker_memory)))
    bound = f"{format_bytes(plan.checkpoint_bytes)} at most" if plan else ""
    return [*costs, ("Size on disk", format_bytes(disk) if disk else "not on this disk", bound)]


def _times(model: NMF) -> Iterator[tuple[str, str, str]]:
    if not has_seconds(model):
        yield "Time", "not kept in the model", ""
        return
    start, *passes = model._state.seconds
    mean = float(np.mean(passes))
    rate = model._spec.X["shape"][0] / max(mean, 1e-9)
    yield "Time of the start", format_duration(start), ""
    yield "Time of the passes", f"{format_duration(sum(passes))}, {format_duration(mean)} each", ""
    yield "Images in a second of a pass", f"{rate:,.0f}", ""


def describe_components(
    model: NMF, shares: Array | None, sample: Sample | None
) -> Iterator[dict[str, str]]:
    """Give the row of each component in the table, by its number.

    Parameters
    ----------
    model : NMF
    shares : ndarray of shape (d,), or None
    sample : Sample, optional
    """
    H = model.components_
    for j in range(len(H)):
        row = {"zeros": f"{np.mean(H[j] == 0):.0%}", "share": ""}
        if shares is not None:
            row["share"] = f"{shares[j]:.2%}"
        if sample is not None:
            weights = sample.W[:, j]
            row["used"] = f"{np.mean(weights > 0):.0%}"
        yield row
