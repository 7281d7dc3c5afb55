"""Resizing is the average over areas, in every depth, by one definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dnmf.io.sources.resize import resize

RNG = np.random.default_rng(0)
LENGTHS = st.integers(1, 13)


def shares(old, new):
    """Return the share of each old pixel in each new one, of shape (new, old), as fractions."""
    width = Fraction(old, new)
    return [
        [
            max(Fraction(0), min(i + 1, (k + 1) * width) - max(i, k * width)) / width
            for i in range(old)
        ]
        for k in range(new)
    ]


def reference(image, size):
    """Return the averages over areas as fractions."""
    rows = np.array(shares(image.shape[0], size[0]), object)
    columns = np.array(shares(image.shape[1], size[1]), object)
    exact = np.array([[Fraction(float(x)) for x in row] for row in image], object)
    return rows @ exact @ columns.T


@settings(max_examples=60, deadline=None)
@given(st.data(), LENGTHS, LENGTHS, LENGTHS, LENGTHS, st.sampled_from(["u1", "u2", "u4", "i2"]))
def test_integers_are_the_exact_averages_rounded_half_up(data, h, w, height, width, dtype):
    image = data.draw(arrays(dtype, (h, w)))
    exact = reference(image, (height, width))
    found = resize(image[None], (height, width))[0]
    assert found.dtype == dtype
    rounded = [[int((x + Fraction(1, 2)).__floor__()) for x in row] for row in exact]
    assert found.tolist() == rounded


@settings(max_examples=40, deadline=None)
@given(st.data(), LENGTHS, LENGTHS, LENGTHS, LENGTHS, st.sampled_from(["f4", "f8"]))
def test_floats_are_the_averages(data, h, w, height, width, dtype):
    numbers = st.floats(0, 2**20, width=32)
    image = data.draw(arrays(dtype, (h, w), elements=numbers))
    exact = reference(image, (height, width)).astype("f8")
    found = resize(image[None], (height, width))[0]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact, rtol=1e-5 if dtype == "f4" else 1e-13, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 5), (3, 2), (12, 10), (24, 30), (1, 1), (12, 3)])
def test_all_depths_agree(size):
    image = RNG.integers(0, 256, (2, 12, 10, 3), dtype=np.uint8)
    small = resize(image, size)
    for dtype in ("u2", "u4", "u8", "i2", "i4"):
        assert (resize(image.astype(dtype), size) == small).all()
    for dtype in ("f2", "f4", "f8"):
        assert np.abs(resize(image.astype(dtype), size) - small).max() <= 0.501 + (dtype == "f2")


@pytest.mark.parametrize("size", [(16, 16), (8, 64), (1, 2)])
def test_whole_factors_are_those_of_pillow_within_one(size):
    image = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    pillow = Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX)
    assert np.abs(resize(image[None], size)[0].astype(int) - np.asarray(pillow)).max() <= 1


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i8", "f4"])
def test_the_largest_numbers_stay(dtype):
    largest = (np.finfo if dtype == "f4" else np.iinfo)(dtype).max
    image = np.full((1, 6, 7), largest if dtype != "f4" else largest / 100, dtype)
    assert (resize(image, (4, 5)) == image[0, 0, 0]).all() or dtype == "f4"


def test_a_stack_is_its_images(monkeypatch):
    monkeypatch.setattr("dnmf.io.sources.resize.PIXELS_AT_ONCE", 300)
    images = RNG.integers(0, 65536, (11, 12, 10), dtype=np.uint16)
    found = resize(images, (5, 7))
    assert (found == np.concatenate([resize(image[None], (5, 7)) for image in images])).all()


def test_nan_has_no_part():
    image = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 5.0]])
    found = resize(image[None], (2, 2))[0]
    np.testing.assert_allclose(found, [[1, 3], [np.nan, 5]])
    assert resize(image[None], (1, 1))[0] == pytest.approx(3)
