"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import dnmf
from dnmf import errors

ROOT = Path(__file__).parents[1]
PACKAGE = Path(dnmf.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
WINGS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}

DECLARED_PRIVATE = ("zarr.core",)
"""Modules that their library's documentation calls private, without an underscore in the name."""

PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
DOCUMENTED = {
    name
    for page in PAGES
    for code in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.S)
    for name in re.findall(r"\w+", code)
}


def name_of(path):
    return str(path.relative_to(PACKAGE))


def test_modules_of_all_folders_are_looked_at():
    assert len(WINGS) == 10
    assert len(MODULES) > 60
    assert {path.parent for path in MODULES} >= {PACKAGE, *WINGS}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 600
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno - doc.count("\n")
            assert lines <= 60, node.name


@pytest.mark.parametrize("wing", WINGS, ids=name_of)
def test_a_wing_opens_with_what_it_is_for(wing):
    """Its ``__init__`` says so, names what the wing may import, and holds no code."""
    tree = TREES[wing / "__init__.py"]
    doc = ast.get_docstring(tree)
    prose = [line for line in doc.splitlines() if line and not line.startswith(" ")]
    assert 3 <= len(prose) <= 8, "a drawing is indented, and not counted"
    assert re.search(r"\b[Ii]mports?\b", doc)
    start = re.search(r"[Ss]tart (?:reading )?at `(\w+)`", doc)[1]
    assert (wing / f"{start}.py").exists() or (wing / start).is_dir(), start
    for node in tree.body[1:]:
        assert wing.name in {"data", "plot"}
        home = f"dnmf.{wing.name}."
        reexports = isinstance(node, ast.ImportFrom) and node.module.startswith(home)
        names = isinstance(node, ast.Assign) and ast.unparse(node.targets) == "__all__"
        assert reexports or names, ast.unparse(node)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=name_of
)
def test_a_folder_inside_a_wing_holds_no_code_either(path):
    if path.parent not in {PACKAGE, PACKAGE / "data", PACKAGE / "plot"}:
        (doc,) = TREES[path].body
        assert isinstance(doc.value.value, str)


def imports(tree) -> Iterator[str]:
    """Yield the dotted names that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, ast.unparse(node)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_are_used_by_their_public_names(path):
    for name in imports(TREES[path]):
        library, *parts = name.split(".")
        if library not in {"dnmf", "__future__"}:
            assert not any(part.startswith("_") for part in parts), name
            assert not name.startswith(DECLARED_PRIVATE), name


def definitions(tree):
    """Yield what a module defines at its top: the name, the node and its decorators."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node, [ast.unparse(one) for one in node.decorator_list]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in ast.walk(ast.Tuple(targets)):
                if isinstance(target, ast.Name):
                    yield target.id, node, []


def names_in(tree):
    """Count the names that code reads, as variables, attributes and words of `getattr`."""
    found = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found[node.attr] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found[node.value] += 1
    return found


@pytest.fixture(scope="module")
def used():
    """Names that some module reads."""
    return sum((names_in(tree) for tree in TREES.values()), Counter())


@pytest.fixture(scope="module")
def imported():
    """What modules import of each other, or offer, by its dotted name."""
    found = {name for tree in TREES.values() for name in imports(tree)}
    return found | {f"dnmf.{home}.{name}" for name, home in dnmf._HOMES.items()}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_a_module_defines_is_used(path, imported):
    """By itself or by another module: what only tests use goes."""
    module = ".".join(["dnmf", *path.relative_to(PACKAGE).with_suffix("").parts])
    here = names_in(TREES[path])
    for name, node, decorators in definitions(TREES[path]):
        dunder = name.startswith("__")
        command = any(re.fullmatch(r"\w+\.command\(.*\)", one, re.S) for one in decorators)
        elsewhere = f"{module}.{name}" in imported
        plugin = name == "FORMAT" and path.parent.name == "formats"  # the registry asks for it
        assert dunder or command or plugin or elsewhere or here[name] > names_in(node)[name], name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_a_class_defines_is_used(path, used):
    """By dnmf, by the documents or by the library that a base class is of."""
    module = ".".join(["dnmf", *path.relative_to(PACKAGE).with_suffix("").parts])
    for name, node, _ in definitions(TREES[path]):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = getattr(import_module(module), name).__mro__[1:-1]
        for member, _, _ in definitions(node):
            inherited = any(hasattr(base, member) or member in source(base) for base in bases)
            special = re.fullmatch(r"__\w+__|_repr_\w+_", member)
            assert inherited or special or used[member] or member in DOCUMENTED, f"{name}.{member}"


def source(base):
    """Return the text of a class, which may name methods that it expects of its heirs."""
    return "" if base.__module__ in {"builtins", "typing"} else inspect.getsource(base)


def test_public_names():
    assert len(dnmf.__all__) <= 12
    for name in dnmf.__all__:
        assert getattr(dnmf, name) is not None
        assert name in dir(dnmf)
    line = "import dnmf; dnmf.data.digits, dnmf.errors.DnmfError, dnmf.plot.components"
    subprocess.run([sys.executable, "-c", line], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dnmf.nothing  # noqa: B018


def test_modules_need_no_import_of_their_own():
    program = "import dnmf; print(len(dnmf.data.digits()), dnmf.errors.DataError.__name__)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.stdout == "10000 DataError\n", done.stderr


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
