"""A pass over X: a function of each block, and the sum of its results in a fixed order.

The only Dask code on the way of a fit. Two engines with one face (`Blocks`): `LocalBlocks` runs
over slices of a NumPy array on threads; `DaskBlocks` runs one task per block on whatever scheduler
is active. Both sum in the same tree, which depends on the number of blocks and on nothing else, so
the bits do not depend on the engine, the workers or the order in which blocks finish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
from dask.system import CPU_COUNT

from dnmf.block import PLAIN, Block, Invalid, Rules, assemble
from dnmf.cluster import active_client, compute_with
from dnmf.errors import DataError
from dnmf.layout import choose_block_rows
from dnmf.threads import one_blas_thread

Array = np.ndarray[Any, np.dtype[Any]]
Result = TypeVar("Result")

Aside = tuple[Array | None, Array | None]
"""The weights and the mask of a block's rows."""

FAN_IN = 8
"""Results summed by one task: of a block's sums, which are d x p, no more are in one place."""


Task = Callable[[Block], Result]
"""What is done to a block: a picklable function, pure but for writes that are safe to repeat; its
results support ``+``."""


class Blocks(Protocol):
    """X, cut into blocks of whole rows.

    Attributes
    ----------
    shape : tuple of int
        (n images, p pixels).
    dtype : numpy.dtype
        Of the pixels as stored.
    ranges : sequence of (start, stop)
        Rows of each block.
    weights, masks
        What lies beside X, in the engine's form; None without any.
    """

    weights: Any
    masks: Any
    rules: Rules

    @property
    def shape(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    @property
    def ranges(self) -> Sequence[tuple[int, int]]: ...  # noqa: D102

    def map_sum(
        self, task: Task[Result], only: Sequence[int] | None = None, *, check: bool = True
    ) -> Result:
        """Read every block once, check it, apply `task` and add up what it returns.

        Parameters
        ----------
        task : callable ``(Block) -> result``
        only : sequence of int, optional
            Blocks to read, in ascending order; all by default.
        check : bool
            Whether to look for pixels that cannot be factorised.

        Raises
        ------
        DataError
            A pixel is negative, infinite, or NaN where that is no mark of a missing one.
        """
        ...


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
            carry, levels[level], level = _add(levels[level]), [], level + 1
    rest: list[Result] = []
    for waiting in levels:
        rest = [_add(waiting + rest)] if waiting or rest else []
    return rest[0]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What a task made of a block, or the pixel that kept it from running; adds up."""

    value: Result | None
    invalid: Invalid | None = None

    def __add__(self, other: Outcome[Result]) -> Outcome[Result]:
        invalid = min((x for x in (self.invalid, other.invalid) if x is not None), default=None)
        if invalid is not None:
            return Outcome(None, invalid)
        return Outcome(self.value + other.value)  # type: ignore[operator]


def run_task(
    X: Array, start: int, aside: Aside, rules: Rules, task: Task[Result]
) -> Outcome[Result]:
    """Apply a task to a block, unless one of its pixels forbids it."""
    block = assemble(X, start, *aside, rules)
    return Outcome(None, block) if isinstance(block, Invalid) else Outcome(task(block))


def checked_block(
    X: Array, start: int, weights: Array | None, mask: Array | None, rules: Rules
) -> Block:
    """Assemble a block, or raise DataError for the first pixel that cannot be factorised."""
    block = assemble(X, start, weights, mask, rules)
    if isinstance(block, Invalid):
        raise invalid_pixel(block, _image_number)
    return block


def _value(outcome: Outcome[Result], image: Callable[[int], str]) -> Result:
    if outcome.invalid is not None:
        raise invalid_pixel(outcome.invalid, image)
    return cast(Result, outcome.value)


def invalid_pixel(invalid: Invalid, image: Callable[[int], str]) -> DataError:
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


def _image_number(row: int) -> str:
    return f"image {row}"


def _add(results: Sequence[Result]) -> Result:
    return reduce(lambda a, b: a + b, results)  # type: ignore[operator]


@dataclass
class LocalBlocks:
    """Rows of an array in memory, NumPy's or SciPy's sparse rows; see `Blocks`."""

    array: Array
    weights: Array | None = None
    masks: Array | None = None
    rules: Rules = PLAIN
    threads: int = CPU_COUNT

    def __post_init__(self) -> None:
        n, p = self.array.shape
        self.shape = (n, p)
        self.dtype = self.array.dtype
        self.ranges = even_ranges(n, choose_block_rows(n, p * self.dtype.itemsize))

    @property
    def is_plain(self) -> bool:
        """Whether every pixel of the array counts, as far as the rules can tell."""
        marked = self.rules.nan_is_missing and self.dtype.kind == "f"
        return isinstance(self.array, np.ndarray) and self.masks is None and not marked

    def map_sum(
        self, task: Task[Result], only: Sequence[int] | None = None, *, check: bool = True
    ) -> Result:
        """Apply a task to every block on threads; see `Blocks.map_sum`."""
        rules = replace(self.rules, check=check)

        def run(block: int) -> Outcome[Result]:
            start, stop = self.ranges[block]
            rows = slice(start, stop)
            aside = (_rows_of(self.weights, rows), _rows_of(self.masks, rows))
            return run_task(dense(self.array[rows]), start, aside, rules, task)

        with one_blas_thread(), ThreadPoolExecutor(self.threads) as pool:
            wanted = range(len(self.ranges)) if only is None else only
            outcome = add_up(_in_order(pool, run, wanted, self.threads))
        return _value(outcome, _image_number)


def _rows_of(aligned: Array | None, rows: slice) -> Array | None:
    return None if aligned is None else aligned[rows]


def dense(X: Any) -> Array:
    """Give SciPy's sparse rows as an array, and an array as it is."""
    return X if isinstance(X, np.ndarray) else np.asarray(X.toarray())


def _in_order(
    pool: ThreadPoolExecutor, run: Callable[[int], Result], blocks: Sequence[int], threads: int
) -> Iterator[Result]:
    """Yield results in the order of blocks, with few of them waiting at any time."""
    waiting: deque[Future[Result]] = deque()
    for block in blocks:
        waiting.append(pool.submit(run, block))
        if len(waiting) > 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass
class DaskBlocks:
    """Blocks that tasks read or are given; see `Blocks`.

    Attributes
    ----------
    shape, dtype, ranges
        As in `Blocks`.
    load : sequence
        For each block a picklable function that reads it, or a Dask ``Delayed`` of it.
    image : callable
        Names the image of a row, for errors.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ranges: Sequence[tuple[int, int]]
    load: Sequence[Any]
    image: Callable[[int], str] = _image_number
    weights: Sequence[Any] | None = None
    masks: Sequence[Any] | None = None
    rules: Rules = PLAIN

    def map_sum(
        self, task: Task[Result], only: Sequence[int] | None = None, *, check: bool = True
    ) -> Result:
        """Apply a task to every block on the active Dask scheduler; see `Blocks.map_sum`."""
        from dask.delayed import delayed

        run, add = delayed(_run_block, pure=False), delayed(_add, pure=False)
        wanted = range(len(self.ranges)) if only is None else only
        rules = replace(self.rules, check=check)

        def graph(shared: Any) -> Any:
            parts = [run(*self._inputs(i), self.ranges[i][0], rules, shared) for i in wanted]
            while len(parts) > 1:
                parts = [add(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
            return parts[0]

        client = active_client()
        outcome: Outcome[Result] = (
            graph(delayed(task, traverse=False)).compute()
            if client is None
            else compute_with(client, task, graph)
        )
        return _value(outcome, self.image)

    def _inputs(self, i: int) -> tuple[Any, Any, Any]:
        aligned = (None if part is None else part[i] for part in (self.weights, self.masks))
        return (self.load[i], *aligned)


def _run_block(
    load: Any, weights: Any, mask: Any, start: int, rules: Rules, task: Task[Result]
) -> Outcome[Result]:
    with one_blas_thread():
        X, *aside = (part() if callable(part) else part for part in (load, weights, mask))
        return run_task(np.asarray(X), start, (aside[0], aside[1]), rules, task)


def even_ranges(n: int, rows: int) -> list[tuple[int, int]]:
    """Cut n rows into ranges of so many rows, the last one short."""
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]
