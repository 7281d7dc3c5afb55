"""Where H starts."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from sklearn.decomposition._nmf import _initialize_nmf

from dnmf import initialization
from dnmf.block import Block
from dnmf.initialization import online_updates, random_H, take_sample
from dnmf.inputs import blocks_of
from dnmf.objective import SQUARED, Basis, quadratic_loss


@pytest.mark.parametrize("seed", [0, 7])
def test_random_H_is_scikit_learns_draw(digits, seed):
    X = digits.astype(float)
    _, H = _initialize_nmf(X, 5, init="random", random_state=seed)
    np.testing.assert_allclose(random_H(Block(digits), 5, seed), H, rtol=1e-12)


def test_random_H_of_nothing_is_zero():
    assert (random_H(Block(np.zeros((3, 4))), 2, 0) == 0).all()


def loss_of(X, H):
    return quadratic_loss(SQUARED.measure(Block(X), Basis.of(H, np.dtype(float)))[0], H)


def test_online_updates_beat_many_passes_from_random(digits):
    from dnmf.solver import State, solve

    H = random_H(Block(digits), 16, 0)
    passes, _ = solve(blocks_of(digits), State.at(H), tol=0, max_iter=20)
    better = online_updates(SQUARED, H, Block(digits), 0)
    assert loss_of(digits, better) < passes.losses[-1] < loss_of(digits, H)


def test_the_sample_is_everything_when_it_fits(digits):
    sample, reads = take_sample(blocks_of(digits), seed=0)
    assert reads == 1
    assert (digits == sample.X).all()


def test_memory_is_not_copied(digits):
    sample, _ = take_sample(blocks_of(digits), seed=0)
    assert np.shares_memory(sample.X, digits)


class TestPartOfACorpus:
    @pytest.fixture
    def blocks(self, digits, monkeypatch):
        monkeypatch.setattr(initialization, "SAMPLE_ROWS", 100)
        monkeypatch.setattr(initialization, "SAMPLE_BLOCKS", 5)
        numbered = np.arange(700, dtype=np.uint16)[:, None].repeat(3, axis=1)
        return blocks_of(da.from_array(numbered, chunks=(50, -1)))

    def test_is_random_rows_of_random_blocks(self, blocks):
        sample, reads = take_sample(blocks, seed=0)
        rows = sample.X[:, 0]
        assert len(rows) == len(set(rows)) == 100
        assert len(set(rows // 50)) == 5
        assert reads == pytest.approx(250 / 700)

    def test_depends_on_the_seed_alone(self, blocks):
        first, again = take_sample(blocks, seed=3), take_sample(blocks, seed=3)
        other = take_sample(blocks, seed=4)
        assert (first[0].X == again[0].X).all()
        assert set(first[0].X[:, 0]) != set(other[0].X[:, 0])

    def test_leaves_out_bad_images(self, monkeypatch):
        monkeypatch.setattr(initialization, "SAMPLE_ROWS", 40)
        X = np.ones((60, 3))
        X[::2, 1] = np.nan
        sample, _ = take_sample(blocks_of(da.from_array(X, chunks=(30, -1))), seed=0)
        assert len(sample)
        assert (sample.X == 1).all()
