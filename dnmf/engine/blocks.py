"""The protocol of both engines: X in blocks of whole rows, and one pass over them.

`local.LocalBlocks` runs over slices of an array in memory, on threads; `dask_graph.DaskBlocks` runs
as tasks on the active Dask scheduler. Both apply a `BlockFunction` to each block and add up what it
returns in the tree of `tree_reduce`, which depends on the number of blocks alone: the bits do not
depend on the engine, on the workers or on the order in which blocks finish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.block import Block, PixelRules

Result = TypeVar("Result")

BlockFunction = Callable[[Block], Result]
"""Function of a block whose results support ``+``. It is picklable and has no side effects, except
for writes that are safe to repeat."""


class Finish(Protocol[Result]):
    """Picklable function of the sum over all blocks, or of a part of it."""

    def select(self, result: Result, /) -> Result:
        """Select the part that is needed, of one result or of a sum; commutes with addition."""
        ...

    def __call__(self, total: Result, /) -> Any:
        """Compute the result of a pass from the selected part of the sum."""
        ...


class RawBlock(NamedTuple):
    """Rows of X as they were read, before they are checked and masked.

    Attributes
    ----------
    X : ndarray of shape (b, p)
    start : int
        Row of ``X[0]`` in the whole of X.
    weights : ndarray of shape (b,) or None
    mask : ndarray of shape (b, p), bool, or None
        True where a pixel is to be ignored.
    """

    X: Array
    start: int
    weights: Array | None
    mask: Array | None


class Blocks(Protocol):
    """X, cut into blocks of whole rows.

    Attributes
    ----------
    shape : tuple of int
        (n images, p pixels).
    dtype : numpy.dtype
        Data type of the pixels as stored.
    ranges : sequence of (start, stop)
        Rows of each block.
    weights, masks
        Weights of the images and mask of the pixels, in the engine's form; None without any.
    rules : PixelRules
        Which pixels are valid.
    """

    weights: Any
    masks: Any
    rules: PixelRules

    @property
    def shape(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    @property
    def ranges(self) -> Sequence[tuple[int, int]]: ...  # noqa: D102

    def map_sum(
        self,
        function: BlockFunction[Result],
        only: Sequence[int] | None = None,
        *,
        check: bool = True,
        group: int = 1,
        label: str = "",
    ) -> Result:
        """Read each block once, apply a function to it, and return the sum of the results.

        Parameters
        ----------
        function : callable
            See `BlockFunction`.
        only : sequence of int, optional
            Numbers of the blocks to read, in ascending order; all by default.
        check : bool
            Whether to raise for pixels that cannot be factorised.
        group : int
            Number of blocks that one task reads and adds up. It reads the next one while it
            computes.
        label : str
            What the sum is part of, such as ``pass-12``, for the keys of Dask's tasks.

        Raises
        ------
        DataError
            A pixel is negative, infinite, or NaN where NaN does not mark missing pixels.
        """
        ...

    def map_blocks(self, function: BlockFunction[Result], only: Sequence[int]) -> list[Result]:
        """Apply a function to each of the given blocks, unchecked, and return the results."""
        ...

    def map_finish(
        self,
        function: BlockFunction[Result],
        finishes: Sequence[Finish[Result]],
        *,
        group: int = 1,
        label: str = "",
    ) -> list[Any]:
        """Sum as `map_sum` does over all blocks, and return what each `Finish` computes from it.

        Each task selects the part for each `Finish`. Each part has a tree of its own and is
        finished where that tree ends, so that no place needs the whole sum.
        """
        ...
