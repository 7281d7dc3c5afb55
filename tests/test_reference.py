"""The pages of the reference that are written by hand say what the code says."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import dnmf
from dnmf import errors, plot

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference"
CLASSES = [name for name, _ in inspect.getmembers(errors, inspect.isclass) if "Error" in name]
OF_MANY_MESSAGES = {"DataError", "IngestError", "ParameterError"}
"""Classes of which the page has the common messages only; of all others it has each."""

HOLE = "…"
"""What stands for the parts of a message that differ."""


TREES = [ast.parse(path.read_text()) for path in (ROOT / "dnmf").rglob("*.py")]
WORDS = {
    node.targets[0].id: node.value.value
    for tree in TREES
    for node in tree.body
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
}
"""Constants of modules, by their names."""


def text_of(node):
    """Give the words of an expression, with a hole for each part that is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return str(WORDS.get(node.value.id, HOLE))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return HOLE


@pytest.fixture(scope="module")
def texts():
    """All texts in the code."""
    kinds = (ast.Constant, ast.JoinedStr)
    return {text_of(node) for tree in TREES for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.fixture(scope="module")
def raised():
    """Messages in the code, by class, but for those that are put together elsewhere."""
    found = {name: set() for name in CLASSES}
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in found:
                text = text_of(node.args[0])
                if re.search(r"\w\w", text):
                    found[ast.unparse(node.func)].add(text)
    return found


@pytest.fixture(scope="module")
def rows():
    """Messages on the page, as patterns, by the class under whose heading they stand."""
    page = (REFERENCE / "errors.md").read_text()
    found = {}
    for section in re.split("^## ", page, flags=re.M)[1:]:
        name, text = section.split("\n", 1)
        messages = re.findall(r"^\| (`+)(.+?)\1 \|", text, re.M)
        found[name] = [
            re.compile(".*".join(map(re.escape, message.split("..."))), re.S)
            for _, message in messages
        ]
    return found


def test_each_error_has_its_heading(rows):
    assert sorted(rows) == sorted(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_the_page_says_what_each_error_is(name):
    page = (REFERENCE / "errors.md").read_text()
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    bases = [f"`{base.__name__}`" for base in getattr(errors, name).__bases__]
    listed = " and ".join(filter(None, [", ".join(bases[:-1]), bases[-1]]))
    assert f" A kind of {listed}." in section


@pytest.mark.parametrize("name", CLASSES)
def test_messages_on_the_page_are_in_the_code(name, rows, texts):
    assert rows[name] or name == "DnmfError"
    unknown = [row.pattern for row in rows[name] if not any(map(row.fullmatch, texts))]
    assert not unknown


@pytest.mark.parametrize("name", sorted({*CLASSES} - OF_MANY_MESSAGES))
def test_messages_in_the_code_are_on_the_page(name, rows, raised):
    """A new message needs a row, if none of the rows is of its kind."""
    missing = [text for text in raised[name] if not any(row.fullmatch(text) for row in rows[name])]
    assert not missing


def test_the_page_on_python_has_every_public_name():
    page = (REFERENCE / "api/index.md").read_text()
    names = set(re.findall(r"^   ([\w.]+)$", page, re.M))
    assert {*dnmf.__all__, *plot.__all__} - names <= {"DnmfError"}


def test_the_page_on_the_environment_has_every_variable(texts):
    page = (REFERENCE / "environment.md").read_text()
    named = set(re.findall(r"`(\w+)`", page.split("## Read by libraries")[0]))
    scripts = [path.read_text() for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    owners = "_?DNMF|DASK|NUMBA|OMP|OPENBLAS|MKL|SLURM|AWS|PARTS"
    found = re.findall(rf"\b(?:{owners})_[A-Z_]+[A-Z]\b", "\n".join(texts))
    assert len(found) > 5
    for name in {*found, *re.findall(r"\$\{(DNMF_\w+|PARTS)", "\n".join(scripts))}:
        assert f"`{name}`" in page, name
    for name in named - {"deploy"}:
        assert name in found or any(name in script for script in scripts), name
