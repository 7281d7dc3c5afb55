"""The parts of an ingest: blocks are read, checked and written, in any order, by any process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dnmf.engine.executors import each_block
from dnmf.errors import BadImagesError, IngestError
from dnmf.io.plan import AnySource, Done, Plan, done_blocks, read_done, write_done
from dnmf.io.sources.arrays import ArrayImages
from dnmf.io.sources.files import Batch, FileImages
from dnmf.io.sources.places.place import Reject
from dnmf.numerics.block import find_invalid, invalid_pixel_error
from dnmf.storage.corpus_writer import Layout
from dnmf.storage.table_writer import write_block

SHOWN_BAD = 1000
"""Largest number of bad images that an error names."""

Progress = Callable[[int, int], None]
"""Called with the number of images that are done, and of all."""


def write_blocks(plan: Plan, blocks: Sequence[int], on_progress: Progress) -> None:
    """Write the blocks of a plan that are not written yet.

    Parameters
    ----------
    plan : Plan
    blocks : sequence of int
        Numbers of the blocks.
    on_progress : callable

    Raises
    ------
    BadImagesError
        More images are bad than the limits allow.
    """
    layout, written = plan.layout, set(done_blocks(plan.building))
    todo = [index for index in blocks if index not in written]
    bad = list(plan.rejects)
    for index in written.intersection(blocks):
        bad += read_done(plan.building, index).rejects
    total = sum(_rows(layout, index) for index in blocks)
    count = total - sum(_rows(layout, index) for index in todo)
    task = partial(_write_nth, blocks=todo, plan_path=plan.building, layout=layout)
    for number, done in each_block(task, plan.source, len(todo)):
        bad += done.rejects
        if len(bad) >= SHOWN_BAD:
            check_limits(plan, bad)
        count += _rows(layout, todo[number])
        on_progress(count, total)
    check_limits(plan, bad)


def check_limits(plan: Plan, bad: Sequence[Reject]) -> None:
    """Raise BadImagesError if more images are bad than the limits of the plan allow."""
    allowed = plan.limits.excess(bad, plan.layout.n_images)
    if allowed is None:
        return
    bad = sorted(bad, key=lambda reject: -1 if reject.row is None else reject.row)
    errors = list(map(str, bad))
    raise BadImagesError(errors, [reject.path for reject in bad], allowed, plan.layout.n_images)


def load(source: AnySource, start: int, stop: int, layout: Layout) -> Batch:
    """Read images of a source and their ids; raise unless they are as promised, and are pixels."""
    if isinstance(source, (ArrayImages, FileImages)):
        return source.load(start, stop)
    batch = Batch(source.read(start, stop), source.ids(start, stop))
    images, expected = batch.images, (stop - start, *layout.image_shape)
    if (images.shape, str(images.dtype), len(batch.ids)) != (expected, layout.dtype, stop - start):
        raise IngestError(
            f"images {start} to {stop - 1}: the source gave {len(batch.ids)} ids and "
            f"{images.dtype} pixels of shape {images.shape} where it promised {layout.dtype} of "
            f"{expected}"
        )
    invalid = find_invalid(images.reshape(len(images), -1), start)
    if invalid is not None:
        raise invalid_pixel_error(invalid, lambda row: f"image {row} ({batch.ids[row - start]})")
    return batch


def _write_nth(source: AnySource, number: int, *, blocks: Sequence[int], **options: Any) -> Done:
    return _write(source, blocks[number], **options)


def _write(source: AnySource, index: int, *, plan_path: str, layout: Layout) -> Done:
    """Read, check and write a block, and note that it is written."""
    start = index * layout.block_rows
    batch = load(source, start, start + _rows(layout, index), layout)
    rows = batch.images.reshape(len(batch.ids), layout.n_pixels)
    line = write_block(plan_path, index, rows, batch.ids, batch.columns) if batch.ids else None
    done = Done(line, batch.rejects)
    write_done(plan_path, index, done)
    return done


def _rows(layout: Layout, index: int) -> int:
    return min(layout.block_rows, layout.n_images - index * layout.block_rows)


def part_of(n_blocks: int, number: int, parts: int) -> range:
    """Return the blocks of part `number` (from 1) of `parts`: consecutive ones, evenly cut."""
    return range((number - 1) * n_blocks // parts, number * n_blocks // parts)
