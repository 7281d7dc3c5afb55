"""Which passes of a model are kept.

The newest ones: since the loss of successive states never rises, the newest is also the best. And
the newest that has weights, since these may be due in few passes.
"""

from __future__ import annotations

from dnmf.errors import CheckpointError
from dnmf.storage.checkpoint.commit import committed, pass_of, passes_in, read_record
from dnmf.storage.checkpoint.weights import weights_in
from dnmf.storage.store import Objects

UNKNOWN = "unknown"
"""What a pass relies on whose record is damaged: while it is kept, any weights may be."""

KEEP = 2
"""Passes that are kept: a second one, should storage damage the newest."""


def tidy(objects: Objects, keep: int) -> None:
    """Remove all but the newest passes, the newest with weights, and what these rely on.

    Parameters
    ----------
    objects : Objects
    keep : int
        Of the newest passes, whole or damaged.
    """
    names = committed(objects)
    relies = {name: _weights_of(objects, name) for name in names}
    last = {pass_of(name): name for name in names}  # of what one pass committed
    kept = {*list(last.values())[-keep:], *[name for name in names if relies[name]][-1:]}
    for name in passes_in(objects):
        if name not in kept:
            objects.remove(name)
    used = {relies[name] for name in kept}
    if UNKNOWN in used:
        return
    for name in weights_in(objects):
        if name not in used:
            objects.remove(name)


def _weights_of(objects: Objects, name: str) -> str | None:
    try:
        weights: str | None = read_record(objects, name)["weights"]
        return weights
    except CheckpointError:
        return UNKNOWN
