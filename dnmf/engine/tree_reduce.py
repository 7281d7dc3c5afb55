"""What tasks make of blocks, the pixel that keeps one from running, and sums in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic, TypeVar, cast

import numpy as np

from dnmf._typing import Array
from dnmf.engine.blocks import Aside, BlockFunction, Blocks
from dnmf.errors import DataError
from dnmf.numerics.block import Block, InvalidPixel, PixelRules, assemble

Item = TypeVar("Item")
Result = TypeVar("Result")
FAN_IN = 8
"""Results summed by one task: of a block's sums, which are d x p, no more are in one place."""


def add_up(results: Iterable[Result]) -> Result:
    """Sum in the fixed tree, holding at most `FAN_IN` results per level."""
    levels: list[list[Result]] = []
    for result in results:
        carry, level = result, 0
        while True:
            if level == len(levels):
                levels.append([])
            levels[level].append(carry)
            if len(levels[level]) < FAN_IN:
                break
            carry, levels[level], level = add(*levels[level]), [], level + 1
    rest: list[Result] = []
    for waiting in levels:
        rest = [add(*waiting, *rest)] if waiting or rest else []
    return rest[0]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What a task made of a block, or the pixel that kept it from running; adds up."""

    value: Result | None
    invalid: InvalidPixel | None = None

    def __add__(self, other: Outcome[Result]) -> Outcome[Result]:
        invalid = min((x for x in (self.invalid, other.invalid) if x is not None), default=None)
        if invalid is not None:
            return Outcome(None, invalid)
        return Outcome(self.value + other.value)  # type: ignore[operator]

    def plus(self, other: Outcome[Result]) -> Outcome[Result]:
        """Add to this one, in its arrays where it can: it must be nobody else's."""
        if self.value is None or other.value is None:
            return self + other
        value = self.value
        value += other.value  # type: ignore[operator]
        return Outcome(value)


def run_task(
    X: Array, start: int, aside: Aside, rules: PixelRules, task: BlockFunction[Result]
) -> Outcome[Result]:
    """Apply a task to a block, unless one of its pixels forbids it."""
    block = assemble(X, start, *aside, rules)
    return Outcome(None, block) if isinstance(block, InvalidPixel) else Outcome(task(block))


def run_blocks(
    parts: Iterable[tuple[Array, int, Aside]], rules: PixelRules, task: BlockFunction[Result]
) -> Outcome[Result]:
    """Apply a task to a group of blocks, one after the other, and add up."""
    total: Outcome[Result] | None = None
    for X, start, aside in parts:
        # Without a name for it, or `reduce`: either would hold the sums of a block during the next.
        if total is None:
            total = run_task(X, start, aside, rules, task)
        else:
            total = total.plus(run_task(X, start, aside, rules, task))
    assert total is not None  # there is no task without a block
    return total


def checked_block(
    X: Array, start: int, weights: Array | None, mask: Array | None, rules: PixelRules
) -> Block:
    """Assemble a block, or raise DataError for the first pixel that cannot be factorised."""
    block = assemble(X, start, weights, mask, rules)
    if isinstance(block, InvalidPixel):
        raise invalid_pixel(block, image_number)
    return block


def value_of(outcome: Outcome[Result], image: Callable[[int], str]) -> Result:
    """Give what the tasks made of all blocks, or raise DataError for the pixel that forbade it."""
    if outcome.invalid is not None:
        raise invalid_pixel(outcome.invalid, image)
    return cast(Result, outcome.value)


def invalid_pixel(invalid: InvalidPixel, image: Callable[[int], str]) -> DataError:
    """Say which image cannot be factorised, in words that scikit-learn's callers look for."""
    row, pixel, value = invalid
    where = f"the first is {value:g} at pixel {pixel} of {image(row)}"
    if value == 0:
        return DataError(
            "When beta_loss <= 0 and X contains zeros, the divergence is infinite: "
            f"{where}; add a small value to X, or use a positive beta_loss"
        )
    kind = "Negative values" if value < 0 else "NaN or infinity"
    advice = "; missing='ignore' leaves out NaN" if np.isnan(value) else ""
    return DataError(
        f"{kind} in data passed to NMF: {where}; pixels must be finite and non-negative: mend or "
        f"leave out such images{advice}"
    )


def image_number(row: int) -> str:
    """Name an image that has no id."""
    return f"image {row}"


def add(first: Any, *rest: Any) -> Any:
    """Add results up; theirs are not touched, one sum is made and filled."""
    if not rest:
        return first
    total = first + rest[0]
    return reduce(Outcome.plus, rest[1:], total)


TASK_FLOPS = 2e10
"""Work of a task that is worth its scheduling many times over: half a second or less of a core."""

PIXELS_PER_SUM = 4
"""Bytes of pixels a task should read for each byte of the sums that it sends on."""

LEAST_TASKS, MOST_TASKS = 16, 100_000
"""Tasks of a pass: work for a few workers where there are as many blocks, and no more than one
scheduler hands out in two minutes."""


def blocks_per_task(blocks: Blocks, *components: int) -> int:
    """Choose how many blocks one task of a pass takes, from sizes alone: the bits depend on it.

    Enough for a task to be worth its scheduling, and for its pixels to outweigh its sums, which
    are those of one model or of several.
    """
    p, (start, stop) = blocks.shape[1], blocks.ranges[0]
    pixels = (stop - start) * p
    work = TASK_FLOPS / (4 * pixels * sum(components))
    sums = sum(8 * d * (d + p) for d in components)
    weight = PIXELS_PER_SUM * sums / (pixels * blocks.dtype.itemsize)
    n = len(blocks.ranges)
    return max(1, min(round(max(work, weight)), n // LEAST_TASKS), -(-n // MOST_TASKS))


def groups_of(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence, of blocks or of results, into groups of so many."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def even_ranges(n: int, rows: int) -> list[tuple[int, int]]:
    """Cut n rows into ranges of so many rows, the last one short."""
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]


def choose_block_rows(n_images: int, image_bytes: int) -> int:
    """Choose the images of a block: about 16 MiB, or sixteenths of a small corpus, 1 MiB at least.

    A block is the unit of reading, of a task and of its memory. 16 MiB reads well from disks and
    object stores and keeps a core busy for a few tenths of a second; a smaller corpus is still cut
    finely enough to keep several workers busy.
    """
    block_bytes = min(max(n_images * image_bytes // 16, 2**20), 2**24)
    return max(1, min(block_bytes // image_bytes, n_images))
