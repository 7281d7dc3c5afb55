"""The page of a report: what it shows is gathered here, and `report.html` says where it stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dnmf._access import StorageOptions, remember_options
from dnmf._format import visible
from dnmf._typing import Array
from dnmf._version import __version__
from dnmf.errors import OutputExistsError, ParameterError
from dnmf.plot.model import COMPONENTS_CMAP, error_label, is_squared_error, order_by_share
from dnmf.plot.page import charts, facts, pictures
from dnmf.plot.page.sample import Sample, look_at, reconstruct
from dnmf.storage.atomic import bytes_at, translate_disk_full
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.store import InvalidObjectError, ObjectStore, require_parent

if TYPE_CHECKING:
    from dnmf.estimators.nmf import NMF
    from dnmf.model_selection.rank_sweep import RankSweep
    from dnmf.storage.corpus import Corpus

COMPONENTS, ROWS = 100, 225
"""Largest number of components that are drawn, and that have a row in the table."""

EXAMPLES = 6
"""Number of images that are drawn of the best, and of the worst."""

COMPONENT_BYTES, EXAMPLE_BYTES = 900_000, 250_000
"""Most bytes of the pixels of all components, and of a kind of examples: the page is below 3 MB,
however badly they compress."""

PASSES = 60
"""Largest number of passes in the table of losses; of more, some at even distances."""

BEGINNING = b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
OWN = BEGINNING + b'<meta name="generator" content="dnmf '
"""Beginning of each report, by which dnmf knows the file again."""


def report(
    model: NMF,
    corpus: Corpus | None = None,
    sweep: RankSweep | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
) -> str:
    """Describe a model in one HTML page, which needs no network and no other file.

    Parameters
    ----------
    model : NMF
        Fitted model.
    corpus : Corpus, optional
        Images to look at: up to 2,000 of them, for the weights and for the images that are
        reconstructed best and worst. Without it those parts are left out.
    sweep : RankSweep, optional
        Sweep that the number of components was chosen by.
    path : str or path, optional
        Where the model is, for the lines that load it; by default its `checkpoint`.

    Returns
    -------
    str
        The page, of less than 3 MB.

    Raises
    ------
    DataError (a ValueError)
        The corpus has images of another number of pixels.
    """
    model._known_components()
    if corpus is not None:
        model._require_pixels_of(corpus)
    place = path if path is not None else model.checkpoint
    where = None if place is None else normalize_path(place)
    sample = None if corpus is None else look_at(model, corpus)
    environment = Environment(
        loader=PackageLoader("dnmf", "plot/page"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (files("dnmf") / "plot/page/style.css").read_text(encoding="utf-8")
    versions, are_kept = facts.describe_versions(model)
    return environment.get_template("report.html").render(
        {
            "dnmf": __version__,
            "style": Markup(style),
            "title": "Report" if where is None else os.path.basename(where.rstrip("/")),
            "summary": facts.summarize(model, model._spec.X["shape"][0]),
            "data": facts.describe_data(model, corpus),
            "fit": facts.describe_fit(model),
            "versions": versions,
            "versions_are_kept": are_kept,
            "losses": _losses(model),
            "components": _components(model, sample),
            "has_corpus": corpus is not None,
            "corpus_images": 0 if corpus is None else len(corpus),
            "sample": sample,
            "examples": []
            if corpus is None or sample is None
            else _examples(model, corpus, sample),
            "weights": None if sample is None else _weights(sample),
            "sweep": None if sweep is None else _sweep(sweep),
            "costs": facts.describe_costs(model, corpus, 0 if where is None else bytes_at(where)),
            "code": _code(where, corpus),
            "masked": model._spec.X.get("mask") is not None,
        }
    )


def write_report(
    model: NMF,
    out: str | os.PathLike[str],
    corpus: Corpus | None = None,
    sweep: RankSweep | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    force: bool = False,
    storage_options: StorageOptions = None,
) -> Path | str:
    """Write the page of `report` to a file.

    Parameters
    ----------
    model, corpus, sweep, path
        As in `report`.
    out : str or path
        The file, whose name ends with ``.html``, or its URL.
    force : bool, default False
        Replace a report that dnmf wrote there before.
    storage_options : dict, optional
        Options of the file system behind a URL, as of `dnmf.open_corpus`.

    Returns
    -------
    Path, or str for a URL
        The file.

    Raises
    ------
    OutputExistsError
        Something is at `out`, or the folder above it is not there.
    ParameterError
        The name of the file does not end with ``.html``.
    """
    remember_options(storage_options, out)
    target = require_free_page(out, force=force)
    content = report(model, corpus, sweep, path=path).encode()
    folder, name = os.path.split(target)
    with translate_disk_full(target, "the report"):
        ObjectStore(folder).set(name, content)
    return target if is_url(target) else Path(target)


def require_free_page(out: str | os.PathLike[str], *, force: bool) -> str:
    """Return the path of a page, or its URL; raise as `write_report` does if it is not free."""
    target = normalize_path(out)
    if not target.endswith(".html"):
        raise ParameterError(f"out is {target}; a report is an HTML file: give NAME.html")
    require_parent(target)
    folder, name = os.path.split(target)
    try:
        content = ObjectStore(folder).get(name, 2**26)
    except FileNotFoundError:
        return target
    except InvalidObjectError:
        content = b""
    if not content.startswith(OWN):
        raise OutputExistsError(
            f"{target} exists, and is no report that dnmf wrote: choose another path"
        )
    if not force:
        raise OutputExistsError(f"{target} already exists; choose another path or pass --force")
    return target


def _finalize(value: Any) -> Any:
    """Make characters visible that a person would not see, in all that is not markup."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _losses(model: NMF) -> dict[str, Any] | None:
    """Gather the charts and the table of losses; None if the model has none."""
    if not hasattr(model, "loss_history_"):
        return None
    state, errors = model._state, np.sqrt(2 * model.loss_history_)
    label = error_label(model).replace("  ", " ")
    start = max(0.0, state.n_reads - state.n_iter)
    reads = start + np.arange(1, len(errors) + 1)
    curves = [charts.loss_chart(reads, errors, start, "reads", "loss-reads", label)]
    seconds = np.full(len(errors), np.nan)
    if facts.has_seconds(model):
        seconds = np.cumsum(state.seconds)[1:]
        first = state.seconds[0]
        curves.append(charts.loss_chart(seconds, errors, first, "seconds", "loss-seconds", label))
    shown = np.unique(np.linspace(0, len(errors) - 1, PASSES).astype(int))
    rows = [(i + 1, f"{errors[i]:.8g}", f"{reads[i]:.4g}", f"{seconds[i]:.3g}") for i in shown]
    return {"charts": curves, "rows": rows, "has_seconds": len(curves) > 1, "label": label}


def _components(model: NMF, sample: Sample | None) -> dict[str, Any]:
    order, shares = order_by_share(model)
    rows = list(facts.describe_components(model, shares, sample))
    drawn = order[:COMPONENTS]
    H = model.components_[drawn]
    tops = H.max(axis=1, keepdims=True)
    images = pictures.draw(H / np.where(tops > 0, tops, 1), model, COMPONENT_BYTES, COMPONENTS_CMAP)
    listed = order[:ROWS]
    rest = 0.0 if shares is None else float(shares[order[ROWS:]].sum())
    return {
        "drawn": [
            (int(j), rows[j]["share"], image) for j, image in zip(drawn, images, strict=True)
        ],
        "rows": [(int(j), rows[j]) for j in listed],
        "count": len(order),
        "rest": f"{rest:.1%}" if len(order) > ROWS else "",
        "has_shares": shares is not None,
        "whole": "reconstruction's energy" if is_squared_error(model) else "reconstruction",
    }


def _examples(model: NMF, corpus: Corpus | None, sample: Sample | None) -> list[dict[str, Any]]:
    """Gather the images that are reconstructed best and worst."""
    if corpus is None or sample is None:
        return []
    groups = {"Best": sample.best(EXAMPLES), "Worst": sample.worst(EXAMPLES)}
    return [
        {"title": title, "images": list(_draw_examples(model, corpus, sample, chosen))}
        for title, chosen in groups.items()
        if len(chosen)
    ]


def _draw_examples(
    model: NMF, corpus: Corpus, sample: Sample, chosen: Array
) -> Iterator[dict[str, Any]]:
    originals, reconstructed = reconstruct(model, corpus, sample, chosen)
    tops = np.nan_to_num(originals).max(axis=1, keepdims=True)
    residuals = (originals - reconstructed) / tops
    most = np.nan_to_num(np.abs(residuals)).max(axis=1, keepdims=True)
    most = np.where(most > 0, most, 1)
    kinds = (
        pictures.draw(originals / tops, model, EXAMPLE_BYTES // 2),
        pictures.draw(reconstructed / tops, model, EXAMPLE_BYTES // 2),
        pictures.draw(0.5 + residuals / (2 * most), model, EXAMPLE_BYTES // 2, "RdBu_r"),
    )
    for place, (i, *drawn) in enumerate(zip(chosen, *kinds, strict=True)):
        row = int(sample.rows[i])
        yield {
            "row": row,
            "id": corpus.id_of(row),
            "error": f"{sample.errors[i]:.1%}",
            "pictures": drawn,
            "most": f"{float(most[place, 0]):.0%}",
        }


def _weights(sample: Sample) -> dict[str, Any]:
    """Gather histograms of the weights of the images that were looked at, and their sparsity."""
    W = sample.W
    tops = W.max(axis=1, keepdims=True)
    relative = W / np.where(tops > 0, tops, 1)
    used = (relative > 0.01).sum(axis=1)
    zeros = float(np.mean(W == 0))
    positive = relative[(relative > 0) & (relative < 1)]
    text = (
        f"{zeros:.0%} of the weights are zero; the histogram is of the others, without the largest "
        "of each image."
    )
    strengths = charts.histogram(
        positive,
        np.linspace(0, 1, 41),
        "weights",
        ("share of the image's largest", "weights"),
        text,
    )
    text = (
        f"An image has from {used.min()} to {used.max()} components, {used.mean():.1f} on average."
    )
    most = int(used.max())
    bins = np.arange(0, most + 2, max(1, most // 40)) - 0.5
    counts = charts.histogram(used, bins, "used", ("components of an image", "images"), text)
    return {
        "zeros": f"{zeros:.1%}",
        "mean_used": f"{used.mean():.1f}",
        "errors": [f"{q:.1%}" for q in np.percentile(sample.errors, (5, 50, 95))],
        "charts": [strengths, counts],
    }


def _sweep(sweep: RankSweep) -> dict[str, Any]:
    curves = [charts.sweep_errors(sweep), charts.sweep_stability(sweep)]
    names = ("n_components", "error_per_cell", "held_out_error", "stability", "least_stable")
    rows = [
        ["—" if row[name] is None else f"{row[name]:.4g}" for name in names] for row in sweep.table
    ]
    return {
        "charts": [curve for curve in curves if curve is not None],
        "rows": rows,
        "best": str(sweep.best_n_components_),
        "reason": sweep.reason_,
    }


def _code(where: str | None, corpus: Corpus | None) -> list[str]:
    """Write the lines that load the model and use it, for Python."""
    model = '"MODEL"' if where is None else ascii(where)
    images = '"CORPUS"' if corpus is None else ascii(corpus.path)
    return [
        "import dnmf",
        f"model = dnmf.load({model})",
        f"W = model.transform(dnmf.open_corpus({images}))",
    ]
