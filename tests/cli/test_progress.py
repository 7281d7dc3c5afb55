"""Lines about passes: on a terminal and in a log, with the time left."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from dnmf._format import format_duration
from dnmf.cli.progress import PassProgress, explain_resume, format_error
from dnmf.io.pass_log import passes_left
from dnmf.numerics.state import State


def test_on_a_terminal_the_line_replaces_itself(corpus, tmp_path):
    terminal, stderr = pty.openpty()
    command = [sys.executable, "-m", "dnmf", "fit", corpus.path, str(tmp_path / "m"), "-k", "3"]
    subprocess.run([*command, "--max-iter", "3", "--tol", "0"], stderr=stderr, check=True)
    os.close(stderr)
    text = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert text.count("\r\x1b[Kpass") == 3
    assert text.endswith("\n")
    assert "T20" not in text.split("pass")[1]


@pytest.mark.parametrize(
    ("overwrite", "again"), [(False, "again"), (True, "again without --force")]
)
def test_an_interrupted_run_prints_how_to_continue_it(tmp_path, capsys, overwrite, again):
    (tmp_path / "zarr.json").touch()
    with pytest.raises(KeyboardInterrupt), explain_resume(str(tmp_path), overwrite=overwrite):
        raise KeyboardInterrupt
    log = capsys.readouterr().err
    assert ("continuing from its last pass" in log) == (not overwrite)
    assert f"run the same line {again} to continue {tmp_path}" in log


class TestTimeLeft:
    def test_a_shrinking_change_is_extrapolated(self):
        losses = [1.0]
        for i in range(5):
            losses.append(losses[-1] * (1 - 0.1 * 0.5**i))
        assert passes_left(losses, tol=1e-3, max_iter=200) == 3

    def test_no_more_than_max_iter(self):
        assert passes_left([1.0, 0.9, 0.8], tol=1e-9, max_iter=5) == 2
        assert passes_left([1.0, 0.9, 0.8], tol=0, max_iter=200) == 197

    def test_nothing_is_left_when_converged(self):
        assert passes_left([1.0, 0.5, 0.49999], tol=1e-3, max_iter=200) == 0

    def test_a_step_back_is_ignored(self):
        assert passes_left([1.0, 0.9, 0.9, 0.89999], tol=1e-4, max_iter=50) == 0
        assert passes_left([1.0, 0.9, 0.9], tol=1e-4, max_iter=50) == 47

    def test_a_perfect_fit_is_done(self):
        assert passes_left([0.0, 0.0], tol=1e-4, max_iter=50) == 0

    def test_errors_have_eight_digits_and_no_exponent(self):
        found = [format_error(x) for x in (0, 0.25, 51830.3, 1478520.25, 3e12)]
        assert found == ["0.0000000", "0.2500000", "51,830.300", "1,478,520.2", "3,000,000,000,000"]

    def test_durations(self):
        assert [format_duration(s) for s in (3.2, 600, 40_000)] == ["3.2 s", "10 min", "11.1 h"]

    def test_a_step_back_is_reported(self, capsys):
        state = State(*[np.ones((1, 1))] * 3, losses=(2.0, 2.0), divergence=2.0, accepted=False)
        PassProgress(10, 1e-4, 200)(state)
        assert "step back" in capsys.readouterr().err
