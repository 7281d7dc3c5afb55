"""How blocks are grouped into tasks, and how their results add up in a fixed tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import iadd
from typing import Any, Generic, TypeVar, cast

from dnmf.engine.blocks import BlockFunction, Blocks, RawBlock
from dnmf.numerics.block import InvalidPixel, PixelRules, assemble, invalid_pixel_error

Item = TypeVar("Item")
Mapped = TypeVar("Mapped")
Result = TypeVar("Result")

FAN_IN = 8
"""Number of results that one node of the tree adds up: the most that are in one place at a time,
which bounds memory, because the sums of a block are as large as H."""

TASK_FLOPS = 2e10
"""Least work of a task, half a second of a core or less: many times what its scheduling costs."""

PIXELS_PER_SUM = 4
"""Least number of bytes of pixels that a task reads for each byte of sums that it sends on."""

LEAST_TASKS = 16
"""Least number of tasks in a pass that has as many blocks: work for a few workers."""

MOST_TASKS = 100_000
"""Largest number of tasks in a pass: as many as a scheduler hands out in two minutes."""


def choose_block_rows(n_images: int, image_bytes: int) -> int:
    """Return the number of images in a block, of about 16 MiB.

    A block is the unit of reading, of a task and of its memory. 16 MiB reads well from disks and
    object stores and keeps a core busy for a few tenths of a second. A small corpus is cut into
    sixteenths, of 1 MiB at least, which still keeps several workers busy.
    """
    block_bytes = min(max(n_images * image_bytes // 16, 2**20), 2**24)
    return max(1, min(block_bytes // image_bytes, n_images))


def even_ranges(n: int, rows: int) -> list[tuple[int, int]]:
    """Cut n rows into ranges (start, stop) of equal length; the last one may be shorter."""
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]


def blocks_per_task(blocks: Blocks, *components: int) -> int:
    """Return the number of blocks that one task of a pass takes, so that it is worth scheduling.

    The bits of the sums depend on this number, so it follows from sizes alone.

    Parameters
    ----------
    blocks : Blocks
    *components : int
        Number of components of each model in the pass.
    """
    p, (start, stop) = blocks.shape[1], blocks.ranges[0]
    pixels = (stop - start) * p
    work = TASK_FLOPS / (4 * pixels * sum(components))
    sums = sum(8 * d * (d + p) for d in components)
    weight = PIXELS_PER_SUM * sums / (pixels * blocks.dtype.itemsize)
    n = len(blocks.ranges)
    return max(1, min(round(max(work, weight)), n // LEAST_TASKS), -(-n // MOST_TASKS))


def groups_of(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cut a sequence into groups of equal size; the last one may be smaller."""
    return [items[i : i + size] for i in range(0, len(items), size)]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """Result of a block or a sum of results, or the first invalid pixel of the blocks.

    Attributes
    ----------
    value : object or None
    invalid : InvalidPixel or None
    """

    value: Result | None
    invalid: InvalidPixel | None = None

    def __add__(self, other: Outcome[Result]) -> Outcome[Result]:
        invalid = min((x for x in (self.invalid, other.invalid) if x is not None), default=None)
        if invalid is not None:
            return Outcome(None, invalid)
        return Outcome(self.value + other.value)  # type: ignore[operator]

    def __iadd__(self, other: Outcome[Result]) -> Outcome[Result]:
        if self.value is None or other.value is None:
            return self + other
        value = self.value
        value += other.value  # type: ignore[operator]
        return Outcome(value)

    def map(self, function: Callable[[Result], Mapped]) -> Outcome[Mapped]:
        """Apply a function to the value, if there is one."""
        if self.invalid is not None:
            return Outcome(None, self.invalid)
        return Outcome(function(cast(Result, self.value)))

    def result(self, image_name: Callable[[int], str]) -> Result:
        """Return the value, or raise DataError for the invalid pixel of the image of that name."""
        if self.invalid is not None:
            raise invalid_pixel_error(self.invalid, image_name)
        return cast(Result, self.value)


def run_block(raw: RawBlock, rules: PixelRules, function: BlockFunction[Result]) -> Outcome[Result]:
    """Check and mask a block, and apply a function to it unless a pixel is invalid."""
    block = assemble(*raw, rules)
    return Outcome(None, block) if isinstance(block, InvalidPixel) else Outcome(function(block))


def run_blocks(
    raw_blocks: Iterable[RawBlock], rules: PixelRules, function: BlockFunction[Result]
) -> Outcome[Result]:
    """Apply a function to the blocks of a task, one after the other, and return the sum."""
    total: Outcome[Result] | None = None
    for raw in raw_blocks:
        # No name and no `reduce` for a result: either would keep it alive during the next block.
        if total is None:
            total = run_block(raw, rules, function)
        else:
            total += run_block(raw, rules, function)
    assert total is not None  # no task is without a block
    return total


def add(first: Any, *rest: Any) -> Any:
    """Add up results from left to right, without changing any of them."""
    return reduce(iadd, rest[1:], first + rest[0]) if rest else first


def tree_reduce(results: Iterable[Item], add: Callable[..., Item]) -> Item:
    """Add up results in a tree whose shape depends on their number alone.

    Each node takes `FAN_IN` results that follow each other. Results may come from an iterator:
    fewer than `FAN_IN` of each level wait at any time.

    Parameters
    ----------
    results : iterable
        At least one.
    add : callable
        Returns the sum of its arguments, of which there are two or more.
    """
    levels: list[list[Item]] = []
    for result in results:
        total, level = result, 0
        while True:
            if level == len(levels):
                levels.append([])
            levels[level].append(total)
            if len(levels[level]) < FAN_IN:
                break
            total, levels[level], level = add(*levels[level]), [], level + 1
    rest: list[Item] = []
    for waiting in levels:
        rest = [*waiting, *rest]
        rest = [add(*rest)] if len(rest) > 1 else rest
    return rest[0]
