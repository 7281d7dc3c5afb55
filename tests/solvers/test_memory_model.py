"""Memory of models that are fitted together: they run in groups where there is too little."""

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
from runs import SQUARED, model_run

from dnmf.engine.local import LocalBlocks
from dnmf.engine.tree_reduce import even_ranges
from dnmf.errors import CapacityError
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.holdout import Holdout
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.solvers.loop import Evaluation, solve_sum
from dnmf.solvers.memory_model import AvailableMemory, FitMemory, JointFitMemory, groups_that_fit

AMPLE = AvailableMemory(2, 4, 2, 1e8, math.inf, 1e8, math.inf)


@pytest.fixture(scope="module")
def blocks():
    """Return blocks of 40,000 images of 100 x 100 pixels, which are never read."""
    return blocks_of(da.zeros((40_000, 10_000), chunks=(500, -1), dtype=np.uint8))


def memories_of(blocks, *components):
    return tuple(FitMemory.from_blocks(blocks, SQUARED, d) for d in components)


def memories_of_runs(blocks, runs):
    return tuple(
        FitMemory.from_blocks(blocks, run.objective, run.spec.n_components) for run in runs
    )


@pytest.fixture
def run(blocks, monkeypatch, caplog):
    """Group models for an available memory; check that each group fits and no larger one would."""

    def grouped(available, models):
        monkeypatch.setattr(AvailableMemory, "detect", lambda blocks: available)
        caplog.clear()
        with caplog.at_level(logging.INFO, "dnmf"):
            groups = groups_that_fit(blocks, models)
        assert [i for group in groups for i in range(len(models))[group]] == list(
            range(len(models))
        )
        for group in groups:
            assert fits(available, models[group])
            more = models[group.start : group.stop + 1]
            assert group.stop == len(models) or not fits(available, more)
        (record,) = caplog.records
        return [group.stop - group.start for group in groups], record

    def fits(available, models):
        memories = memories_of_runs(blocks, models)
        has_holdout = any(run.holdout is not None for run in models)
        return available.shortage(JointFitMemory(memories, has_holdout)) is None

    return grouped


class TestJointFitMemory:
    def test_one_model_needs_the_memory_of_a_fit_alone(self, blocks):
        (one,) = memories_of(blocks, 20)
        alone = JointFitMemory((one,), False)
        for threads in (1, 3):
            assert alone.worker(5, threads) == one.worker(5, threads)
            assert alone.driver(5, threads) == one.driver(5, threads)
        assert alone.driver(5) == one.driver(5)

    @given(
        st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(1, 200), st.booleans()
    )
    def test_another_model_needs_more(self, blocks, components, more, has_holdout):
        fewer = JointFitMemory(memories_of(blocks, *components), has_holdout)
        larger = JointFitMemory(memories_of(blocks, *components, more), has_holdout)
        stats = memories_of(blocks, more)[0].stats
        # Of each model a task holds the sums so far and those of the block that it is at.
        assert larger.task >= fewer.task + 2 * stats
        for threads in (1, 4):
            assert larger.worker(0, threads) >= fewer.worker(0, threads) + 2 * threads * stats
            assert larger.driver(0, threads) >= fewer.driver(0, threads)

    def test_the_order_does_not_matter(self, blocks):
        one, other = (
            JointFitMemory(memories_of(blocks, *ks), True) for ks in ((5, 90, 30), (90, 30, 5))
        )
        assert one.worker(0, 2) == other.worker(0, 2)
        assert one.task == other.task

    def test_hidden_cells_need_copies_of_the_images(self, blocks):
        memories = memories_of(blocks, 20, 30)
        whole, part = JointFitMemory(memories, False), JointFitMemory(memories, True)
        images = memories[0].block_rows * memories[0].p
        # As they are and as they are shown, both in another order, and their masks.
        assert part.task - whole.task >= 3 * images
        assert part.driver(0) > whole.driver(0)
        wide = JointFitMemory(tuple(replace(one, pixel_bytes=4) for one in memories), True)
        wide_whole = JointFitMemory(wide.models, False)
        assert wide.task - wide_whole.task >= 9 * images

    @pytest.mark.parametrize("hidden", [False, True])
    @pytest.mark.parametrize("count", [1, 4])
    def test_a_task_needs_what_is_predicted(self, count, hidden):
        """Sums outweigh images here; a task of several blocks holds those of two."""
        X = np.random.default_rng(0).integers(0, 255, (80, 5000)).astype(np.uint8)
        blocks = LocalBlocks(X, threads=1)
        blocks.ranges = even_ranges(80, 20)
        objective = MaskedQuadratic() if hidden else SQUARED
        starts = np.random.default_rng(1).random((count, 60, 5000))
        shown = Holdout(0, 0.1) if hidden else None
        models = [Evaluation(objective.project_onto(Y, X.dtype), shown) for Y in starts]
        task = partial(solve_sum, models=models)
        blocks.map_sum(task, group=4)  # compiles
        tracemalloc.start()
        try:
            blocks.map_sum(task, group=4)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        predicted = JointFitMemory(
            (FitMemory.from_blocks(blocks, objective, 60),) * count, hidden
        ).task
        assert 0.8 * predicted <= peak <= predicted


MODELS = [model_run(SQUARED, 50)] * 7


class TestGroups:
    def memory_for(self, blocks, count, **more):
        """Return the memory of a worker of two threads that suffices for this many models only."""
        joint = JointFitMemory(memories_of(blocks, *[50] * count), False)
        return replace(AMPLE, worker_limit=float(AMPLE.worker_bytes(joint)), **more)

    def test_all_together(self, blocks, run):
        sizes, record = run(AMPLE, MODELS)
        assert sizes == [7]
        assert record.levelname == "INFO"
        assert record.message.startswith("7 models together take about ")
        assert record.message.endswith(" in this process")
        assert run(self.memory_for(blocks, 7), MODELS)[0] == [7]

    @pytest.mark.parametrize(
        ("count", "sizes"), [(6, [6, 1]), (4, [4, 3]), (3, [3, 3, 1]), (1, [1] * 7)]
    )
    def test_as_many_as_a_worker_has_memory_for(self, blocks, run, count, sizes):
        found, record = run(self.memory_for(blocks, count), MODELS)
        assert found == sizes
        assert record.levelname == "WARNING"
        groups = ", ".join(map(str, sizes))
        assert record.message.startswith(
            f"there is no memory for 7 models together: they run in groups of {groups}, which each "
            "read X on their own and take about "
        )
        assert " on a worker, " in record.message

    def test_as_many_as_this_process_has_memory_for(self, blocks, run):
        one_process = replace(AMPLE, n_workers=0, driver_limit=math.inf)
        four = JointFitMemory(memories_of(blocks, *[5000] * 4), False)
        available = replace(one_process, driver_limit=float(one_process.driver_bytes(four)))
        found, record = run(available, [model_run(SQUARED, 5000)] * 6)
        assert found == [4, 2]
        assert " on a worker" not in record.message

    @given(
        st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=9),
        st.floats(0, 1),
    )
    def test_models_of_different_sizes(self, blocks, components, share):
        models = [
            model_run(MaskedQuadratic(), d, holdout=Holdout(0, 0.1))
            if hid
            else model_run(SQUARED, d)
            for d, hid in components
        ]
        each = memories_of_runs(blocks, models)
        anyone = any(hid for _, hid in components)
        alone = [
            AMPLE.worker_bytes(JointFitMemory((one,), hid))
            for one, (_, hid) in zip(each, components, strict=True)
        ]
        least, most = max(alone), AMPLE.worker_bytes(JointFitMemory(each, anyone))
        available = replace(AMPLE, worker_limit=least + share * (most - least))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AvailableMemory, "detect", lambda blocks: available)
            groups = groups_that_fit(blocks, models)
        covered = [i for group in groups for i in range(len(models))[group]]
        assert covered == list(range(len(models)))
        for group in groups:
            hidden = any(hid for _, hid in components[group])
            assert available.shortage(JointFitMemory(each[group], hidden)) is None

    def test_no_memory_for_one(self, blocks, run):
        small = replace(AMPLE, worker_limit=float(AMPLE.worker_resident + 1e8))
        with pytest.raises(CapacityError, match=r"a fit of 900 components needs about .* worker"):
            run(small, [model_run(SQUARED, 900)] * 3)

    def test_no_memory_for_a_later_one(self, blocks, run):
        with pytest.raises(CapacityError, match=r"a fit of 900 components .*at most \d+ comp"):
            run(self.memory_for(blocks, 3), [*MODELS, model_run(SQUARED, 900)])

    def test_for_a_small_fit_in_memory_nothing_is_measured(self, digits, monkeypatch):
        monkeypatch.setattr(AvailableMemory, "detect", lambda blocks: pytest.fail("looked"))
        assert groups_that_fit(
            blocks_of(digits), [model_run(SQUARED, 8, holdout=Holdout(0, 0.1))] * 5
        ) == [slice(0, 5)]
