"""The command ``dnmf demo``."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

import dnmf
from dnmf.cli.options import PATH, force_option, json_option
from dnmf.cli.progress import PassProgress, end_live_line, format_error
from dnmf.errors import OutputExistsError, ParameterError

N_COMPONENTS = 49
RESULTS = (
    *("digits.zarr", "digits.model", "weights.zarr", "reconstructed.zarr"),
    *("components.png", "loss.png", "reconstructions.png", "report.html"),
)
"""Names of all that the demo writes into its folder."""


@click.command(short_help="Try all steps on bundled images of digits.")
@click.option(
    "--out",
    type=PATH,
    default="dnmf-demo",
    show_default=True,
    metavar="DIR",
    help="Folder for the results.",
)
@force_option
@json_option
def demo(out: str, force: bool, as_json: bool) -> None:
    """Try all steps on 10,000 bundled images of handwritten digits, from images to pictures.

    \b
    Example:
      dnmf demo --out dnmf-demo
    """
    from dnmf.storage.pictures import picture_folder

    began = time.monotonic()
    if not isinstance(folder := picture_folder(out), Path):
        raise ParameterError(f"out is {folder}; the demo writes to a folder on this disk")
    _require_free(folder, force)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        _tell(folder, force, began)
    if as_json:
        from dnmf.cli.describe import describe

        seconds = round(time.monotonic() - began, 3)
        names = sorted(str(path) for path in folder.iterdir() if not path.name.startswith("."))
        facts = {"files": names, "model": describe(folder / "digits.model"), "seconds": seconds}
        click.echo(json.dumps({"path": out, **facts}))


def _tell(folder: Path, force: bool, began: float) -> None:
    """Run the flow, with the command line of each step."""
    from importlib.resources import as_file

    from dnmf.data.mnist import FILE

    folder.mkdir(exist_ok=True)
    corpus_path = folder / "digits.zarr"
    click.echo(f"dnmf demo: 10,000 handwritten digits (MNIST test images) -> {folder}/\n")
    with as_file(FILE) as source:
        corpus = dnmf.ingest(source, corpus_path, force=force)
        click.echo(f"1 ingest       dnmf ingest {source} {corpus_path}")
    click.echo(f"               {len(corpus):,} images of 28 x 28 in {corpus.n_blocks} blocks\n")
    model = _fit(corpus, folder)
    _apply(model, corpus, folder, force)
    _draw(model, corpus, folder)
    _report(model, corpus, folder, force)
    click.echo(
        f"\nDone in {time.monotonic() - began:.0f} s. Open {folder}/report.html in a browser, "
        "then try your own images:\n\n"
        "  dnmf ingest FOLDER images.zarr --size 64x64 --color gray\n"
        "  dnmf fit images.zarr images.model -k 64\n"
        "  dnmf report images.model --corpus images.zarr --out report.html"
    )


def _fit(corpus: dnmf.Corpus, folder: Path) -> dnmf.NMF:
    from dnmf.cli.describe import describe

    path = folder / "digits.model"
    click.echo(f"2 fit          dnmf fit {corpus.path} {path} -k {N_COMPONENTS} --seed 0")
    model = dnmf.NMF(N_COMPONENTS, random_state=0, checkpoint=path)
    model.set_params(on_pass=PassProgress(len(corpus), model.tol, model.max_iter))
    model.fit(corpus, overwrite=True)
    end_live_line()
    facts = describe(path)
    click.echo(
        f"               error {format_error(facts['error'])} (relative error "
        f"{facts['relative_error']:.1%}) after {facts['passes']} passes: {facts['stop_reason']}\n"
    )
    return model


def _apply(model: dnmf.NMF, corpus: dnmf.Corpus, folder: Path, force: bool) -> None:
    from dnmf.io.export import write_reconstruction, write_weights

    weights, reconstruction = folder / "weights.zarr", folder / "reconstructed.zarr"
    write_weights(model, corpus, weights, force=force)
    click.echo(f"3 transform    dnmf transform {model.checkpoint} {corpus.path} {weights}")
    write_reconstruction(model, corpus, reconstruction, force=force)
    click.echo(f"4 reconstruct  dnmf reconstruct {model.checkpoint} {corpus.path} {reconstruction}")


def _draw(model: dnmf.NMF, corpus: dnmf.Corpus, folder: Path) -> None:
    paths = dnmf.plot.write_plots(model, folder, corpus)
    click.echo(f"5 plot         dnmf plot {model.checkpoint} --corpus {corpus.path} --out {folder}")
    for path in paths:
        click.echo(f"               {path}")


def _report(model: dnmf.NMF, corpus: dnmf.Corpus, folder: Path, force: bool) -> None:
    path = dnmf.plot.write_report(model, folder / "report.html", corpus, force=force)
    click.echo(f"6 report       dnmf report {model.checkpoint} --corpus {corpus.path} --out {path}")


def _require_free(folder: Path, force: bool) -> None:
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if found and not force:
        raise OutputExistsError(
            f"{folder} already exists; choose another folder with --out, or pass --force"
        )
    if others := sorted(set(found) - set(RESULTS)):
        raise OutputExistsError(
            f"{folder} holds {others[0]}, which is not of the demo; choose another folder with "
            "--out"
        )
