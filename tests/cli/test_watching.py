"""Long fits are watched: a log of passes, a file for Prometheus, and `dnmf info --watch`."""

from __future__ import annotations

import json
import re
import signal

import pytest
from command_line import run
from processes import fit_command, started

import dnmf
from dnmf.io.pass_log import PassLog
from dnmf.storage.lock import is_written

SAMPLE = r'(?:# (?:HELP|TYPE) (dnmf_\w+) .+|(dnmf_\w+)\{name="(?:[^"\\\n]|\\.)*"\} -?[\d.e+-]+)'
"""A line of Prometheus' text format, as dnmf writes it."""


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def fit(corpus, model, *more):
    return run("fit", corpus.path, model, "-k", 3, "--tol", 0, *more)


@pytest.fixture(scope="module")
def watched(corpus, tmp_path_factory):
    """A fit of two passes that was resumed for two more, with its log and its gauges."""
    folder = tmp_path_factory.mktemp("watched")
    options = ("--log", folder / "fit.jsonl", "--metrics", folder / "fit.prom")
    for passes in (2, 4):
        fit(corpus, folder / "m", "--max-iter", passes, *options)
    return folder


def test_a_resume_goes_on_in_the_same_log(watched):
    lines = lines_of(watched / "fit.jsonl")
    assert [line["event"] for line in lines] == ["start", "pass", "pass", "end"] * 2
    passes = [line for line in lines if line["event"] == "pass"]
    assert [line["pass"] for line in passes] == [1, 2, 3, 4]
    model = dnmf.load(watched / "m")
    assert [line["loss"] for line in passes] == model.loss_history_.tolist()
    assert passes[-1]["error"] == model.reconstruction_err_
    assert {"pass_seconds", "reads", "images_per_second", "memory_bytes"} <= passes[-1].keys()
    assert passes[-1]["left_seconds"] == 0


def test_gauges_for_prometheus(watched):
    text = (watched / "fit.prom").read_text()
    assert text.endswith("\n")
    for line in text.splitlines():
        assert re.fullmatch(SAMPLE, line), line
    values = dict(re.findall(r"^(dnmf_\w+)\{.*\} (.+)$", text, re.M))
    assert float(values["dnmf_passes"]) == 4
    assert float(values["dnmf_running"]) == float(values["dnmf_failed"]) == 0
    assert sorted(path.name for path in watched.glob("*.p*")) == ["fit.prom"]


def test_prometheus_own_parser_takes_them(watched):
    parser = pytest.importorskip("prometheus_client.parser")
    text = (watched / "fit.prom").read_text()
    families = list(parser.text_string_to_metric_families(text))
    assert {family.type for family in families} == {"gauge"}
    assert {sample.labels["name"] for f in families for sample in f.samples} == {str(watched / "m")}


def test_odd_names_are_escaped(tmp_path):
    with PassLog(metrics=tmp_path / "f.prom", name='a"b\\c\nd'):
        pass
    for line in (tmp_path / "f.prom").read_text().splitlines():
        assert re.fullmatch(SAMPLE, line), line


def test_a_sweep(corpus, tmp_path):
    options = ("--seeds", 1, "--max-iter", 2, "--log", tmp_path / "log")
    run("rank", corpus.path, tmp_path / "s", "-k", "2,3", *options)
    lines = lines_of(tmp_path / "log")
    assert (lines[0]["event"], lines[-1]["event"]) == ("start", "end")
    (last,) = [line for line in lines if line.get("pass") == 2]
    assert {model["components"] for model in last["models"]} == {2, 3}


def test_in_python(digits, tmp_path):
    with PassLog(tmp_path / "log", n_images=len(digits), max_iter=3) as log:
        dnmf.NMF(2, random_state=0, tol=0, max_iter=3, on_pass=log).fit(digits)
    lines = lines_of(tmp_path / "log")
    assert [line.get("pass") for line in lines] == [None, 1, 2, 3, None]


def test_an_error_is_the_last_line(tmp_path):
    for error in (dnmf.DnmfError("no luck"), KeyboardInterrupt()):
        with pytest.raises(type(error)), PassLog(tmp_path / "log", tmp_path / "m.prom"):
            raise error
    first, second = [line for line in lines_of(tmp_path / "log") if line["event"] == "error"]
    assert (first["type"], first["message"]) == ("DnmfError", "no luck")
    assert second["type"] == "KeyboardInterrupt"
    assert "dnmf_failed{" in (tmp_path / "m.prom").read_text()


def test_a_line_that_was_cut_by_a_kill_is_ended(tmp_path):
    (tmp_path / "log").write_text('{"event": "start"}\n{"event": "pa')
    with PassLog(tmp_path / "log"):
        pass
    cut, *others = (tmp_path / "log").read_text().splitlines()[1:]
    assert cut == '{"event": "pa'
    assert [json.loads(line)["event"] for line in others] == ["start", "end"]


@pytest.mark.parametrize("option", ["--log", "--metrics"])
@pytest.mark.parametrize("place", ["notes.txt", "missing/log", "s3://bucket/log", "."])
def test_what_dnmf_did_not_write_stays(corpus, tmp_path, option, place):
    (tmp_path / "notes.txt").write_text("mine")
    path = place if "://" in place else tmp_path / place
    found = run(
        *("fit", corpus.path, tmp_path / "m", "-k", 3, option, path),
        status=2 if "://" in place else 1,
    )
    assert "rror: " in found.output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_does_not_end_a_fit(tmp_path, caplog):
    with PassLog(tmp_path / "log") as log:
        log.path = tmp_path / "gone/log"
        for _ in range(3):
            log._write("pass", {})
    assert len([one for one in caplog.messages if "the fit continues" in one]) == 1


class TestWatch:
    def test_a_model_that_is_finished(self, watched):
        lines = run("info", "--watch", watched / "m").stdout.splitlines()
        assert lines[0].startswith("pass   4   loss ")
        assert "4 passes, stopped by --max-iter" in lines[1]
        first, end = run("info", "--watch", "--json", watched / "m").stdout.splitlines()
        assert json.loads(first)["loss"] == dnmf.load(watched / "m").loss_history_[-1]
        assert json.loads(end) == {"event": "end", "pass": 4, "stop_reason": "max_iter"}

    def test_a_corpus_is_refused(self, corpus):
        assert "is a corpus" in run("info", "--watch", corpus.path, status=1).output

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGKILL])
    def test_it_ends_with_the_fit(self, corpus, tmp_path, number):
        """... that finishes, is stopped, or killed."""
        most = 60 if number is None else 100_000
        with started(*fit_command(corpus, tmp_path / "m", "--max-iter", most)) as fit:
            fit.wait_for_pass(1)
            assert is_written(str(tmp_path / "m"))
            with started("dnmf", "info", tmp_path / "m", "--watch", "--every", 0.1) as watch:
                watch.wait_for("images/s")
                if number is not None:
                    fit.signal(number)
                fit.end()
                assert watch.end() == 0, watch.log
        passes = [int(n) for n in re.findall(r"^pass +(\d+) ", watch.log, re.M)]
        assert passes == list(range(passes[0], passes[-1] + 1))
        last = "60 passes, stopped by --max-iter" if number is None else "no fit writes to it"
        assert last in watch.log

    @pytest.mark.slow
    def test_ctrl_c_ends_it(self, corpus, tmp_path):
        command = fit_command(corpus, tmp_path / "m", "--max-iter", 100_000)
        with started(*command) as fit:
            fit.wait_for_pass(1)
            with started("dnmf", "info", tmp_path / "m", "--watch", "--every", 0.1) as watch:
                watch.wait_for("pass ")
                watch.signal(signal.SIGINT)
                assert watch.end() == 130

    @pytest.mark.slow
    def test_at_a_url(self, corpus, s3):
        model = f"{s3.url}/m.model"
        with started(*fit_command(corpus, model, "--max-iter", 8, "-q")) as fit:
            while not any("pass-" in key for key in s3.keys("m.model")):
                assert fit.process.poll() is None, fit.log
            with started("dnmf", "info", model, "--watch", "--every", 0.2) as watch:
                assert fit.end() == 0, fit.log
                assert watch.end() == 0, watch.log
        assert "8 passes, stopped by --max-iter" in watch.log


@pytest.mark.slow
def test_a_fit_that_is_stopped_says_so_in_its_log(corpus, tmp_path):
    command = fit_command(corpus, tmp_path / "m", "--max-iter", 100_000, "--log", tmp_path / "log")
    with started(*command) as fit:
        fit.wait_for_pass(2)
        fit.signal(signal.SIGTERM)
        assert fit.end() == 75
    last = lines_of(tmp_path / "log")[-1]
    assert (last["event"], last["type"]) == ("error", "StoppedBySignal")
