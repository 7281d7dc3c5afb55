"""The command line: one function per command, each calling the library once."""

from __future__ import annotations

import json as json_
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from dnmf._format import format_shape
from dnmf._version import __version__
from dnmf.cli.options import (
    CLUSTER,
    INITS,
    BlockProgress,
    Rows,
    Size,
    cluster_options,
    components_option,
    fit_options,
    force_option,
    grace_option,
    json_option,
    loss_option,
    mask_option,
    solver_of,
    tol_option,
)
from dnmf.cli.rank import rank
from dnmf.errors import DnmfError


class _Group(click.Group):
    """Turns dnmf's errors into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        from dnmf.cli.progress import Warnings
        from dnmf.cli.signals import STATUS, Stopped

        try:
            with Warnings():
                return super().invoke(ctx)
        except (DnmfError, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except MemoryError as error:
            raise click.ClickException(
                f"not enough memory ({error}); use fewer components or blocks of fewer images"
            ) from error
        except Stopped:
            click.echo("stopped by a signal", err=True)
            ctx.exit(STATUS)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dnmf")
def main() -> None:
    """Non-negative matrix factorisation of image corpora larger than memory.

    \b
    Start with:  dnmf demo
    Then:        dnmf ingest FOLDER images.zarr --size 64x64 --color gray
                 dnmf fit images.zarr images.model -k 64
                 dnmf plot images.model --corpus images.zarr --out pictures

    Exit status: 0 done, 1 a named failure, 2 wrong usage, 130 interrupted; 75 a fit that SIGTERM
    or SIGUSR1 has stopped, to be run again.
    """


@main.command()
@click.option(
    "--out", default="dnmf-demo", show_default=True, metavar="DIR", help="Folder for the results."
)
@force_option
def demo(out: str, force: bool) -> None:
    """Run the whole flow on 10,000 bundled digits, pictures included."""
    from dnmf.cli.demo import run_demo

    run_demo(out, force=force, say=click.echo)


@main.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("corpus")
@click.option("--size", type=Size(), help="Resize every image, averaging over areas.")
@click.option("--color", type=click.Choice(["gray", "rgb"]), help="Convert every image.")
@click.option("--block-rows", type=click.IntRange(min=1), help="Images per block [about 16 MiB].")
@force_option
@cluster_options
def ingest(
    source: tuple[str, ...],
    corpus: str,
    size: tuple[int, int] | None,
    color: str | None,
    block_rows: int | None,
    force: bool,
    **where: Any,
) -> None:
    """Turn images into a corpus.

    SOURCE is PNG, JPEG, TIFF and PGM files and folders of them, with their subfolders; or IDX
    (.gz too) and .npy files, each by its name. CORPUS is a new Zarr store. Images must be alike in
    size and colour unless --size and --color make them so.
    """
    from dnmf import ingest as run
    from dnmf.engine.client import cluster

    with cluster(**where), BlockProgress() as blocks:
        result = run(
            source,
            corpus,
            size=size,
            color=color,
            block_rows=block_rows,
            force=force,
            on_block=blocks,
        )
    click.echo(repr(result)[1:-1])


@main.command()
@click.argument("path")
@json_option
def info(path: str, as_json: bool) -> None:
    """Say what a corpus, a model or a sweep is."""
    from dnmf.cli.info import describe

    facts = describe(path)
    if as_json:
        click.echo(json_.dumps(facts))
        return
    if facts["kind"] == "sweep":
        from dnmf import load_sweep

        click.echo(f"kind  sweep\npath  {path}\n\n{load_sweep(path)}")
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):{width}}  {_plain(value)}")


@main.command()
@click.argument("path")
@json_option
@cluster_options
def verify(path: str, as_json: bool, **where: Any) -> None:
    """Check every block of a corpus, of weights, of a model or of a sweep.

    Exit status 0 means intact, 1 damaged: a line for each finding names the block, its images and
    the file to restore.
    """
    from dnmf import verify as run
    from dnmf.engine.client import cluster

    with cluster(**where), BlockProgress() as blocks:
        found = run(path, on_block=blocks)
    click.echo(json_.dumps(found.as_dict()) if as_json else str(found))
    sys.exit(bool(found.findings))


@main.command()
@click.argument("corpus")
@components_option
@tol_option
@loss_option
@mask_option
@click.option("--trial/--no-trial", default=True, help="Run parts of it, to predict its time.")
@json_option
@cluster_options
def plan(corpus: str, mask: str | None, trial: bool, as_json: bool, **options: Any) -> None:
    """Say what a fit of CORPUS would take: memory, tasks, reads and, after ten seconds, time.

    Give the cluster as to fit. Exit status 1 means that the fit would not fit, and be refused.
    """
    from dnmf import NMF, open_corpus
    from dnmf.engine.client import cluster
    from dnmf.estimators.inputs import open_mask

    where = {name: options.pop(name) for name in CLUSTER}
    images = open_corpus(corpus)
    nmf = NMF(solver=solver_of(options["beta_loss"]), random_state=0, **options)
    nmf.check_parameters()
    hidden = open_mask(mask, images.shape) if mask is not None else None
    with cluster(**where):
        planned = nmf.plan(images, hidden, trial=trial)
    click.echo(json_.dumps(planned.as_dict()) if as_json else str(planned))
    sys.exit(planned.lack is not None)


@main.command()
@click.argument("corpus")
@click.argument("model")
@components_option
@fit_options
@click.option(
    "--init", type=click.Choice(INITS), default="random", show_default=True, help="Start of H."
)
@click.option(
    "--n-init", type=int, default=1, show_default=True, help="Random starts; the best is kept."
)
@mask_option
@click.option(
    "--checkpoint-every",
    type=int,
    default=1,
    show_default=True,
    help="Passes between those that keep their weights.",
)
@click.option(
    "--checkpoint-keep", type=int, default=2, show_default=True, help="Passes to keep on disk."
)
@click.option(
    "--resume-from",
    type=int,
    metavar="PASS",
    help="Go on from this pass, if the last is damaged; those after it are removed.",
)
@grace_option
@force_option
@json_option
@cluster_options
def fit(
    corpus: str,
    model: str,
    mask: str | None,
    grace: float,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Factorise CORPUS into MODEL, with a checkpoint after each pass.

    A rerun of the same line continues an interrupted fit and ends with the same bits; with a
    smaller --tol or a larger --max-iter it continues a finished one. SIGTERM or SIGUSR1 end it with
    the pass that runs, or without that after --grace or a second signal, and with exit status 75.
    """
    from dnmf import NMF, open_corpus
    from dnmf.cli.info import describe
    from dnmf.cli.progress import PassReport, end_live, outcome, resumable, say
    from dnmf.cli.signals import StopRequest
    from dnmf.engine.client import cluster
    from dnmf.estimators.beginning import remove_starts
    from dnmf.estimators.inputs import open_mask
    from dnmf.storage.atomic import remove_store
    from dnmf.storage.checkpoint.commit import FORMAT
    from dnmf.storage.lock import claimed

    began = time.monotonic()
    where = {name: options.pop(name) for name in CLUSTER}
    images = open_corpus(corpus)
    stop = StopRequest(grace)
    report = stop.after(PassReport(len(images), options["tol"], options["max_iter"]))
    nmf = NMF(solver=solver_of(options["beta_loss"]), checkpoint=model, on_pass=report, **options)
    nmf.check_parameters()
    hidden = open_mask(mask, images.shape) if mask is not None else None
    if force:
        with claimed(model):
            remove_store(model, FORMAT)
            remove_starts(model)
    with stop, cluster(**where) as place:
        say(f"fit {repr(images)[1:-1]} to {nmf.n_components} components on {place}")
        with resumable(model):
            stop.check()
            _quietly(nmf.fit, images, mask=hidden)
    end_live()
    facts = {**describe(model), "seconds": round(time.monotonic() - began, 3)}
    click.echo(json_.dumps(facts) if as_json else outcome(facts))


@main.command()
@click.argument("model")
@click.argument("corpus")
@click.argument("weights")
@mask_option
@force_option
@cluster_options
def transform(
    model: str, corpus: str, weights: str, mask: str | None, force: bool, **where: Any
) -> None:
    """Compute the weights of CORPUS into a Zarr array WEIGHTS of shape (images, components)."""
    from dnmf import load, open_corpus
    from dnmf.engine.client import cluster
    from dnmf.estimators.inputs import open_mask
    from dnmf.io.export import write_weights

    fitted, images = load(model), open_corpus(corpus)
    hidden = open_mask(mask, images.shape) if mask is not None else None
    with cluster(**where):
        n = write_weights(fitted, images, weights, mask=hidden, force=force)
    click.echo(f"{weights}: weights of {n:,} images, {fitted.n_components_} components")


@main.command()
@click.argument("model")
@click.argument("corpus")
@click.argument("out", required=False)
@click.option("--png", metavar="DIR", help="Write PNG files into a folder instead.")
@click.option("--rows", type=Rows(), help="Images for --png.  [default: 0:25]")
@mask_option
@force_option
@cluster_options
def reconstruct(
    model: str,
    corpus: str,
    out: str | None,
    png: str | None,
    rows: slice | None,
    mask: str | None,
    force: bool,
    **where: Any,
) -> None:
    """Reconstruct CORPUS from MODEL: into the corpus OUT, or some of it as PNG files."""
    from dnmf import load, open_corpus
    from dnmf.engine.client import cluster
    from dnmf.estimators.inputs import open_mask
    from dnmf.io.export import write_pngs, write_reconstruction

    if (out is None) == (png is None):
        raise click.UsageError("give either OUT, a new corpus, or --png DIR")
    if rows is not None and png is None:
        raise click.UsageError("--rows is for --png; OUT gets all images")
    fitted, images = load(model), open_corpus(corpus)
    hidden = open_mask(mask, images.shape) if mask is not None else None
    if png is not None:
        count = write_pngs(fitted, images, rows or slice(0, 25), png, mask=hidden, force=force)
        click.echo(f"{png}: {count} PNG files")
        return
    with cluster(**where):
        result = write_reconstruction(fitted, images, out or "", mask=hidden, force=force)
    click.echo(repr(result)[1:-1])


main.add_command(rank)


@main.command()
@click.argument("model")
@click.option("--corpus", metavar="CORPUS", help="Draw originals over reconstructions from it.")
@click.option("--out", required=True, metavar="DIR", help="Folder for the PNG files.")
def plot(model: str, corpus: str | None, out: str) -> None:
    """Draw components, loss and, with --corpus, originals over reconstructions.

    MODEL may also be what `dnmf rank` made: then errors and stability by number of components, and
    all that for each.
    """
    from dnmf import load, load_sweep, open_corpus
    from dnmf.model_selection.sweep_store import FORMAT
    from dnmf.plot.model import write_plots
    from dnmf.plot.sweep import write_sweep_plots
    from dnmf.storage.atomic import read_record

    images = open_corpus(corpus) if corpus is not None else None
    if (read_record(model) or {}).get("format") == FORMAT:
        written = write_sweep_plots(load_sweep(model), out, images)
    else:
        written = write_plots(load(model), out, images)
    for path in written:
        click.echo(path)


def _quietly(fit: Callable[..., Any], images: Any, **aside: Any) -> None:
    """Fit without warnings in Python's words: the last line says why the fit stopped."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit(images, **aside)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return format_shape(value)
    if isinstance(value, float):
        return f"{value:,.8g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
