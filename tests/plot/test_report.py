"""The page of a report: its parts, its size, and that nothing in it can act."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import fsspec
import numpy as np
import pytest
from command_line import run
from PIL import Image

import dnmf
from dnmf.errors import OutputExistsError, ParameterError
from dnmf.plot.page.pictures import draw
from dnmf.plot.page.sample import look_at

HOSTILE = "<script>alert(1)<script>\"'\u202egnp\x07&amp;"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Structure of a page, whose tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.seen = [], [], "", ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "digits.model"
    return dnmf.NMF(6, random_state=0, max_iter=3, tol=0, checkpoint=path).fit(corpus)


@pytest.fixture(scope="module")
def text(model, corpus):
    return dnmf.plot.report(model, corpus)


def test_a_page_has_all_of_its_parts_in_order(text, model, corpus):
    page = Page(text)
    heads = [each["id"] for each in page.all("h2")]
    assert heads == ["fitted", "loss", "components", "images", "weights", "costs", "load"]
    assert [a["href"] for a in page.all("a")] == ["#main", *(f"#{name}" for name in heads)]
    assert len(page.all("h1")) == 1
    words = " ".join(page.text.split())
    share = model._state.relative_error
    fitted = "6 components of 28 x 28 pixels, fitted to 700 images, with a relative error of"
    assert f"{fitted} {share:.1%} after" in words
    assert "700 images at even distances were looked at, of 700 in the corpus" in words
    assert f"NumPy</th><td><bdi>{np.__version__}" in text
    assert "the same images" in words
    assert f"model = dnmf.load({str(model.checkpoint)!r})" in words
    errors = look_at(model, corpus).errors
    for row in (int(errors.argmin()), int(errors.argmax())):
        assert f"{errors[row]:.1%} image {row}, {corpus.id_of(row)}" in words
    for row in look_at(model, corpus).W.argmax(axis=0):
        assert f"<td><bdi>{row}, {corpus.id_of(row)}</bdi></td>" in text


def test_whoever_does_not_see_it_is_told(text):
    page = Page(text)
    assert all(each["alt"] for each in page.all("img"))
    assert all(each["aria-label"] for each in page.all("svg"))
    assert len(page.all("table")) == len(page.all("caption")) == 6
    assert all(each["scope"] in ("row", "col") for each in page.all("th"))
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))


def test_a_page_is_whole_and_cannot_act(text):
    page = Page(text)
    assert not page.all("script", "iframe", "object", "link", "form", "base")
    assert not [name for _, each in page.tags for name in each if name.startswith("on")]
    assert all(each["src"].startswith("data:image/png;base64,") for each in page.all("img"))
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "http://www.w3.org/" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)


def test_hostile_names_are_only_shown(tmp_path, digits):
    (tmp_path / "in").mkdir()
    for i in range(12):
        Image.fromarray(digits[i].reshape(28, 28)).save(tmp_path / f"in/{i}{HOSTILE}.png")
    pixels = [f"{i}{HOSTILE}" for i in range(784)]
    corpus = dnmf.ingest(tmp_path / "in", tmp_path / "a<b>&'x.zarr")
    model = dnmf.NMF(2, random_state=0, max_iter=1, tol=0).fit(corpus)
    model.feature_names_in_ = np.array(pixels, dtype=object)
    model._spec.settings["tol"] = HOSTILE
    model.stop_reason_ = HOSTILE
    text = dnmf.plot.report(model, corpus, path=tmp_path / f"{HOSTILE}.model")
    page = Page(text)
    assert not page.all("script")
    assert "\u202e" not in text
    assert "\x07" not in text
    shown = HOSTILE.replace("\u202e", "\\u202e").replace("\x07", "\\x07")
    assert shown in page.text
    assert "a<b>&'x.zarr" in page.text


def test_parts_that_need_more_than_a_model_are_left_out(digits):
    page = Page(dnmf.plot.report(dnmf.NMF(2, random_state=0).partial_fit(digits)))
    heads = [each["id"] for each in page.all("h2")]
    assert heads == ["fitted", "components", "costs", "load"]
    assert "no error of theirs is known" in page.text
    assert 'dnmf.load("MODEL")' in page.text


def test_a_model_of_before_has_no_seconds(corpus):
    from dataclasses import replace

    model = dnmf.NMF(2, random_state=0, max_iter=2, tol=0).fit(corpus)
    model._state = replace(model._state, seconds=())
    model._spec = replace(model._spec, versions={})
    page = Page(dnmf.plot.report(model))
    assert "does not hold the seconds" in page.text
    assert "Versions now; the model has none of its fit" in page.text


def test_a_sweep_is_of_its_recommended_model(tmp_path, digits):
    corpus = dnmf.ingest(digits[:60].reshape(60, 28, 28), tmp_path / "c.zarr")
    sweep = dnmf.rank_sweep(
        corpus, [2, 3], dnmf.NMF(random_state=0, max_iter=3), n_init=2, checkpoint=tmp_path / "s"
    )
    run("report", tmp_path / "s", "--out", tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text())
    assert "sweep" in [each["id"] for each in page.all("h2")]
    assert " ".join(sweep.reason_.split()) in " ".join(page.text.split())
    best = sweep.best_n_components_
    assert f"{best} are recommended" in page.text
    assert f"dnmf.load_sweep({str(tmp_path / 's')!r}).best_model_" in page.text
    run("report", tmp_path / "s", "--sweep", tmp_path / "s", "--out", tmp_path / "t.html", status=2)


def test_the_command_replaces_only_a_report_and_only_if_told(model, corpus, tmp_path):
    out = tmp_path / "r.html"
    result = run("report", model.checkpoint, "--corpus", corpus.path, "--out", out)
    assert result.stdout.strip() == str(out)
    assert "pass --force" in run("report", model.checkpoint, "--out", out, status=1).stderr
    run("report", model.checkpoint, "--out", out, "--force")
    assert "Best and worst" not in out.read_text()
    out.write_text("<!DOCTYPE html><title>mine</title>")
    with pytest.raises(OutputExistsError, match="no report that dnmf wrote"):
        dnmf.plot.write_report(model, out, force=True)
    with pytest.raises(ParameterError, match=r"give NAME\.html"):
        dnmf.plot.write_report(model, tmp_path / "r.txt")


@pytest.mark.parametrize("shape", [(800, 900), (600, 600, 3), (600, 600, 5)])
def test_pictures_are_small_however_badly_they_compress(shape, model):
    import copy

    other = copy.copy(model)
    other.image_shape_ = shape
    noise = np.random.default_rng(0).random((4, int(np.prod(shape))), np.float32)
    drawn = draw(noise, other, 40_000)
    assert sum(len(each["src"]) for each in drawn) < 40_000 * 4 / 3 + 4 * 1000


@pytest.mark.slow
def test_a_page_of_225_large_components_has_less_than_3_mb():
    rng = np.random.default_rng(0)
    for shape in ((2000, 2000), (300, 300, 3)):
        model = dnmf.NMF(1, random_state=0, max_iter=1, tol=0)
        model.fit(rng.random((4, int(np.prod(shape))), np.float32))
        row = np.random.default_rng(1).random(int(np.prod(shape)), np.float32)
        # Views of one row: 225 of them would take 3.6 GB.
        model.components_ = np.lib.stride_tricks.as_strided(
            np.concatenate([row, row[:225]]), (225, len(row)), (4, 4), writeable=False
        )
        model.image_shape_ = shape
        assert 10**5 < len(dnmf.plot.report(model)) < 3 * 10**6


def test_a_report_is_written_to_a_url(model):
    url = "memory://reports/r.html"
    assert dnmf.plot.write_report(model, url) == url
    with pytest.raises(OutputExistsError, match="pass --force"):
        dnmf.plot.write_report(model, url)
    dnmf.plot.write_report(model, url, force=True)
    assert fsspec.filesystem("memory").cat_file("/reports/r.html").endswith(b"</html>")
