"""TIFF files that tifffile and Pillow write, in every kind, compared with what was written."""

from __future__ import annotations

import io
import logging
import sys
import threading
from functools import partial

import numpy as np
import pytest
import tifffile
from PIL import Image

import dnmf
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats import tiff
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.formats.orientation import turn_upright
from dnmf.io.sources.formats.registry import open_image_file
from dnmf.io.sources.image_array import find_images

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 2000, (5, 32, 48), dtype="u2")
HYPER = RNG.integers(0, 4000, (3, 4, 2, 32, 48), dtype="u2")
COLOR = RNG.integers(0, 256, (32, 48, 3), dtype="u1")


def written(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


def rows_of(path, in_memory=False, **choices):
    """Open a file on the disk, or as a member of an archive is opened."""
    content = path.read_bytes()
    opening = partial(io.BytesIO, content) if in_memory else partial(open, path, "rb")
    file = ImageFile(str(path), opening, None if in_memory else str(path))
    chosen = Choices(**choices)
    return find_images(open_image_file(file, chosen), chosen)


def pixels_of(path, **choices):
    found = [rows_of(path, in_memory, **choices) for in_memory in (False, True)]
    first, second = (rows.read(0, len(rows)) for rows in found)
    assert (first == second).all()
    assert first.dtype == found[0].dtype
    return first


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [{}, {"byteorder": ">"}, {"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 5}],
    ids=["plain", "big-endian", "tiled", "strips"],
)
@pytest.mark.parametrize("bigtiff", [False, True])
def test_numbers_keep_their_depth(tmp_path, dtype, options, bigtiff):
    array = (STACK.astype("i4") - (1000 if dtype[0] != "u" else 0)).astype(dtype)
    for pixels, name in ((array[0], "one.tif"), (array, "stack.tif")):
        path = written(tmp_path / name, pixels, bigtiff=bigtiff, **options)
        found = pixels_of(path)
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found.reshape(pixels.shape), pixels)


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [("lzw", False), ("lzw", True), ("zlib", True), ("zstd", False), ("packbits", False)],
)  # fmt: skip
def test_compressions_without_loss(tmp_path, compression, predictor):
    options = {"compression": compression, "predictor": predictor}
    found = pixels_of(written(tmp_path / "a.tif", STACK, **options))
    np.testing.assert_array_equal(found, STACK)


def test_jpeg_inside_is_what_its_decoder_gives(tmp_path):
    path = written(tmp_path / "a.tif", COLOR, photometric="rgb", compression="jpeg")
    np.testing.assert_array_equal(pixels_of(path)[0], tifffile.imread(path))
    assert rows_of(path).colors == "rgb"


class TestStacks:
    def test_pages_are_images(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for page in STACK:
                file.write(page, metadata=None)
        np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif"), STACK)
        corpus = dnmf.ingest(tmp_path / "a.tif", tmp_path / "c.zarr")
        assert list(corpus.ids[:2]) == ["a.tif:0", "a.tif:1"]

    @pytest.mark.parametrize("kind", ["imagej", "ome"])
    def test_axes_and_channels_by_name(self, tmp_path, kind):
        path = written(tmp_path / "a.tif", HYPER, **{kind: True}, metadata={"axes": "TZCYX"})
        flat = HYPER.reshape(12, 2, 32, 48)
        found = pixels_of(path, axis=("t", "z"))
        np.testing.assert_array_equal(found, np.moveaxis(flat, 1, -1))
        np.testing.assert_array_equal(pixels_of(path, axis=("t", "z"), channel="1"), flat[:, 1])
        assert rows_of(path, axis=("t", "z")).ids(4, 5) == ["t=1,z=0"]
        with pytest.raises(IngestError, match=r"a\.tif has axes t=3, z=4, c=2.*--axis t,z for all"):
            rows_of(path)

    def test_channels_of_ome_by_their_names(self, tmp_path):
        metadata = {"axes": "TCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
        path = written(tmp_path / "a.ome.tif", HYPER[:, 0], ome=True, metadata=metadata)
        np.testing.assert_array_equal(pixels_of(path, channel="GFP"), HYPER[:, 0, 1])

    def test_levels_of_a_pyramid(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            options = {"tile": (16, 16), "photometric": "rgb"}
            file.write(COLOR, subifds=1, **options)
            file.write(COLOR[::2, ::2], subfiletype=1, **options)
        np.testing.assert_array_equal(pixels_of(path)[0], COLOR)
        np.testing.assert_array_equal(pixels_of(path, level=1)[0], COLOR[::2, ::2])
        with pytest.raises(IngestError, match=r"2 levels of resolution; give --level .* 0 to 1"):
            rows_of(path, level=2)

    def test_several_arrays_are_listed_and_one_is_chosen(self, tmp_path):
        path = tmp_path / "a.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as file:
            file.write(STACK, metadata={"axes": "TYX", "Name": "cells"})
            file.write(STACK[:, :8], metadata={"axes": "TYX", "Name": "beads"})
        with pytest.raises(IngestError, match=r"2 arrays .* 0 \(cells\) .* 1 \(beads\) .*--array"):
            rows_of(path)
        np.testing.assert_array_equal(pixels_of(path, array="beads"), STACK[:, :8])
        np.testing.assert_array_equal(pixels_of(path, array="0"), STACK)
        with pytest.raises(IngestError, match="no worms"):
            rows_of(path, array="worms")

    def test_a_file_of_an_ome_set_gives_its_own_images_and_opens_no_other(self, tmp_path, caplog):
        path = written(tmp_path / "a.ome.tif", STACK, ome=True, metadata={"axes": "TYX"})
        xml = tifffile.tiffcomment(path)
        data = '<TiffData IFD="{0}" FirstT="{0}"><UUID FileName="{1}">urn:{1}</UUID></TiffData>'
        parts = [data.format(t, "a.ome.tif" if t < 2 else "../../etc/passwd") for t in range(5)]
        start, stop = xml.index("<TiffData"), xml.index("</Pixels>")
        tifffile.tiffcomment(path, (xml[:start] + "".join(parts) + xml[stop:]).encode())
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(pixels_of(path), STACK)
        assert "passwd" not in caplog.text

    def test_parts_of_big_pages_are_decoded_alone(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tiff, "PAGE_BYTES", 1000)
        path = written(tmp_path / "a.tif", STACK[0], tile=(16, 16), compression="zlib")
        found = pixels_of(path, patches=(16, 16, 16))
        np.testing.assert_array_equal(found[1], STACK[0, :16, 16:32])

    def test_threads_read_one_file_at_once(self, tmp_path):
        array = RNG.integers(0, 4000, (40, 32, 48), dtype="u2")
        rows = rows_of(written(tmp_path / "a.tif", array, compression="zlib"))
        wrong = []

        def read(offset):
            for i in range(40):
                at = (i * 7 + offset) % 40
                if not (rows.read(at, at + 1)[0] == array[at]).all():
                    wrong.append(at)

        threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


@pytest.mark.parametrize("stack", [False, True])
class TestColours:
    """Of one image, and of a stack that is read when it is asked for."""

    @staticmethod
    def check(tmp_path, stack, array, expected, colors, **options):
        given = np.stack([array] * 3) if stack else array
        path = written(tmp_path / "a.tif", given, **options)
        found = pixels_of(path)
        np.testing.assert_array_equal(found[-1], expected)
        assert len(found) == (3 if stack else 1)
        assert rows_of(path).colors == colors

    def test_rgb_in_one_or_three_planes(self, tmp_path, stack):
        self.check(tmp_path, stack, COLOR, COLOR, "rgb", photometric="rgb")
        planes = np.moveaxis(COLOR, -1, 0)
        options = {"photometric": "rgb", "planarconfig": "separate"}
        self.check(tmp_path, stack, planes, COLOR, "rgb", **options)

    def test_16_bits_per_colour_are_kept(self, tmp_path, stack):
        deep = COLOR.astype("u2") * 257
        self.check(tmp_path, stack, deep, deep, "rgb", photometric="rgb")

    def test_transparency(self, tmp_path, stack):
        rgba = np.dstack([COLOR, COLOR[..., :1]])
        options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
        self.check(tmp_path, stack, rgba, rgba, "rgb+alpha", **options)
        half = np.full((4, 6, 4), 128, "u1")
        half[..., 0] = 64
        options["extrasamples"] = ["assocalpha"]
        expected = np.full((4, 6, 4), 255, "u1")
        expected[..., 0], expected[..., 3] = 127, 128
        self.check(tmp_path, stack, half, expected, "rgb+alpha", **options)

    @pytest.mark.parametrize("scale", [1, 257])
    def test_palettes_are_their_colours(self, tmp_path, stack, scale):
        table = RNG.integers(0, 256, (3, 256)).astype("u2")
        index = COLOR[..., 0]
        options = {"photometric": "palette", "colormap": table * np.uint16(scale)}
        self.check(tmp_path, stack, index, table.T[index], "rgb", **options)
        grey = np.repeat(table[:1], 3, 0)
        options["colormap"] = grey * np.uint16(scale)
        self.check(tmp_path, stack, index, grey[0][index], None, **options)

    def test_white_is_zero_gives_the_brightness(self, tmp_path, stack):
        self.check(tmp_path, stack, STACK[0], 65535 - STACK[0], None, photometric="miniswhite")

    def test_one_bit_is_black_or_white(self, tmp_path, stack):
        bits = COLOR[..., 0] > 100
        for kind, white in (("minisblack", bits), ("miniswhite", ~bits)):
            self.check(tmp_path, stack, bits, white * np.uint8(255), None, photometric=kind)

    def test_inks_as_pillow_converts_them(self, tmp_path, stack):
        inks = RNG.integers(0, 256, (32, 48, 4), dtype="u1")
        expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")).astype(int)
        path = written(tmp_path / "a.tif", np.stack([inks] * 3) if stack else inks,
                       photometric="separated")  # fmt: skip
        assert np.abs(pixels_of(path)[-1] - expected).max() <= 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_upright(self, tmp_path, stack, orientation):
        tag = [(274, "H", 1, orientation, True)]
        expected = turn_upright(COLOR, orientation)
        self.check(tmp_path, stack, COLOR, expected, "rgb", photometric="rgb", extratags=tag)


def test_colours_that_only_show_measurements_are_left_alone(tmp_path):
    path = written(tmp_path / "a.tif", COLOR[..., 0], imagej=True, colormap=RNG.integers(
        0, 256, (3, 256)).astype("u1"))  # fmt: skip
    np.testing.assert_array_equal(pixels_of(path)[0], COLOR[..., 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photometric": "cielab"}, "its colours are CIELAB; convert it"),
        ({"photometric": "miniswhite", "dtype": "f4"}, "float32 in which white is 0; invert it"),
        ({"dtype": "c8"}, "holds complex64; pixels are"),
    ],
)
def test_what_is_not_converted_is_said(tmp_path, options, message):
    dtype = options.pop("dtype", "u1")
    array = COLOR.astype(dtype) if "cielab" in options.values() else STACK[0].astype(dtype)
    path = written(tmp_path / "bad.tif", array, **options)
    with pytest.raises(IngestError, match=message) as found:
        rows_of(path)
    assert "bad.tif" in str(found.value)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "jpeg"])
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("pages", [1, 5])
@pytest.mark.parametrize("kept", [0, 3, 8, 100, 0.5, 0.9])
def test_a_file_that_is_cut_short(tmp_path, compression, described, pages, kept):
    path, array = tmp_path / "cut.tif", RNG.integers(0, 256, (pages, 64, 64), dtype="u1")
    with tifffile.TiffWriter(path) as file:
        for page in array:
            file.write(page, compression=compression, **({} if described else {"metadata": None}))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(IngestError, match=r"cut\.tif"):
        pixels_of(path)


def test_a_damaged_page_is_named(tmp_path):
    path = written(tmp_path / "bad.tif", STACK, compression="zlib")
    with tifffile.TiffFile(path) as file:
        place = file.pages[2].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[place : place + 200] = bytes(200)
    path.write_bytes(content)
    rows = rows_of(path)
    np.testing.assert_array_equal(rows.read(0, 2), STACK[:2])
    with pytest.raises(IngestError, match=r"bad\.tif"):
        rows.read(2, 3)


@pytest.mark.parametrize("missing", ["tifffile", "imagecodecs"])
def test_without_its_libraries_what_pillow_keeps_is_read(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    path = tmp_path / "a.tif"
    Image.fromarray(STACK[0]).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(pixels_of(path)[0], STACK[0])
    pages = [Image.fromarray(page) for page in STACK]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with pytest.raises(IngestError, match=r"a\.tif.*pip install 'dnmf\[tiff\]'"):
        rows_of(path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.tif"
    written(path, np.zeros((2**14, 2**13), "u1"), compression="zlib", rowsperstrip=2**14)
    with pytest.raises(IngestError, match=r"bomb\.tif: it has more than .* pixels"):
        rows_of(path)
