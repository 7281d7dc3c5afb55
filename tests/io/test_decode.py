"""Image files keep the numbers that are in them, or are refused by what they are."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dnmf.errors import IngestError
from dnmf.io.sources.image_files import read_image

RNG = np.random.default_rng(0)
HIGH, WIDE = 12, 10
GRAY = RNG.integers(0, 256, (HIGH, WIDE), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (HIGH, WIDE), dtype=np.uint16)
RGB = RNG.integers(0, 256, (HIGH, WIDE, 3), dtype=np.uint8)
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
"""What the value of the orientation tag asks for."""


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


def tiff(path, pixels, order="<", **tags):
    """Write a TIFF of one directory and one strip, with any of the tags named by their numbers."""
    mark, data = {"<": b"II*\0", ">": b"MM\0*"}[order], pixels.tobytes()
    bits = pixels.dtype.itemsize * 8
    samples = 1 if pixels.ndim == 2 else pixels.shape[-1]
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[pixels.dtype.kind]
    high, wide = pixels.shape[:2]
    values = {256: wide, 257: high, 258: (bits,) * samples, 259: 1, 262: 2 if samples > 2 else 1}
    values |= {273: 0, 277: samples, 278: high, 279: len(data), 339: (kind,) * samples}
    values |= {int(name[1:]): value for name, value in tags.items()}
    offset = 8 + 2 + 12 * len(values) + 4
    tail, entries = b"", b""
    for tag, value in sorted(values.items()):
        if isinstance(value, bytes):
            code, count, content = 2, len(value), value
        else:
            numbers = value if isinstance(value, tuple) else (value,)
            code, count = 4 if tag in (273, 279) else 3, len(numbers)
            content = struct.pack(f"{order}{count}{'I' if code == 4 else 'H'}", *numbers)
        if len(content) > 4:
            where = struct.pack(f"{order}I", offset + len(tail))
            tail += content + b"\0" * (len(content) % 2)
        else:
            where = content.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, code, count) + (where if tag != 273 else b"HERE")
    entries = entries.replace(b"HERE", struct.pack(f"{order}I", offset + len(tail)))
    head = mark + struct.pack(f"{order}IH", 8, len(values))
    path.write_bytes(head + entries + bytes(4) + tail + data)
    return path


def pack12(pixels):
    """Return the bytes of rows of 12-bit numbers, two in three bytes."""
    a, b = pixels.reshape(-1, 2).T.astype(np.uint16)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8)


def deep_png(path, kind, bands):
    deep = RNG.integers(0, 65536, (HIGH, WIDE * bands)).astype(">u2")
    return png(path / "a.png", [row.tobytes() for row in deep], kind, 16)


def animated(path):
    frames = [Image.fromarray(GRAY + i) for i in range(3)]
    frames[0].save(path / "a.png", save_all=True, append_images=frames[1:])
    return path / "a.png"


def stereo(path):
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    frames[0].save(path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    return path / "a.jpg"


def pages(path):
    frames = [Image.fromarray(DEEP)] * 4
    frames[0].save(path / "a.tif", save_all=True, append_images=frames[1:])
    return path / "a.tif"


def pgm(path, head, data):
    (path / "a.pgm").write_bytes(head + data)
    return path / "a.pgm"


def clear(path, mode, **options):
    image = Image.fromarray(RGB).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(GRAY))
    image.save(path / "a.png", **options)
    return path / "a.png"


def four_bits():
    return RNG.integers(0, 256, (HIGH, WIDE // 2), dtype=np.uint8)


REFUSED = {
    "16-bit RGB PNG": (lambda p: deep_png(p, 2, 3), "PNG of 16 bits per colour"),
    "16-bit grey and alpha PNG": (lambda p: deep_png(p, 4, 2), "PNG of 16 bits per colour"),
    "16-bit RGBA PNG": (lambda p: deep_png(p, 6, 4), "PNG of 16 bits per colour"),
    "16-bit RGB TIFF": (
        lambda p: tiff(p / "a.tif", RNG.integers(0, 65536, (HIGH, WIDE, 3)).astype("<u2")),
        "TIFF of 16 bits per colour",
    ),
    "16-bit RGBA TIFF": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 4), "<u2"), t338=2),
        "TIFF of 16 bits per colour",
    ),
    "16-bit PPM": (
        lambda p: pgm(p, b"P6 10 12 65535\n", bytes(720)),
        "PPM of 16 bits per colour",
    ),
    "12-bit PPM": (lambda p: pgm(p, b"P6 10 12 4095\n", bytes(720)), "PPM of 16 bits per colour"),
    "64-bit floats": (
        lambda p: tiff(p / "a.tif", RNG.random((HIGH, WIDE))),
        "TIFF whose kind of pixels the decoder does not know",
    ),
    "16-bit floats": (
        lambda p: tiff(p / "a.tif", RNG.random((HIGH, WIDE)).astype("f2")),
        "TIFF whose kind of pixels the decoder does not know",
    ),
    "complex numbers": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE), "c8")),
        "TIFF whose kind of pixels the decoder does not know",
    ),
    "32 bits, big-endian": (
        lambda p: tiff(p / "a.tif", DEEP.astype(">u4"), ">"),
        "TIFF whose kind of pixels the decoder does not know",
    ),
    "white is 0, 16 bits, big-endian": (
        lambda p: tiff(p / "a.tif", DEEP.astype(">u2"), ">", t262=0),
        "TIFF whose kind of pixels the decoder does not know",
    ),
    "signed bytes": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), -3, "i1")),
        "signed 8-bit numbers",
    ),
    "signed bytes, none negative": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), 3, "i1")),
        "signed 8-bit numbers",
    ),
    "negative 16-bit numbers": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), -3, "<i2")),
        "negative",
    ),
    "negative 32-bit numbers": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), -3, "<i4")),
        "negative",
    ),
    "large 32-bit numbers": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), 2**20, "<i4")),
        "do not fit 16 bits",
    ),
    "very large 32-bit numbers": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), 2**31 + 7, "<u4")),
        "negative|do not fit 16 bits",
    ),
    "negative floats": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), -0.5, "<f4")),
        "negative, NaN or infinite",
    ),
    "NaN": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), np.nan, "<f4")),
        "negative, NaN or infinite",
    ),
    "floats in which white is 0": (
        lambda p: tiff(p / "a.tif", RNG.random((HIGH, WIDE)).astype("f4"), t262=0),
        "floats in which white is 0",
    ),
    "four channels": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 4), "u1"), t338=0),
        "TIFF of 4 channels, of which the decoder keeps 3",
    ),
    "six channels": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 6), "u1"), t338=(0, 0, 0)),
        "TIFF of 6 channels, of which the decoder keeps 3",
    ),
    "grey with another channel": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 2), "u1"), t262=1, t338=0),
        "TIFF of 2 channels, of which the decoder keeps 1",
    ),
    "an ImageJ stack": (
        lambda p: tiff(p / "a.tif", DEEP, t270=b"ImageJ=1.53t\nimages=7\nframes=7\n\0"),
        "stack of 7 images in one TIFF directory",
    ),
    "a tifffile stack": (
        lambda p: tiff(p / "a.tif", DEEP, t270=b'{"shape": [7, 12, 10], "truncated": true}\0'),
        "stack of 7 images in one TIFF directory",
    ),
    "a MetaMorph stack": (
        lambda p: tiff(p / "a.tif", DEEP, t33629=(1, 2, 3)),
        "stack of 3 images in one TIFF directory",
    ),
    "a volume": (lambda p: tiff(p / "a.tif", GRAY, t32997=5), "stack of 5 images"),
    "pages": (pages, "holds 4 images"),
    "an animation": (animated, "holds 3 images"),
    "a stereo pair": (stereo, "holds 2 images"),
    "2 bits": (
        lambda p: png(p / "a.png", [row.tobytes() for row in GRAY[:, :3]], 0, 2),
        "2 bits per pixel; pass --color gray",
    ),
    "4 bits": (
        lambda p: png(p / "a.png", [row.tobytes() for row in four_bits()], 0, 4),
        "4 bits per pixel; pass --color gray",
    ),
    "4 bits, TIFF": (
        lambda p: tiff(p / "a.tif", four_bits(), t256=WIDE, t258=4),
        "4 bits per pixel; pass --color gray",
    ),
    "1 bit": (lambda p: clear(p, "1"), "black and white of 1 bit.* --color gray"),
    "a palette": (lambda p: clear(p, "P"), "a palette of colours.* --color gray"),
    "a palette with transparency": (
        lambda p: clear(p, "P", transparency=3),
        "a palette of colours.* --color gray",
    ),
    "grey with transparency": (lambda p: clear(p, "LA"), "grey with transparency.* --color"),
    "transparency": (lambda p: clear(p, "RGBA"), "RGB with transparency.* --color"),
    "CMYK": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 4), "u1"), t262=5),
        "CMYK, neither grey nor RGB; pass --color",
    ),
    "a very long comment": (
        lambda p: pgm(p, b"P5 #" + b"x" * 5000 + b"\n10 12 255\n", bytes(120)),
        "header has more than 4096 bytes",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about palettes
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_decoder_would_change_is_refused_by_name(tmp_path, name):
    write, message = REFUSED[name]
    path = write(tmp_path)
    with pytest.raises(IngestError, match=message) as error:
        read_image(path, None, None)
    assert str(error.value).startswith(str(path))
    if "--color" not in message:
        for color in ("gray", "rgb"):
            with pytest.raises(IngestError):
                read_image(path, None, color)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("mode", "options"), [("LA", {}), ("RGBA", {}), ("P", {"transparency": bytes(range(256))})]
)
def test_transparent_pixels_have_no_colour(tmp_path, mode, options):
    path = clear(tmp_path, mode, **options)
    for color in ("gray", "rgb"):
        with pytest.raises(IngestError, match=r"transparent pixels.*flatten"):
            read_image(path, None, color)


def deep_pgm(largest, pixels):
    return lambda p: pgm(p, b"P5\n# a camera\n10 12\n%d\n" % largest, pixels.tobytes())


TWELVE = (DEEP >> 4).astype(np.uint16)
FLOATS = RNG.random((HIGH, WIDE), dtype=np.float32)

KEPT = {
    "16-bit grey PNG": (
        lambda p: png(p / "a.png", [row.tobytes() for row in DEEP.astype(">u2")], 0, 16),
        DEEP,
    ),
    "16-bit grey PNG with a transparent grey": (
        lambda p: png(
            p / "a.png", [row.tobytes() for row in DEEP.astype(">u2")], 0, 16, (b"tRNS", b"\0\7")
        ),
        DEEP,
    ),
    "12 bits": (
        lambda p: tiff(p / "a.tif", pack12(TWELVE).reshape(HIGH, -1), t256=WIDE, t258=12),
        TWELVE,
    ),
    "16 bits": (lambda p: tiff(p / "a.tif", DEEP), DEEP),
    "16 bits, big-endian": (lambda p: tiff(p / "a.tif", DEEP.astype(">u2"), ">"), DEEP),
    "signed 16 bits": (lambda p: tiff(p / "a.tif", (DEEP >> 1).astype("<i2")), DEEP >> 1),
    "signed 16 bits, big-endian": (
        lambda p: tiff(p / "a.tif", (DEEP >> 1).astype(">i2"), ">"),
        DEEP >> 1,
    ),
    "signed 32 bits": (lambda p: tiff(p / "a.tif", DEEP.astype("<i4")), DEEP),
    "32 bits": (lambda p: tiff(p / "a.tif", DEEP.astype("<u4")), DEEP),
    "floats": (lambda p: tiff(p / "a.tif", FLOATS), FLOATS),
    "floats, big-endian": (lambda p: tiff(p / "a.tif", FLOATS.astype(">f4"), ">"), FLOATS),
    "white is 0": (lambda p: tiff(p / "a.tif", GRAY, t262=0), 255 - GRAY),
    "white is 0, 16 bits": (lambda p: tiff(p / "a.tif", DEEP, t262=0), 65535 - DEEP),
    "RGB": (lambda p: tiff(p / "a.tif", RGB), RGB),
    "one image, says ImageJ": (
        lambda p: tiff(p / "a.tif", DEEP, t270=b"ImageJ=1.53t\nimages=1\n\0"),
        DEEP,
    ),
    "one image, says tifffile": (
        lambda p: tiff(p / "a.tif", RGB, t270=b'{"shape": [12, 10, 3]}\0'),
        RGB,
    ),
    "12-bit PGM": (deep_pgm(4095, TWELVE.astype(">u2")), TWELVE),
    "14-bit PGM": (deep_pgm(16383, (DEEP >> 2).astype(">u2")), DEEP >> 2),
    "16-bit PGM": (deep_pgm(65535, DEEP.astype(">u2")), DEEP),
    "PGM of 0 to 100": (deep_pgm(100, GRAY % 101), GRAY % 101),
    "PGM of 0 and 1": (deep_pgm(1, GRAY % 2), GRAY % 2),
    "PPM of 0 to 100": (lambda p: pgm(p, b"P6 10 12 100\n", (RGB % 101).tobytes()), RGB % 101),
    "PGM in words": (
        lambda p: pgm(p, b"P2 10 12 4095\n", " ".join(map(str, TWELVE.ravel())).encode()),
        TWELVE,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_the_numbers_of_a_file_are_kept(tmp_path, name):
    write, pixels = KEPT[name]
    found = read_image(write(tmp_path), None, None)
    assert found.dtype == pixels.dtype
    assert (found == pixels).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [GRAY, DEEP, RGB, FLOATS], ids=["gray", "deep", "rgb", "float"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_tiff_on_its_side_comes_upright(tmp_path, orientation, pixels, compression):
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, compression=compression, tiffinfo={274: orientation})
    found = read_image(path, None, None)
    assert (found == UPRIGHT[orientation](pixels)).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_white_is_zero_whatever_the_compression(tmp_path, dtype, compression):
    pixels = (GRAY if dtype == "u1" else DEEP).astype(dtype)
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, compression=compression)
    content = path.read_bytes()
    tag = re.escape(struct.pack("<HHI", 262, 3, 1))
    changed, n = re.subn(tag + b"\1", lambda found: found[0][:-1] + b"\0", content)
    assert n == 1
    path.write_bytes(changed)
    assert (read_image(path, None, None) == np.iinfo(dtype).max - pixels).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u2", "f4", "i2"])
def test_numbers_of_either_byte_order_are_averaged(tmp_path, order, dtype):
    pixels = np.kron(np.array([[0, 1000], [30_000, 7]]), np.ones((4, 4))).astype(order + dtype)
    found = read_image(tiff(tmp_path / "a.tif", pixels, order), (2, 2), "gray")
    assert found.tolist() == [[0, 1000], [30_000, 7]]
    assert found.dtype == ("f4" if dtype == "f4" else "u2")


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_other_files_come_upright_too(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = np.add.outer(np.arange(32), 2 * np.arange(40)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    found = read_image(tmp_path / f"a.{suffix}", None, None)
    assert np.abs(found.astype(int) - UPRIGHT[orientation](smooth)).max() < 12


@pytest.mark.parametrize(("bits", "largest"), [(1, 1), (2, 3), (4, 15)])
def test_few_bits_are_scaled_when_colours_are_converted(tmp_path, bits, largest):
    pixels = GRAY % (largest + 1)
    planes = (pixels[..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(planes.reshape(HIGH, -1).astype(np.uint8), axis=1)
    path = png(tmp_path / "a.png", [row.tobytes() for row in rows], 0, bits)
    assert (read_image(path, None, "gray") == pixels * (255 // largest)).all()
