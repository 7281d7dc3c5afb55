"""Online updates: running sums that forget, and results that do not depend on threads."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import fit_of, unpickled
from runs import SQUARED

import dnmf
from dnmf.engine.threads import one_blas_thread
from dnmf.numerics import online
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.online import (
    MIN_SPLIT_SIZE,
    REFRESH,
    OnlineState,
    split_batches,
    update_on_batches,
    update_on_block,
)
from dnmf.numerics.quadratic import Quadratic, quadratic_loss
from dnmf.numerics.statistics import SufficientStats

OBJECTIVES = [
    SQUARED,
    Quadratic(l1_W=1.0, l2_W=2.0, l1_H=0.1, l2_H=0.1),
    MaskedQuadratic(),
    BetaDivergence(1.0),
    BetaDivergence(1.5),
]
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))


def images(n=400, p=120, dtype=np.float64):
    rng = np.random.default_rng(0)
    return Block((rng.random((n, 5)) @ rng.random((5, p)) + 0.1 * rng.random((n, p))).astype(dtype))


def initial_state(block, d, dtype=np.float64):
    H = np.random.default_rng(1).random((d, block.X.shape[1]))
    return OnlineState(H.astype(dtype))


def batches(block, size=50, keep=0.8):
    return [(rows, keep) for rows in split_batches(np.arange(len(block)), size)]


def sums(d, p, seed):
    """Draw sums as of a pass."""
    rng = np.random.default_rng(seed)
    W, X = rng.random((20, d)), rng.random((20, p))
    squares, held_out = (X**2).sum(axis=0), rng.random((4, 2))
    return SufficientStats(W.T @ W, W.T @ X, squares, *rng.random(3), held_out=held_out)


def equal(a: OnlineState, b: OnlineState) -> bool:
    pairs = zip(vars(a.stats).values(), vars(b.stats).values(), strict=True)
    return np.array_equal(a.H, b.H) and all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("split", [False, True])
def test_results_do_not_depend_on_threads(objective, dtype, split, monkeypatch):
    if split:
        monkeypatch.setattr(online, "MIN_SPLIT_SIZE", 1)
    block = images(dtype=dtype)
    with one_blas_thread():
        runs = [
            update_on_batches(
                objective, initial_state(block, 6, dtype), block, batches(block), threads
            )
            for threads in (1, 2, 3)
        ]
    assert runs[0].n_updates == 8
    assert equal(runs[0], runs[1])
    assert equal(runs[0], runs[2])


def test_results_for_large_H_do_not_depend_on_threads():
    block = images(300, MIN_SPLIT_SIZE // 8 + 3, np.float32)
    first = initial_state(block, 8, np.float32)
    assert first.H.size >= MIN_SPLIT_SIZE
    with one_blas_thread():
        runs = [
            update_on_batches(SQUARED, first, block, batches(block), threads) for threads in (1, 2)
        ]
    assert equal(*runs)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_parts_change_nothing_but_rounding(objective, monkeypatch):
    block = images()
    whole = update_on_batches(objective, initial_state(block, 6), block, batches(block))
    monkeypatch.setattr(online, "MIN_SPLIT_SIZE", 1)
    parts = update_on_batches(objective, initial_state(block, 6), block, batches(block))
    np.testing.assert_allclose(parts.H, whole.H, rtol=1e-4, atol=1e-6 * whole.H.max())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_the_initial_state_is_not_modified(objective):
    """A task that runs again must get the same input."""
    block = images()
    first = batches(block)[: REFRESH + 1]
    state = update_on_batches(objective, initial_state(block, 6), block, first)
    before = copy.deepcopy(state)
    assert before.stats.T is not state.stats.T
    first_result = update_on_batches(objective, state, block, batches(block))
    second_result = update_on_batches(objective, state, block, batches(block))
    assert equal(state, before)
    assert equal(first_result, second_result)
    assert not equal(first_result, state)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_an_unpickled_state_gives_the_same_bits(objective, dtype):
    block = Block((255 * images().X / images().X.max()).astype(dtype))
    options = {"objective": objective, "forget_factor": 0.7, "n_rows": 400, "batch_size": 64}
    task = partial(update_on_block, block, **options)
    first = initial_state(block, 6)
    assert not unpickled(first.H).flags.aligned
    direct, unpickled_state = task(state=first), task(state=unpickled(first))
    assert equal(direct, unpickled_state)
    assert equal(task(state=direct), task(state=unpickled(unpickled_state)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_components_of_uneven_lengths_do_not_wait_for_the_next_normalisation(dtype):
    """Or the weights of one that shrinks overflow."""
    block = images(dtype=dtype)
    first = initial_state(block, 3, dtype)
    first.H[1] *= 1e-8
    run = update_on_batches(SQUARED, first, block, batches(block)[:2])
    lengths = np.linalg.norm(run.H, axis=1)
    assert lengths.max() < 10 * lengths.min()
    assert np.isfinite(run.stats.S).all()


def test_dark_batches_do_not_count_as_updates():
    block = Block(np.vstack([np.zeros((100, 120)), images(100).X, np.zeros((100, 120))]))
    first = initial_state(block, 6)
    run = update_on_batches(SQUARED, first, block, batches(block))
    assert run.n_updates == 2
    dark = update_on_batches(SQUARED, first, block, batches(block)[:2])
    assert dark.stats is None
    assert (dark.H == first.H).all()


@settings(max_examples=30)
@given(shapes, st.integers(0, 10**6), st.floats(0, 1), st.integers(0, 3))
def test_scale_and_add_updates_in_place(shape, seed, keep, n_parts):
    d, p, _ = shape
    mine, parts = sums(d, p, seed), [sums(d, p, seed + 1 + i) for i in range(n_parts)]
    before = copy.deepcopy([mine, *parts])
    result = mine.scale_and_add(keep, parts)
    assert result.written == ()
    for name, value in vars(result).items():
        if name == "written":
            continue
        expected = keep * getattr(before[0], name) + sum(getattr(x, name) for x in before[1:])
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        if name in ("S", "T", "xx"):
            assert value is getattr(mine, name)
        for part, known in zip(parts, before[1:], strict=True):
            assert np.array_equal(getattr(part, name), getattr(known, name))


def test_scaled_sums_are_those_of_heavier_images():
    one = sums(3, 7, 0)
    for name, value in vars(one.scaled(2)).items():
        assert np.array_equal(value, () if name == "written" else 2 * getattr(one, name))


class TestNormalizeComponents:
    @settings(max_examples=30)
    @given(shapes, st.integers(0, 10**6))
    def test_changes_scales_but_not_the_loss(self, shape, seed):
        d, p, _ = shape
        rng = np.random.default_rng(seed)
        H, stats = rng.random((d, p)) * 10.0 ** rng.integers(-3, 4, (d, 1)), sums(d, p, seed)
        H[seed % d] *= seed % 2  # sometimes one component is zero
        before = quadratic_loss(stats, H)
        normalized = SQUARED.normalize_components(H, stats)
        sizes = np.linalg.norm(normalized, axis=1)
        np.testing.assert_allclose(sizes, np.linalg.norm(H, axis=1) > 0, rtol=1e-12)
        scale = 0.5 * stats.xx.sum() + 0.5 * np.vdot(stats.S, normalized @ normalized.T)
        assert quadratic_loss(stats, normalized) == pytest.approx(before, abs=1e-9 * scale)
        # The H update leads to the same products W H from both.
        better = SQUARED.update_H(normalized, stats, 1)
        known = SQUARED.update_H(H, sums(d, p, seed), 1)
        assert quadratic_loss(stats, better) == pytest.approx(
            quadratic_loss(sums(d, p, seed), known), abs=1e-6 * scale
        )

    @pytest.mark.parametrize("name", ["l1_W", "l2_W", "l1_H", "l2_H"])
    @pytest.mark.parametrize("kind", [Quadratic, MaskedQuadratic])
    def test_leaves_scales_where_there_are_penalties(self, kind, name):
        stats, known = sums(3, 7, 0), sums(3, 7, 0)
        H = np.random.default_rng(0).random((3, 7))
        assert kind(**{name: 1e-3}).normalize_components(H, stats) is H
        for part, value in vars(known).items():
            assert np.array_equal(getattr(stats, part), value)

    def test_leaves_scales_for_other_divergences(self):
        stats, H = sums(3, 7, 0), np.ones((3, 7))
        assert BetaDivergence(1.0).normalize_components(H, stats) is H
        assert (stats.T == sums(3, 7, 0).T).all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_update_H_on_columns_gives_the_whole_step(objective):
    block = images(p=50)
    run = update_on_batches(objective, initial_state(block, 6), block, batches(block)[:3])
    whole = objective.update_H(run.H, run.stats, 1)
    parts = [
        objective.update_H(run.H[:, pixels], objective.columns(run.stats, pixels), 1)
        for pixels in (slice(0, 17), slice(17, 50))
    ]
    np.testing.assert_allclose(np.hstack(parts), whole, rtol=1e-9, atol=1e-12)


def test_updates_lower_the_loss(digits):
    block = Block(digits)
    first = OnlineState(np.random.default_rng(0).random((10, 784)).astype(np.float32))

    def loss(H):
        from dnmf.solvers.warm_start import loss_of

        return loss_of(SQUARED, H, block)

    run = update_on_batches(SQUARED, first, block, batches(block, 100))
    assert run.H.dtype == run.stats.T.dtype == np.float32
    assert loss(run.H) < 0.7 * loss(first.H)


class TestFirstBatchesOfAStream:
    """They come from poor components, and count less than those of a stream that starts well."""

    FIRST, OTHER = np.tile([2.0, 1.0], (6, 1)), np.tile([1.0, 2.0], (6, 1))

    def goes_on(self, model):
        """Return the ratio of the two pixels after other images than the first."""
        left, right = model.partial_fit(self.OTHER).components_[0]
        return right / left

    def test_are_forgotten_faster_in_a_fresh_stream(self):
        model = dnmf.NMF(1, random_state=0, forget_factor=1.0).partial_fit(self.FIRST)
        # Half of 5 (2, 1), plus 4 (1, 2): the weights of the images are as 5 to 4.
        assert self.goes_on(model) == pytest.approx(10.5 / 9, rel=1e-3)

    def test_are_kept_after_a_fit(self):
        model = fit_of(self.FIRST, 1, forget_factor=1.0)
        # All of 4 (2, 1), plus 5 (1, 2): the images of the fit count with the weights of these.
        assert self.goes_on(model) == pytest.approx(14 / 13, rel=1e-3)

    @pytest.mark.parametrize("settled", [False, True])
    @pytest.mark.parametrize("forget", [1.0, 0.25])
    def test_the_sums_of_a_stream_know_how_many_images_count(self, settled, forget):
        block, state = images(60), OnlineState(initial_state(images(), 3).H, settled=settled)
        options = {"objective": SQUARED, "forget_factor": forget, "batch_size": 20, "n_rows": 120}
        for _ in range(2):
            state = update_on_block(block, state=state, **options)
        count = 0.0
        for t in range(6):  # a call of 120 images forgets as much in six batches as in one
            count = count * min(forget ** (1 / 6), 1 if settled else (t + 1) / (t + 3)) + 20
        assert state.n_updates == 6
        assert state.stats.total_weight == pytest.approx(count)
