"""Images found in arrays with named axes, compared with plain NumPy indexing."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.image_array import ImageArray, find_images


def array_of(*shape, dtype="u2"):
    return np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)


def rows_of(shape, axes, colors=None, coords=None, **choices):
    names = None if axes is None else tuple(axes)
    source = ImageArray(array_of(*shape), names, "cells.tif", colors, coords or {})
    return source.array, find_images(source, Choices(**choices))


def everything(rows):
    return rows.read(0, len(rows))


@pytest.mark.parametrize(
    ("shape", "axis", "moved", "image_shape", "colors"),
    [
        ((5, 7), None, (0,), (7,), None),
        ((5, 4, 3), None, (0,), (4, 3), None),
        ((5, 4, 6, 3), None, (0,), (4, 6, 3), "rgb"),
        ((5, 4, 6, 2), None, (0,), (4, 6, 2), "channels"),
        ((4, 6, 5), ("-1",), (2,), (4, 6), None),
        ((4, 6, 5), ("1",), (1,), (4, 5), None),
        ((2, 5, 4, 6), ("0", "1"), (0, 1), (4, 6), None),
        ((2, 5, 4, 6), ("1", "0"), (1, 0), (4, 6), None),
        ((4, 6, 9), ("0", "1"), (0, 1), (9,), None),
        ((4, 6), ("none",), (), (4, 6), None),
        ((4, 6, 3), ("none",), (), (4, 6, 3), "rgb"),
    ],
)
def test_arrays_without_names_are_read_by_position(shape, axis, moved, image_shape, colors):
    array, rows = rows_of(shape, None, axis=axis)
    assert (rows.image_shape, rows.colors) == (image_shape, colors)
    assert rows.row_shape == tuple(shape[a] for a in moved)
    expected = np.moveaxis(array, moved, range(len(moved))).reshape(-1, *image_shape)
    np.testing.assert_array_equal(everything(rows), expected)


@pytest.mark.parametrize(
    ("shape", "axes", "choices", "expected", "ids"),
    [
        ((4, 6), "yx", {}, "array[None]", [""]),
        ((6, 4), "xy", {}, "array.T[None]", [""]),
        ((3, 4, 6), "zyx", {}, "array", ["0", "1", "2"]),
        ((1, 3, 1, 4, 6), "tzcyx", {}, "array[0, :, 0]", ["0", "1", "2"]),
        ((1, 1, 1, 4, 6), "tzcyx", {}, "array[0, :, 0]", [""]),
        ((2, 4, 6), "cyx", {}, "array.transpose(1, 2, 0)[None]", [""]),
        ((2, 4, 6), "cyx", {"axis": ("c",)}, "array", ["0", "1"]),
        ((2, 4, 6), "cyx", {"channel": "1"}, "array[1:2]", [""]),
        ((2, 3, 2, 4, 6), "tzcyx", {"axis": ("t", "z"), "channel": "0"},
         "array[:, :, 0].reshape(6, 4, 6)",
         ["t=0,z=0", "t=0,z=1", "t=0,z=2", "t=1,z=0", "t=1,z=1", "t=1,z=2"]),
        ((2, 3, 2, 4, 6), "tzcyx", {"axis": ("T", "Z")},
         "array.transpose(0, 1, 3, 4, 2).reshape(6, 4, 6, 2)", None),
        ((2, 3, 4, 6), "tzyx", {"axis": ("z", "t")}, "array.transpose(1, 0, 2, 3).reshape(6, 4, 6)",
         ["z=0,t=0", "z=0,t=1", "z=1,t=0", "z=1,t=1", "z=2,t=0", "z=2,t=1"]),
        ((4, 6, 9), ("y", "x", "energy"), {"axis": ("y", "x")}, "array.reshape(24, 9)", None),
        ((4, 6, 5, 5), ("y", "x", "ky", "kx"), {"axis": ("y", "x")}, "array.reshape(24, 5, 5)",
         None),
        ((1, 4, 6, 9), ("t", "y", "x", "energy"), {"axis": ("y", "x")}, "array.reshape(24, 9)",
         None),
        ((5, 7), ("sample", "feature"), {}, "array", None),
        ((5, 4, 6), ("time", "lat", "lon"), {}, "array", None),
    ],
)  # fmt: skip
def test_named_axes(shape, axes, choices, expected, ids):
    array, rows = rows_of(shape, axes, **choices)
    wanted = eval(expected, {"array": array})
    np.testing.assert_array_equal(everything(rows), wanted)
    assert rows.image_shape == wanted.shape[1:]
    assert len(set(rows.ids(0, len(rows)))) == len(rows)
    if ids is not None:
        assert rows.ids(0, len(rows)) == ids


def test_colours_are_the_last_axis_and_a_channel_of_them_can_be_taken():
    array, rows = rows_of((5, 4, 6, 3), "tyxs", "rgb")
    assert (rows.image_shape, rows.colors) == ((4, 6, 3), "rgb")
    np.testing.assert_array_equal(everything(rows), array)
    for name in ("1", "g"):
        _, green = rows_of((5, 4, 6, 3), "tyxs", "rgb", channel=name)
        assert (green.image_shape, green.colors) == ((4, 6), None)
        np.testing.assert_array_equal(everything(green), array[..., 1])


def test_a_channel_by_its_name():
    names = {"c": np.array(["DAPI", "GFP"])}
    array, rows = rows_of((5, 2, 4, 6), "tcyx", coords=names, channel="GFP")
    np.testing.assert_array_equal(everything(rows), array[:, 1])
    with pytest.raises(
        IngestError, match=r"no channel Cy3; give --channel .* 0 to 1, or one of DAPI"
    ):
        rows_of((5, 2, 4, 6), "tcyx", coords=names, channel="Cy3")


@pytest.mark.parametrize(
    ("shape", "axes", "choices", "message"),
    [
        ((5, 3, 4, 6), "tzyx", {}, r"axes t=5, z=3, y=4, x=6: .*--axis t,z"),
        ((5, 3, 4, 6), "tzyx", {"axis": ("t",)}, r"axes t=5, z=3, y=4, x=6: .*--axis t,z"),
        ((5, 4, 6), "tyx", {"axis": ("q",)}, "no axis q: it has axes t=5, y=4, x=6"),
        ((5, 4, 6), None, {"axis": ("3",)}, r"no axis 3: it has shape \(5, 4, 6\)"),
        ((5, 4, 6), "tyx", {"axis": ("t", "0")}, "twice"),
        ((5, 4, 6), "tyx", {"channel": "0"}, "no channels; leave out --channel"),
        ((2, 4, 6), "cyx", {"channel": "0", "axis": ("c",)}, "leave out one"),
        ((2, 4, 6), "cyx", {"channel": "2"}, "no channel 2; .* 0 to 1"),
        ((7,), None, {}, "none is left"),
        ((5, 4, 3, 2, 2), None, {}, r"--axis 0,1,2"),
        ((5, 0, 6), None, {}, r"no images: its shape is \(5, 0, 6\)"),
        ((5, 7), None, {"crop": (0, 0, 2, 2)}, "flat images; --crop"),
        ((5, 7), None, {"patches": (2, 2, 2)}, "flat images; --patches"),
        ((5, 4, 6), None, {"crop": (0, 0, 5, 2)}, "4x6, which the crop of 5x2"),
        ((5, 4, 6), None, {"patches": (5, 2, 1)}, "4x6, smaller than the patches of 5x2"),
    ],
)
def test_what_does_not_fit_is_named_with_all_axes_and_the_flag(shape, axes, choices, message):
    with pytest.raises(IngestError, match=message) as found:
        rows_of(shape, axes, **choices)
    assert "cells.tif" in str(found.value)


def test_numbers_that_are_no_pixels():
    for dtype in ("c8", "M8[s]", "O", "U3", "f16", [("r", "u1")]):
        with pytest.raises(IngestError, match=r"cells\.tif holds"):
            find_images(ImageArray(np.zeros((2, 3, 3), dtype), None, "cells.tif"), Choices())


@pytest.mark.parametrize("dtype", [">u2", ">f4", "?", "i1", "f2"])
def test_dtypes_become_native(dtype):
    array = array_of(3, 4, 6).astype(dtype)
    rows = find_images(ImageArray(array, None, "a"), Choices())
    found = everything(rows)
    assert found.dtype == rows.dtype == (np.dtype("u1") if dtype == "?" else np.dtype(dtype[-2:]))
    np.testing.assert_array_equal(found, array)


def test_hyperspectral_cubes_keep_the_shape_of_the_map_and_the_wavelengths():
    nm = np.linspace(400, 700, 9)
    array, rows = rows_of(
        (4, 6, 9), ("y", "x", "nm"), coords={"nm": nm}, axis=("y", "x"), crop=(1, 2, 3, 4)
    )
    assert (rows.row_axes, rows.row_shape, rows.image_axes) == (("y", "x"), (3, 4), ("nm",))
    np.testing.assert_array_equal(rows.image_coords["nm"], nm)
    np.testing.assert_array_equal(everything(rows).reshape(3, 4, 9), array[1:4, 2:6])
    assert rows.ids(0, 1) == ["y=1,x=2"]


def test_patches_carry_their_place_and_partial_ones_are_left_out():
    array, rows = rows_of((2, 7, 9), "tyx", patches=(3, 4, 2))
    assert (rows.row_axes, rows.row_shape) == (("t", "patch_y", "patch_x"), (2, 3, 3))
    assert rows.ids(4, 5) == ["t=0,y=2,x=2"]
    np.testing.assert_array_equal(rows.read(4, 5)[0], array[0, 2:5, 2:6])


class Recorded:
    """An array that keeps the slices that were asked of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.keys = array, array.shape, array.dtype, []

    def __getitem__(self, key):
        self.keys.append(key)
        return self.array[key]


def test_consecutive_images_are_one_slice_of_what_is_needed():
    lazy = Recorded(array_of(3, 4, 8, 8))
    choices = Choices(axis=("t", "z"), crop=(2, 3, 4, 5))
    rows = find_images(ImageArray(lazy, tuple("tzyx"), "a"), choices)
    rows.read(4, 12)
    assert lazy.keys == [(slice(1, 3), slice(0, 4), slice(2, 6), slice(3, 8))]
    lazy.keys.clear()
    patches = find_images(
        ImageArray(lazy, tuple("tzyx"), "a"), Choices(axis=("t", "z"), patches=(2, 2, 2))
    )
    patches.read(5, 7)  # the second row of patches of the first image
    assert lazy.keys == [(slice(0, 1), slice(0, 1), slice(2, 4), slice(2, 6))]


def test_an_array_that_gives_only_slices_of_rows_will_do():
    class OnlyRows(Recorded):
        def __getitem__(self, key):
            assert isinstance(key, slice)
            return self.array[key]

    lazy = OnlyRows(array_of(5, 4, 6))
    np.testing.assert_array_equal(
        everything(find_images(ImageArray(lazy, None, "a"), Choices())), lazy.array
    )


def test_arrays_that_break_their_promise():
    lazy = Recorded(array_of(5, 4, 6))
    lazy.shape = (5, 4, 7)
    with pytest.raises(IngestError, match=r"cells gave uint16 of shape .* promises"):
        everything(find_images(ImageArray(lazy, None, "cells"), Choices()))
    masked = np.ma.masked_equal(array_of(5, 4, 6), 3)
    with pytest.raises(IngestError, match="mask would be lost"):
        everything(find_images(ImageArray(masked, None, "cells"), Choices()))


@st.composite
def cases(draw):
    """Draw an array with named axes, choices, and a function that gives its images naively."""
    others = draw(st.lists(st.sampled_from("tzqc"), unique=True, max_size=3))
    names = draw(st.permutations([*others, "y", "x"]))
    shape = tuple(draw(st.integers(1, 4)) for _ in names)
    array = array_of(*shape)
    length = dict(zip(names, shape, strict=True))
    channels = draw(st.sampled_from(["rows", "last", "take"])) if "c" in others else None
    counted = [n for n in others if n != "c" or channels == "rows"]
    rows = draw(st.permutations(counted))
    choices = {"axis": tuple(rows) if rows else ("none",)}
    kept = array
    if channels == "take":
        number = draw(st.integers(0, length["c"] - 1))
        choices["channel"] = str(number)
        kept = kept.take([number], names.index("c"))
    top, left = (draw(st.integers(0, length[n] - 1)) for n in "yx")
    h, w = draw(st.integers(1, length["y"] - top)), draw(st.integers(1, length["x"] - left))
    if draw(st.booleans()):
        choices["crop"] = (top, left, h, w)
    else:
        top, left, h, w = 0, 0, length["y"], length["x"]
    ph, pw, stride = draw(st.integers(1, h)), draw(st.integers(1, w)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        choices["patches"] = (ph, pw, stride)
    else:
        ph, pw, stride = h, w, 99
    images = []
    for place in itertools.product(*(range(length[n]) for n in rows)):
        for y, x in itertools.product(range(0, h - ph + 1, stride), range(0, w - pw + 1, stride)):
            index = dict(zip(rows, place, strict=True))
            index |= {"y": slice(top + y, top + y + ph), "x": slice(left + x, left + x + pw)}
            part = kept[tuple(index.get(n, slice(None)) for n in names)]
            left_over = [n for n in names if n not in rows]
            part = np.moveaxis(part, [left_over.index(n) for n in "yx"], [0, 1])
            images.append(part[..., 0] if part.shape[2:] == (1,) else part)
    return ImageArray(array, tuple(names), "a"), Choices(**choices), np.stack(images)


@given(cases(), st.data())
@settings(max_examples=150, deadline=None)
def test_any_choice_gives_what_numpy_gives(case, data):
    source, choices, expected = case
    rows = pickle.loads(pickle.dumps(find_images(source, choices)))
    assert len(rows) == len(expected)
    assert rows.image_shape == expected.shape[1:]
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, len(rows)))
    np.testing.assert_array_equal(rows.read(start, stop), expected[start:stop])
    assert len(set(rows.ids(0, len(rows)))) == len(rows)
