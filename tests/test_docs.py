"""The documents tell the truth: their Python and their commands run, their links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dnmf.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
    ROOT / "CONTRIBUTING.md",
]
README = (ROOT / "README.md").read_text()


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def faces(tmp_path, digits):
    """A folder of images of two sizes, where the README's lines expect one."""
    (tmp_path / "faces").mkdir()
    for i, digit in enumerate(digits[:200]):
        image = Image.fromarray(digit.reshape(28, 28))
        image.resize((40 + i % 2, 40)).save(tmp_path / f"faces/{i:03d}.png")
    return tmp_path


def test_the_readmes_commands_run(faces, monkeypatch):
    block = next(b for b in re.findall(r"(?:^    .+\n)+", README, re.M) if "dnmf ingest" in b)
    commands = [line.strip() for line in block.splitlines()]
    assert len(commands) == 4
    monkeypatch.chdir(faces)
    for command in commands:
        program, *arguments = shlex.split(command)
        done = CliRunner().invoke(main, arguments, prog_name=program)
        assert done.exit_code == 0, f"{command}: {done.output}"
    made = {path.name for path in faces.iterdir()}
    assert made == {
        *("faces", "faces.zarr", "faces.model", "report.html", "weights.zarr", "weights.csv"),
    }
    assert len((faces / "weights.csv").read_text().splitlines()) == 201


def python_of(page: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))


RECIPES = [page for page in PAGES if re.search("^```sh", page.read_text(), re.M)]
TUTORIAL = ROOT / "docs/start/tutorial.md"
"""Page that fits 225 components to 10,000 digits, which takes eight seconds."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow) if p == TUTORIAL else p for p in RECIPES],
    ids=name_of,
)
def test_recipes_run(page, faces, monkeypatch):
    """... their Python and their commands, in the order in which they stand on the page."""
    monkeypatch.chdir(faces)
    names = {"__name__": "__main__"}
    for language, text in re.findall(r"^```(python|sh)\n(.*?)^```", page.read_text(), re.M | re.S):
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
            continue
        for command in text.splitlines():
            program, *arguments = shlex.split(command)
            done = CliRunner().invoke(main, arguments, prog_name=program)
            assert done.exit_code == 0, f"{command}: {done.output}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if python_of(p) and p not in RECIPES], ids=name_of
)
def test_python_runs(page, faces, monkeypatch, capsys):
    monkeypatch.chdir(faces)
    exec(compile(python_of(page), page.name, "exec"), {"__name__": "__main__"})
    if page.name == "README.md":
        printed = capsys.readouterr().out
        assert re.search(r"```text\n(.*?)```", README, re.S)[1] in printed
        assert "converged" in printed
        assert (faces / "faces2.model/zarr.json").exists()


def anchors(page):
    """Give the names by which the headings of a page are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target
            assert not anchor or anchor in anchors(page.parent / target if target else page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    folders = "dnmf|docs|examples|benchmarks|tests|deploy"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_tests_that_are_named_exist():
    names = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.M)
    }
    for page in (ROOT / "docs").rglob("*.md"):
        named = re.findall(r"`(test_\w+)`", page.read_text())
        assert not set(named) - names - {"test_compatibility"}, page.name
        files = re.findall(r"`(test_\w+\.py)`", page.read_text())
        assert all(any((ROOT / "tests").rglob(name)) for name in files), page.name


def test_every_row_about_input_names_its_test():
    page = next((ROOT / "docs/evidence").glob("reliability*.md")).read_text()
    rows = re.findall(r"^\| input \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.M)
    assert rows
    for row in "".join(rows).splitlines():
        assert re.search(r"\| `test_\w+` \|$", row), row


def test_the_map_of_modules_says_what_the_folders_say():
    table = (ROOT / "docs/how-it-works.md").read_text().split("| folder |")[1].split("\n\n")[0]
    found = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.M))
    said = {}
    for file in (ROOT / "dnmf").glob("*/__init__.py"):
        said[file.parent.name] = ast.get_docstring(ast.parse(file.read_text())).splitlines()[0]
    assert found == said


def test_the_doctests_of_public_names():
    import doctest

    import dnmf.estimators.nmf
    import dnmf.model_selection.rank_sweep

    for module in (dnmf.estimators.nmf, dnmf.model_selection.rank_sweep):
        failed, tried = doctest.testmod(module)
        assert tried >= 4
        assert failed == 0


def test_a_format_of_another_package(tmp_path, monkeypatch):
    """The one that a page shows, found by its entry point."""
    import sys
    from importlib.metadata import distribution

    import dnmf
    from dnmf.io.sources.formats import registry

    (tmp_path / "my_package.py").write_text(python_of(ROOT / "docs/howto/sources/own.md"))
    described = tmp_path / "my_package-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    toml = re.search(r"```toml\n(.*?)```", (ROOT / "docs/howto/sources/own.md").read_text(), re.S)[
        1
    ]
    group, entry = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n(.+)\n', toml).groups()
    (described / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert distribution("my-package").version == "1.0"
    caches = (registry.all_formats, registry.known_suffixes, registry.all_suffixes)
    try:
        for cache in caches:
            cache.cache_clear()
        frames = np.arange(24, dtype="<u2").reshape(2, 3, 4)
        (tmp_path / "in").mkdir()
        header = np.array([3, 4], "<u4").tobytes()
        (tmp_path / "in/a.raw16").write_bytes(header + frames.tobytes())
        corpus = dnmf.ingest(tmp_path / "in", tmp_path / "c.zarr")
        assert (corpus.images(slice(None)) == frames).all()
    finally:
        sys.modules.pop("my_package", None)
        for cache in caches:
            cache.cache_clear()
