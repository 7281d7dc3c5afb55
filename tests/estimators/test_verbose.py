"""What fits, sweeps and ingests show with ``verbose=1``: bars where lines can be replaced."""

from __future__ import annotations

import io
import re
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import dnmf
from dnmf import _progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def open_terminal(monkeypatch):
    """To be called in a test: pytest sets stderr between this and the test."""

    def set_stderr():
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        return terminal

    return set_stderr


def fit(X, **options):
    return dnmf.NMF(**{"n_components": 3, "random_state": 0, "tol": 0.01} | options).fit(X)


@pytest.mark.parametrize("verbose", [1, 3, True])
def test_lines_where_there_is_no_terminal(corpus, capsys, verbose):
    model = fit(corpus, verbose=verbose)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "warm start: reading a sample of 700 images"
    passes = [line for line in lines if line.startswith("pass ")]
    assert passes[0] == f"pass 1: error {np.sqrt(2 * model.loss_history_[0]):.6g}"
    assert len(passes) == model.n_iter_
    assert passes[-1].endswith(" (tol 0.01)")
    assert err == ""


@pytest.mark.parametrize("verbose", [0, False])
def test_silence(corpus, capsys, open_terminal, verbose):
    terminal = open_terminal()
    fit(corpus, verbose=verbose)
    assert capsys.readouterr().out == terminal.getvalue() == ""


def test_a_bar_on_a_terminal(corpus, capsys, open_terminal):
    terminal = open_terminal()
    model = fit(corpus, verbose=1)
    shown = terminal.getvalue()
    assert capsys.readouterr().out == ""
    assert "\rwarm start: reading a sample of 700 images [00:00]" in shown
    last = shown.rstrip("\n").split("\r")[-1]
    assert last.startswith(f"pass {model.n_iter_}: error {model.reconstruction_err_:.6g}, gain")
    assert shown.endswith("\n")


@pytest.mark.parametrize("X", ["corpus", "array"])
def test_how_far_a_pass_is(corpus, open_terminal, monkeypatch, X):
    terminal, open_bar = open_terminal(), _progress._open
    monkeypatch.setattr(_progress, "_open", partial(open_bar, mininterval=0))  # none is left out
    fit(corpus if X == "corpus" else np.asarray(corpus), verbose=1, max_iter=2, tol=0)
    shown = re.findall(r", (pass \d+: \d+%)", terminal.getvalue())
    parts = ["17%", "33%", "50%", "67%", "83%", "100%"] if X == "corpus" else ["100%"]
    assert [part for part in shown if part.startswith("pass 2")] == [f"pass 2: {x}" for x in parts]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_closes_the_bar(corpus, open_terminal, error):
    terminal = open_terminal()

    def stop(state):
        raise error

    with pytest.raises(error):
        fit(corpus, verbose=1, on_pass=stop)
    assert f"ended by {error.__name__}" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
    shown = len(terminal.getvalue())
    fit(corpus)
    assert len(terminal.getvalue()) == shown, "a later fit does not write to it"


def test_a_notebook_without_widgets(corpus, capsys, monkeypatch):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    fit(corpus, verbose=1)
    out, err = capsys.readouterr()
    assert "\rwarm start: reading" in out
    assert out.split("\r")[-1].startswith("pass ")
    assert err == ""


def test_sweeps_and_starts(digits, capsys):
    rough = dnmf.NMF(random_state=0, tol=0.1, max_iter=2, verbose=1)
    dnmf.rank_sweep(digits[:60], [2, 3], rough, n_init=1, on_pass=lambda progress: None)
    out = capsys.readouterr().out
    assert "pass 1: " in out
    assert " of 4 models go on" in out
    fit(digits[:60], n_init=2, verbose=1)
    assert "iteration 1: error" in capsys.readouterr().out


def test_a_small_array_has_iterations(digits, capsys):
    model = fit(digits[:60], verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_, "and no line of a warm start"
    assert lines[-1].startswith(f"iteration {model.n_iter_}: error {model.reconstruction_err_:.6g}")
    assert "tol" not in lines[-1], "which 20 iterations together are compared with"


def test_an_ingest(tmp_path, capsys, open_terminal):
    terminal = open_terminal()
    images, seen = np.ones((9, 4, 4)), []
    options = {"block_rows": 3, "verbose": 1, "on_progress": lambda *x: seen.append(x)}
    dnmf.ingest(images, tmp_path / "a.zarr", **options)
    assert "100%" in terminal.getvalue()
    assert "9/9" in terminal.getvalue()
    assert seen[-1] == (9, 9)
    terminal.isatty = lambda: False
    dnmf.ingest(images, tmp_path / "b.zarr", **options)
    assert "9 of 9 images" in capsys.readouterr().out.splitlines()[-1]
