"""A sweep on disk: a folder of models, of several ranks, seeds and cells.

    zarr.json            what this is and its version; once all have come to their end, the reads
    k0009-whole-0/       a model of 9 components, from seed 0
    k0009-part-0/        another, that the cells of seed 0 were hidden from

Each is a model as `dnmf fit` makes them, without weights, committed after each pass; what a sweep
says of them is made of their records whenever it is asked for.
"""

from __future__ import annotations

import os
import re

from dnmf.errors import CheckpointError
from dnmf.storage.atomic import is_absent, is_url, new_store, read_record, remove_partial_stores
from dnmf.storage.checkpoint.checkpoint import Checkpoint, open_checkpoint
from dnmf.storage.checkpoint.commit import group_json
from dnmf.storage.metadata import is_count
from dnmf.storage.store import METADATA, ObjectStore

FORMAT = "dnmf-sweep"
VERSION = 1
_NAME = re.compile(r"k\d{4,}-(whole|part)-\d+")


def prepare_sweep(path: str) -> None:
    """Make a folder for the models of a sweep, at a place which is claimed, or check it.

    Raises
    ------
    CheckpointError
        Something else is there.
    """
    if is_absent(path):
        remove_partial_stores(path)
        with new_store(path, FORMAT) as building:
            _write(building, None)
    require_sweep(path)


def finish_sweep(path: str, n_reads: float) -> None:
    """Note that all models have come to their end, and how many reads of X that took."""
    _write(path, n_reads)


def _write(path: str, n_reads: float | None) -> None:
    store = ObjectStore(path)
    if not is_url(path):
        os.makedirs(path, exist_ok=True)
    record = {"format": FORMAT, "version": VERSION, "n_reads": n_reads}
    store.set(METADATA, group_json(record))
    store.fsync_dir()


def require_sweep(path: str) -> float | None:
    """Raise CheckpointError unless a sweep of this format is there; give the reads it took."""
    record = read_record(path) or {}
    if record.get("format") != FORMAT:
        what = "nothing is there" if is_absent(path) else "it holds something else"
        raise CheckpointError(
            f"{path} is no sweep: {what}; make one with `dnmf rank CORPUS {path} -k 9,25,49`"
        )
    version, n_reads = record.get("version"), record.get("n_reads")
    if not is_count(version) or version != VERSION:
        raise CheckpointError(
            f"{path} has sweep format {str(version)[:80]}; this dnmf reads {VERSION}: upgrade "
            "dnmf, or choose another path"
        )
    if isinstance(n_reads, (int, float)) and not isinstance(n_reads, bool):
        return float(n_reads)
    return None


def models_in(path: str) -> list[str]:
    """List the paths of the models of a sweep."""
    names = sorted(filter(_NAME.fullmatch, ObjectStore(path).list_dir()))
    return [os.path.join(path, name) for name in names]


def open_sweep(path: str) -> tuple[list[Checkpoint], float]:
    """Open the models of a sweep that has come to its end; and say how many reads it took.

    Raises
    ------
    CheckpointError
        There is none, it is damaged, or not at its end.
    """
    n_reads = require_sweep(path)
    opened = [open_checkpoint(model) for model in models_in(path)]
    going = [checkpoint for checkpoint in opened if checkpoint.stop_reason is None]
    if n_reads is None or going or not opened:
        raise CheckpointError(
            f"{path}: {len(going)} of {len(opened)} models have not come to their end; run its "
            "`dnmf rank` again to go on"
        )
    return opened, n_reads
