"""The examples are as the gallery wants them; the site runs them, `.ci/docs` says so."""

from __future__ import annotations

import ast
import copy
import gzip
import re
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import dnmf

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mnist(tmp_path, digits):
    """A folder like MNIST's, with few images."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, images in (("train", digits[:500]), ("t10k", digits[500:])):
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", len(images), 28, 28)
        content = gzip.compress(header + images.tobytes())
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(content)
    return folder


GALLERY = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "jobqueue")


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_an_example_of_the_gallery_is_short_and_asks_a_question(path):
    """The site runs it: a question, an answer, and then cells, by public names alone."""
    code = path.read_text()
    assert 40 <= code.count("\n") <= 90
    tree = ast.parse(code)
    title, underline, blank, answer, *_ = ast.get_docstring(tree).splitlines()
    assert title.endswith("?")
    assert underline == "=" * len(title)
    assert not blank
    assert answer
    assert "\n# %%\n" in code
    assert re.search(r"^# sphinx_gallery_thumbnail_number = \d$", code, re.M)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dnmf"):
            assert node.module in {"dnmf", "dnmf.data"}
            public = {*dnmf.__all__, "digits", "plot"}
            assert {alias.name for alias in node.names} <= public


def test_the_gallery_has_an_order_and_every_example_a_test():
    order = ast.parse((ROOT / "docs/gallery_pictures.py").read_text())
    (value,) = (
        node.value
        for node in order.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ORDER"
    )
    names = [node.value for node in ast.walk(value) if isinstance(node, ast.Constant)]
    assert sorted(names) == [path.stem for path in GALLERY]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_the_notebook_says_what_it_said():
    """Run again it prints the same, and draws."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    kept = nbformat.read(ROOT / "examples/first_look.ipynb", 4)
    run = nbclient.NotebookClient(copy.deepcopy(kept), timeout=120, kernel_name="python3").execute()
    assert printed(run) == printed(kept)
    assert len(printed(kept)) >= 3
    drawn = [out for cell in kept.cells for out in cell.get("outputs", []) if "data" in out]
    assert sum("image/png" in out["data"] for out in drawn) >= 2


def printed(notebook):
    """List what the cells of a notebook wrote to standard output."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [out["text"] for out in outputs if out.get("name") == "stdout"]


@pytest.mark.slow
def test_the_benchmark_runs_on_little_data(mnist, tmp_path):
    script = ROOT / "benchmarks/time_to_quality.py"
    few = ["--ranks", "4", "--threads", "1", "--methods", "dnmf", "sklearn32", "--curve", "2"]
    done = subprocess.run(
        [sys.executable, script, mnist, *few, "--json", tmp_path / "r.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| 4 |" in done.stdout
    assert (tmp_path / "r.json").exists()


SCRIPTS = [p for p in (ROOT / "benchmarks").glob("*.py") if "def main()" in p.read_text()]


@pytest.mark.parametrize("script", sorted(SCRIPTS), ids=lambda path: path.name)
def test_every_benchmark_says_what_it_does(script, monkeypatch, capsys):
    """On ``--help``; so what it imports is where it looks for it."""
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: {script.name}")


@pytest.mark.slow
def test_the_jobs_of_jobqueue_are_workers_that_end_by_themselves():
    pytest.importorskip("dask_jobqueue")
    example = runpy.run_path(str(ROOT / "examples/jobqueue.py"))
    with example["workers_as_jobs"]("night", "lo") as cluster:
        script = cluster.job_script()
    for line in ("#SBATCH -p night", "#SBATCH --mem=4G", "#SBATCH -t 04:00:00"):
        assert line in script
    assert "--lifetime 235m --lifetime-stagger 4m" in script
    assert "export OMP_NUM_THREADS=1" in script


@pytest.mark.slow
def test_the_benchmarks_of_ranks_run_on_little_data(mnist):
    few = {
        "rank_cost.py": [mnist, "--ranks", "2", "3", "--seeds", "2"],
        "known_rank.py": ["--seeds", "1", "--kinds", "bars", "--ranks", "3"],
    }
    for name, arguments in few.items():
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks" / name, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.count("\n|") >= 3, name
