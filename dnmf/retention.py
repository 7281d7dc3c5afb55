"""Which passes of a model are kept, and the room that takes.

The newest ones: since the loss of successive states never rises, the newest is also the best. And
the newest that has weights, since these may be due in few passes.
"""

from __future__ import annotations

from dnmf.blockwise import Blocks
from dnmf.commits import committed, pass_of, passes_in, read_record
from dnmf.errors import CheckpointError
from dnmf.kernels import compute_dtype
from dnmf.model_weights import weights_in
from dnmf.objects import Objects

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


def checkpoint_bytes(blocks: Blocks, n_components: int, keep: int, max_iter: int) -> int:
    """Bound the bytes of a checkpoint on a disk, while a fit runs.

    Passes, and weights: one set for each pass that is kept and the one being written.
    """
    d, page = n_components, 4096
    rows, count = blocks.ranges[0][1], len(blocks.ranges)
    chunk = rows * d * compute_dtype(blocks.dtype).itemsize + 64 + page
    weights = count * (chunk + 64) + 2 * page
    return passes_bytes(blocks, n_components, keep, max_iter) + (keep + 1) * weights


def passes_bytes(blocks: Blocks, n_components: int, keep: int, max_iter: int) -> int:
    """Bound the bytes of a checkpoint without weights.

    The passes that are kept, the newest with weights, the one being written. Of a file the last
    4 KiB may be empty.
    """
    page = 4096
    arrays = 3 * 8 * n_components * blocks.shape[1] + 8 * len(blocks.ranges)
    record = 40 * max_iter + 32 * n_components + 24 * page
    return (keep + 2) * (arrays + record) + 4 * page
