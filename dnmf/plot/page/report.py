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
from dnmf.model_selection.sweep_store import FORMAT as SWEEP
from dnmf.plot.model import COMPONENTS_CMAP, error_label, is_squared_error, order_by_share
from dnmf.plot.page.charts import histogram, loss_chart, sweep_errors, sweep_stability
from dnmf.plot.page.facts import (
    describe_components,
    describe_costs,
    describe_data,
    describe_fit,
    describe_versions,
    has_seconds,
    summarize,
)
from dnmf.plot.page.pictures import draw, is_drawn_as_curve
from dnmf.plot.page.sample import Sample, look_at, reconstruct
from dnmf.storage.atomic import bytes_at, format_at, translate_disk_full
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
        Images of which up to 2,000 are read, to show weights and the images that are reconstructed
        best and worst. Without it those parts are left out.
    sweep : RankSweep, optional
        Sweep that the number of components was chosen by.
    path : str or path, optional
        Path of the model, for the lines that load it. The default is its `checkpoint`.

    Returns
    -------
    str
        The HTML of the page, less than 3 MB.

    Raises
    ------
    DataError (a ValueError)
        If the corpus has images of another number of pixels.
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
    versions, are_kept = describe_versions(model)
    return environment.get_template("report.html").render(
        {
            "dnmf": __version__,
            "style": Markup(style),
            "title": "Report" if where is None else os.path.basename(where.rstrip("/")),
            "summary": summarize(model, model._spec.X["shape"][0]),
            "data": describe_data(model, corpus),
            "fit": describe_fit(model),
            "versions": versions,
            "versions_are_kept": are_kept,
            "losses": _losses(model),
            "components": _components(model, corpus, sample),
            "has_corpus": corpus is not None,
            "corpus_images": 0 if corpus is None else len(corpus),
            "sample": sample,
            "examples": []
            if corpus is None or sample is None
            else _examples(model, corpus, sample),
            "weights": None if sample is None else _weights(sample),
            "sweep": None if sweep is None else _sweep(sweep),
            "costs": describe_costs(model, corpus, 0 if where is None else bytes_at(where)),
            "code": _code(where, corpus),
            "residuals": _residuals_in_words(model),
            "of_a_sweep": "hidden" in model._spec.parameters,
            "missing": model.missing == "ignore",
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
    model
        As in `report`.
    out : str or path
        The file or its URL; the name ends with ``.html``.
    corpus, sweep, path
        As in `report`.
    force : bool, default False
        Replace a report that dnmf wrote at `out`.
    storage_options : dict, optional
        Options of the file system behind a URL, as in `dnmf.open_corpus`.

    Returns
    -------
    Path, or str for a URL
        The file.

    Raises
    ------
    OutputExistsError
        If something is at `out`, or the folder above it does not exist.
    ParameterError
        If the name of the file does not end with ``.html``.
    """
    remember_options(storage_options, out)
    target = require_free_page(out, force=force)
    content = report(model, corpus, sweep, path=path).encode()
    folder, name = _split(target)
    with translate_disk_full(target, "the report"):
        ObjectStore(folder).set(name, content)
    return target if is_url(target) else Path(target)


def require_free_page(out: str | os.PathLike[str], *, force: bool) -> str:
    """Return the path of a page, or its URL; raise as `write_report` does if it is not free."""
    target = normalize_path(out)
    if not target.endswith(".html"):
        raise ParameterError(f"out is {target}; a report is an HTML file: give NAME.html")
    folder, name = _split(target)
    if is_url(target) and not is_url(folder):
        raise ParameterError(
            f"out is {target}; give a file in a bucket, like s3://bucket/NAME.html"
        )
    require_parent(target)
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


def _split(target: str) -> tuple[str, str]:
    """Return the folder of a file, and its name."""
    folder, name = os.path.split(target)
    return folder or ".", name


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
    curves = [loss_chart(reads, errors, start, "reads", "loss-reads", label)]
    seconds = np.full(len(errors), np.nan)
    if has_seconds(model):
        seconds = np.cumsum(state.seconds)[1:]
        first = state.seconds[0]
        curves.append(loss_chart(seconds, errors, first, "seconds", "loss-seconds", label))
    shown = np.unique(np.linspace(0, len(errors) - 1, PASSES).astype(int))
    rows = [(i + 1, f"{errors[i]:.8g}", f"{reads[i]:.4g}", f"{seconds[i]:.3g}") for i in shown]
    return {"charts": curves, "rows": rows, "has_seconds": len(curves) > 1, "label": label}


def _components(model: NMF, corpus: Corpus | None, sample: Sample | None) -> dict[str, Any]:
    order, shares = order_by_share(model)
    rows = list(describe_components(model, shares, sample))
    drawn = order[:COMPONENTS]
    H = model.components_[drawn]
    tops = H.max(axis=1, keepdims=True)
    images = draw(H / np.where(tops > 0, tops, 1), model, COMPONENT_BYTES, COMPONENTS_CMAP)
    listed = order[:ROWS]
    if corpus is not None and sample is not None:
        for row, strongest in zip(rows, _strongest(corpus, sample), strict=True):
            row["strongest"] = strongest
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


def _strongest(corpus: Corpus, sample: Sample) -> list[str]:
    """Return row and id of the image of the sample that has most of each component."""
    strongest = sample.rows[sample.W.argmax(axis=0)].tolist()
    size = corpus.block_rows
    ids = {block: corpus.block_ids(block) for block in {row // size for row in strongest}}
    return [f"{row}, {ids[row // size][row % size]}" for row in strongest]


def _residuals_in_words(model: NMF) -> str:
    if is_drawn_as_curve(model):
        return "Residuals are drawn around the middle of their height"
    if model.image_shape_[2:] == (3,):
        return "Residuals are drawn around grey: brighter is what the reconstruction lacks"
    return "In residuals, red is what the reconstruction lacks and blue what it has too much"


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
        draw(originals / tops, model, EXAMPLE_BYTES // 2),
        draw(reconstructed / tops, model, EXAMPLE_BYTES // 2),
        draw(0.5 + residuals / (2 * most), model, EXAMPLE_BYTES // 2, "RdBu_r"),
    )
    for place, (i, *drawn) in enumerate(zip(chosen, *kinds, strict=True)):
        row = int(sample.rows[i])
        yield {
            "row": row,
            "id": corpus.id_of(row),
            "error": f"{sample.errors[i]:.1%}",
            "pictures": drawn,
            "most": f"{100 * float(most[place, 0]):.2g}%",
        }


def _weights(sample: Sample) -> dict[str, Any]:
    """Gather histograms of the weights of the images that were looked at, and their sparsity."""
    W, is_one = sample.W, sample.W.shape[1] == 1
    tops = W.max(axis=None if is_one else 1, keepdims=True)
    relative = W / np.where(tops > 0, tops, 1)
    used = (relative > 0.01).sum(axis=1)
    zeros, positive = float(np.mean(W == 0)), relative[relative > 0]
    if is_one:
        curves = [_strengths(positive, zeros, "share of the largest weight", "the others")]
    else:
        others = "the others, without the largest of each image"
        label = "share of the image's largest weight"
        curves = [_strengths(positive[positive < 1], zeros, label, others), _counts(used)]
    return {
        "zeros": f"{zeros:.1%}",
        "mean_used": "" if is_one else f"{used.mean():.1f}",
        "errors": [f"{q:.1%}" for q in np.percentile(sample.errors, (5, 50, 95))],
        "charts": curves,
    }


def _strengths(weights: Array, zeros: float, label: str, others: str) -> Markup:
    text = f"{zeros:.0%} of the weights are zero; the histogram is of {others}."
    return histogram(weights, np.linspace(0, 1, 41), "weights", (label, "weights"), text)


def _counts(used: Array) -> Markup:
    least, mean, most = int(used.min()), float(used.mean()), int(used.max())
    step = max(1, most // 40)
    bins = np.arange(0, most + step + 1, step) - 0.5
    text = f"An image has from {least} to {most} components, {mean:.1f} on average."
    return histogram(used, bins, "used", ("components of an image", "images"), text)


def _sweep(sweep: RankSweep) -> dict[str, Any]:
    curves = [sweep_errors(sweep), sweep_stability(sweep)]
    forms = {
        "n_components": "d",
        "error_per_cell": ".4g",
        "held_out_error": ".4g",
        "stability": ".2f",
        "least_stable": ".2f",
    }
    rows = [
        ["—" if row[name] is None else format(row[name], form) for name, form in forms.items()]
        for row in sweep.table
    ]
    return {
        "charts": [curve for curve in curves if curve is not None],
        "rows": rows,
        "best": str(sweep.best_n_components_),
        "reason": sweep.reason_,
    }


def _code(where: str | None, corpus: Corpus | None) -> list[str]:
    """Write the lines that load the model and use it, for Python."""
    place = '"MODEL"' if where is None else ascii(where)
    is_sweep = where is not None and format_at(where) == SWEEP
    model = f"dnmf.load_sweep({place}).best_model_" if is_sweep else f"dnmf.load({place})"
    images = '"CORPUS"' if corpus is None else ascii(corpus.path)
    return [
        "import dnmf",
        f"model = {model}",
        f"W = model.transform(dnmf.open_corpus({images}))",
    ]
