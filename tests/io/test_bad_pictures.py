"""Pictures that are damaged, lie about their size or are something else: one error that says so."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats import netpbm, pillow
from dnmf.io.sources.formats.file import MAX_PIXELS, ImageFile

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(kind, mode="RGB", **options):
    out = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(out, format=kind, **options)
    return out.getvalue()


def animated(kind):
    frames = [Image.fromarray(np.roll(RGB, i, axis=0)) for i in range(3)]
    out = io.BytesIO()
    frames[0].save(out, format=kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


GOOD = {
    "grey.png": encoded("PNG", "L"),
    "rgb.png": encoded("PNG"),
    "palette.png": encoded("PNG", "P"),
    "one-bit.png": encoded("PNG", "1"),
    "deep.png": imagecodecs.png_encode(RGB.astype(np.uint16) * 257),
    "animated.png": animated("PNG"),
    "rgb.jpg": encoded("JPEG"),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "two.jpg": animated("MPO"),
    "a.gif": encoded("GIF"),
    "animated.gif": animated("GIF"),
    "rgb.bmp": encoded("BMP"),
    "palette.bmp": encoded("BMP", "P"),
    "a.webp": encoded("WEBP"),
    "animated.webp": animated("WEBP"),
    "a.ppm": encoded("PPM"),
    "a.pgm": encoded("PPM", "L"),
    "a.pbm": encoded("PPM", "1"),
    "words.pgm": b"P2 4 4 255\n" + b" ".join(b"%d" % i for i in range(100, 116)),
}


def decode(name, content, **choices):
    """Decode all of a file, as an ingest does."""
    reader = netpbm.FORMAT if name.endswith(netpbm.FORMAT.suffixes) else pillow.FORMAT
    image = reader.open(ImageFile(name, lambda: io.BytesIO(content)), Choices(**choices))
    return np.asarray(image.array[:])


def refused(name, content, message, **choices):
    with pytest.raises(IngestError, match=message) as error:
        decode(name, content, **choices)
    assert str(error.value).startswith(name)


@pytest.mark.parametrize("name", [name for name in GOOD if name != "two.jpg"])
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.6, 0.85])
def test_files_that_are_cut_short(name, share):
    content = GOOD[name]
    for choices in ({}, {"size": (4, 4), "color": "gray"}):
        refused(name, content[: int(share * len(content))], "it is|cannot be read|has", **choices)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", GOOD)
def test_bytes_that_have_changed_end_in_an_image_or_in_an_error(name, recwarn):
    chance = random.Random(name)
    for _ in range(40):
        content = bytearray(GOOD[name])
        for _ in range(chance.choice((1, 3, 8))):
            content[chance.randrange(chance.choice((40, len(content))))] = chance.randrange(256)
        if int.from_bytes(content[6:8], "little") > 500 and name.endswith("gif"):
            continue  # a large canvas, which is no error but takes its time
        with suppress(IngestError):
            decode(name, bytes(content))


OTHERS = {
    "empty.png": (b"", "it is empty"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "it is an HTML page"),
    "page.pgm": (b"\n<html>", "it is an HTML page"),
    "notes.png": (b"some notes\n", "it is text"),
    "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is XML or SVG"),
    "figure.png": (encoded("EPS"), "it is PostScript"),
    "paper.jpg": (encoded("PDF"), "it is a PDF"),
    "scan.png": (encoded("TIFF"), "it is a TIFF, .*suffix"),
    "cells.jpg": (encoded("JPEG2000"), "it is a JPEG 2000"),
    "icon.png": (encoded("ICNS"), "it is an Apple icon"),
    "photo.jpg": (encoded("AVIF"), "it is a HEIF, AVIF"),
    "grey.jpg": (encoded("PPM"), "it is a PGM or PPM, .*suffix"),
    "shot.ppm": (encoded("PNG"), "it is a PNG, .*suffix"),
    "data.gif": (b"\x89HDF\r\n\x1a\n" + bytes(100), "it is an HDF5 file"),
    "slide.bmp": (bytes(128) + b"DICM" + bytes(100), "it is a DICOM file"),
    "archive.webp": (b"PK\x03\x04" + bytes(100), "it is a zip archive"),
    "noise.png": (os.urandom(8).replace(b"\x89", b"x") + bytes(100), "no image that dnmf knows"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_another_kind_are_told_what_they_are(name):
    refused(name, *OTHERS[name])


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width, height, body=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb():
    """Make a PNG of some kilobytes that really holds 100 million pixels."""
    rows = zlib.compressobj(1)
    body = b"".join(rows.compress(bytes(10_001 * 100)) for _ in range(100)) + rows.flush()
    return png(10_000, 10_000, body)


def resized(name, place, form, *size):
    content = bytearray(GOOD[name])
    struct.pack_into(form, content, place, *size)
    return bytes(content)


LARGE = {
    "a-bomb.png": bomb,
    "a-bomb-by-its-header.png": lambda: png(30_000, 30_000),
    "the-largest.png": lambda: png(2**31 - 1, 2**31 - 1),
    "a-wide-one.png": lambda: png(MAX_PIXELS + 1, 1),
    "a.jpg": lambda: resized(
        "rgb.jpg", GOOD["rgb.jpg"].index(b"\xff\xc0") + 5, ">HH", 65500, 65500
    ),
    "a.gif": lambda: resized("a.gif", 6, "<HH", 65535, 65535),
    "a.bmp": lambda: resized("rgb.bmp", 18, "<ii", 2**30, 2**30),
    "a.pgm": lambda: b"P5 99999999 99999999 255\n",
    "words.pgm": lambda: b"P2 1000000 1000000 255\n1 2 3",
    "bits.pbm": lambda: b"P4 100000 100000\n",
    "floats.pfm": lambda: b"PF 100000 100000 -1.0\n",
}


@pytest.mark.parametrize("name", LARGE)
def test_a_size_that_no_memory_holds_is_read_from_the_header(name):
    refused(name, LARGE[name](), "more than 67,108,864 pixels; cut it into tiles")


NETPBM = {
    "zero.pgm": (b"P5 0 4 255\n", "no pixels"),
    "negative.pgm": (b"P5 -4 4 255\n" + bytes(16), "no pixels"),
    "a-fraction.pgm": (b"P5 4.5.5 4 255\n" + bytes(16), "cannot be read|not a readable"),
    "range.pgm": (b"P5 4 4 70000\n" + bytes(32), "largest value is 70000.*from 1 to 65535"),
    "no-range.pgm": (b"P5 4 4 0\n" + bytes(16), "largest value is 0"),
    "short.pgm": (b"P5 4 4 255\n" + bytes(15), "cut short: it has 15 of 16 bytes"),
    "two.pgm": (2 * (b"P5 4 4 255\n" + bytes(16)), "several images; split"),
    "above.pgm": (b"P2 2 2 9\n1 2 3 10\n", "some above 9"),
    "few.pgm": (b"P2 2 2 9\n1 2 3\n", "has 3 of 4 pixels"),
    "none.pgm": (b"P2 1 1 9\n\n", "pixels"),
    "letters.pgm": (b"P2 2 2 9\n1 2 x 4\n", "something else than numbers"),
    "twos.pbm": (b"P1 2 2\n0 1 2 1\n", "some above 1"),
    "comment.pgm": (b"P5 #" + b"x" * 70_000, "not a readable"),
    "arbitrary.pgm": (b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 1\nMAXVAL 255\nENDHDR\n", "not a readable"),
}


@pytest.mark.parametrize("name", NETPBM)
def test_headers_and_numbers_of_netpbm(name):
    refused(name, *NETPBM[name])


def test_files_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(GOOD["rgb.png"])
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read anything
    try:
        with pytest.raises(IngestError, match=r"a\.png cannot be read .*Permission denied"):
            pillow.FORMAT.open(ImageFile(str(path), lambda: path.open("rb")), Choices())
    finally:
        os.seteuid(user)


def test_files_that_are_gone_or_no_files(tmp_path):
    for path, message in ((tmp_path / "no.png", "No such file"), (tmp_path, "Is a directory")):
        file = ImageFile(str(path), lambda path=path: path.open("rb"))
        with pytest.raises(IngestError, match=f"{path.name} cannot be read .*{message}"):
            pillow.FORMAT.open(file, Choices())


def test_decoders_are_only_those_that_are_listed():
    """A file of a format that runs code, such as PostScript, must not reach its decoder."""
    for kind in ("EPS", "PDF", "JPEG2000", "TIFF", "ICO", "SGI", "TGA", "PCX", "MSP"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mode = {"PCX": "L", "MSP": "1"}.get(kind, "RGB")
            refused("a.png", encoded(kind, mode), "not one of PNG, JPEG, GIF, BMP, WEBP")
