"""The sweep over numbers of components: fit all models in the same reads, then score them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone

from dnmf._access import StorageOptions, remember_options
from dnmf._html import Point, format_html_curve, format_html_rows
from dnmf._progress import bar_of, report_pass
from dnmf.engine.blocks import Blocks
from dnmf.errors import DataError, ParameterError
from dnmf.estimators.inputs import blocks_of, take_mask, validate_images
from dnmf.estimators.load import fitted_model
from dnmf.estimators.nmf import NMF
from dnmf.estimators.parameters import is_int, is_real, require, require_even_blocks
from dnmf.model_selection.recommend import Choice, choose
from dnmf.model_selection.scores import RankFits, held_out_errors, score_ranks
from dnmf.model_selection.sweep_store import (
    FORMAT,
    finish_sweep,
    open_sweep,
    prepare_sweep,
    refuse_other_content,
)
from dnmf.numerics.block import Block
from dnmf.numerics.holdout import GROUPS, Holdout
from dnmf.solvers.loop import ModelRun
from dnmf.solvers.multi_fit import Progress, explain_interrupt, fit_together
from dnmf.storage.atomic import remove_store
from dnmf.storage.checkpoint.checkpoint import Checkpoint
from dnmf.storage.checkpoint.spec import FitSpec
from dnmf.storage.lock import locked
from dnmf.storage.paths import normalize_path

LEAST_IMAGES = 10
"""Smallest number of images that can be held out: a bootstrap sample of 10 images leaves all others
out in one of 20,000 draws."""

MAX_HOLDOUT = 0.5
"""Largest share of the cells that may be held out. Models of fewer cells say little about X."""


@dataclass(frozen=True, repr=False)
class RankSweep:
    """Result of a sweep over numbers of components, as `rank_sweep` and `load_sweep` return it.

    Attributes
    ----------
    models_ : dict of int to NMF
        Best model fitted to all cells for each number of components, in ascending order.
    table : list of dict
        Scores of each number of components; see `dnmf.model_selection.scores.Score`.
        ``pandas.DataFrame(sweep.table)`` makes a frame of them.
    choice_ : dnmf.model_selection.recommend.Choice
        Recommended number of components, and the reason.
    n_reads_ : float
        Number of reads of the whole X for all models together.
    """

    models_: Mapping[int, NMF]
    table: Sequence[dict[str, Any]]
    choice_: Choice
    n_reads_: float

    @property
    def best_n_components_(self) -> int:
        """Recommended number of components."""
        return self.choice_.n_components

    @property
    def best_model_(self) -> NMF:
        """Fitted model with the recommended number of components."""
        return self.models_[self.best_n_components_]

    @property
    def clear_(self) -> bool:
        """Whether the data give a clear answer."""
        return self.choice_.clear

    @property
    def reason_(self) -> str:
        """Sentences that say why the number is recommended, and what speaks against it."""
        return self.choice_.reason

    def as_dict(self) -> dict[str, Any]:
        """Return everything except the models.

        Returns
        -------
        dict
            Recommended number, reason, number of reads and scores, in JSON types.
        """
        return {
            "best_n_components": self.best_n_components_,
            "clear": self.clear_,
            "reason": self.reason_,
            "reads": self.n_reads_,
            "table": list(self.table),
        }

    def _repr_html_(self) -> str:
        heads = [head for head, _ in COLUMNS.values()]
        best = [row["n_components"] for row in self.table].index(self.best_n_components_)
        curve = format_html_curve(*_curve(self.table, best))
        return curve + format_html_rows([heads, *map(_cells, self.table)], 1 + best, self.reason_)

    def __repr__(self) -> str:
        return "\n".join([*_lines(self.table, self.best_n_components_), "", self.reason_])


def rank_sweep(
    X: Any,
    n_components: Iterable[int],
    estimator: NMF | None = None,
    *,
    n_init: int = 3,
    holdout: float = 0.1,
    sample_weight: Any = None,
    mask: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    force: bool = False,
    storage_options: StorageOptions = None,
    on_pass: Callable[[Progress], None] = lambda progress: None,
    **moved: Any,
) -> RankSweep:
    """Fit models of several numbers of components in the same reads of X, and recommend one.

    For each number of components, `n_init` models are fitted to all cells (entries of X), each from
    its own seed. To score the number, `n_init` more models are fitted to bootstrap samples of the
    images with a share of the cells held out. All models are fitted together: a pass reads each
    block once for all of them. Models that have converged take part in no further pass.
    The page "Choosing the number of components" describes the method, its sources and its limits.

    Parameters
    ----------
    X : Corpus, zarr.Array, dask.array.Array, array-like or sparse matrix, of shape (n, p)
        One row per image, as in `NMF.fit`.
    n_components : iterable of int
        Numbers of components to try, without repeats.
    estimator : NMF, optional
        Has the loss, penalties, tolerance, number of passes, treatment of missing pixels, `verbose`
        and first seed of all models. The default is ``NMF(random_state=0)``. It is not changed, and
        its `n_components` is not used.
    n_init : int, default 3
        Number of random starts, and of held-out sets of cells, for each number of components. Their
        seeds are that of the estimator and the next ones.
    holdout : float, default 0.1
        Share of the cells that is held out: 0, or from 0.05 to 0.5, rounded to a multiple of 0.05.
        With 0, only the stability of the components decides.
    sample_weight, mask
        As in `NMF.fit`.
    checkpoint : str, path or None, default None
        Folder or URL that keeps all models after each pass; `load_sweep` opens it. The same call
        again continues an unfinished sweep, with the same bits. A call with other numbers of
        components adds them to the sweep.
    force : bool, default False
        Whether to replace a sweep that is at `checkpoint`.
    storage_options : dict, optional
        Options of the file system behind the URL of `checkpoint`, as in `dnmf.open_corpus`.
    on_pass : callable
        Called after each pass with a `dnmf.solvers.multi_fit.Progress`, once the checkpoint has the
        pass.
    **moved
        Parameters of `NMF` are refused here, with advice to pass them in `estimator`.

    Returns
    -------
    RankSweep
        The models, their scores and the recommended number.

    Raises
    ------
    ParameterError (a ValueError and a TypeError)
        If a parameter is out of its range or belongs to the estimator, or `n_components` is empty
        or repeats a number.
    DataError (a ValueError)
        If a pixel is negative or infinite, or all pixels are equal.
    CheckpointError
        If `checkpoint` holds something else or the models of another sweep, or is damaged.
    CapacityError, SpaceError
        As in `NMF.fit`. If memory is too small for all models together, they are fitted in groups.

    See Also
    --------
    load_sweep : Open a sweep that was kept in a checkpoint.

    Examples
    --------
    >>> import numpy as np, dnmf
    >>> rng = np.random.default_rng(0)
    >>> X = rng.gamma(1, size=(300, 3)) @ rng.gamma(0.2, size=(3, 36)) * rng.uniform(0.9, 1.1, 36)
    >>> dnmf.rank_sweep(X * rng.uniform(0.9, 1.1, X.shape), [2, 3, 4]).best_n_components_
    3
    """
    _refuse_moved(moved)
    remember_options(storage_options, checkpoint)
    ranks = _ranks(n_components)
    _check(n_init, holdout)
    require(callable(on_pass), "on_pass", on_pass, "a callable")
    model = _model_of(estimator, ranks[0], checkpoint)
    X, mask = take_mask(X, mask)
    X = validate_images(model, X, reset=True)
    blocks = blocks_of(X, sample_weight, mask, model._rules())
    spec = model._describe(X, blocks, None)
    report = partial(_report, on_pass=on_pass)
    fit = partial(fit_together, blocks, tol=model.tol, max_iter=model.max_iter, on_pass=report)
    if checkpoint is None:
        reads_before = _require_variation(blocks, holdout)
        runs = _runs(model, spec, mask, ranks, n_init, holdout)
        with bar_of(model.verbose):
            n_reads = fit(runs)
        return _result(runs, reads_before + n_reads)
    folder = normalize_path(checkpoint)
    require_even_blocks(blocks)
    with bar_of(model.verbose), locked(folder):
        refuse_other_content(folder, force=force)
        reads_before = _require_variation(blocks, holdout)
        spec = model._with_fingerprints(spec, X, blocks)
        runs = _runs(model, spec, mask, ranks, n_init, holdout)
        if force:
            remove_store(folder, FORMAT)
        prepare_sweep(folder)
        with explain_interrupt(folder, "force"):
            n_reads = fit(runs, folder=folder)
        finish_sweep(folder, reads_before + n_reads)
        return load_sweep(folder)


def load_sweep(
    path: str | os.PathLike[str], *, storage_options: StorageOptions = None
) -> RankSweep:
    """Open a sweep that `rank_sweep` or `dnmf rank` has written.

    Parameters
    ----------
    path : str or path
        Folder or URL of the sweep.
    storage_options : dict, optional
        Options of the file systems behind URLs, as in `dnmf.open_corpus`.

    Returns
    -------
    RankSweep
        The models, their scores and the recommended number.

    Raises
    ------
    CheckpointError
        If there is no sweep, it is damaged, or it is unfinished.

    Examples
    --------
    >>> sweep = dnmf.load_sweep("faces.sweep")  # doctest: +SKIP
    >>> sweep.best_n_components_, sweep.clear_  # doctest: +SKIP
    (49, True)
    """
    remember_options(storage_options, path)
    return _result(*open_sweep(normalize_path(path)))


def _report(progress: Progress, on_pass: Callable[[Progress], None]) -> None:
    """Show a pass where there is a bar, and call the user's function."""
    groups = f" (group {progress.group} of {progress.groups})" * (progress.groups > 1)
    report_pass(
        f"pass {progress.n_pass}: {progress.active} of {progress.models} models go on{groups}"
    )
    on_pass(progress)


def _refuse_moved(keywords: Mapping[str, Any]) -> None:
    """Raise ParameterError if keywords belong to the estimator or are unknown."""
    known = sorted(keywords.keys() & NMF().get_params().keys())
    if known:
        example = ", ".join(f"{name}={keywords[name]!r}" for name in known)
        raise ParameterError(
            f"rank_sweep takes {', '.join(known)} from an estimator: pass it as the third "
            f"argument, rank_sweep(X, n_components, NMF({example}))"
        )
    if keywords:
        raise ParameterError(f"rank_sweep got an unexpected keyword argument {min(keywords)!r}")


def _model_of(
    estimator: NMF | None, n_components: int, checkpoint: str | os.PathLike[str] | None
) -> NMF:
    """Return a copy of the estimator for models with random starts.

    Raises
    ------
    ParameterError
        If it is not an NMF, or has a parameter that a sweep sets by itself.
    """
    if estimator is None:
        estimator = NMF(random_state=0)
    if not isinstance(estimator, NMF):
        raise ParameterError(f"estimator is {estimator!r}; it must be an NMF, or None")
    for name, allowed in (("init", (None, "random")), ("n_init", (1,)), ("checkpoint", (None,))):
        value = getattr(estimator, name)
        if value not in allowed:
            raise ParameterError(
                f"the estimator has {name}={value!r}; in a sweep it must be {allowed[0]!r}: starts "
                "are random, and rank_sweep has parameters n_init and checkpoint of its own"
            )
    model: NMF = clone(estimator).set_params(n_components=n_components, checkpoint=checkpoint)
    model.check_parameters()
    return model


def _ranks(n_components: Any) -> list[int]:
    if isinstance(n_components, (str, bytes)) or not isinstance(n_components, Iterable):
        raise ParameterError(f"n_components is {n_components!r}; it must be a list of ints >= 1")
    ranks = list(n_components)
    require(bool(ranks), "n_components", ranks, "a list of one int >= 1 or more")
    for rank in ranks:
        require(is_int(rank) and rank >= 1, "n_components", ranks, "a list of ints >= 1")
    repeated = sorted({int(rank) for rank in ranks if ranks.count(rank) > 1})
    if repeated:
        raise ParameterError(f"n_components repeats {repeated}: give each number once")
    return sorted(int(rank) for rank in ranks)


def _check(n_init: Any, holdout: Any) -> None:
    require(is_int(n_init) and n_init >= 1, "n_init", n_init, "an int >= 1")
    valid = is_real(holdout) and (holdout == 0 or 1 / GROUPS <= holdout <= MAX_HOLDOUT)
    if is_real(holdout) and holdout >= 1:
        raise ParameterError(
            f"holdout is {holdout}, which leaves no cells to fit; it must be 0, or a share from "
            f"{1 / GROUPS} to {MAX_HOLDOUT}"
        )
    require(valid, "holdout", holdout, f"0, or a share from {1 / GROUPS} to {MAX_HOLDOUT}")
    if n_init == 1 and holdout == 0:
        raise ParameterError(
            "n_init is 1 and holdout is 0, which gives no score to choose by: hold out cells "
            "(holdout=0.1), or use n_init=3, which shows whether components are stable"
        )


@dataclass(frozen=True)
class PixelRange:
    """Smallest and largest pixel; the sum of two ranges is their union."""

    low: float
    high: float

    def __add__(self, other: PixelRange) -> PixelRange:
        return PixelRange(min(self.low, other.low), max(self.high, other.high))


def _range_of(block: Block) -> PixelRange:
    X = block.X if block.observed is None else block.X[block.observed]
    return PixelRange(float(X.min()), float(X.max())) if X.size else PixelRange(np.inf, -np.inf)


def _require_variation(blocks: Blocks, holdout: float) -> float:
    """Raise DataError for too few cells or equal pixels; return the reads of X that this took."""
    (n, p), (start, stop) = blocks.shape, blocks.ranges[0]
    if holdout and (n < LEAST_IMAGES or p < 2):
        raise DataError(
            f"X has {n} images of {p} pixels; holding out cells needs at least {LEAST_IMAGES} "
            "images of 2 pixels: use holdout=0, which holds out none"
        )
    first = blocks.map_sum(_range_of, only=[0], check=False)
    if first.high > first.low or np.isnan(first.low):
        return (stop - start) / n  # the first pass reports invalid pixels
    whole = blocks.map_sum(_range_of, check=False)
    if whole.low > whole.high:
        raise DataError(
            f"mask or NaN hide every pixel of the {n:,} images; pass a mask that is true only "
            "where a pixel is to be ignored"
        )
    if whole.low == whole.high:
        raise DataError(
            f"every pixel of the {n:,} images is {whole.low:g}: one component explains them all, "
            "so there is no number of components to choose"
        )
    return 1 + (stop - start) / n


def _runs(
    model: NMF, spec: FitSpec, mask: Any, ranks: list[int], n_init: int, holdout: float
) -> list[ModelRun]:
    """Return a run for each number of components and seed, without and with held-out cells."""
    seeds = [(spec.seed + i) % 2**32 for i in range(n_init)]
    objective, masked = model._objective(mask), model._objective(True)

    def run(seed: int, rank: int, share: float | None) -> ModelRun:
        parameters = {**spec.parameters, "hidden": share}
        own = replace(spec, n_components=rank, seed=seed, parameters=parameters)
        if share is None:
            return ModelRun(own, objective)
        return ModelRun(own, masked, Holdout(seed, share))

    shares = [None] + [float(holdout)] * bool(holdout)
    return [run(seed, rank, share) for share in shares for seed in seeds for rank in ranks]


def _result(runs: Sequence[ModelRun | Checkpoint], n_reads: float) -> RankSweep:
    """Score models that have stopped, and choose a number of components."""
    ranks = sorted({run.spec.n_components for run in runs})
    fits = [_fits([run for run in runs if run.spec.n_components == rank]) for rank in ranks]
    held_out = held_out_errors(fits)
    scores = score_ranks(ranks, fits, held_out)
    full = {(run.spec.n_components, run.spec.seed): run for run in runs if _is_full(run)}
    best = [full[score.n_components, score.seed] for score in scores]
    models = {
        run.spec.n_components: fitted_model(run.spec, run.state, run.stop_reason) for run in best
    }
    choice = choose(scores, held_out)
    return RankSweep(models, [score.as_dict() for score in scores], choice, n_reads)


def _is_full(run: ModelRun | Checkpoint) -> bool:
    """Check whether a model was fitted to all cells."""
    return run.spec.parameters["hidden"] is None


def _fits(runs: Sequence[ModelRun | Checkpoint]) -> RankFits:
    """Return the fits of one number of components."""
    full = {run.spec.seed: run.state for run in runs if _is_full(run)}
    with_holdout = {run.spec.seed: run.state for run in runs if not _is_full(run)}
    n, p = runs[0].spec.X["shape"]
    # The number of held-out cells gives the number of observed cells, with weights counted.
    cells = [
        run.state.held_out[:, 1].sum() / _held_out_share(run.spec)
        for run in runs
        if not _is_full(run)
    ]
    return RankFits(full, with_holdout, float(np.mean(cells)) if cells else n * p)


def _held_out_share(spec: FitSpec) -> float:
    """Return the share of the cells that was held out when a model was fitted."""
    return Holdout(spec.seed, spec.parameters["hidden"]).n_hidden_groups / GROUPS


COLUMNS = {
    "n_components": ("components", "7"),
    "error": ("error", "11.6g"),
    "error_per_cell": ("per cell", "8.4g"),
    "held_out_error": ("held-out cells", "14.5g"),
    "standard_error": ("(+- to lowest)", "14.2g"),
    "stability": ("stability", "9.2f"),
    "least_stable": ("least", "5.2f"),
}
"""Heading and format of each column of the table as text."""


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Format a row of the table, a text for each column."""
    return [
        "-" if row[name] is None else format(row[name], form).strip()
        for name, (_, form) in COLUMNS.items()
    ]


def _curve(table: Sequence[Mapping[str, Any]], best: int) -> tuple[list[Point], int, str]:
    """Return the curve that the recommendation follows from: held-out error, or stability."""
    has_errors = any(row["held_out_error"] is not None for row in table)
    column, spread = ("held_out_error", "standard_error") if has_errors else ("stability", "")
    points = [
        Point(
            str(row["n_components"]),
            np.nan if row[column] is None else row[column],
            row.get(spread) or 0.0,
        )
        for row in table
    ]
    what = "held-out error, ± standard error to the lowest" if has_errors else "stability"
    return points, best, f"{what}, by number of components"


def _lines(table: Sequence[Mapping[str, Any]], best: int) -> Iterator[str]:
    """Format the table as text, a line for each number of components."""
    heads = [head for head, _ in COLUMNS.values()]
    widths = [max(len(head), int(form.partition(".")[0])) for head, form in COLUMNS.values()]
    marked = [(row["n_components"] == best, _cells(row)) for row in table]
    for is_best, cells in [(False, heads), *marked]:
        line = "   ".join(f"{cell:>{n}}" for cell, n in zip(cells, widths, strict=True))
        yield f"{'->' if is_best else '  '} {line}".rstrip()
