"""Files that can be read as images, how they are converted, and messages about the others."""

from __future__ import annotations

import gzip
import pickle
import struct

import numpy as np
import pytest
from opened import Opened
from PIL import Image

from dnmf.errors import IngestError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 10), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 10), dtype=np.uint16)
COLOR = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def write_idx(path, array, code):
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("a.png", GRAY),
        ("a.png", COLOR),
        ("a.png", DEEP),
        ("a.pgm", GRAY),
        ("a.pgm", DEEP),
        ("a.ppm", COLOR),
        ("a.tif", GRAY),
        ("a.tiff", DEEP),
        ("a.tif", COLOR),
        ("a.TIF", np.linspace(0, 1, 120, dtype=np.float32).reshape(12, 10)),
    ],
    ids=lambda v: v if isinstance(v, str) else f"{v.ndim}d-{v.dtype}",
)
def test_lossless_files_keep_their_pixels(tmp_path, name, pixels):
    found = Opened([save(tmp_path / name, pixels)]).read(0, 1)
    assert found.dtype == pixels.dtype
    assert (found[0] == pixels).all()


def test_folders_are_searched_in_order_with_their_subfolders(tmp_path):
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("in/b.png", "in/a.png", "in/sub/c.PNG"):
        save(tmp_path / name, GRAY)
    (tmp_path / "in/notes.txt").write_text("not an image")
    source = Opened([tmp_path / "in"])
    assert source.ids(0, len(source)) == ["a.png", "b.png", "sub/c.PNG"]
    assert pickle.loads(pickle.dumps(source.source)).load(1, 2).ids == ["b.png"]


def test_folders_and_files_together(tmp_path):
    for name in ("x/a.png", "y/a.png", "z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, GRAY)
    source = Opened([tmp_path / "y", tmp_path / "z.png", tmp_path / "x"])
    assert source.ids(0, 3) == ["y/a.png", "z.png", "x/a.png"]


def test_size_averages_over_areas(tmp_path):
    pixels = np.kron(np.array([[0, 100], [200, 40]], np.uint8), np.ones((4, 4), np.uint8))
    for image, name in ((pixels, "a.png"), (pixels.astype(np.uint16) * 256, "b.png")):
        found = Opened([save(tmp_path / name, image)], size=(2, 2)).read(0, 1)
        assert (found[0] == image[::4, ::4]).all()
        assert found.dtype == image.dtype


def test_size_is_height_by_width(tmp_path):
    source = Opened([save(tmp_path / "a.png", COLOR)], size=(5, 3))
    assert source.image_shape == (5, 3, 3)
    assert source.read(0, 1).shape == (1, 5, 3, 3)


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path, code, dtype, suffix):
    images = RNG.integers(0, 100, (7, 4, 5)).astype(dtype)
    source = Opened([write_idx(tmp_path / f"images-idx3-ubyte{suffix}", images, code)])
    assert len(source) == 7
    assert source.dtype == np.dtype(dtype)
    assert (source.read(2, 6) == images[2:6]).all()
    assert source.ids(2, 4) == [f"images-idx3-ubyte{suffix}:{i}" for i in (2, 3)]


@pytest.mark.parametrize("dtype", ["u1", "i1", ">u2", "<i4", ">i8", "<f2", ">f4", "f8", "?"])
@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 3), (6, 20)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, dtype, shape, order):
    images = RNG.integers(0, 2, shape).astype(dtype, order=order)
    np.save(tmp_path / "x.npy", images)
    source = Opened([tmp_path / "x.npy"])
    assert source.image_shape == shape[1:]
    assert source.dtype.isnative
    assert (source.read(0, 6) == images).all()


def test_arrays_are_stacked(tmp_path):
    first = write_idx(tmp_path / "a-idx", np.zeros((3, 2, 2), "u1"), 8)
    second = write_idx(tmp_path / "b-idx.gz", np.ones((2, 2, 2), "u1"), 8)
    source = Opened([first, second])
    assert len(source) == 5
    assert source.read(1, 5)[:, 0, 0].tolist() == [0, 0, 1, 1]
    assert source.ids(2, 4) == ["a-idx:2", "b-idx.gz:0"]


def test_a_file_that_changed_is_read_again(tmp_path):
    import os

    path = tmp_path / "x.npy"
    np.save(path, np.zeros((2, 3), "u1"))
    assert Opened([path]).read(0, 2).sum() == 0
    np.save(path, np.ones((2, 3), "u1"))
    os.utime(path, ns=(1, 1))
    assert Opened([path]).read(0, 2).sum() == 6


ARRAYS = {
    "object.npy": np.array([{}, {}]),
    "text.npy": np.array([["a"], ["b"]]),
    "complex.npy": np.ones((5, 3, 3), complex),
    "long.npy": np.ones((5, 3, 3), np.longdouble),
    "structured.npy": np.ones((5, 3, 3), [("a", "u1"), ("b", "u1")]),
    "dates.npy": np.ones((5, 3, 3), "M8[s]"),
    "one.npy": np.zeros(5),
    "none.npy": np.zeros((0, 5, 5)),
}


def damaged(tmp_path, name):
    """Make one bad input of each kind, and return where it is."""
    path = tmp_path / name
    if name == "cut.png":
        save(path, GRAY)
        path.write_bytes(path.read_bytes()[:-40])
    elif name == "cut.jpg":
        save(path, RNG.integers(0, 256, (64, 64), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:-1000])
    elif name == "frames.tif":
        Image.fromarray(GRAY).save(path, save_all=True, append_images=[Image.fromarray(GRAY)])
    elif name == "gif.png":
        Image.fromarray(GRAY).save(path, format="GIF")
    elif name == "palette.png":
        Image.fromarray(COLOR).convert("P").save(path)
    elif name == "labels-idx1":
        write_idx(path, np.arange(5, dtype="u1"), 8)
    elif name == "cut-idx":
        write_idx(path, np.zeros((5, 3, 3), "u1"), 8)
        path.write_bytes(path.read_bytes()[:-4])
    elif name == "cut-idx.gz":
        write_idx(path, np.zeros((5, 3, 3), "u1"), 8)
        path.write_bytes(path.read_bytes()[:-12])
    elif name in ARRAYS:
        np.save(path, ARRAYS[name], allow_pickle=True)
    else:
        path.write_bytes({"empty.png": b"", "text.png": b"<html>"}.get(name, b"some notes"))
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.png", "it is empty"),
        ("text.png", "it is an HTML page"),
        ("cut.png", "cannot be read"),
        ("cut.jpg", "cannot be read"),
        ("labels-idx1", "holds labels"),
        ("cut-idx", "header promises"),
        ("cut-idx.gz", "cannot be read"),
        ("object.npy", "cannot be read"),
        ("text.npy", "holds <U1"),
        ("complex.npy", "holds complex128; pixels are"),
        ("long.npy", "holds float128; pixels are"),
        ("structured.npy", r"holds \[\('a', .*pixels are"),
        ("dates.npy", "holds datetime64"),
        ("one.npy", r"shape \(5,\)"),
        ("none.npy", r"no images: its shape is \(0, 5, 5\)"),
        ("notes.md", "it is text, which no format reads"),
    ],
)
def test_bad_files_are_named(tmp_path, name, message):
    path = damaged(tmp_path, name)
    with pytest.raises(IngestError, match=message) as error:
        Opened([path])
    assert str(path) in str(error.value)


def test_unreadable_files_are_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", GRAY)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)  # root may read anything
    with pytest.raises(IngestError, match=r"a\.png.* cannot be read .*Permission denied"):
        Opened([path])


def test_mixed_sizes_advise_what_to_do(tmp_path):
    save(tmp_path / "a.png", GRAY)
    save(tmp_path / "b.png", GRAY[:5])
    with pytest.raises(
        IngestError, match=r"b\.png is 5 x 10 uint8, but \S*a\.png is 12 x 10.*--size"
    ):
        Opened([tmp_path]).read(0, 2)


def test_mixed_colours_advise_what_to_do(tmp_path):
    save(tmp_path / "a.png", GRAY)
    save(tmp_path / "b.png", COLOR)
    with pytest.raises(IngestError, match="--color gray or rgb"):
        Opened([tmp_path]).read(0, 2)


@pytest.mark.parametrize("other", [DEEP, DEEP[:5], np.ones((12, 10), np.float32)])
def test_mixed_depths_advise_what_to_do(tmp_path, other):
    save(tmp_path / "a.tif", GRAY)
    save(tmp_path / "b.tif", other)
    with pytest.raises(IngestError, match=r"--dtype \(numbers stay .*\) to make all alike"):
        Opened([tmp_path]).read(0, 2)
    assert Opened([tmp_path], dtype="float32", size=(5, 5)).read(0, 2).dtype == np.float32


def test_both_options_are_advised_where_both_are_needed(tmp_path):
    save(tmp_path / "a.png", GRAY)
    save(tmp_path / "b.png", COLOR[:5])
    with pytest.raises(
        IngestError, match=r"--size HxW .* and --color gray or rgb to make all alike"
    ):
        Opened([tmp_path]).read(0, 2)
    source = Opened([tmp_path], size=(6, 5), color="gray")
    assert source.read(0, 2).shape == (2, 6, 5)


def test_different_arrays_are_not_stacked(tmp_path):
    first = write_idx(tmp_path / "a", np.zeros((3, 2, 2), "u1"), 8)
    second = write_idx(tmp_path / "b", np.zeros((3, 2, 3), "u1"), 8)
    with pytest.raises(IngestError, match=r"2 x 3 uint8.*2 x 2 uint8"):
        Opened([first, second]).read(0, 6)


def test_images_and_arrays_do_not_mix(tmp_path):
    files = [save(tmp_path / "a.png", GRAY), write_idx(tmp_path / "b", GRAY, 8)]
    with pytest.raises(IngestError, match="b holds 12 images, where one was expected"):
        Opened(files).read(0, 2)


def test_files_that_are_left_out_are_counted(tmp_path, caplog):
    for name in ("a.png", "._a.png"):
        save(tmp_path / name, GRAY)
    for name in ("b.doc", "c.doc", "notes"):
        (tmp_path / name).write_bytes(b"x")
    assert len(Opened([tmp_path])) == 1
    assert "3 files left out" in caplog.text
    assert "2 .doc, 1 without a suffix" in caplog.text


def test_nothing_there(tmp_path):
    with pytest.raises(IngestError, match="does not exist"):
        Opened([tmp_path / "nothing"])
    with pytest.raises(IngestError, match="no images found; looked for"):
        Opened([tmp_path])


@pytest.mark.parametrize(
    "options", [{"color": "sepia"}, {"size": (0, 5)}, {"size": 5}, {"size": "5x5"}]
)
def test_bad_options(tmp_path, options):
    with pytest.raises(IngestError, match="must be"):
        Opened([save(tmp_path / "a.png", GRAY)], **options)
