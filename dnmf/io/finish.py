"""The end of an ingest: blocks without holes, the list of bad images, and the record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import BadImagesError, IngestError
from dnmf.io.parts import check_limits, describe_reject
from dnmf.io.plan import Plan, done_blocks, forget_done, read_done, remove_plan
from dnmf.io.sources.places.place import Reject
from dnmf.storage.atomic import REJECTS
from dnmf.storage.corpus_writer import commit_corpus
from dnmf.storage.store import ObjectStore
from dnmf.storage.table_writer import Line, delete_block, read_table_block, write_block

Rows = tuple[Array, list[str], Mapping[str, Array]]
"""Images, their ids and their columns."""


def finish_corpus(plan: Plan) -> None:
    """Finish a corpus whose blocks are all written; its record is written last.

    Raises
    ------
    IngestError
        Blocks are missing.
    BadImagesError
        More images are bad than the limits allow, or all of them.
    """
    layout = plan.layout
    missing = sorted(set(range(layout.n_blocks)) - set(done_blocks(plan.building)))
    if missing:
        raise IngestError(
            f"{plan.path}: {len(missing):,} of {layout.n_blocks:,} blocks are not written, the "
            f"first is {missing[0]}; run the parts that are missing, then finish again"
        )
    done = [read_done(plan.building, index) for index in range(layout.n_blocks)]
    rejects = [*plan.rejects, *(reject for each in done for reject in each.rejects)]
    check_limits(plan, rejects)
    lines = [each.line for each in done]
    counts = [0 if line is None else line[0] for line in lines]
    if not (n_images := sum(counts)):
        raise BadImagesError([describe_reject(reject) for reject in rejects])
    manifest = [line for line in lines if line is not None]
    if n_images < layout.n_images:
        manifest = _close_holes(plan, lines, n_images)
        layout = replace(layout, n_images=n_images)
    _write_rejects(plan.building, rejects)
    facts = {
        **getattr(plan.source, "facts", {}),
        "choices": plan.choices.as_dict(),
        "rejects": len(rejects),
    }
    commit_corpus(plan.building, layout, manifest, facts)
    remove_plan(plan.building)


def _close_holes(plan: Plan, lines: Sequence[Line | None], n_images: int) -> list[Line]:
    """Move images up into the places of bad ones, and return the lines of the manifest.

    A block takes images from itself and from later blocks, so that none is read after it was
    written over. Before a block changes, it is noted that it is not as planned any more: what is
    killed here reads those blocks from their files again.
    """
    layout, building = plan.layout, plan.building
    rows = layout.block_rows
    full = next(i for i, line in enumerate(lines) if line is None or line[0] < rows)
    manifest = [line for line in lines[:full] if line is not None]
    images = _rows_of(plan, lines, full)
    waiting: list[Rows] = []
    for index in range(full, layout.n_blocks):
        stop = min(rows, n_images - index * rows)
        while sum(len(part[1]) for part in waiting) < stop:
            waiting.append(next(images))
        forget_done(building, [index])
        if stop <= 0:
            delete_block(building, index)
            continue
        whole = _join(waiting)
        manifest.append(write_block(building, index, *_cut(whole, 0, stop)))
        waiting = [_cut(whole, stop, len(whole[1]))]
    return manifest


def _rows_of(plan: Plan, lines: Sequence[Line | None], first: int) -> Iterator[Rows]:
    """Yield the good images of each block from `first` on."""
    for index in range(first, len(lines)):
        if (line := lines[index]) is not None:
            yield read_table_block(plan.building, index, line)


def _join(parts: Sequence[Rows]) -> Rows:
    images = np.concatenate([part[0] for part in parts])
    columns = {name: np.concatenate([part[2][name] for part in parts]) for name in parts[0][2]}
    return images, [name for part in parts for name in part[1]], columns


def _cut(rows: Rows, start: int, stop: int) -> Rows:
    images, ids, columns = rows
    return (
        images[start:stop],
        ids[start:stop],
        {name: column[start:stop] for name, column in columns.items()},
    )


def _write_rejects(building: str, rejects: Sequence[Reject]) -> None:
    """Write the bad images as JSON lines: path, reason, and number among all that were planned."""
    if not rejects:
        return
    lines = (json.dumps(_as_dict(reject)) for reject in rejects)
    ObjectStore(building).set(REJECTS, ("\n".join(lines) + "\n").encode())


def _as_dict(reject: Reject) -> dict[str, Any]:
    return {"path": reject.path, "reason": reject.reason, "row": reject.row}
