"""Files that are not what they say, or made to do harm, end in one error that names them all."""

from __future__ import annotations

import gzip
import io
import os
import struct
import time
import zlib
from pathlib import Path

import dask
import numpy as np
import pytest
from opened import Opened
from PIL import Image

import dnmf
from dnmf.errors import BadImagesError, IngestError
from dnmf.io.sources.formats.file import MAX_PIXELS

GRAY = np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(GRAY).save(folder / f"{i}.png")
    return folder


def encoded(kind, **options):
    out = io.BytesIO()
    Image.fromarray(GRAY).convert("RGB").save(out, format=kind, **options)
    return out.getvalue()


def png_of(width, height):
    """Make a PNG whose header promises pixels that it has not."""
    content = bytearray(encoded("PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def bomb():
    """Make a PNG of some kilobytes that really holds 400 million pixels."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(20_001 * 100)) for _ in range(200)) + rows.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


FILES = {
    "empty": (b"", "it is empty"),
    "html.png": (b"<html>404</html>", "it is an HTML page"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is XML or SVG"),
    "eps.png": (lambda: encoded("EPS"), "it is PostScript"),
    "pdf.jpg": (lambda: encoded("PDF"), "it is a PDF"),
    "jpeg2000.jpg": (lambda: encoded("JPEG2000"), "it is a JPEG 2000"),
    "icns.png": (lambda: encoded("ICNS"), "it is an Apple icon"),
    "cut.png": (lambda: encoded("PNG")[:-40], "cannot be read"),
    "cut.jpg": (lambda: encoded("JPEG")[:-200], "cannot be read"),
    "flipped.png": (lambda: flipped(encoded("PNG")), "cannot be read|it is a PNG, not one of"),
    "of-no-pixels.png": (lambda: png_of(0, 8), "cannot be read|it is a PNG, not one of"),
    "a-bomb-by-its-header.png": (lambda: png_of(30_000, 30_000), "67,108,864 pixels"),
    "a-wide-one.png": (lambda: png_of(MAX_PIXELS + 1, 1), "67,108,864 pixels"),
    "a-bomb.png": (bomb, "67,108,864 pixels"),
}


def flipped(content):
    changed = bytearray(content)
    changed[-30] ^= 1
    return bytes(changed)


def write(folder, name):
    content, _ = FILES[name]
    path = folder / (name if "." in name else f"{name}.png")
    path.write_bytes(content() if callable(content) else content)
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_it_says_is_named(folder, tmp_path, name):
    path = write(folder, name)
    began = time.monotonic()
    with pytest.raises(IngestError, match=FILES[name][1]) as error:
        dnmf.ingest(folder, tmp_path / "c", block_rows=4, strict=True)
    assert str(path) in str(error.value)
    assert time.monotonic() - began < 5
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("on_cluster", [False, True], ids=["threads", "cluster"])
def test_all_bad_files_are_named_at_once(folder, tmp_path, request, on_cluster):
    if on_cluster:
        request.getfixturevalue("client")
    bad = [str(write(folder, name)) for name in FILES]
    (folder / "0.png").write_bytes(b"")  # the first of all
    bad.append(str(folder / "0.png"))
    Image.fromarray(GRAY[:3]).save(folder / "5.png")
    with pytest.raises(BadImagesError) as error:
        dnmf.ingest(folder, tmp_path / "c", block_rows=4)
    assert len(error.value.errors) == len(FILES) + 2
    lines = str(error.value).splitlines()
    assert lines[0] == f"{len(FILES) + 2} images cannot be used:"
    for path in [*bad, str(folder / "5.png")]:
        assert sum(path in line for line in lines) == 1
    assert error.value.errors == sorted(error.value.errors)


def test_of_very_many_bad_files_some_are_named(folder, tmp_path):
    for i in range(30):
        (folder / f"x{i:02d}.png").write_bytes(b"")
    with dask.config.set(scheduler="threads"), pytest.raises(BadImagesError) as error:
        dnmf.ingest(folder, tmp_path / "c", block_rows=4)
    assert str(error.value).splitlines()[-2] == "... and 10 more"
    assert len(error.value.errors) == 30


class TestWhatIsNoFile:
    @pytest.fixture(autouse=True)
    def soon(self):
        began = time.monotonic()
        yield
        assert time.monotonic() - began < 5

    def test_a_pipe_in_a_folder_is_left_out(self, folder, tmp_path, caplog):
        os.mkfifo(folder / "pipe.png")
        assert len(dnmf.ingest(folder, tmp_path / "c")) == 9
        assert "1 that are no regular files" in caplog.text

    def test_a_pipe_or_a_device_by_its_name(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        for path in (tmp_path / "pipe.png", Path("/dev/zero")):
            with pytest.raises(IngestError, match="no images found"):
                Opened([path])

    def test_a_link_out_of_a_folder_is_refused(self, folder, tmp_path):
        Image.fromarray(GRAY).save(tmp_path / "secret.png")
        (folder / "z.png").symlink_to(tmp_path / "secret.png")
        with pytest.raises(BadImagesError, match=r"z\.png is a link out of .* by name, copy it"):
            dnmf.ingest(folder, tmp_path / "c", strict=True)
        assert len(Opened([folder / "z.png"])) == 1

    def test_a_link_to_a_device_is_refused(self, folder):
        (folder / "z.png").symlink_to("/dev/zero")
        (reject,) = Opened([folder]).rejects
        assert reject.reason.startswith("is a link out of")

    def test_a_link_inside_a_folder_is_followed(self, folder):
        (folder / "z.png").symlink_to(folder / "0.png")
        assert len(Opened([folder])) == 10

    def test_a_link_to_nothing_is_refused(self, folder):
        (folder / "z.png").symlink_to(folder / "no.png")
        (reject,) = Opened([folder]).rejects
        assert reject.reason.startswith("is a link to nothing")

    def test_links_in_a_circle_end(self, folder):
        (folder / "again").symlink_to(folder, target_is_directory=True)
        assert len(Opened([folder])) == 9

    def test_a_file_that_goes_while_it_is_ingested(self, folder, tmp_path):
        source = Opened([folder])
        (folder / "7.png").unlink()
        with pytest.raises(BadImagesError, match=r"7\.png cannot be read .*No such file"):
            source.read(4, 8)


def idx(*lengths, content=b"", code=8):
    return struct.pack(f">BBBB{len(lengths)}I", 0, 0, code, len(lengths), *lengths) + content


ARRAYS = {
    "lengths of 10^28": idx(2**32 - 1, 2**32 - 1, 2**32 - 1),
    "lengths whose product is 2^64": idx(2**32 - 1, 2**16, 2**16, content=b"x" * 100),
    "a header cut short": idx(3, 4, 5)[:10],
    "no header": b"\0",
    "255 axes": struct.pack(">BBBB", 0, 0, 8, 255) + bytes(1020),
    "an odd type": idx(3, 4, 5, code=0x42),
    "more than it says": idx(2, 2, 2, content=bytes(9)),
    "gzip, lengths of 10^28": gzip.compress(idx(2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "gzip, a bomb": gzip.compress(idx(2, 2, 2, content=bytes(2**28))),
    "gzip, less than it says": gzip.compress(idx(2, 2, 200, content=bytes(9))),
    "gzip, cut short": gzip.compress(idx(2, 2, 2, content=os.urandom(8)))[:-12],
    "gzip of nothing": gzip.compress(b""),
    "npy of 10^18": b"\x93NUMPY\x01\x00\x46\x00{'descr': '|u1', 'fortran_order': False, "
    b"'shape': (10**18, 9, 9)}",
    "npy with code": b"\x93NUMPY\x01\x00\x30\x00__import__('os').system('touch /tmp/no')".ljust(64),
    "npy of a negative shape": b"\x93NUMPY\x01\x00\x46\x00"
    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 9, 9), }".ljust(69)
    + b"\n",
    "npy, nothing but its name": b"\x93NUMPY",
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_file_that_lies_is_named(tmp_path, name):
    (tmp_path / "x-idx").write_bytes(ARRAYS[name])
    began = time.monotonic()
    with pytest.raises(IngestError, match=r"x-idx(: it |: the | cannot be read)"):
        Opened([tmp_path / "x-idx"])
    assert time.monotonic() - began < 5
