"""The whole flow on 10,000 real digits, with what each step is on the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from dnmf import plot
from dnmf.cli.progress import PassReport, end_live, number
from dnmf.engine.client import cluster
from dnmf.errors import OutputExistsError
from dnmf.estimators.nmf import NMF
from dnmf.io.export import write_reconstruction, write_weights
from dnmf.io.ingest import ingest
from dnmf.storage.atomic import remove_store
from dnmf.storage.checkpoint.checkpoint import open_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT

K = 49
DIGITS = "t10k-images-idx3-ubyte.gz"


def run_demo(out: str | os.PathLike[str], *, force: bool, say: Callable[[str], None]) -> None:
    """Ingest, fit on two worker processes, transform, reconstruct and draw.

    Parameters
    ----------
    out : path
        Folder for everything.
    force : bool
        Write over an earlier demo.
    say : callable
        Takes a line of text.
    """
    began = time.monotonic()
    folder = Path(out)
    _check_folder(folder, force)
    folder.mkdir(parents=True, exist_ok=True)
    corpus_path, model_path = folder / "digits.zarr", folder / "digits.model"
    say(f"dnmf demo: 10,000 handwritten digits (MNIST test images) -> {folder}/\n")

    with as_file(files("dnmf") / "data" / DIGITS) as source:
        corpus = ingest(source, corpus_path, force=force)
        say(f"1 ingest       dnmf ingest {source} {corpus_path}")
    say(f"               {len(corpus):,} images of 28 x 28 in {corpus.n_blocks} blocks\n")

    say(f"2 fit          dnmf fit {corpus_path} {model_path} -k {K} --seed 0 --workers 2")
    remove_store(model_path, FORMAT)
    model = NMF(
        n_components=K,
        random_state=0,
        checkpoint=model_path,
        on_pass=PassReport(len(corpus), 1e-4, 200),
    )
    with cluster(workers=2):
        model.fit(corpus)
        end_live()
        state = open_checkpoint(model_path).state
        say(
            f"               error {number(state.error)} ({state.relative_error:.1%} of the "
            f"images' norm) after {state.n_iter} passes: {model.stop_reason_}\n"
        )
        write_weights(model, corpus, folder / "weights.zarr", force=force)
        say(f"3 transform    dnmf transform {model_path} {corpus_path} {folder / 'weights.zarr'}")
        write_reconstruction(model, corpus, folder / "reconstructed.zarr", force=force)
        say(
            f"4 reconstruct  dnmf reconstruct {model_path} {corpus_path} "
            f"{folder / 'reconstructed.zarr'}"
        )
    written = plot.write_plots(model, folder, corpus)
    say(f"5 plot         dnmf plot {model_path} --corpus {corpus_path} --out {folder}")
    for path in written:
        say(f"               {path}")
    say(
        f"\nDone in {time.monotonic() - began:.0f} s. Look at the pictures, then try your own "
        "images:\n\n"
        "  dnmf ingest FOLDER images.zarr --size 64x64 --color gray\n"
        "  dnmf fit images.zarr images.model -k 64\n"
        "  dnmf plot images.model --corpus images.zarr --out pictures"
    )


def _check_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not force and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(
            f"{folder} already exists; choose another folder with --out, or pass --force"
        )
