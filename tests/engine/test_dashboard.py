"""What Dask's dashboard shows of a fit: names that say what a task does, and in which pass."""

from __future__ import annotations

import re

import dask.array as da
import numpy as np
import pytest

import dnmf
from dnmf.solvers import loop

IMAGES = np.random.default_rng(0).random((320, 60), dtype="f4")
OPTIONS = {"random_state": 0, "max_iter": 3, "tol": 0, "init": "nndsvd"}
EXPECTED = {  # what a task does: the passes it is done in
    "read-solve-sum": {1, 2, 3},
    "tree-sum": {1, 2, 3},
    "select-columns": {1, 2, 3},
    "h-step": {1, 2, 3},
}


@pytest.fixture
def fit(monkeypatch):
    """A fit of so few columns at a time that H is updated by tasks."""
    monkeypatch.setattr(loop, "COLUMNS", 32)
    X = da.from_array(IMAGES, chunks=(20, 60))
    return lambda: dnmf.NMF(3, **OPTIONS).fit(X)


def test_names_say_what_tasks_do_and_keys_in_which_pass(client, fit):
    """Names are the same in all passes: the scheduler keeps a record of each for ever."""
    from distributed import get_task_stream

    with get_task_stream(client) as stream:
        fit()
    passes = {}
    for each in stream.data:
        name, part = re.match(r"\('([a-z0-9-]+)', '(.*?)'", str(each["key"])).groups()
        number = re.match(r"pass-(\d+)-", part)
        passes.setdefault(name, set()).update([int(number[1])] if number else [])
    assert EXPECTED.items() <= passes.items(), passes
    others = passes.keys() - EXPECTED.keys()
    assert others == {"read-pick-rows", "read-power", "read-halves"}, "the start, before all passes"


@pytest.mark.slow
def test_a_performance_report_has_these_names(client, fit, tmp_path):
    pytest.importorskip("bokeh")
    from distributed import performance_report

    with performance_report(filename=tmp_path / "report.html"):
        fit()
    text = (tmp_path / "report.html").read_text()
    assert all(name in text for name in EXPECTED)
    assert "pass-3-" in text
