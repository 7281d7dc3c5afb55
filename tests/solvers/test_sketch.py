"""The warm-up on a sketch: what it must find, where it is used, and its bits."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from reference import loss, weights
from runs import SQUARED

import dnmf
from dnmf.engine.threads import one_blas_thread
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.state import State, advance
from dnmf.solvers import sketch, warm_start
from dnmf.solvers.memory_model import FitMemory
from dnmf.solvers.sketch import Sketch, is_sketched, leading_directions, warm_up_on_sketch
from dnmf.solvers.warm_start import loss_of, random_H

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


@pytest.fixture(autouse=True)
def _as_in_a_fit():
    with one_blas_thread():
        yield


def lazy(X):
    """Return images that are not in memory, whatever their size."""
    return da.from_array(X, chunks=(110, -1))


def low_rank(n, p, rank, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.gamma(0.5, 1, (n, rank)) @ rng.gamma(0.3, 1, (rank, p))
    return X * (1 + noise * rng.standard_normal(X.shape))


@pytest.fixture(scope="module")
def images():
    """Make images that are sketched for three components."""
    return (30 * low_rank(220, 900, 4, 0.1)).clip(0, 255).astype(np.uint8)


def test_directions_are_the_leading_ones():
    X = low_rank(60, 500, 5, 0.01)
    Q = leading_directions(Block(X), 20, 0, 4, F64)
    np.testing.assert_allclose(Q.T @ Q, np.eye(20), atol=1e-12)
    left = np.linalg.norm(X - X @ Q @ Q.T)
    least = np.sqrt((np.linalg.svd(X, compute_uv=False)[20:] ** 2).sum())
    assert least <= left < 1.05 * least


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rank", [3, 8])
def test_a_step_is_one_of_a_pass_where_the_rank_is_within_the_sketch(rank, weighted):
    """Then the sketch holds all of X: the loss and the components are those of a pass."""
    X = low_rank(90, 400, rank)
    images = np.random.default_rng(1).uniform(0.5, 2, 90) if weighted else None
    sample, H = Block(X, weights=images), random_H(Block(X), 4, 0)
    for objective in (SQUARED, Quadratic(l1_W=0.3, l2_W=0.1, l1_H=0.02, l2_H=0.01)):
        made = Sketch.of_sample(sample, 4, 0, F64)
        found = made.step(objective, State.at(H))
        basis = objective.project_onto(H, F64).basis
        stats, _ = objective.block_stats(sample, basis)
        expected = objective.update_H(H, stats, sketch.SWEEPS)
        np.testing.assert_allclose(found.H, expected, rtol=1e-4, atol=1e-6)
        assert found.loss == pytest.approx(objective.known_loss(stats, H, expected)[2], rel=1e-5)
        state = advance(objective, State.at(H), found)
        assert state.losses == (found.loss,)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_sketch_finds_what_many_steps_on_the_pixels_do(images, dtype):
    H = random_H(Block(images), 3, 0)
    found = warm_up_on_sketch(SQUARED, H, Block(images), 0, 1e-4, dtype)
    online = warm_start.warm_up(SQUARED, H, Block(images), 0, 1e-4, len(images))
    assert (found >= 0).all()
    assert loss_of(SQUARED, found, Block(images)) < 1.01 * loss_of(SQUARED, online, Block(images))


def test_images_of_weight_two_count_as_two(images):
    twice = np.concatenate([images, images[:100]])
    weights = np.where(np.arange(220) < 100, 2.0, 1.0)
    H = random_H(Block(images), 3, 0)
    one = warm_up_on_sketch(SQUARED, H, Block(images, weights=weights), 0, 1e-4, F64)
    other = warm_up_on_sketch(SQUARED, H, Block(twice), 0, 1e-4, F64)
    losses = [loss_of(SQUARED, found, Block(twice)) for found in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_a_smaller_tol_takes_more_steps(images, monkeypatch):
    counts = []
    step = Sketch.step
    monkeypatch.setattr(sketch, "LOOK", 4)
    monkeypatch.setattr(Sketch, "step", lambda *args: counts.append(0) or step(*args))
    made = []
    for tol in (0.5, 1e-2, 1e-5):
        counts.clear()
        warm_up_on_sketch(SQUARED, random_H(Block(images), 3, 0), Block(images), 0, tol, F32)
        made.append(len(counts))
    assert made == sorted(made)
    assert 2 * sketch.LOOK <= made[0] < made[2] <= sketch.MAX_STEPS


@pytest.mark.parametrize("objective", [SQUARED, Quadratic(l1_W=5.0, l1_H=0.1)])
def test_bits_depend_on_the_seed_and_not_on_threads(images, objective, monkeypatch):
    def fitted(seed, threads):
        monkeypatch.setenv("DNMF_NUM_THREADS", str(threads))
        H = random_H(Block(images), 3, 0)
        return warm_up_on_sketch(objective, H, Block(images), seed, 1e-2, F32)

    one, two, other = fitted(0, 1), fitted(0, 3), fitted(1, 1)
    assert (one == two).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("objective", "d", "rows", "p", "expected"),
    [
        (SQUARED, 32, 4000, 16_384, True),
        (SQUARED, 32, 2048, 65_536, True),
        (SQUARED, 64, 10_000, 784, False),  # more images than pixels
        (SQUARED, 500, 1000, 65_536, False),  # a step would cost as much as a pass
        (Quadratic(l1_W=1.0), 32, 4000, 16_384, True),
        (MaskedQuadratic(), 32, 4000, 16_384, False),
        (BetaDivergence(1.0), 32, 4000, 16_384, False),
    ],
)
def test_a_sketch_is_used_where_it_is_cheap(objective, d, rows, p, expected):
    assert is_sketched(objective, d, rows, p) == expected


class TestFits:
    @pytest.fixture
    def sketched(self, monkeypatch):
        """Record the number of images of each sample that is sketched."""
        found = []
        warm_up = warm_start.warm_up_on_sketch
        monkeypatch.setattr(
            warm_start,
            "warm_up_on_sketch",
            lambda *args: found.append(len(args[2])) or warm_up(*args),
        )
        return found

    def test_of_large_images_start_on_a_sketch(self, images, sketched):
        model = dnmf.NMF(3, random_state=0).fit(lazy(images))
        assert sketched == [220]
        exact = loss(images, weights(images, model.components_), model.components_)
        assert model.reconstruction_err_ == pytest.approx(np.sqrt(2 * exact), rel=1e-4)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_with_a_mask_or_another_loss_do_not(self, images, sketched):
        mask = np.zeros(images.shape, bool)
        mask[:5, :9] = True
        dnmf.NMF(3, random_state=0, max_iter=1, tol=0.01).fit(lazy(images), mask=mask)
        kl = {"beta_loss": "kullback-leibler", "max_iter": 1, "tol": 0.01}
        dnmf.NMF(3, random_state=0, **kl).fit(lazy(images[:200, :300] + 1))
        assert sketched == []

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_zero_components_come_back(self, images, monkeypatch):
        H = random_H(Block(images), 3, 0)
        monkeypatch.setattr(
            warm_start, "warm_up_on_sketch", lambda *args: np.where([[1], [0], [1]], H, 0)
        )
        model = dnmf.NMF(3, random_state=0, max_iter=1).fit(lazy(images))
        assert model.components_.any(axis=1).all()

    def test_dark_images(self):
        assert not dnmf.NMF(3, random_state=0).fit(lazy(np.zeros((220, 900)))).components_.any()

    def test_overflow_is_an_error(self):
        X = np.full((220, 900), 3e25, np.float32)
        with pytest.raises(dnmf.errors.DataError, match="too large"):
            dnmf.NMF(3, random_state=0).fit(lazy(X))

    def test_the_forecast_knows_of_the_sketch(self, images):
        blocks = blocks_of(lazy(images))
        memory = FitMemory.from_blocks(blocks, SQUARED, 3)
        assert memory.sketch_width == 16
        assert FitMemory.from_blocks(blocks, MaskedQuadratic(), 3).sketch_width == 0

    def test_the_plan_tries_the_steps(self, images, monkeypatch):
        monkeypatch.setattr("dnmf.solvers.calibrate.SECONDS", 0.05)
        trial = dnmf.NMF(3).plan(lazy(images)).trial
        least, most = trial.start_seconds
        assert 0 < least < most < sketch.MAX_STEPS / (2 * sketch.LOOK) * least + trial.read_seconds

    def test_steps_on_repeated_images_are_bounded(self, images):
        sample, f32 = Block(images[:50]), np.dtype(np.float32)
        repeated = Sketch.of_sample(sample, 3, 0, f32).repeat(120)
        state = State.at(random_H(sample, 3, 0).astype(f32))
        for _ in range(200):
            state = advance(SQUARED, state, repeated.step(SQUARED, state))
        assert 0 < state.losses[-1] < state.losses[0]
        assert state.H.max() < 1e3 * images.max()
