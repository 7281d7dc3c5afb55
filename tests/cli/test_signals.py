"""SIGTERM and SIGUSR1 to a fit: it ends with what is committed, and the same line continues it."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from processes import (
    committed,
    fit_command,
    same,
    started,
    whole,
    workers_of,
)

import dnmf
from dnmf.cli.signals import EXIT_STATUS, ONE_REQUEST, StoppedBySignal, StopRequest
from dnmf.model_selection.sweep_store import list_models

pytestmark = pytest.mark.slow


def passes_in(log):
    return [int(n) for n in re.findall(r"pass +(\d+) ", log)]


@pytest.mark.parametrize(
    ("which", "workers"),
    [(signal.SIGTERM, ("--workers", 2)), (signal.SIGUSR1, ())],
    ids=["SIGTERM, processes", "SIGUSR1, threads"],
)
def test_a_signal_ends_a_fit_after_its_pass_and_the_same_command_resumes_it(
    corpus, tmp_path, which, workers
):
    model = tmp_path / "model"
    with started(*fit_command(corpus, model, *workers, "--max-iter", 100_000)) as fit:
        fit.wait_for_pass(3)
        fit.signal(which)
        assert fit.end() == EXIT_STATUS == 75, fit.log
    assert f"{which.name}: the fit ends after this pass" in fit.log
    assert "run the same line again to continue" in fit.log
    assert fit.log.endswith("stopped by a signal\n")
    assert "Traceback" not in fit.log
    assert dnmf.load(model).stop_reason_ == "unfinished"
    assert committed(model) == passes_in(fit.log)[-1], "the pass that ran is not lost"
    further = committed(model) + 3
    with started(*fit_command(corpus, model, *workers, "--max-iter", further)) as fit:
        assert fit.end() == 0, fit.log
    assert same(dnmf.load(model), whole(corpus, further))


def test_a_signal_ends_a_sweep_after_its_pass_and_the_same_command_resumes_it(corpus, tmp_path):
    out, few = tmp_path / "out", ["--tol", 0, "--seeds", 1, "-k", "2,3"]
    line = ["dnmf", "rank", corpus.path, out, *few]
    with started(*line, "--max-iter", 100_000) as sweep:
        sweep.wait_for_pass(3)
        sweep.signal(signal.SIGTERM)
        assert sweep.end() == EXIT_STATUS, sweep.log
    assert "run the same line again to continue" in sweep.log
    assert "Traceback" not in sweep.log
    last = passes_in(sweep.log)[-1]
    assert {committed(model) for model in list_models(str(out))} == {last}
    with started(*line, "--max-iter", last + 2) as sweep:
        assert sweep.end() == 0, sweep.log
    other = [*line[:3], tmp_path / "other", *few]
    with started(*other, "--max-iter", last + 2) as sweep:
        assert sweep.end() == 0, sweep.log
    one, two = dnmf.load_sweep(out), dnmf.load_sweep(tmp_path / "other")
    assert one.table == two.table
    for rank in (2, 3):
        assert np.array_equal(one.models_[rank].components_, two.models_[rank].components_)


def test_a_pass_that_does_not_end_is_abandoned_after_the_grace_period(corpus, tmp_path):
    model = tmp_path / "model"
    command = fit_command(corpus, model, "--workers", 2, "--max-iter", 100_000, "--grace", 0.5)
    with started(*command) as fit:
        fit.wait_for_pass(2)
        for worker in workers_of(fit):
            worker.suspend()
        fit.signal(signal.SIGTERM)
        fit.wait_for("or without it in 0.5 s")
        fit.wait_for("run the same line again")
        assert fit.end() == EXIT_STATUS, fit.log
    assert "Traceback" not in fit.log
    assert committed(model) == passes_in(fit.log)[-1]


def test_a_second_signal_abandons_the_pass_at_once(corpus, tmp_path):
    model = tmp_path / "model"
    command = fit_command(corpus, model, "--workers", 2, "--max-iter", 100_000, "--grace", 1000)
    with started(*command) as fit:
        fit.wait_for_pass(2)
        for worker in workers_of(fit):
            worker.suspend()  # the pass has no end
        fit.signal(signal.SIGUSR1)
        fit.wait_for("SIGUSR1: the fit ends after this pass")
        time.sleep(1.5 * ONE_REQUEST)  # what comes with the first is the same request
        fit.signal(signal.SIGTERM)
        assert fit.end() == EXIT_STATUS, fit.log
    assert committed(model) == passes_in(fit.log)[-1]
    assert "run the same line again" in fit.log


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_the_program_is_being_imported_is_not_lost(corpus, tmp_path, which):
    command = fit_command(corpus, tmp_path / "model", "--max-iter", 100_000)
    with started(*command, env={"PYTHONPROFILEIMPORTTIME": "1"}) as fit:
        fit.wait_for("click")
        fit.signal(which)
        assert fit.end() == EXIT_STATUS, fit.log
    assert f"{which.name}: stopped by a signal before a pass" in fit.log
    assert not (tmp_path / "model").exists()


class TestInPython:
    def test_a_fit_in_python_leaves_signal_handlers_alone(self, digits):
        before = [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGUSR1)]
        seen = []

        def look(state):
            seen.append([signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGUSR1)])

        dnmf.NMF(2, random_state=0, tol=0, max_iter=1, on_pass=look).fit(digits)
        assert seen == [before]

    def test_a_fit_that_on_pass_has_stopped_can_be_resumed(self, corpus, tmp_path):
        options = {"random_state": 0, "tol": 0, "max_iter": 4, "checkpoint": tmp_path / "model"}
        with StopRequest(60) as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            with pytest.raises(StoppedBySignal):
                dnmf.NMF(6, **options, on_pass=stop.wrap(lambda state: None)).fit(corpus)
        assert committed(tmp_path / "model") == 1
        assert same(dnmf.NMF(6, **options).fit(corpus), whole(corpus, 4))

    def test_a_signal_that_comes_twice_at_once_is_one_request(self):
        with StopRequest(60) as stop:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
            with pytest.raises(StoppedBySignal):
                stop.raise_if_requested()

    def test_handlers_are_restored(self):
        before = signal.getsignal(signal.SIGTERM)
        with StopRequest(60):
            assert signal.getsignal(signal.SIGTERM) != before
        assert signal.getsignal(signal.SIGTERM) == before
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)

    def test_another_thread_receives_no_signals(self):
        thread = threading.Thread(target=StopRequest(60).__enter__)
        before = signal.getsignal(signal.SIGTERM)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) == before
