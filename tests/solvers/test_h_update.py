"""The H update in blocks of columns gives the whole update, on every engine."""

import dask
import dask.array as da
import numpy as np
import pytest
from runs import SQUARED, run_pass

import dnmf.solvers.loop
from dnmf.errors import DataError
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.objective import join_columns
from dnmf.numerics.quadratic import Quadratic
from dnmf.solvers.loop import COLUMNS, measure

OBJECTIVES = [
    SQUARED,
    Quadratic(l1_W=0.1, l2_W=0.2, l1_H=0.01, l2_H=0.02),
    MaskedQuadratic(),
    BetaDivergence(1.0, l1_W=0.1),
]


def images(n, p, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((n, 5)) @ rng.random((5, p)) * 40).astype(np.uint8)


def initial_H(X, d=4):
    return np.random.default_rng(1).random((d, X.shape[1])) * 3


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{type(o).__name__} {o.l1_W}")
@pytest.mark.parametrize("p", [511, 512, 1300])
def test_blocks_of_columns_give_the_whole_step(objective, p, monkeypatch):
    X = images(60, p)
    Y = initial_H(X)
    mask = np.random.default_rng(2).random(X.shape) < 0.1
    blocks = blocks_of(X, mask=mask if isinstance(objective, MaskedQuadratic) else None)
    whole = run_pass(blocks, objective, Y)
    monkeypatch.setattr(dnmf.solvers.loop, "COLUMNS", 512)
    cuts, map_finish = [], blocks.map_finish
    monkeypatch.setattr(
        blocks,
        "map_finish",
        lambda task, finish, **more: cuts.extend(finish) or map_finish(task, finish, **more),
    )
    parts = run_pass(blocks, objective, Y)
    assert max(len(cuts), 1) == -(-p // 512)
    assert np.array_equal(parts.H, whole.H)
    assert parts.total_weight == whole.total_weight
    for name in ("loss", "divergence", "xx"):
        assert np.isclose(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=0)


@pytest.fixture(scope="module")
def wide_images():
    return images(96, COLUMNS + 700)


class TestManyPixels:
    def check(self, X):
        Y = initial_H(X)
        step = run_pass(blocks_of(da.from_array(X, chunks=(16, -1))), SQUARED, Y)
        local = run_pass(blocks_of(X), SQUARED, Y)
        stats = measure(blocks_of(X), SQUARED, Y)
        cuts = [slice(0, COLUMNS), slice(COLUMNS, Y.shape[1])]
        known = join_columns(
            [SQUARED.finish_pass(Y[:, cut], SQUARED.columns(stats, cut)) for cut in cuts]
        )
        # The array in memory is cut into other blocks, so its sums round differently.
        assert np.array_equal(local.H, known.H)
        assert np.isclose(step.loss, known.loss, rtol=1e-5)
        assert np.linalg.norm(step.H - known.H) < 1e-3 * np.linalg.norm(known.H)
        return step.H

    def test_two_processes_give_the_bits_of_the_synchronous_scheduler(self, wide_images, client):
        H = self.check(wide_images)
        with dask.config.set(scheduler="synchronous"):
            assert np.array_equal(self.check(wide_images), H)

    def test_an_invalid_pixel_raises_in_the_caller(self, wide_images, client):
        bad = wide_images[:48].astype(np.int16)
        bad[40, 66_000] = -2
        blocks = blocks_of(da.from_array(bad, chunks=(16, -1)))
        with pytest.raises(DataError, match="-2 at pixel 66000 of image 40"):
            run_pass(blocks, SQUARED, initial_H(wide_images))
