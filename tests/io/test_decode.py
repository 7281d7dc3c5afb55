"""Image files give the numbers that are in them, in one of five kinds of colours."""

from __future__ import annotations

import struct
import sys
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
from opened import UPRIGHT
from PIL import Image

from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats import netpbm, pillow
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.prepare import prepare

RNG = np.random.default_rng(0)
HIGH, WIDE = 12, 10
GRAY = RNG.integers(0, 256, (HIGH, WIDE), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (HIGH, WIDE), dtype=np.uint16)
RGB = RNG.integers(0, 256, (HIGH, WIDE, 3), dtype=np.uint8)


def raw(path, **choices):
    """Open an image file."""
    suffixes = netpbm.FORMAT.suffixes
    reader = netpbm.FORMAT if path.suffix in suffixes else pillow.FORMAT
    return reader.open(ImageFile(str(path), lambda: path.open("rb"), path), Choices(**choices))


def decode(path, **choices):
    """Return the pixels that are stored."""
    image = raw(path, **choices)
    pixels = np.asarray(image.array[:])
    stack = pixels if "t" in image.axes else pixels[None]
    prepared = prepare(stack, image.colors, Choices(**choices))
    return prepared if "t" in image.axes else prepared[0]


def png(path, raw, kind, bits, *chunks):
    """Write a PNG whose rows are bytes already, with chunks before its pixels."""

    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", WIDE, HIGH, bits, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in raw))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def png16(path, pixels):
    path.write_bytes(imagecodecs.png_encode(pixels))
    return path


def packed(pixels, bits):
    """Return rows of numbers of few bits, as PNG has them."""
    planes = (pixels[..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(planes.reshape(HIGH, -1).astype(np.uint8), axis=1)
    return [row.tobytes() for row in rows]


def save(path, pixels, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image = image if mode is None else image.convert(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about palettes
        image.save(path, **options)
    return path


def palette(colors, indices=GRAY, transparency=None):
    image = Image.fromarray(indices % len(colors), "P")
    image.putpalette(np.asarray(colors, np.uint8).tobytes())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def text(path, content):
    path.write_bytes(content)
    return path


def deep_pgm(largest, pixels):
    return lambda p: text(p / "a.pgm", b"P5\n# a camera\n10 12\n%d\n" % largest + pixels.tobytes())


def words(pixels):
    return " ".join(map(str, pixels.ravel().tolist())).encode()


TWELVE = (DEEP >> 4).astype(np.uint16)
FLOATS = RNG.random((HIGH, WIDE), dtype=np.float32)
DEEP_RGB = RNG.integers(0, 65536, (HIGH, WIDE, 3), dtype=np.uint16)
BITS = GRAY % 2
FIVE = [[255, 0, 0], [0, 255, 0], [1, 2, 3], [9, 9, 9], [200, 100, 50]]
GRAYS = [[0, 0, 0], [17, 17, 17], [255, 255, 255], [3, 3, 3]]
OPAQUE = np.dstack([RGB, np.full((HIGH, WIDE), 255, np.uint8)])

KEPT = {
    "grey PNG": (lambda p: save(p / "a.png", GRAY), GRAY),
    "RGB PNG": (lambda p: save(p / "a.png", RGB), RGB),
    "16-bit grey PNG": (lambda p: save(p / "a.png", DEEP), DEEP),
    "16-bit RGB PNG": (lambda p: png16(p / "a.png", DEEP_RGB), DEEP_RGB),
    "16-bit PNG, opaque": (
        lambda p: png16(p / "a.png", np.dstack([DEEP_RGB, np.full_like(DEEP, 65535)])),
        DEEP_RGB,
    ),
    "16-bit grey PNG, opaque": (
        lambda p: png16(p / "a.png", np.dstack([DEEP, np.full_like(DEEP, 65535)])),
        DEEP,
    ),
    "16-bit grey PNG whose transparent grey is nowhere": (
        lambda p: png(
            p / "a.png", [row.tobytes() for row in DEEP.astype(">u2")], 0, 16, (b"tRNS", b"\0\7")
        ),
        DEEP,
    ),
    "1 bit": (lambda p: png(p / "a.png", packed(BITS, 1), 0, 1), BITS * 255),
    "2 bits": (lambda p: png(p / "a.png", packed(GRAY % 4, 2), 0, 2), GRAY % 4 * 85),
    "4 bits": (lambda p: png(p / "a.png", packed(GRAY % 16, 4), 0, 4), GRAY % 16 * 17),
    "a palette": (lambda p: save(p / "a.png", palette(FIVE)), np.array(FIVE, "u1")[GRAY % 5]),
    "a palette of 2 bits": (
        lambda p: save(p / "a.png", palette(FIVE[:4]), bits=2),
        np.array(FIVE, "u1")[GRAY % 4],
    ),
    "a palette of greys": (
        lambda p: save(p / "a.png", palette(GRAYS)),
        np.array(GRAYS, "u1")[GRAY % 4, 0],
    ),
    "opaque colours": (lambda p: save(p / "a.png", OPAQUE), RGB),
    "opaque grey": (
        lambda p: save(p / "a.png", np.dstack([GRAY, np.full_like(GRAY, 255)])),
        GRAY,
    ),
    "BMP": (lambda p: save(p / "a.bmp", RGB), RGB),
    "grey BMP": (lambda p: save(p / "a.bmp", GRAY), GRAY),
    "BMP of a palette": (
        lambda p: save(p / "a.bmp", palette(FIVE)),
        np.array(FIVE, "u1")[GRAY % 5],
    ),
    "black and white BMP": (lambda p: save(p / "a.bmp", BITS * 255, "1"), BITS * 255),
    "GIF": (lambda p: save(p / "a.gif", palette(FIVE)), np.array(FIVE, "u1")[GRAY % 5]),
    "grey GIF": (lambda p: save(p / "a.gif", GRAY), GRAY),
    "WebP without loss": (lambda p: save(p / "a.webp", RGB, lossless=True), RGB),
    "a PNG whose name says JPEG": (lambda p: save(p / "a.jpg", RGB, format="PNG"), RGB),
    "12-bit PGM": (deep_pgm(4095, TWELVE.astype(">u2")), TWELVE),
    "14-bit PGM": (deep_pgm(16383, (DEEP >> 2).astype(">u2")), DEEP >> 2),
    "16-bit PGM": (deep_pgm(65535, DEEP.astype(">u2")), DEEP),
    "PGM of 0 to 100": (deep_pgm(100, GRAY % 101), GRAY % 101),
    "PGM of 0 and 1": (deep_pgm(1, BITS), BITS),
    "PPM of 0 to 100": (
        lambda p: text(p / "a.ppm", b"P6 10 12 100\n" + (RGB % 101).tobytes()),
        RGB % 101,
    ),
    "16-bit PPM": (
        lambda p: text(p / "a.ppm", b"P6 10 12 65535\n" + DEEP_RGB.astype(">u2").tobytes()),
        DEEP_RGB,
    ),
    "PGM in words": (
        lambda p: text(p / "a.pgm", b"P2 10 12 4095\n" + words(TWELVE) + b" # the end\n"),
        TWELVE,
    ),
    "PPM in words": (lambda p: text(p / "a.pnm", b"P3\n10 12\n255\n" + words(RGB)), RGB),
    "PBM": (lambda p: save(p / "a.pbm", BITS * 255, "1"), BITS * 255),
    "PBM in words": (
        lambda p: text(p / "a.pbm", b"P1 10 12\n" + words(BITS).replace(b" ", b"")),
        255 - BITS * 255,
    ),
    "PFM": (
        lambda p: text(p / "a.pfm", b"Pf\n10 12\n-1.0\n" + FLOATS[::-1].astype("<f4").tobytes()),
        FLOATS,
    ),
    "PFM of colours": (
        lambda p: text(
            p / "a.pfm", b"PF 10 12 1\n" + np.dstack([FLOATS] * 3)[::-1].astype(">f4").tobytes()
        ),
        np.dstack([FLOATS] * 3),
    ),
    "a very long comment": (
        lambda p: text(p / "a.pgm", b"P5 #" + b"x" * 5000 + b"\n10 12 255\n" + GRAY.tobytes()),
        GRAY,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_the_numbers_of_a_file_are_kept(tmp_path, name):
    write, pixels = KEPT[name]
    found = decode(write(tmp_path))
    assert found.dtype == pixels.dtype
    assert found.shape == pixels.shape
    assert (found == pixels).all()


CLEAR = np.dstack([RGB, GRAY])
CLEAR_DEEP = np.dstack([DEEP_RGB, DEEP])
TRANSPARENT = {
    "PNG": (lambda p: save(p / "a.png", CLEAR), CLEAR),
    "grey PNG": (lambda p: save(p / "a.png", np.dstack([GRAY, GRAY])), np.dstack([GRAY, GRAY])),
    "WebP": (lambda p: save(p / "a.webp", CLEAR, lossless=True, exact=True), CLEAR),
    "16-bit PNG": (lambda p: png16(p / "a.png", CLEAR_DEEP), CLEAR_DEEP),
    "a transparent colour": (
        lambda p: save(p / "a.png", RGB, transparency=tuple(RGB[3, 4].tolist())),
        np.dstack([RGB, np.where((RGB[3, 4] == RGB).all(axis=2), 0, 255)]),
    ),
    "a transparent grey of 4 bits": (
        lambda p: png(p / "a.png", packed(GRAY % 16, 4), 0, 4, (b"tRNS", b"\0\5")),
        np.dstack([GRAY % 16 * 17, np.where(GRAY % 16 == 5, 0, 255)]),
    ),
    "a transparent grey of 1 bit": (
        lambda p: png(p / "a.png", packed(BITS, 1), 0, 1, (b"tRNS", b"\0\1")),
        np.dstack([BITS * 255, 255 - BITS * 255]),
    ),
    "a transparent grey of 16 bits": (
        lambda p: png(
            *(p / "a.png", [row.tobytes() for row in DEEP.astype(">u2")], 0, 16),
            (b"tRNS", int(DEEP[2, 2]).to_bytes(2, "big")),
        ),
        np.dstack([DEEP, np.where(DEEP[2, 2] == DEEP, 0, 65535)]),
    ),
    "a transparent colour of a palette": (
        lambda p: save(p / "a.png", palette(FIVE), transparency=2),
        np.dstack([np.array(FIVE)[GRAY % 5], np.where(GRAY % 5 == 2, 0, 255)]),
    ),
    "a palette with transparency": (
        lambda p: save(p / "a.png", palette(FIVE), transparency=bytes([0, 50, 100, 150, 255])),
        np.dstack([np.array(FIVE)[GRAY % 5], np.array([0, 50, 100, 150, 255])[GRAY % 5]]),
    ),
    "a transparent colour of a GIF": (
        lambda p: save(p / "a.gif", palette(FIVE), transparency=2),
        np.dstack([np.array(FIVE)[GRAY % 5], np.where(GRAY % 5 == 2, 0, 255)]),
    ),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_need_a_choice(tmp_path, name):
    write, pixels = TRANSPARENT[name]
    path = write(tmp_path)
    image = raw(path)
    assert image.colors == {2: "gray+alpha", 4: "rgb+alpha"}[pixels.shape[2]]
    assert (image.array == pixels).all()
    with pytest.raises(IngestError, match=r"is transparent.*--alpha white or black"):
        decode(path)
    shown = decode(path, alpha="drop")
    assert (shown == (pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3])).all()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_files_come_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = np.add.outer(np.arange(32), 2 * np.arange(40)).astype(np.uint8)
    path = save(tmp_path / f"a.{suffix}", smooth, exif=exif, quality=95)
    upright = UPRIGHT[orientation](smooth)
    found = decode(path, color="gray").astype(int)
    assert np.abs(found - upright).max() < 12
    small = decode(path, color="gray", size=(upright.shape[0] // 4, upright.shape[1] // 4))
    assert np.abs(small.astype(int)[1:-1, 1:-1] - upright[2::4, 2::4][1:-1, 1:-1]).max() < 12


def test_a_damaged_orientation_is_upright(tmp_path):
    path = save(tmp_path / "a.jpg", GRAY, exif=b"Exif\0\0no exif at all")
    assert decode(path).shape == GRAY.shape


def test_a_profile_is_left_alone(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert (decode(save(tmp_path / "a.png", RGB, icc_profile=profile)) == RGB).all()


def smooth_rgb(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y % 256, x % 256, (x + y) // 2 % 256], axis=2).astype(np.uint8)


class TestJpeg:
    def test_cmyk_becomes_rgb(self, tmp_path):
        pixels = np.zeros((HIGH, WIDE, 4), np.uint8)
        pixels[..., 0] = 255  # cyan
        path = save(tmp_path / "a.jpg", Image.fromarray(pixels, "CMYK"), quality=100)
        assert np.abs(decode(path).astype(int) - [0, 255, 255]).max() < 4

    def test_grey_is_what_the_file_stores(self, tmp_path):
        path = save(tmp_path / "a.jpg", smooth_rgb(64, 48), quality=95)
        with Image.open(path) as image:
            expected = np.asarray(image.convert("YCbCr"))[..., 0].astype(int)
        assert np.abs(decode(path, color="gray") - expected).max() <= 2

    @pytest.mark.parametrize("size", [(32, 24), (16, 48), (20, 30), (200, 100), (65, 48), (1, 1)])
    @pytest.mark.parametrize("shape", [(128, 96), (129, 97)])
    @pytest.mark.parametrize("color", ["gray", None])
    def test_the_decoder_shrinks_to_the_same_within_some_units(self, tmp_path, color, shape, size):
        path = save(tmp_path / "a.jpg", smooth_rgb(*shape), quality=95, subsampling=0)
        whole = prepare(decode(path)[None], "rgb", Choices(size=size, color=color))[0]
        found = decode(path, size=size, color=color)
        assert found.shape == whole.shape
        assert np.abs(found.astype(int) - whole).max() <= 6

    def test_a_crop_before_is_in_pixels_of_the_file(self, tmp_path):
        path = save(tmp_path / "a.jpg", smooth_rgb(64, 64))
        for choice in ({"crop": (0, 0, 32, 32)}, {"patches": (32, 32, 32)}):
            assert raw(path, size=(8, 8), **choice).array.shape == (64, 64, 3)

    def test_a_photo_with_another_behind_it_is_one_image(self, tmp_path):
        smaller = Image.fromarray(RGB[:6])
        path = tmp_path / "a.jpg"
        Image.fromarray(RGB).save(path, format="MPO", save_all=True, append_images=[smaller])
        assert decode(path).shape == (HIGH, WIDE, 3)

    def test_a_stereo_pair_is_two_images(self, tmp_path):
        path = tmp_path / "a.jpg"
        other = Image.fromarray(RGB[::-1])
        Image.fromarray(RGB).save(path, format="MPO", save_all=True, append_images=[other])
        content = path.read_bytes()
        primary = content.rindex(struct.pack("<L", 0x030000), 0, 300)
        kind = struct.pack("<L", 0x020002)
        path.write_bytes(content[:primary] + kind + content[primary + 4 :])
        assert decode(path).shape == (2, HIGH, WIDE, 3)


class TestAnimations:
    FRAMES = tuple(np.roll(smooth_rgb(HIGH, WIDE), i, axis=0) for i in range(5))

    def write(self, path, frames, **options):
        first, *others = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=others, **options)
        return path

    @pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("webp", {"lossless": True})])
    def test_frames_are_images(self, tmp_path, suffix, options):
        path = self.write(tmp_path / f"a.{suffix}", self.FRAMES, **options)
        image = raw(path)
        assert image.axes == ("t", "y", "x", "c")
        assert (decode(path) == self.FRAMES).all()
        assert (image.array[2:4, 1:5, :, 0] == np.stack(self.FRAMES)[2:4, 1:5, :, 0]).all()
        assert (image.array[3][..., :3] == self.FRAMES[3]).all()

    def test_a_grey_gif_stays_grey(self, tmp_path):
        frames = [np.roll(GRAY, i, axis=0) for i in range(4)]
        path = self.write(tmp_path / "a.gif", frames)
        assert (decode(path) == frames).all()
        assert decode(path, color="rgb").shape == (4, HIGH, WIDE, 3)

    def test_a_gif_of_colours(self, tmp_path):
        frames = [np.array(FIVE, "u1")[(GRAY + i) % 5] for i in range(3)]
        assert (decode(self.write(tmp_path / "a.gif", frames)) == frames).all()

    def test_a_gif_that_becomes_coloured_is_named(self, tmp_path):
        path = self.write(tmp_path / "a.gif", [np.dstack([GRAY] * 3), RGB])
        with pytest.raises(IngestError, match=r"a\.gif: its frame 0 is grey.*pass --color"):
            decode(path)
        assert decode(path, color="gray").shape == (2, HIGH, WIDE)


def test_a_png_of_16_bits_per_colour_needs_a_library(tmp_path, monkeypatch):
    path = png16(tmp_path / "a.png", DEEP_RGB)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(IngestError, match=r"a\.png: .*16 bits per colour.*dnmf\[tiff\]"):
        raw(path)
