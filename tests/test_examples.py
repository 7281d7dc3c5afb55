"""The examples run as a user would run them."""

from __future__ import annotations

import gzip
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.mark.slow
def test_the_tutorial(mnist, tmp_path):
    script = ROOT / "examples/mnist_tutorial.py"
    done = subprocess.run(
        [sys.executable, script, "--data", mnist, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "X: (700, 784) uint8"
    for d in (9, 100, 225):
        assert f"d = {d}: W (700, {d}), H ({d}, 784), error" in done.stdout
        assert (tmp_path / f"out/components-{d}.png").exists()
    assert lines[-1].startswith("Negative data is refused: Negative values in data passed to NMF")
    with Image.open(tmp_path / "out/reconstructions.png") as picture:
        assert np.asarray(picture).std() > 20


@pytest.mark.slow
def test_choosing_a_rank(mnist, tmp_path):
    script = ROOT / "examples/choose_rank.py"
    few = ["--data", mnist, "--rows", "200", "--ranks", "2", "4", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-W", "error", script, *few], capture_output=True, text=True, check=True
    )
    assert "\n7 components: their error on held-out cells is the lowest" in done.stdout
    assert "\nNo clear answer. 4 components" in done.stdout
    for name in ("selection", "components-0004", "reconstructions"):
        with Image.open(tmp_path / f"out/digits/{name}.png") as picture:
            assert np.asarray(picture).std() > 5


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


def test_every_example_has_a_test():
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == {"choose_rank.py", "jobqueue.py", "mnist_tutorial.py"}


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
