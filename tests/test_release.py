"""What a release is made of agrees: version, changelog, citation, requirements, workflows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dnmf

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPE = yaml.safe_load((ROOT / "deploy/conda/recipe.yaml").read_text())
WORKFLOWS = {path.name: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}

LIGHTER = {"dask": "dask-core", "matplotlib": "matplotlib-base"}
"""Packages of conda-forge that are what PyPI has under another name."""

TAGGED = ("dnmf/_version.py", "CHANGELOG.md", "CITATION.cff", ".ci/tag")


def test_the_recipe_requires_what_the_wheel_requires():
    declared = {}
    for one in map(Requirement, PROJECT["dependencies"]):
        declared[LIGHTER.get(one.name, one.name)] = {str(each) for each in one.specifier}
    python, *lines = RECIPE["requirements"]["run"]
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert {name: set(bounds.split(",")) for name, bounds in listed.items()} == declared
    assert python == "python >=${{ python_min }}"
    assert PROJECT["requires-python"] == f">={RECIPE['context']['python_min']}"


def test_the_recipe_describes_this_version():
    assert RECIPE["context"]["version"] == dnmf.__version__
    assert RECIPE["about"]["license"] == PROJECT["license"]
    assert RECIPE["about"]["license_file"] == PROJECT["license-files"]
    assert RECIPE["about"]["summary"] == PROJECT["description"]
    commands = [f"{name} = {where}" for name, where in PROJECT["scripts"].items()]
    assert RECIPE["build"]["python"]["entry_points"] == commands


@pytest.fixture
def tree(tmp_path):
    for name in TAGGED:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def tag(tree, *words):
    done = subprocess.run([tree / ".ci/tag", *words], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else "agreed"


def release(tree, date):
    for name, pattern, line in (
        ("CHANGELOG.md", r"^## \S+ - \S+$", f"## {dnmf.__version__} - {date}"),
        ("CITATION.cff", r"^(version: .*)$", rf"\1\ndate-released: {date}"),
    ):
        text, n = re.subn(pattern, line, (tree / name).read_text(), count=1, flags=re.M)
        assert n == 1
        (tree / name).write_text(text)


class TestTag:
    def test_the_tree_as_it_is(self, tree):
        assert tag(tree) == "agreed"

    def test_a_release(self, tree):
        release(tree, "2031-02-03")
        assert tag(tree, f"v{dnmf.__version__}") == tag(tree) == "agreed"

    def test_a_tag_before_the_release_has_a_date(self, tree):
        assert "write its date" in tag(tree, f"v{dnmf.__version__}")

    @pytest.mark.parametrize("word", ["v99.0.0", dnmf.__version__, ""])
    def test_a_tag_of_another_version(self, tree, word):
        release(tree, "2031-02-03")
        assert f"the tag must be v{dnmf.__version__}" in tag(tree, word)

    def test_a_version_that_the_changelog_does_not_know(self, tree):
        (tree / "dnmf/_version.py").write_text('__version__ = "99.0.0"\n')
        assert "write '## 99.0.0 - unreleased'" in tag(tree)

    def test_a_date_that_is_none(self, tree):
        release(tree, "soon")
        assert "write unreleased, or a date" in tag(tree)

    @pytest.mark.parametrize(
        "line", ["version: 99.0.0 # instead of ", "date-released: 2031-01-01\nversion: "]
    )
    def test_a_citation_of_something_else(self, tree, line):
        path = tree / "CITATION.cff"
        path.write_text(path.read_text().replace("\nversion: ", f"\n{line}"))
        assert tag(tree).startswith("CITATION.cff says")


def test_workflows_run_scripts_that_exist():
    used = {name for text in WORKFLOWS.values() for name in re.findall(r"\.ci/\w+", text)}
    assert used >= {".ci/test", ".ci/slow", ".ci/lint", ".ci/package", ".ci/docs", ".ci/tag"}
    assert [name for name in used if not os.access(ROOT / name, os.X_OK)] == []


def test_workflows_test_each_python_that_is_promised():
    matrix = yaml.safe_load(WORKFLOWS["tests.yml"])["jobs"]["fast"]["strategy"]["matrix"]["python"]
    classifiers = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if ":: 3." in line]
    assert matrix == classifiers
    assert PROJECT["requires-python"] == f">={matrix[0]}"


def test_actions_are_pinned_to_commits_with_their_version():
    lines = [line for text in WORKFLOWS.values() for line in text.splitlines() if "uses:" in line]
    assert lines
    pinned = re.compile(r" *- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in lines if not pinned.fullmatch(line)] == []
