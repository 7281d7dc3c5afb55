"""A sweep on disk: a folder of models with several ranks, seeds and held-out cells.

    zarr.json            format and version; the number of reads, once all models are finished
    k0009-whole-0/       model of 9 components, from seed 0
    k0009-part-0/        model of 9 components, without the cells that seed 0 holds out

Each is a model as `dnmf fit` writes it, but without weights, committed after each pass. Everything
that a sweep reports is computed from the records of the models.
"""

from __future__ import annotations

import os
import re

from dnmf.errors import CheckpointError
from dnmf.storage.atomic import (
    check_free,
    is_absent,
    is_free,
    new_store,
    read_record,
    remove_partial_stores,
)
from dnmf.storage.checkpoint.checkpoint import Checkpoint, open_checkpoint
from dnmf.storage.checkpoint.commit import group_json
from dnmf.storage.lease import require_lease
from dnmf.storage.metadata import check_format
from dnmf.storage.paths import is_url
from dnmf.storage.store import METADATA, ObjectStore

FORMAT = "dnmf-sweep"
VERSION = 1

_NAME = re.compile(r"k\d{4,}-(whole|part)-\d+")


def refuse_other_content(path: str, *, force: bool) -> None:
    """Raise an error if something is at a path that is not a sweep, or must not be replaced.

    Raises
    ------
    CheckpointError, OutputExistsError
        If the path is not free for this sweep.
    """
    if force or is_free(path, FORMAT, error=CheckpointError):
        check_free(path, FORMAT, force=force)
    else:
        require_sweep(path)


def prepare_sweep(path: str) -> None:
    """Create the folder of a sweep at a locked path, or check the one that is there.

    Raises
    ------
    CheckpointError
        If the path holds something else.
    """
    if is_free(path, FORMAT, error=CheckpointError):
        remove_partial_stores(path, FORMAT)
        with new_store(path, FORMAT) as building:
            _write_record(building, None)
    require_sweep(path)


def finish_sweep(path: str, n_reads: float) -> None:
    """Record that all models are finished, and how often X was read for them."""
    _write_record(path, n_reads)


def _write_record(path: str, n_reads: float | None) -> None:
    require_lease(path)
    store = ObjectStore(path)
    if not is_url(path):
        os.makedirs(path, exist_ok=True)
    record = {"format": FORMAT, "version": VERSION, "n_reads": n_reads}
    store.set(METADATA, group_json(record))
    store.fsync_dir()


def require_sweep(path: str) -> float | None:
    """Raise CheckpointError if there is no sweep of this format.

    Returns
    -------
    float or None
        Number of reads of X that the sweep took; None if it is unfinished.
    """

    def missing() -> str:
        absent = is_absent(path, error=CheckpointError)
        what = "nothing is there" if absent else "it holds something else"
        return f"is no sweep: {what}; make one with `dnmf rank CORPUS NEW.sweep -k 9,25,49`"

    record = check_format(
        read_record(path, error=CheckpointError),
        path,
        FORMAT,
        VERSION,
        error=CheckpointError,
        missing=missing,
        outdated="choose another path",
    )
    n_reads = record.get("n_reads")
    if isinstance(n_reads, (int, float)) and not isinstance(n_reads, bool):
        return float(n_reads)
    return None


def list_models(path: str) -> list[str]:
    """List the paths of the models of a sweep."""
    names = sorted(filter(_NAME.fullmatch, ObjectStore(path).list_dir()))
    return [os.path.join(path, name) for name in names]


def open_sweep(path: str) -> tuple[list[Checkpoint], float]:
    """Open the models of a finished sweep.

    Returns
    -------
    models : list of Checkpoint
        The models.
    n_reads : float
        Number of reads of X that the sweep took.

    Raises
    ------
    CheckpointError
        If there is no sweep, it is damaged, or it is unfinished.
    """
    n_reads = require_sweep(path)
    opened = [open_checkpoint(model) for model in list_models(path)]
    unfinished = [checkpoint for checkpoint in opened if checkpoint.stop_reason is None]
    if n_reads is None or unfinished or not opened:
        raise CheckpointError(
            f"{path}: {len(unfinished)} of {len(opened)} models are unfinished; run its `dnmf "
            "rank` again to continue"
        )
    return opened, n_reads
