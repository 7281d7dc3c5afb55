"""A pass over X for one model or for several, in one read: their sums, and the H steps on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.engine.executors import side_by_side
from dnmf.engine.tree_reduce import blocks_per_task
from dnmf.numerics.block import Block
from dnmf.numerics.h_update import Step, StepColumns, joined, steps
from dnmf.numerics.holdout import HeldOutBlock, Holdout
from dnmf.numerics.objective import Objective
from dnmf.numerics.state import WeightSink
from dnmf.numerics.statistics import Basis, StatsPerModel, SufficientStats


@dataclass(frozen=True)
class Point:
    """Where a pass evaluates a model.

    Attributes
    ----------
    objective : Objective
    Y : ndarray of shape (d, p), float64
        In the place of H.
    sink : callable, optional
        Given the weights of each block.
    resample : Holdout, optional
        What of X the model is shown.
    """

    objective: Objective
    Y: Array
    sink: WeightSink | None = None
    resample: Holdout | None = None


def run_passes(blocks: Blocks, points: Sequence[Point], group: int | None = None) -> list[Step]:
    """Run one pass for all points, a read of X, and the H steps on its sums, where these lie.

    Parameters
    ----------
    blocks : Blocks
    points : sequence of Point
    group : int, optional
        Blocks of a task; by default as many as suits these points.
    """
    group = group or blocks_per_task(blocks, *(len(point.Y) for point in points))
    ends = [steps(point.objective, point.Y) for point in points]
    task = _task(blocks, points)
    if all(len(columns) == 1 for columns in ends):
        sums = blocks.map_sum(task, group=group).each
        pairs = [(end, stats) for (end,), stats in zip(ends, sums, strict=True)]
        return list(side_by_side(lambda pair: pair[0](pair[1]), pairs))
    flat = [OfModel(i, end) for i, columns in enumerate(ends) for end in columns]
    made = iter(blocks.map_finish(task, flat, group=group))
    return [joined([next(made) for _ in columns]) for columns in ends]


def run_pass(
    blocks: Blocks, objective: Objective, Y: Array, sink: WeightSink | None = None
) -> Step:
    """Run one pass at Y; see `run_passes`."""
    return run_passes(blocks, [Point(objective, Y, sink)])[0]


def measure(
    blocks: Blocks,
    objective: Objective,
    Y: Array,
    sink: WeightSink | None = None,
    only: list[int] | None = None,
) -> SufficientStats:
    """Run one pass over X at Y: a read of X, and its sums.

    Parameters
    ----------
    blocks : Blocks
    objective, Y, sink
        As in `Point`.
    only : list of int, optional
        Blocks to read; all by default.
    """
    task = _task(blocks, [Point(objective, Y, sink)])
    return blocks.map_sum(task, only, group=blocks_per_task(blocks, len(Y))).each[0]


@dataclass(frozen=True)
class OfModel:
    """The step of one of several models, for some columns; a `dnmf.engine.blocks.Finish`."""

    index: int
    end: StepColumns

    def cut(self, sums: StatsPerModel) -> StatsPerModel:
        """Take the sums of this model and these columns."""
        return StatsPerModel((self.end.cut(sums.each[self.index]),))

    def __call__(self, sums: StatsPerModel) -> Step:
        """Improve H on the sums of a whole pass."""
        return self.end(sums.each[0])


def _task(blocks: Blocks, points: Sequence[Point]) -> Callable[[Block], StatsPerModel]:
    """Say what is done to a block; models that are shown the same of it follow each other."""
    bases = [Basis.for_pixels(point.Y, blocks.dtype) for point in points]
    slim = [replace(point, Y=point.Y[:0]) for point in points]  # the basis has it
    return partial(_evaluate, points=slim, bases=bases)


def _evaluate(block: Block, *, points: Sequence[Point], bases: Sequence[Basis]) -> StatsPerModel:
    sums: list[SufficientStats] = []
    shown: HeldOutBlock | None = None
    for i, (point, basis) in enumerate(zip(points, bases, strict=True)):
        if point.resample is None:
            sums.append(_evaluate_whole(block, point, basis))
            continue
        if shown is None or point.resample != points[i - 1].resample:
            shown = None  # before there is another
            shown = point.resample(block)
        sums.append(_evaluate_part(shown, point, basis))
    return StatsPerModel(tuple(sums))


def _evaluate_whole(block: Block, point: Point, basis: Basis) -> SufficientStats:
    sink = point.sink
    stats, W = point.objective.block_stats(block, basis, weights=sink is not None)
    if sink is None or W is None:
        return stats
    return replace(stats, written=((block.start, sink(W, block.start) or 0),))


def _evaluate_part(shown: HeldOutBlock, point: Point, basis: Basis) -> SufficientStats:
    stats, W = point.objective.block_stats(shown.visible, basis)
    assert W is not None
    return replace(stats, held_out=shown.held_out_sums(W, basis, point.objective.beta))
