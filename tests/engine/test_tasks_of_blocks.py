"""Models that run together take memory together; where there is too little, they run in groups."""

from __future__ import annotations

import logging
import math
import tracemalloc
from dataclasses import replace
from functools import partial

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import model_run

from dnmf.engine.local import LocalBlocks
from dnmf.engine.tree_reduce import even_ranges
from dnmf.errors import CapacityError
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.holdout import Holdout
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import SQUARED
from dnmf.solvers.loop import Evaluation, evaluate_block
from dnmf.solvers.memory_model import Room, Sizes, Together, groups_that_fit

ROOMY = Room(2, 4, 2, 1e8, math.inf, 1e8, math.inf)


@pytest.fixture(scope="module")
def blocks():
    """40,000 images of 100 x 100 that nobody reads."""
    return blocks_of(da.zeros((40_000, 10_000), chunks=(500, -1), dtype=np.uint8))


def sizes_of(blocks, *components):
    return tuple(Sizes.of(blocks, SQUARED, d) for d in components)


@pytest.fixture
def run(blocks, monkeypatch, caplog):
    """Group models where there is that room; check that each group fits and no larger one would."""

    def grouped(room, models):
        monkeypatch.setattr(Room, "here", lambda blocks: room)
        caplog.clear()
        with caplog.at_level(logging.INFO, "dnmf"):
            groups = groups_that_fit(blocks, models)
        assert [i for some in groups for i in range(len(models))[some]] == list(range(len(models)))
        for some in groups:
            assert fits(room, models[some])
            more = models[some.start : some.stop + 1]
            assert some.stop == len(models) or not fits(room, more)
        (record,) = caplog.records
        return [some.stop - some.start for some in groups], record

    def fits(room, models):
        sizes = tuple(Sizes.of(blocks, run.objective, run.spec.n_components) for run in models)
        return room.lacks(Together(sizes, any(run.holdout is not None for run in models))) is None

    return grouped


class TestTogether:
    def test_one_model_takes_what_it_takes_alone(self, blocks):
        (one,) = sizes_of(blocks, 20)
        alone = Together((one,), False)
        for threads in (1, 3):
            assert alone.worker(5, threads) == one.worker(5, threads)
            assert alone.driver(5, threads) == one.driver(5, threads)
        assert alone.driver(5) == one.driver(5)

    @given(
        st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(1, 200), st.booleans()
    )
    def test_another_takes_more(self, blocks, components, more, resampled):
        some = Together(sizes_of(blocks, *components), resampled)
        larger = Together(sizes_of(blocks, *components, more), resampled)
        result = sizes_of(blocks, more)[0].result
        # Of each model a task holds the sums so far and those of the block that it is at.
        assert larger.task >= some.task + 2 * result
        for threads in (1, 4):
            assert larger.worker(0, threads) >= some.worker(0, threads) + 2 * threads * result
            assert larger.driver(0, threads) >= some.driver(0, threads)

    def test_the_order_does_not_matter(self, blocks):
        one, other = (Together(sizes_of(blocks, *ks), True) for ks in ((5, 90, 30), (90, 30, 5)))
        assert one.worker(0, 2) == other.worker(0, 2)
        assert one.task == other.task

    def test_hidden_cells_take_copies_of_the_images(self, blocks):
        sizes = sizes_of(blocks, 20, 30)
        whole, part = Together(sizes, False), Together(sizes, True)
        images = sizes[0].rows * sizes[0].p
        # As they are and as they are shown, both in another order, and their masks.
        assert part.task - whole.task >= 3 * images
        assert part.driver(0) > whole.driver(0)
        wide = Together(tuple(replace(one, pixel=4) for one in sizes), True)
        wide_whole = Together(wide.each, False)
        assert wide.task - wide_whole.task >= 9 * images

    @pytest.mark.parametrize("hidden", [False, True])
    @pytest.mark.parametrize("count", [1, 4])
    def test_a_task_takes_what_is_said(self, count, hidden):
        """Sums outweigh images here; a task of several blocks holds those of two."""
        X = np.random.default_rng(0).integers(0, 255, (80, 5000)).astype(np.uint8)
        blocks = LocalBlocks(X, threads=1)
        blocks.ranges = even_ranges(80, 20)
        objective = MaskedQuadratic() if hidden else SQUARED
        starts = np.random.default_rng(1).random((count, 60, 5000))
        shown = Holdout(0, 0.1) if hidden else None
        models = [Evaluation(objective.project_onto(Y, X.dtype), shown) for Y in starts]
        task = partial(evaluate_block, models=models)
        blocks.map_sum(task, group=4)  # compiles
        tracemalloc.start()
        try:
            blocks.map_sum(task, group=4)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        said = Together((Sizes.of(blocks, objective, 60),) * count, hidden).task
        assert 0.8 * said <= peak <= said


MODELS = [model_run(SQUARED, 50)] * 7


class TestGroups:
    def room_for(self, blocks, count, **more):
        """A worker of two threads that has room for so many models, and not for another."""
        each = Together(sizes_of(blocks, *[50] * count), False)
        return replace(ROOMY, worker=float(ROOMY.worker_bytes(each)), **more)

    def test_all_together(self, blocks, run):
        sizes, record = run(ROOMY, MODELS)
        assert sizes == [7]
        assert record.levelname == "INFO"
        assert record.message.startswith("7 models together take about ")
        assert record.message.endswith(" in this process")
        assert run(self.room_for(blocks, 7), MODELS)[0] == [7]

    @pytest.mark.parametrize(
        ("count", "sizes"), [(6, [6, 1]), (4, [4, 3]), (3, [3, 3, 1]), (1, [1] * 7)]
    )
    def test_as_many_as_there_is_memory_for(self, blocks, run, count, sizes):
        found, record = run(self.room_for(blocks, count), MODELS)
        assert found == sizes
        assert record.levelname == "WARNING"
        groups = ", ".join(map(str, sizes))
        assert record.message.startswith(
            f"there is no memory for 7 models together: they run in groups of {groups}, which each "
            "read X on their own and take about "
        )
        assert " on a worker, " in record.message

    def test_as_many_as_this_process_has_memory_for(self, blocks, run):
        here = replace(ROOMY, workers=0, driver=math.inf)
        four = Together(sizes_of(blocks, *[5000] * 4), False)
        room = replace(here, driver=float(here.driver_bytes(four)))
        found, record = run(room, [model_run(SQUARED, 5000)] * 6)
        assert found == [4, 2]
        assert " on a worker" not in record.message

    @given(
        st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=9),
        st.floats(0, 1),
    )
    def test_of_unlike_models(self, blocks, components, share):
        models = [
            model_run(MaskedQuadratic(), d, holdout=Holdout(0, 0.1))
            if hid
            else model_run(SQUARED, d)
            for d, hid in components
        ]
        each = tuple(Sizes.of(blocks, run.objective, run.spec.n_components) for run in models)
        anyone = any(hid for _, hid in components)
        alone = [
            ROOMY.worker_bytes(Together((one,), hid))
            for one, (_, hid) in zip(each, components, strict=True)
        ]
        least, most = max(alone), ROOMY.worker_bytes(Together(each, anyone))
        room = replace(ROOMY, worker=least + share * (most - least))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Room, "here", lambda blocks: room)
            groups = groups_that_fit(blocks, models)
        covered = [i for some in groups for i in range(len(models))[some]]
        assert covered == list(range(len(models)))
        for some in groups:
            hidden = any(hid for _, hid in components[some])
            assert room.lacks(Together(each[some], hidden)) is None

    def test_no_room_for_one(self, blocks, run):
        small = replace(ROOMY, worker=float(ROOMY.worker_held + 1e8))
        with pytest.raises(CapacityError, match=r"a fit of 900 components needs about .* worker"):
            run(small, [model_run(SQUARED, 900)] * 3)

    def test_no_room_for_a_later_one(self, blocks, run):
        with pytest.raises(CapacityError, match=r"a fit of 900 components .*at most \d+ comp"):
            run(self.room_for(blocks, 3), [*MODELS, model_run(SQUARED, 900)])

    def test_what_is_small_and_here_is_not_looked_at(self, digits, monkeypatch):
        monkeypatch.setattr(Room, "here", lambda blocks: pytest.fail("looked"))
        assert groups_that_fit(
            blocks_of(digits), [model_run(SQUARED, 8, holdout=Holdout(0, 0.1))] * 5
        ) == [slice(0, 5)]
