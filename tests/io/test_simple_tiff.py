"""TIFF through Pillow, where tifffile is missing: numbers are kept, or the file is refused."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from opened import UPRIGHT
from PIL import Image

from dnmf.errors import IngestError
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.formats.simple_tiff import open_simple_tiff

RNG = np.random.default_rng(0)
HIGH, WIDE = 12, 10
GRAY = RNG.integers(0, 256, (HIGH, WIDE), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (HIGH, WIDE), dtype=np.uint16)
RGB = RNG.integers(0, 256, (HIGH, WIDE, 3), dtype=np.uint8)


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


def decode(path):
    return open_simple_tiff(ImageFile(str(path), lambda: path.open("rb"), path)).array


def pages(path):
    frames = [Image.fromarray(DEEP)] * 4
    frames[0].save(path / "a.tif", save_all=True, append_images=frames[1:])
    return path / "a.tif"


def four_bits():
    return GRAY[:, : WIDE // 2]


REFUSED = {
    "16-bit RGB TIFF": (
        lambda p: tiff(p / "a.tif", RNG.integers(0, 65536, (HIGH, WIDE, 3)).astype("<u2")),
        "TIFF of 16 bits per colour",
    ),
    "16-bit RGBA TIFF": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 4), "<u2"), t338=2),
        "TIFF of 16 bits per colour",
    ),
    "64-bit floats": (
        lambda p: tiff(p / "a.tif", RNG.random((HIGH, WIDE))),
        "it is a TIFF, not one of TIFF that Pillow reads",
    ),
    "16-bit floats": (
        lambda p: tiff(p / "a.tif", RNG.random((HIGH, WIDE)).astype("f2")),
        "it is a TIFF, not one of TIFF that Pillow reads",
    ),
    "complex numbers": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE), "c8")),
        "it is a TIFF, not one of TIFF that Pillow reads",
    ),
    "32 bits, big-endian": (
        lambda p: tiff(p / "a.tif", DEEP.astype(">u4"), ">"),
        "it is a TIFF, not one of TIFF that Pillow reads",
    ),
    "white is 0, 16 bits, big-endian": (
        lambda p: tiff(p / "a.tif", DEEP.astype(">u2"), ">", t262=0),
        "it is a TIFF, not one of TIFF that Pillow reads",
    ),
    "signed bytes": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), -3, "i1")),
        "signed 8-bit numbers",
    ),
    "signed bytes, none negative": (
        lambda p: tiff(p / "a.tif", np.full((HIGH, WIDE), 3, "i1")),
        "signed 8-bit numbers",
    ),
    "floats in which white is 0": (
        lambda p: tiff(p / "a.tif", RNG.random((HIGH, WIDE)).astype("f4"), t262=0),
        "floats in which white is 0",
    ),
    "four channels": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 4), "u1"), t338=0),
        "TIFF of 4 channels, of which Pillow keeps 3",
    ),
    "six channels": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 6), "u1"), t338=(0, 0, 0)),
        "TIFF of 6 channels, of which Pillow keeps 3",
    ),
    "grey with another channel": (
        lambda p: tiff(p / "a.tif", np.ones((HIGH, WIDE, 2), "u1"), t262=1, t338=0),
        "TIFF of 2 channels, of which Pillow keeps 1|not one of TIFF that Pillow reads",
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
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pillow_would_change_is_refused_by_name(tmp_path, name):
    write, message = REFUSED[name]
    path = write(tmp_path)
    with pytest.raises(IngestError, match=message) as error:
        decode(path)
    assert str(error.value).startswith(str(path))
    assert "pip install 'dnmf[tiff]'" in str(error.value)


TWELVE = (DEEP >> 4).astype(np.uint16)
FLOATS = RNG.random((HIGH, WIDE), dtype=np.float32)
LONG = DEEP.astype("<u4") * 65537
BELOW = DEEP.astype("<i4")

KEPT = {
    "12 bits": (
        lambda p: tiff(p / "a.tif", pack12(TWELVE).reshape(HIGH, -1), t256=WIDE, t258=12),
        TWELVE,
    ),
    "16 bits": (lambda p: tiff(p / "a.tif", DEEP), DEEP),
    "16 bits, big-endian": (lambda p: tiff(p / "a.tif", DEEP.astype(">u2"), ">"), DEEP),
    "signed 16 bits": (
        lambda p: tiff(p / "a.tif", (DEEP >> 1).astype("<i2")),
        (DEEP >> 1).astype("i2"),
    ),
    "signed 16 bits, big-endian": (
        lambda p: tiff(p / "a.tif", (DEEP >> 1).astype(">i2"), ">"),
        (DEEP >> 1).astype("i2"),
    ),
    "signed 32 bits": (lambda p: tiff(p / "a.tif", DEEP.astype("<i4")), DEEP.astype("i4")),
    "32 bits": (lambda p: tiff(p / "a.tif", LONG), LONG),
    "negative numbers": (lambda p: tiff(p / "a.tif", -BELOW), -BELOW),
    "4 bits, white is 255": (
        lambda p: tiff(p / "a.tif", four_bits(), t256=WIDE, t258=4),
        np.unpackbits(four_bits()).reshape(HIGH, WIDE, 4) @ np.array([136, 68, 34, 17], "u1"),
    ),
    "CMYK": (
        lambda p: tiff(p / "a.tif", np.zeros((HIGH, WIDE, 4), "u1"), t262=5),
        np.full((HIGH, WIDE, 3), 255, "u1"),
    ),
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
}


@pytest.mark.parametrize("name", KEPT)
def test_the_numbers_of_a_file_are_kept(tmp_path, name):
    write, pixels = KEPT[name]
    found = decode(write(tmp_path))
    assert found.dtype.newbyteorder("=") == pixels.dtype
    assert (found == pixels).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [GRAY, DEEP, RGB, FLOATS], ids=["gray", "deep", "rgb", "float"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_tiff_on_its_side_comes_upright(tmp_path, orientation, pixels, compression):
    path = tmp_path / "a.tif"
    Image.fromarray(pixels).save(path, compression=compression, tiffinfo={274: orientation})
    found = decode(path)
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
    assert (decode(path) == np.iinfo(dtype).max - pixels).all()
