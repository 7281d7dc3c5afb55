"""The house rules that a machine can check."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dnmf
from dnmf import errors

PACKAGE = Path(dnmf.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno - doc.count("\n")
            assert lines <= 60, node.name


def test_public_names():
    assert len(dnmf.__all__) <= 12
    for name in dnmf.__all__:
        assert getattr(dnmf, name) is not None
        assert name in dir(dnmf)
    assert dnmf.plot.components
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dnmf.nothing  # noqa: B018


def test_the_tree_of_errors_is_as_drawn():
    drawn = {}
    stack = []
    for line in errors.__doc__.splitlines():
        bare = line.lstrip(" │├└─")
        name = bare.split(" ")[0]
        if not name.endswith("Error"):
            continue
        depth = (len(line) - len(bare)) // 4 - 1
        stack[depth:] = [name]
        builtins = bare.partition("(")[2].partition(")")[0]
        parent = stack[-2] if len(stack) > 1 else "Exception"
        drawn[name] = (parent, builtins.split(", ") if builtins else [])
    found = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert set(drawn) == set(found)
    for name, (parent, builtins) in drawn.items():
        bases = [base.__name__ for base in found[name].__bases__]
        assert bases[0] == parent
        assert bases[1:] == builtins


def test_nothing_unpickles_what_it_reads():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "cloudpickle", "joblib", "marshal", "shelve"}, path.name
        assert "allow_pickle=True" not in path.read_text()
