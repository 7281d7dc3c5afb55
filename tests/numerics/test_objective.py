"""Sums and weights of blocks, against a dense reference."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import loss, unpickled, weights
from runs import SQUARED

from dnmf.errors import DataError
from dnmf.numerics import block
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.block import Block, find_invalid
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.nnls import solve_nnls
from dnmf.numerics.objective import RESOLVED
from dnmf.numerics.quadratic import (
    CONVERTED,
    W_RELAXATION,
    Quadratic,
    product_in_float64,
    quadratic_loss,
)
from dnmf.numerics.statistics import Basis, gram


def matrices(rows: int, columns: int):
    """Draw non-negative matrices with many zeros, like images."""
    values = st.one_of(st.just(0.0), st.floats(2**-10, 255, width=32))
    return arrays(np.float64, (rows, columns), elements=values)


problems = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(5, 12)).flatmap(
    lambda s: st.tuples(matrices(s[0], s[2]), matrices(s[1], s[2]))
)


@given(problems)
def test_many_sweeps_reach_the_minimum(problem):
    X, H = problem
    A, W = H @ X.T, np.zeros((len(H), len(X)))
    energy = 0.5 * (X**2).sum(axis=1)
    solve_nnls(
        A,
        gram(H),
        energy,
        W,
        np.empty(len(X)),
        np.empty(len(X), bool),
        1e-14,
        200_000,
        W_RELAXATION,
    )
    scale = loss(X, 0 * W.T, H)
    assert (W >= 0).all()
    assert loss(X, W.T, H) <= loss(X, weights(X, H), H) + 1e-5 * scale


@pytest.mark.parametrize("make_basis", [Basis.from_H, Basis.for_pixels])
@given(problem=problems)
def test_few_sweeps_come_close(make_basis, problem):
    X, H = problem
    _, W = SQUARED.block_stats(Block(X), make_basis(H, np.dtype(float)))
    scale = loss(X, 0 * W, H)
    # Coordinate descent is slow for nearly collinear rows of H, and its sweeps are bounded.
    assert loss(X, W, H) <= loss(X, weights(X, H), H) + 0.05 * scale
    assert loss(X, W, H) <= scale * (1 + 1e-12)


@pytest.mark.parametrize("make_basis", [Basis.from_H, Basis.for_pixels])
def test_weights_are_exact_for_components_of_images(digits, make_basis):
    H = digits[-10:].astype(float)
    _, W = SQUARED.block_stats(Block(digits[:100]), make_basis(H, np.dtype(float)))
    exact = loss(digits[:100], weights(digits[:100], H), H)
    assert loss(digits[:100], W, H) == pytest.approx(exact, rel=1e-4)


@given(problems)
def test_stats_match_their_definition(problem):
    X, H = problem
    stats, W = SQUARED.block_stats(Block(X), Basis.from_H(H, np.dtype(float)))
    np.testing.assert_allclose(stats.S, W.T @ W, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(stats.T, W.T @ X, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(stats.xx, np.sum(X**2, axis=0))


@pytest.mark.parametrize("objective", [SQUARED, MaskedQuadratic(l1_W=2.0), BetaDivergence(1.0)])
def test_sums_do_not_depend_on_whether_weights_are_returned(digits, objective):
    images, basis = Block(digits), Basis.for_pixels(digits[::100] / 255, digits.dtype)
    stats, W = objective.block_stats(images, basis)
    only_stats, nothing = objective.block_stats(images, basis, weights=False)
    assert nothing is None
    assert W.shape == (len(digits), len(basis.H))
    pairs = zip(vars(stats).values(), vars(only_stats).values(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    short, _ = objective.block_stats(images, basis, dtype=np.float32)
    for name in ("S", "T"):
        assert getattr(stats, name).dtype == np.float64
        assert getattr(short, name).dtype == np.float32
        np.testing.assert_allclose(getattr(short, name), getattr(stats, name), rtol=1e-5, atol=1e-3)
    none, W = objective.block_stats(Block(digits[:0]), basis)
    assert W.shape == (0, len(basis.H))
    assert all(
        a.shape == b.shape and not a.any() for a, b in ((none.S, stats.S), (none.T, stats.T))
    )


@given(problems, st.integers(0, 12))
def test_stats_of_a_union_are_the_sum_of_stats(problem, cut):
    X, H = problem
    cut = min(cut, len(X))
    basis = Basis.from_H(H, np.dtype(float))
    whole, _ = SQUARED.block_stats(Block(X), basis)
    parts = (
        SQUARED.block_stats(Block(X[:cut]), basis)[0]
        + SQUARED.block_stats(Block(X[cut:]), basis)[0]
    )
    for name in ("S", "T", "xx"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-6)


@given(problems)
def test_the_loss_follows_from_the_sums(problem):
    X, H = problem
    stats, W = SQUARED.block_stats(Block(X), Basis.from_H(H, np.dtype(float)))
    assert quadratic_loss(stats, H) == pytest.approx(loss(X, W, H), abs=1e-9 * (1 + stats.xx.sum()))


@given(problems)
def test_update_H_never_raises_the_loss(problem):
    X, H = problem
    stats, _ = SQUARED.block_stats(Block(X), Basis.from_H(H, np.dtype(float)))
    better = SQUARED.update_H(H, stats)
    assert (better >= 0).all()
    assert quadratic_loss(stats, better) <= quadratic_loss(stats, H) + 1e-9 * (1 + stats.xx.sum())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.bool_])
def test_other_dtypes_are_converted_to_float32(digits, dtype):
    X = digits[:50].astype(dtype)
    H = np.random.default_rng(0).random((4, 784))
    stats, W = SQUARED.block_stats(Block(X), Basis.from_H(H, block.compute_dtype(X.dtype)))
    exact, _ = SQUARED.block_stats(Block(X.astype(float)), Basis.from_H(H, np.dtype(float)))
    assert W.dtype == np.float32
    np.testing.assert_allclose(stats.T, exact.T, rtol=1e-3)
    np.testing.assert_allclose(stats.xx, exact.xx, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_float64_is_kept(dtype):
    assert block.compute_dtype(np.dtype(dtype)) == np.float64


@pytest.mark.parametrize("value", [200, 255, 60_000, 65_535])
def test_bright_images_have_exact_norms(value):
    X = np.full((5000, 3), value, np.uint16)
    X[0] -= 1
    stats, _ = SQUARED.block_stats(Block(X), Basis.from_H(np.ones((1, 3)), np.dtype(np.float32)))
    np.testing.assert_allclose(stats.xx, (X.astype(float) ** 2).sum(axis=0), rtol=1e-7)


def test_weights_beyond_float32_are_refused():
    X = np.full((2, 3), 3e38, np.float32)
    with pytest.raises(DataError, match="convert it to float64"):
        SQUARED.project_onto(np.full((1, 3), 1e-3), X.dtype).weights(Block(X))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 3, 8])
def test_unpickled_arrays_give_the_same_bits(digits, dtype, d):
    plain = unpickled(np.ones(9, dtype))
    assert (plain.flags.aligned, plain.flags.writeable) == (False, False)  # as in a message
    H = np.random.default_rng(0).random((d, 784))
    basis = Basis.for_pixels(H, np.dtype(dtype))
    stats, W = SQUARED.block_stats(Block(digits), basis)
    basis_copy = unpickled(basis)
    stats_of_copy, W_of_copy = SQUARED.block_stats(Block(digits), basis_copy)
    assert (W_of_copy == W).all()
    assert (stats_of_copy.T == stats.T).all()
    stats_copy = unpickled(stats)
    assert (SQUARED.update_H(H, stats_copy) == SQUARED.update_H(H, stats)).all()
    assert quadratic_loss(stats_copy, H) == quadratic_loss(stats, H)
    assert (basis_copy.ridge_inverse == basis.ridge_inverse).all()
    arrays_of_basis = (basis_copy.H, basis_copy.G, basis_copy.ridge_inverse)
    for array in (stats_copy.S, stats_copy.T, stats_copy.xx, *arrays_of_basis):
        assert array.flags.aligned
        assert array.flags.writeable


def test_results_do_not_depend_on_strips(monkeypatch, digits):
    basis = Basis.from_H(np.random.default_rng(0).random((5, 784)), np.dtype(float))
    whole, W = SQUARED.block_stats(Block(digits), basis)
    monkeypatch.setattr(block, "STRIP_ROWS", (64, 64))
    strips, W_strips = SQUARED.block_stats(Block(digits), basis)
    np.testing.assert_allclose(strips.T, whole.T, rtol=1e-10)
    np.testing.assert_allclose(W_strips, W, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("make_basis", [Basis.from_H, Basis.for_pixels])
def test_blank_images_and_empty_components_have_zero_weights(make_basis):
    X = np.array([[0.0, 0, 0], [1, 2, 3]])
    H = np.array([[1.0, 1, 1], [0, 0, 0]])
    stats, W = SQUARED.block_stats(Block(X), make_basis(H, np.dtype(float)))
    assert W[0].tolist() == [0, 0]
    assert W[1, 1] == 0
    assert np.isfinite(SQUARED.update_H(H, stats)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gram_gives_the_same_bits_for_every_memory_layout(dtype):
    A = np.random.default_rng(0).random((30, 500)).astype(dtype)
    G, buffer = gram(A), np.empty((30, 1001), dtype)
    assert (G == G.T).all()
    np.testing.assert_allclose(G, A.astype(float) @ A.T.astype(float), rtol=1e-6)
    for view in (
        buffer[:, :500],
        buffer[:, 1:1001:2],
        buffer[:, 1:501],
        np.empty_like(A, order="F"),
    ):
        view[:] = A
        assert (gram(view) == G).all()


@given(st.integers(0, 6), st.integers(0, 4), st.sampled_from([-1.0, np.nan, np.inf, -np.inf]))
def test_the_first_invalid_pixel_is_found(row, pixel, value):
    X = np.ones((7, 5))
    X[row, pixel] = value
    X[6, 4] = min(X[6, 4], -2)  # a later one must not be named
    found = find_invalid(X, first_row=100)
    assert found is not None
    expected = (row, pixel) if (row, pixel) != (6, 4) else (6, 4)
    assert (found.row - 100, found.pixel) == expected


@given(arrays(np.uint8, (3, 4)))
def test_unsigned_pixels_are_always_valid(X):
    assert find_invalid(X, 0) is None


@given(arrays(np.int16, (3, 4)))
def test_signed_pixels_are_valid_unless_negative(X):
    assume((X < 0).any())
    found = find_invalid(X, 0)
    assert found is not None
    assert X[found.row, found.pixel] == found.value < 0


FRESH = """
import zlib, numpy as np
from dnmf.numerics.block import Block
from dnmf.numerics.beta_divergence import BetaDivergence
from dnmf.numerics.masked import MaskedQuadratic
from dnmf.numerics.quadratic import Quadratic
from dnmf.numerics.statistics import Basis
rng = np.random.default_rng(0)
X, H, seen = rng.random((200, 60)), rng.random((5, 60)), rng.random((200, 60)) > 0.3
for objective in (Quadratic(), MaskedQuadratic(l2_W=0.1), BetaDivergence(1.0), BetaDivergence(1.5)):
    masked = () if objective == Quadratic() else (0, seen)
    basis = Basis.for_pixels(H, X.dtype)
    stats, W = objective.block_stats(Block(X * (seen if masked else 1), *masked), basis)
    print(zlib.crc32(W.tobytes()), zlib.crc32(stats.T.tobytes()))
"""


@pytest.mark.slow
def test_compiled_and_cached_code_give_the_same_bits(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", FRESH], env=environment, capture_output=True, text=True
        )
        for _ in range(2)
    ]
    assert all(done.returncode == 0 for done in runs), runs[0].stderr
    assert len(runs[0].stdout.split()) == 8
    assert runs[0].stdout == runs[1].stdout


class TestImagesThatFloat32DoesNotResolve:
    """The components reproduce them but for rounding, so float64 is needed for weights and sums."""

    @pytest.fixture
    def problem(self):
        rng = np.random.default_rng(0)
        H = rng.random((3, 40)).astype(np.float32)
        return ((0.5 + rng.random((50, 3))) @ H).astype(np.float32), H

    @pytest.mark.parametrize("kind", [Quadratic, MaskedQuadratic])
    def test_have_exact_weights_with_penalties(self, problem, kind):
        (X, H), (l1, root) = problem, (2e-4, 0.02)
        objective = kind(l1_W=l1, l2_W=root**2)
        seen = np.ones(X.shape, bool) if kind is MaskedQuadratic else None
        _, W = objective.block_stats(Block(X, 0, seen), Basis.for_pixels(H, X.dtype))
        # Penalties are additional equations.
        more = np.hstack([X.astype(float), np.full((len(X), 3), -l1 / root)])
        exact = weights(more, np.hstack([H, root * np.eye(3)]))
        np.testing.assert_allclose(W, exact, atol=1e-6)
        assert np.abs(exact - weights(X, H)).max() > 2e-5

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("objective", [SQUARED, MaskedQuadratic()], ids=repr)
    def test_have_exact_sums(self, problem, objective, weighted):
        X, H = problem
        seen = np.arange(40) % 7 > 0 if isinstance(objective, MaskedQuadratic) else np.ones(40) > 0
        s = np.arange(50) % 4 / 2 if weighted else None
        mask = None if seen.all() else np.tile(seen, (50, 1))
        stats, W = objective.block_stats(
            Block(X * seen, 0, mask, s), Basis.for_pixels(H, X.dtype), dtype=np.dtype(float)
        )
        W, V = W.astype(float), W.astype(float).T * (1 if s is None else s)
        filled = np.where(seen, X, (W @ H).astype(np.float32))
        np.testing.assert_allclose(stats.S, V @ W, rtol=1e-12)
        np.testing.assert_allclose(stats.T[:, seen], (V @ filled)[:, seen], rtol=1e-12)
        np.testing.assert_allclose(stats.T, V @ filled, rtol=1e-6)

    @pytest.mark.parametrize("columns", [1, CONVERTED, 2 * CONVERTED + 7])
    def test_products_of_any_length(self, columns):
        A, B = np.random.default_rng(0).random((2, 4, columns)).astype(np.float32)
        expected = A.astype(float) @ B.astype(float).T
        np.testing.assert_allclose(product_in_float64(A, B), expected, rtol=1e-12)

    def test_have_a_loss_of_what_float32_resolved_until_a_pass_in_float64(self, problem):
        X, H = problem
        near = (H * (1 + 0.04 * np.random.default_rng(1).standard_normal(H.shape))).astype(float)
        for objective, least in ((SQUARED, 0.5 * RESOLVED), (Quadratic(in_float64=True), 0)):
            basis = Basis.for_pixels(near, X.dtype)
            stats, _ = objective.block_stats(Block(X), basis, dtype=np.dtype(float))
            update = objective.finish_pass(near, stats)
            true = loss(X, weights(X, update.H), update.H) / update.xx
            assert 0 < true < 0.2 * RESOLVED
            if least:
                assert update.loss == pytest.approx(least * update.xx)
            else:
                assert true <= update.loss / update.xx < 0.5 * RESOLVED
