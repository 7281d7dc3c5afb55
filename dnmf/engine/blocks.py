"""A pass over X: a function of each block, and the sum of its results in a fixed order.

Two engines with one face (`Blocks`): `LocalBlocks` runs over slices of a NumPy array on threads;
`dask_blocks.DaskBlocks` runs tasks of some blocks each on whatever scheduler is active. Both sum in
the same tree, which depends on the number of blocks and on nothing else, so the bits do not depend
on the engine, the workers or the order in which blocks finish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from dnmf._typing import Array
from dnmf.numerics.block import Block, PixelRules

Result = TypeVar("Result")


class Finish(Protocol[Result]):
    """What is made of a sum; picklable."""

    def cut(self, result: Result, /) -> Result:
        """Take what is needed of a result, or of a sum of results: the one or the other first."""
        ...

    def __call__(self, total: Result, /) -> Any:
        """Make something of the sum."""
        ...


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
    rules: PixelRules

    @property
    def shape(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    @property
    def ranges(self) -> Sequence[tuple[int, int]]: ...  # noqa: D102

    def map_sum(
        self,
        task: BlockFunction[Result],
        only: Sequence[int] | None = None,
        *,
        check: bool = True,
        group: int = 1,
    ) -> Result:
        """Read every block once, check it, apply `task` and add up what it returns.

        Parameters
        ----------
        task : callable ``(Block) -> result``
        only : sequence of int, optional
            Blocks to read, in ascending order; all by default.
        check : bool
            Whether to look for pixels that cannot be factorised.
        group : int
            Blocks that are read and added up by one task, the next while one is computed with.

        Raises
        ------
        DataError
            A pixel is negative, infinite, or NaN where that is no mark of a missing one.
        """
        ...

    def map_parts(self, task: BlockFunction[Result], only: Sequence[int]) -> list[Result]:
        """Apply `task` to some blocks, unchecked, and bring home what it returns, not added up."""
        ...

    def map_finish(
        self, task: BlockFunction[Result], finish: Sequence[Finish[Result]], *, group: int = 1
    ) -> list[Any]:
        """Do as `map_sum`, and bring home what each of some functions makes of the sum.

        Results are cut where they come to be, for each function what it needs; each cut is added
        up on its own, and finished where it lies.
        """
        ...


BlockFunction = Callable[[Block], Result]
"""What is done to a block: a picklable function, pure but for writes that are safe to repeat; its
results support ``+``."""

Aside = tuple[Array | None, Array | None]
"""The weights and the mask of a block's rows."""
