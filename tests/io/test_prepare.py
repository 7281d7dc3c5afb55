"""Choices of pixels: alpha, colours, size, pad, scale, clip, dtype and NaN."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.prepare import prepare

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (3, 12, 10), dtype=np.uint8)
DTYPES = ["u1", "u2", "u4", "u8", "i2", "i4", "f2", "f4", "f8"]


def full(dtype):
    """Return the number that stands for white and for opaque."""
    return 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max


def run(images, colors=None, **choices):
    return prepare(images, colors, Choices(**choices))


class TestNothingAsked:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(3, 12, 10), (3, 12, 10, 3), (3, 12, 10, 7), (3, 120)])
    def test_the_same_array_comes_back(self, dtype, shape):
        images = RNG.integers(0, 100, shape).astype(dtype)
        assert run(images, "rgb" if shape[3:] == (3,) else None) is images

    @pytest.mark.parametrize("dtype", [">u2", ">f4", ">i4"])
    def test_bytes_come_in_the_order_of_the_machine(self, dtype):
        found = run(GRAY.astype(dtype))
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        assert (found == GRAY).all()

    def test_booleans_are_zero_and_one(self):
        found = run(GRAY > 100)
        assert found.dtype == np.uint8
        assert (found == (GRAY > 100)).all()

    @pytest.mark.parametrize("dtype", [complex, "M8[s]", np.longdouble, "S1"])
    def test_other_kinds_are_refused(self, dtype):
        with pytest.raises(IngestError, match="pixels are integers or floats"):
            run(np.zeros((2, 3, 3), dtype))

    def test_no_images_are_nothing(self):
        for dtype in DTYPES:
            assert run(np.zeros((0, 4, 4), dtype), size=(2, 2), dtype="float32").shape == (0, 2, 2)


BAD = {
    "negative": (-3, r"is -3(\.0)?, .*--clip"),
    "nan": (np.nan, "is NaN, .*--nan keep .*--missing ignore"),
    "infinite": (np.inf, "is inf, .*NaN in its place"),
    "minus infinity": (-np.inf, "is -inf, .*NaN in its place"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "f2", "f4", "f8"])
def test_a_number_that_is_no_pixel_is_named(name, dtype):
    value, message = BAD[name]
    if np.dtype(dtype).kind == "i" and not np.isfinite(value):
        return
    images = GRAY.astype(dtype)
    images[1:, 5:, 7] = value
    for choices in ({}, {"size": (2, 2)}, {"scale": 2.0}):
        with pytest.raises(IngestError, match=f"^image 1: its pixel at row 5, column 7 {message}"):
            run(images, **choices)
    with pytest.raises(IngestError, match=f"^its pixel at row 5, column 7 {message}"):
        run(images[1:2])
    with pytest.raises(IngestError, match=f"^its pixel 57 {message}"):
        run(images[1:2].reshape(1, -1))


class TestNan:
    def images(self):
        images = GRAY.astype(np.float32)
        images[0, :4, :5] = np.nan
        images[1, 6, 7] = np.nan
        return images

    def test_kept(self):
        images = self.images()
        assert run(images, nan="keep") is images
        everywhere = np.full((1, 2, 2), np.nan)
        assert run(everywhere, nan="keep") is everywhere

    def test_averages_are_those_of_the_numbers(self):
        images = self.images()
        found = run(images, nan="keep", size=(3, 2))
        parts = images.reshape(3, 3, 4, 2, 5)
        assert np.isnan(found[0, 0, 0])
        assert np.isnan(found).sum() == 1
        expected = np.nanmean(parts.swapaxes(2, 3)[1:].reshape(2, 3, 2, 20), axis=3)
        np.testing.assert_allclose(found[1:], expected, rtol=1e-6)

    @pytest.mark.parametrize("value", [-1, np.inf])
    def test_other_numbers_are_refused_all_the_same(self, value):
        images = self.images()
        images[2, 3, 4] = value
        with pytest.raises(IngestError, match="image 2: its pixel at row 3, column 4 is"):
            run(images, nan="keep")

    def test_with_clip_it_stays(self):
        images = self.images()
        images[2, 3, 4] = -5
        found = run(images, nan="keep", clip=True)
        assert np.isnan(found).sum() == 21
        assert found[2, 3, 4] == 0

    def test_integers_cannot_hold_it(self):
        for choices in ({}, {"scale": 2.0}, {"clip": True}):
            with pytest.raises(IngestError, match="column 0 is NaN, which uint8 cannot hold"):
                run(self.images(), nan="keep", dtype="uint8", **choices)


class TestAlpha:
    @pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", "f8"])
    @pytest.mark.parametrize("colors", ["gray+alpha", "rgb+alpha"])
    def test_opaque_alpha_is_dropped(self, dtype, colors):
        shown = RGB[..., : 1 if colors == "gray+alpha" else 3].astype(dtype)
        images = np.concatenate([shown, np.full_like(shown[..., :1], full(dtype))], axis=3)
        found = run(images, colors)
        assert found.dtype == dtype
        assert (found == (shown[..., 0] if colors == "gray+alpha" else shown)).all()

    @pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", "f8"])
    @pytest.mark.parametrize("colors", ["gray+alpha", "rgb+alpha"])
    @pytest.mark.parametrize("alpha", ["white", "black", "drop"])
    def test_transparent_pixels_are_what_is_asked(self, dtype, colors, alpha):
        channels = 2 if colors == "gray+alpha" else 4
        parts = RNG.random((2, 6, 5, channels))
        parts[0, 0] = 0
        parts[0, 1] = 1
        images = (parts * full(dtype)).astype(dtype)
        shown, cover = np.split(images.astype("f8") / full(dtype), [channels - 1], axis=3)
        expected = shown
        if alpha != "drop":
            expected = shown * cover + (1 - cover) * (alpha == "white")
        expected = expected[..., 0] if channels == 2 else expected
        found = run(images, colors, alpha=alpha)
        assert found.dtype == dtype
        tolerance = 1e-6 if np.dtype(dtype).kind == "f" else 0.51 / full(dtype) + 1e-12
        assert np.abs(found / full(dtype) - expected).max() <= tolerance
        with pytest.raises(IngestError, match="row 0, column 0 is transparent"):
            run(images, colors)


class TestColor:
    def test_grey_of_8_bits_is_that_of_pillow(self):
        expected = [np.asarray(Image.fromarray(image).convert("L")) for image in RGB]
        assert (run(RGB, "rgb", color="gray") == expected).all()

    @pytest.mark.parametrize("dtype", ["u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8"])
    def test_grey_is_in_the_depth_of_the_file(self, dtype):
        images = (RNG.random((2, 6, 5, 3)) * min(full(dtype), 2.0**52)).astype(dtype)
        images[0, 0] = full(dtype)
        exact = images.astype("f8") @ [0.299, 0.587, 0.114]
        found = run(images, "rgb", color="gray")
        assert found.dtype == dtype
        atol = 0 if np.dtype(dtype).kind == "f" else 0.7
        np.testing.assert_allclose(found, exact, rtol=1e-3 if dtype == "f2" else 2e-5, atol=atol)

    def test_grey_of_16_bits_has_16(self):
        images = np.full((1, 2, 2, 3), (1000, 1001, 1002), np.uint16)
        assert run(images, "rgb", color="gray").tolist() == [[[1001, 1001]] * 2]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_rgb_of_grey_repeats_it(self, dtype):
        found = run(GRAY.astype(dtype), color="rgb")
        assert found.dtype == dtype
        assert (found == GRAY[..., None]).all()

    def test_nothing_changes_what_is_so_already(self):
        assert run(GRAY, color="gray") is GRAY
        assert run(RGB, "rgb", color="rgb") is RGB

    def test_channels_of_an_array_are_taken_by_their_number(self):
        assert (run(RGB, None, color="gray") == run(RGB, "rgb", color="gray")).all()
        assert (run(RGB[..., :1], None, color="gray") == RGB[..., 0]).all()
        assert run(RGB[..., :1], None, color="rgb").shape == RGB.shape
        with pytest.raises(IngestError, match=r"has 7 channels.*--channel"):
            run(np.zeros((1, 2, 2, 7)), None, color="gray")


class TestPad:
    def test_zeros_on_all_sides(self):
        found = run(GRAY, pad=(15, 14))
        assert found.shape == (3, 15, 14)
        assert (found[:, 1:13, 2:12] == GRAY).all()
        assert found.sum() == GRAY.sum()
        assert run(RGB, "rgb", pad=(12, 11)).shape == (3, 12, 11, 3)
        assert run(GRAY, pad=(12, 10)) is GRAY

    def test_after_the_size(self):
        assert run(GRAY, size=(4, 4), pad=(6, 6))[:, 1:5, 1:5].tolist() == (
            run(GRAY, size=(4, 4)).tolist()
        )

    def test_larger_images_are_refused(self):
        with pytest.raises(IngestError, match=r"is 12 x 10, larger than --pad 13x8.*--size"):
            run(GRAY, pad=(13, 8))


class TestDtype:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32", "float64"])
    @pytest.mark.parametrize("found", DTYPES)
    def test_numbers_that_fit_are_kept(self, found, dtype):
        images = (GRAY // 2).astype(found)
        converted = run(images, dtype=dtype)
        assert converted.dtype == dtype
        assert (converted == images).all()

    @pytest.mark.parametrize(
        ("found", "dtype", "value"),
        [
            ("u2", "uint8", 256),
            ("i4", "uint16", 65536),
            ("f4", "uint8", 256),
            ("f8", "uint32", 2**32),
            ("u8", "uint32", 2**32),
            ("f8", "float32", 1e39),
            ("f4", "uint32", 2**32),
        ],
    )
    def test_numbers_that_do_not_fit_are_named(self, found, dtype, value):
        images = GRAY.astype(found)
        images[1, 2, 3] = value
        with pytest.raises(
            IngestError, match=rf"^image 1: its pixel at row 2, column 3 is .*{dtype}"
        ):
            run(images, dtype=dtype)
        largest = (np.finfo if dtype.startswith("f") else np.iinfo)(dtype).max
        clipped = run(images, dtype=dtype, clip=True)
        assert clipped[1, 2, 3] == largest
        assert clipped.dtype == dtype
        small = run(images, dtype=dtype, scale=float(largest) / value * 0.999)
        assert small[1, 2, 3] == pytest.approx(largest, rel=0.01)

    def test_fractions_are_not_rounded_away(self):
        images = GRAY / 255
        with pytest.raises(IngestError, match=r"column 0 is 0\..*uint8 would round.*--scale"):
            run(images, dtype="uint8")
        assert (run(images, dtype="uint8", scale=255) == GRAY).all()
        assert (run(images, dtype="uint8", scale=1) == np.round(images)).all()

    def test_averages_that_are_stored_as_floats_are_not_rounded(self):
        found = run(GRAY, size=(3, 2), dtype="float32")
        exact = GRAY.reshape(3, 3, 4, 2, 5).mean(axis=(2, 4))
        np.testing.assert_allclose(found, exact, rtol=1e-6)
        grey = run(RGB, "rgb", color="gray", dtype="float32")
        np.testing.assert_allclose(grey, RGB @ [0.299, 0.587, 0.114], rtol=1e-4)


class TestScale:
    def test_integers_are_rounded_once(self):
        found = run(np.array([[[0, 1, 2, 3]]], np.uint8), scale=0.5)
        assert found.dtype == np.uint8
        assert found.tolist() == [[[0, 1, 1, 2]]]

    def test_averages_are_scaled_before_they_are_rounded(self):
        images = np.array([[[0, 1], [0, 0]]], np.uint16)
        assert run(images, size=(1, 1), scale=100).tolist() == [[[25]]]

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
    def test_floats_stay_floats(self, dtype):
        images = GRAY.astype(dtype)
        found = run(images, scale=0.25)
        assert found.dtype == dtype
        assert (found == images / 4).all()

    def test_more_than_the_dtype_holds_is_named(self):
        with pytest.raises(IngestError, match=r"more than uint8 holds.*--clip"):
            run(GRAY, scale=100)
        assert run(GRAY, scale=100, clip=True).max() == 255
        with pytest.raises(IngestError, match=r"more than float32 holds"):
            run(GRAY.astype(np.float32), scale=1e38)


class TestClip:
    @pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
    def test_negative_pixels_become_zero(self, dtype):
        images = GRAY.astype(dtype) - 100
        found = run(images, clip=True)
        assert found.dtype == dtype
        assert (found == np.maximum(GRAY.astype(int) - 100, 0)).all()

    def test_after_the_average_so_that_noise_cancels(self):
        images = np.array([[[-10.0, 30.0]], [[-10.0, -10.0]]])
        assert run(images, size=(1, 1), clip=True).ravel().tolist() == [10, 0]


class TestFlat:
    def test_numbers_can_be_converted(self):
        found = run(GRAY.reshape(3, -1).astype("u2") * 257, dtype="uint8", scale=1 / 257)
        assert (found == GRAY.reshape(3, -1)).all()

    @pytest.mark.parametrize(
        "choices", [{"size": (2, 2)}, {"color": "gray"}, {"pad": (20, 20)}], ids=str
    )
    def test_what_needs_height_and_width_is_refused(self, choices):
        with pytest.raises(IngestError, match=f"row of 120 pixels, and --{next(iter(choices))}"):
            run(GRAY.reshape(3, -1), **choices)


@pytest.mark.parametrize("choices", [{"scale": 0}, {"scale": -1.0}, {"scale": np.nan}])
def test_a_scale_is_a_positive_number(choices):
    with pytest.raises(IngestError, match="must be a positive number"):
        Choices(**choices)


@pytest.mark.parametrize("dtype", ["int8", "complex64", "u1"])
def test_a_dtype_is_one_of_five(dtype):
    with pytest.raises(IngestError, match="must be one of 'uint8', 'uint16'"):
        Choices(dtype=dtype)
