"""The end of an ingest: blocks without holes, the list of bad images, and the record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dnmf.errors import BadImagesError, IngestError
from dnmf.io.parts import check_limits
from dnmf.io.plan import Plan, done_blocks, forget_done, read_done, remove_plan
from dnmf.io.sources.places.place import Reject
from dnmf.storage.append import Rows, append_rows, in_blocks
from dnmf.storage.atomic import REJECTS
from dnmf.storage.corpus import Corpus
from dnmf.storage.corpus_writer import commit_corpus
from dnmf.storage.store import ObjectStore
from dnmf.storage.table_writer import Line, delete_block, read_table_block, write_block

REJECTS_BYTES = 2**30
"""Largest list of bad images that is read."""


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
    lines, rejects = _gather(plan)
    manifest = [line for line in lines if line is not None]
    n_images = sum(line[0] for line in manifest)
    facts = {
        **getattr(plan.source, "facts", {}),
        "choices": plan.choices.as_dict(),
        "rejects": len(rejects),
    }
    if n_images < layout.n_images:
        manifest = _close_holes(plan, lines)
        layout = replace(layout, n_images=n_images)
        facts.pop("rows", None)  # a map needs all its pixels
    _write_rejects(plan.building, rejects)
    commit_corpus(plan.building, layout, manifest, facts)
    remove_plan(plan.building)


def finish_append(plan: Plan, corpus: Corpus) -> None:
    """Add the images of a plan, whose blocks are all written, to a corpus; see `finish_corpus`."""
    lines, rejects = _gather(plan)
    _write_rejects(plan.path, rejects, len(corpus.generations) + 1)
    append_rows(corpus, _rows_of(plan, lines, 0), plan.token, len(rejects))


def _gather(plan: Plan) -> tuple[list[Line | None], list[Reject]]:
    """Return the lines of all blocks, and all bad images; raise as `finish_corpus` does."""
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
    if not any(each.line for each in done):
        raise BadImagesError(list(map(str, rejects)))
    return [each.line for each in done], rejects


def _close_holes(plan: Plan, lines: Sequence[Line | None]) -> list[Line]:
    """Move images up into the places of bad ones, and return the lines of the manifest.

    A block takes images from itself and from later blocks, so that no image is read after it was
    overwritten. Before a block changes, the note that it is written is removed. If the process is
    killed here, the next one reads those blocks from their files again.
    """
    layout, building = plan.layout, plan.building
    rows = layout.block_rows
    full = next(i for i, line in enumerate(lines) if line is None or line[0] < rows)
    manifest = [line for line in lines[:full] if line is not None]
    for index, whole in enumerate(in_blocks(_rows_of(plan, lines, full), rows), full):
        forget_done(building, [index])
        manifest.append(write_block(building, index, *whole))
    for index in range(len(manifest), layout.n_blocks):
        forget_done(building, [index])
        delete_block(building, index)
    return manifest


def _rows_of(plan: Plan, lines: Sequence[Line | None], first: int) -> Iterator[Rows]:
    """Yield the good images of each block from `first` on."""
    for index in range(first, len(lines)):
        if (line := lines[index]) is not None:
            yield read_table_block(plan.building, index, line)


def _write_rejects(path: str, rejects: Sequence[Reject], generation: int = 1) -> None:
    """Write the bad images as JSON lines: path, reason, and number among all that were planned.

    Those of earlier generations stay; what this generation has written before, it writes again.
    """
    if not rejects:
        return
    store = ObjectStore(path)
    earlier: list[str] = []
    if generation > 1:
        with suppress(FileNotFoundError):
            earlier = store.get(REJECTS, REJECTS_BYTES).decode().splitlines()
    lines = [line for line in earlier if json.loads(line).get("generation", 1) < generation]
    lines += [json.dumps(_as_dict(reject, generation)) for reject in rejects]
    store.set(REJECTS, ("\n".join(lines) + "\n").encode())


def _as_dict(reject: Reject, generation: int) -> dict[str, Any]:
    found = {"path": reject.path, "reason": reject.reason, "row": reject.row}
    return found if generation == 1 else {**found, "generation": generation}
