"""The page of a report in a real browser: widths, colours, keyboard, paper and silence."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from PIL import Image

import dnmf

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")

CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim()) continue;
    const style = getComputedStyle(node);
    const color = rgba(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(color), light(behind(node))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""
"""Ratio of contrast, as WCAG 2 defines it, of each text to what is behind it."""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install '.[slow]'")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory, digits):
    """A page with all that a page can have, and names that do harm where they are not escaped."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "in").mkdir()
    for i in range(100):
        name = f"{i}<img src=x onerror=alert(1)>{'long' * 20}.png"
        Image.fromarray(digits[i].reshape(28, 28)).save(folder / "in" / name)
    corpus = dnmf.ingest(folder / "in", folder / "c.zarr")
    sweep = dnmf.rank_sweep(
        corpus, [4, 9], dnmf.NMF(random_state=0, max_iter=4), n_init=2, checkpoint=folder / "s"
    )
    out = folder / "report.html"
    dnmf.plot.write_report(sweep.best_model_, out, corpus, sweep, path=folder / "<b>'.model")
    return out


@pytest.fixture
def opened(browser, file):
    """Open the page, and fail for whatever it asks for or says."""
    contexts = []

    def open_page(width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(file.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        assert said == []
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened(width)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.evaluate("[...document.images].map(each => each.naturalWidth)")
    assert len(pictures) > 30
    assert min(pictures) > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(opened, scheme):
    page = opened(scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 150
    assert min(ratios)[0] >= 4.5, min(ratios)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")


def test_the_keyboard_reaches_all_that_one_can_follow(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page = opened()
    reached, outlines = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        href, style = page.evaluate(
            "[document.activeElement.getAttribute('href'), "
            "getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.append(href)
        outlines.append(style)
        if page.evaluate("document.activeElement === document.body"):
            break
    heads = page.evaluate("[...document.querySelectorAll('h2')].map(each => '#' + each.id)")
    assert [each for each in reached if each] == ["#main", *heads]
    assert set(outlines[:-1]) == {"solid"}
    page.keyboard.press("Tab")
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") in heads


def test_it_prints(opened, tmp_path):
    page = opened(scheme="dark")
    content = page.pdf(format="A4")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert np.isclose(page.evaluate("document.querySelector('nav').offsetHeight"), 0)
