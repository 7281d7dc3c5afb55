"""Contact sheets of corpora of any kind, as files, pictures and in notebooks."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import numpy as np
import pytest
from command_line import run
from PIL import Image

import dnmf
from dnmf.errors import DnmfError, OutputExistsError, ParameterError
from dnmf.io.export import write_weights
from dnmf.plot import contact_sheet
from dnmf.plot.contact_sheet import GAP, LINE, SIDE, write_contact_sheet
from dnmf.storage.thumbnails import HTML_IMAGES

CELL = SIDE + GAP
RNG = np.random.default_rng(0)


def made(tmp_path, images):
    return dnmf.ingest(images, tmp_path / "c.zarr", block_rows=4)


def pictures(sheet, n, columns):
    """Cut the pictures of square images out of a sheet."""
    pixels = np.asarray(sheet)
    step = (pixels.shape[0] - GAP) // -(-n // columns)
    places = [(GAP + i // columns * step, GAP + i % columns * CELL) for i in range(n)]
    return [pixels[top : top + SIDE, left : left + SIDE] for top, left in places]


KINDS = {
    "grey": RNG.integers(0, 256, (5, 28, 28), dtype="u1"),
    "rgb": RNG.integers(0, 256, (5, 28, 28, 3), dtype="u1"),
    "one channel": RNG.integers(0, 256, (5, 28, 28, 1), dtype="u1"),
    "five channels": RNG.integers(0, 256, (5, 28, 28, 5), dtype="u1"),
    "uint16": RNG.integers(0, 900, (5, 56, 56), dtype="u2"),
    "float": RNG.random((5, 56, 56)),
    "large": RNG.integers(0, 256, (5, 500, 500), dtype="u1"),
    "square": RNG.integers(0, 256, (5, 784), dtype="u1"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sheet_shows_each_image_on_one_scale(tmp_path, kind):
    images = KINDS[kind]
    corpus = made(tmp_path, images)
    found = pictures(contact_sheet(corpus, columns=2), 5, 2)
    expected = images.astype(float)
    if expected.ndim == 2:
        expected = expected.reshape(5, 28, 28)
    if expected.ndim == 4 and expected.shape[3] != 3:
        expected = expected.mean(axis=3)
    if kind == "large":
        expected = np.stack(
            [np.asarray(Image.fromarray(x.astype("f4")).resize((112, 112), 4)) for x in expected]
        )
    expected = np.clip(expected / np.percentile(expected, 99.9), 0, 1) * 255
    times = SIDE // expected.shape[1]
    expected = expected.repeat(times, axis=1).repeat(times, axis=2)
    for picture, image in zip(found, expected, strict=True):
        wanted = image if image.ndim == 3 else image[..., None].repeat(3, axis=2)
        assert np.abs(picture - wanted).max() <= 2


def test_one_channel_can_be_chosen(tmp_path):
    images = np.zeros((3, 28, 28, 4), "u1")
    images[..., 2] = 200
    corpus = made(tmp_path, images)
    assert pictures(contact_sheet(corpus, channel=2, columns=3), 3, 3)[0].min() == 255
    assert pictures(contact_sheet(corpus, channel=1, columns=3), 3, 3)[0].max() == 0
    with pytest.raises(ParameterError, match=r"channel is 4; the images have 4: .* from 0 to 3"):
        contact_sheet(corpus, channel=4)


def test_a_channel_can_be_named(tmp_path):
    import xarray as xr

    images = np.zeros((3, 28, 28, 2), "u1")
    images[..., 1] = 200
    named = xr.DataArray(images, dims=["t", "y", "x", "c"], coords={"c": ["DAPI", "GFP"]})
    corpus = dnmf.ingest(named, tmp_path / "c.zarr")
    assert pictures(contact_sheet(corpus, channel="GFP", columns=3), 3, 3)[0].min() == 255
    with pytest.raises(ParameterError, match="from 0 to 1, or one of DAPI, GFP"):
        contact_sheet(corpus, channel="RFP")


def test_labels_are_below_the_names(tmp_path):
    for i in range(4):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    for name, columns in (("plain", ""), ("labelled", ",label")):
        rows = "".join(f"{i}.png{',cat' * bool(columns)}\n" for i in range(4))
        (tmp_path / f"{name}.csv").write_text(f"path{columns}\n{rows}")
        dnmf.ingest(tmp_path / f"{name}.csv", tmp_path / f"{name}.zarr")
    plain, labelled = (
        contact_sheet(dnmf.open_corpus(tmp_path / f"{name}.zarr"), columns=1)
        for name in ("plain", "labelled")
    )
    assert labelled.height == plain.height + 4 * LINE


def test_flat_images_are_curves(tmp_path):
    corpus = made(tmp_path, np.linspace(0, 1, 130)[None].repeat(2, axis=0))
    rising = pictures(contact_sheet(corpus, columns=2), 2, 2)[0][: SIDE // 2, :, 0]
    black = [int(np.flatnonzero(column < 128)[0]) for column in rising.T]
    assert black[0] >= SIDE // 2 - 2
    assert black[-1] <= 1
    assert sorted(black, reverse=True) == black


def test_rows_of_maps_are_curves_and_slices_of_volumes_are_images(tmp_path):
    spectra = dnmf.ingest(RNG.random((3, 4, 16)), tmp_path / "s.zarr", axis=("0", "1"))
    assert contact_sheet(spectra, columns=12).height < CELL
    slices = dnmf.ingest(RNG.random((3, 4, 8, 8, 5)), tmp_path / "v.zarr", axis=("0", "1"))
    assert contact_sheet(slices, columns=12).height > CELL


def test_missing_pixels_are_white_and_do_not_spread(tmp_path):
    images = np.zeros((2, 224, 224), "f4")
    corpus = made(tmp_path, images)
    images[:, 100:104, 100:104] = np.nan
    images[:, ::7, ::7] = np.nan
    from dnmf.storage.thumbnails import draw_thumbnails

    corpus.images = lambda rows: images[rows]
    drawn = draw_thumbnails(corpus, [0, 1], 112)
    assert (drawn[:, 50:52, 50:52] == 255).all()
    assert (drawn == 255).mean() < 0.01
    assert (drawn[drawn != 255] == 0).all()


def test_rows_and_names(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(70):
        Image.new("L", (4, 4), i).save(tmp_path / f"in/a-very-long-name-of-a-file-{i:03d}.png")
    corpus = dnmf.ingest(tmp_path / "in", tmp_path / "c.zarr")
    for rows, n in ((None, 60), (slice(3, 10), 7)):
        sheet = contact_sheet(corpus, rows, columns=1)
        assert sheet.width == CELL + GAP
        assert (sheet.height - GAP) % n == 0
        assert (sheet.height - GAP) // n > CELL
    for rows in (slice(70, 80), slice(5, 5)):
        with pytest.raises(ParameterError, match="select 0 of 70 images"):
            contact_sheet(corpus, rows)
    with pytest.raises(ParameterError, match="columns is 0"):
        contact_sheet(corpus, columns=0)


def test_names_are_shortened_in_the_middle():
    from dnmf._format import shorten

    assert shorten("short.png", 9) == "short.png"
    assert shorten("plate_07/well_A03/site_2.tif", 16) == "plate…site_2.tif"
    assert len(shorten("x" * 50, 16)) == 16


def test_memory_holds_one_block(tmp_path, monkeypatch):
    corpus = made(tmp_path, np.zeros((20, 8, 8), "u1"))
    read = []
    monkeypatch.setattr(
        type(corpus), "images", lambda self, rows: read.append(list(rows)) or np.zeros((4, 8, 8))
    )
    contact_sheet(corpus)
    assert read == [list(range(i, i + 4)) for i in range(0, 20, 4)]


class TestCommand:
    def test_a_sheet_lies_beside_the_corpus_and_is_printed(self, tmp_path):
        corpus = made(tmp_path, np.full((5, 8, 8), 9, "u1"))
        assert run("show", corpus.path).stdout.strip() == f"{tmp_path}/c-sheet.png"
        run("show", corpus.path, "--rows", "1:3")  # its own are replaced
        with Image.open(tmp_path / "c-sheet.png") as sheet:
            assert sheet.size[0] == 2 * CELL + GAP

    def test_options(self, tmp_path):
        corpus = made(tmp_path, np.full((5, 8, 8, 2), 9, "u1"))
        options = ["--columns", 5, "--channel", 1, "--out", tmp_path / "o.png", "--json"]
        assert f'"path": "{tmp_path}/o.png"' in run("show", corpus.path, *options).stdout
        with Image.open(tmp_path / "o.png") as sheet:
            assert sheet.size[0] == 5 * CELL + GAP
        assert "channel is 2" in run("show", corpus.path, "--channel", 2, status=2).stderr
        wrong = run("show", corpus.path, "--out", tmp_path / "o.pdf", status=2).stderr
        assert "a contact sheet is a PNG file" in wrong
        run("show", corpus.path, "--out", tmp_path / "none/o.png", status=1)

    def test_a_corpus_behind_a_url_has_its_sheet_here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        corpus = dnmf.ingest(np.ones((3, 4, 4), "u1"), f"memory://{tmp_path.name}/far.zarr")
        assert write_contact_sheet(corpus) == Path("far-sheet.png")
        assert Path("far-sheet.png").exists()
        url = f"memory://{tmp_path.name}/sheet.png"
        assert write_contact_sheet(corpus, url) == url
        assert fsspec.filesystem("memory").cat_file(f"{tmp_path.name}/sheet.png")[:4] == b"\x89PNG"
        with pytest.raises(ParameterError, match="give a file in a bucket"):
            write_contact_sheet(corpus, "memory://sheet.png")

    def test_a_picture_of_somebody_else_stays(self, tmp_path):
        corpus = made(tmp_path, np.ones((3, 4, 4), "u1"))
        Image.new("L", (2, 2)).save(tmp_path / "c-sheet.png")
        before = (tmp_path / "c-sheet.png").read_bytes()
        with pytest.raises(OutputExistsError, match="does not say that dnmf wrote it"):
            write_contact_sheet(corpus)
        assert (tmp_path / "c-sheet.png").read_bytes() == before

    def test_a_damaged_block_is_named(self, tmp_path):
        corpus = made(tmp_path, RNG.random((8, 4, 4)))
        os.remove(tmp_path / "c.zarr/pixels/c/1/0/0")
        with pytest.raises(DnmfError, match="block 1"):
            contact_sheet(corpus)


class Pictures(HTMLParser):
    """Pictures and names in HTML, all of whose elements must be closed."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.names, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
            return
        self.open.append(tag)
        if tag == "figcaption":
            self.names.append(dict(attrs)["title"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestNotebook:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_first_images_and_their_names(self, tmp_path, kind):
        corpus = made(tmp_path, KINDS[kind])
        shown = Pictures(corpus._repr_html_())
        assert shown.names == corpus.ids[:4], "those of one block"
        for source in shown.sources:
            content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
            with Image.open(io.BytesIO(content)) as picture:
                assert max(picture.size) <= 64
                assert picture.mode == ("RGB" if kind == "rgb" else "L")

    def test_it_is_small(self, corpus):
        text = corpus._repr_html_()
        assert len(Pictures(text).sources) == HTML_IMAGES
        assert len(text) < 12_000

    def test_names_are_text(self, tmp_path):
        (tmp_path / "in").mkdir()
        Image.new("L", (4, 4)).save(tmp_path / "in/<b>&'\".png")
        corpus = dnmf.ingest(tmp_path / "in", tmp_path / "c.zarr")
        assert Pictures(corpus._repr_html_()).names == corpus.ids
        assert "<b>" not in corpus._repr_html_()

    def test_a_damaged_block_leaves_the_table(self, tmp_path):
        corpus = made(tmp_path, RNG.random((8, 4, 4)))
        os.remove(tmp_path / "c.zarr/pixels/c/0/0/0")
        assert re.search(r"Images.*8 of 4 x 4", corpus._repr_html_())
        assert "<img" not in corpus._repr_html_()

    @pytest.mark.parametrize("shape", [(6, 8), (48,)])
    def test_weights_that_fold_are_maps(self, tmp_path, shape):
        cube = RNG.random((*shape, 9))
        axis = tuple(map(str, range(len(shape))))
        corpus = dnmf.ingest(cube, tmp_path / "c.zarr", axis=axis, block_rows=10)
        model = dnmf.NMF(3, random_state=0, tol=0.1).fit(corpus)
        write_weights(model, corpus, tmp_path / "w")
        weights = dnmf.open_weights(tmp_path / "w")
        shown = Pictures(weights._repr_html_())
        W = weights.to_pandas().to_numpy()
        maps = [values.reshape(shape) for values in W.T] if len(shape) == 2 else [W[:10]]
        side = 8 if len(shape) == 2 else 6
        assert len(shown.names) == len(maps)
        if len(shape) == 2:
            assert shown.names == ["nmf0", "nmf1", "nmf2"]
        for source, values in zip(shown.sources, maps, strict=True):
            content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
            with Image.open(io.BytesIO(content)) as picture:
                found = np.asarray(picture)[::side, ::side] / 255
            expected = values / np.percentile(values, 99.9)
            assert found == pytest.approx(np.clip(expected, 0, 1), abs=0.01)
        os.remove(tmp_path / "w/weights/c/0/0")
        assert "<img" not in dnmf.open_weights(tmp_path / "w")._repr_html_()
