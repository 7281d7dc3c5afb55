"""Corpora, models, pictures and tables in a bucket of a real S3 server; workers that read it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import command_line
import numpy as np
import pytest
from distributed import Client, LocalCluster
from s3 import Fault

import dnmf
from dnmf import _access
from dnmf.errors import DnmfError

s3fs = pytest.importorskip("s3fs", reason="pip install '.[slow]'")
pytestmark = [
    pytest.mark.slow,
    # Sessions of file systems that are forgotten are closed by nobody.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

X = np.random.default_rng(0).integers(1, 255, (60, 4, 5)).astype(np.uint8)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(_access, "_own", {})
    s3fs.S3FileSystem.clear_instance_cache()  # they have read the environment


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


@pytest.fixture
def unknown(s3, monkeypatch):
    """Take the environment away that leads to the server."""
    for name in s3.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    s3fs.S3FileSystem.clear_instance_cache()
    return s3


def nmf(**options):
    return dnmf.NMF(2, **{"random_state": 0, "tol": 0, "max_iter": 4} | options)


def test_workers_have_options_also_those_that_come_later(unknown, source):
    url, options = unknown.url, unknown.options
    corpus = dnmf.ingest(source, f"{url}/c", block_rows=10, storage_options=options)
    alone = nmf().fit(corpus)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        first = set(client.scheduler_info()["workers"])

        def replace_worker(progress):
            if not replaced:
                replaced.append(progress)
                cluster.scale(2)
                client.wait_for_workers(2)
                client.retire_workers(list(first))

        replaced = []
        model = nmf(checkpoint=f"{url}/m", on_pass=replace_worker).fit(corpus)
        assert replaced
        assert not first & set(client.scheduler_info()["workers"])
        assert set(map(len, client.run(_options_of_others).values())) == {0}
    assert (model.components_ == alone.components_).all()
    assert (dnmf.load(f"{url}/m").components_ == alone.components_).all()


def _options_of_others():
    from dnmf import _access

    return dict(_access._of_others)


def test_reads_see_what_was_written(s3, source):
    """... by this process, and by another one, through each of the ways of reading."""
    for command in ("ingest", "fit", "info", "verify", "plot"):
        arguments = {
            "ingest": (source, f"{s3.url}/c", "--block-rows", "10"),
            "fit": (f"{s3.url}/c", f"{s3.url}/m", "-k", "2", "--max-iter", "4"),
            "plot": (f"{s3.url}/m", "--corpus", f"{s3.url}/c", "--out", f"{s3.url}/plots"),
        }.get(command, (f"{s3.url}/m",))
        command_line.run(command, *arguments)
    assert {key.rpartition("/")[2] for key in s3.keys("plots")} == {
        "components.png", "loss.png", "reconstructions.png",
    }  # fmt: skip
    more = [sys.executable, "-m", "dnmf", "fit", f"{s3.url}/c", f"{s3.url}/m", "-k", "2"]
    subprocess.run([*more, "--max-iter", "6", "-q"], check=True, capture_output=True)
    assert dnmf.load(f"{s3.url}/m").n_iter_ == 6
    assert dnmf.verify(f"{s3.url}/m").findings == []


def test_an_ingest_that_was_killed_goes_on(s3, tmp_path):
    images = X[:24]
    for i, image in enumerate(images):
        np.save(tmp_path / "image.npy", image[None])
        s3.put(f"in/f{i}.npy", (tmp_path / "image.npy").read_bytes())
    line = ["ingest", f"{s3.url}/in", f"{s3.url}/c", "--block-rows", "2", "-q"]
    with s3.faults(Fault.SLOW_BODY, chance=0.3):
        process = subprocess.Popen([sys.executable, "-m", "dnmf", *line])
        while not s3.keys("c/plan/done/"):
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len(s3.keys("c/plan/done/"))
    assert 0 < done < 12
    for key in s3.keys(".c.lock"):  # a lease would be waited for, until it counts as left behind
        s3.delete(key)
    with s3.count() as seen:
        command_line.run(*line)
    assert seen["PutObject"] < 3 * (12 - done) + 10
    corpus = dnmf.open_corpus(f"{s3.url}/c")
    assert (corpus.images(slice(None)) == images).all()
    assert dnmf.verify(corpus.path).findings == []
    assert s3.keys("c/plan") == []


def test_everything_with_faults(s3, source, tmp_path):
    local = dnmf.ingest(source, tmp_path / "c", block_rows=10)
    model = nmf().fit(local)
    model.save(tmp_path / "m")
    kinds = (Fault.SLOW_DOWN, Fault.RESET, Fault.SLOW_BODY, Fault.CUT_BODY)
    with s3.faults(*kinds) as injected:
        command_line.run("ingest", source, f"{s3.url}/c", "--block-rows", "10")
        tables = ("--csv", f"{s3.url}/w.csv", "--parquet", f"{s3.url}/w.parquet")
        command_line.run("transform", tmp_path / "m", f"{s3.url}/c", f"{s3.url}/w", *tables)
        command_line.run("components", tmp_path / "m", "--out", f"{s3.url}/components")
        command_line.run("show", f"{s3.url}/c", "--out", f"{s3.url}/sheet.png")
        command_line.run("verify", f"{s3.url}/w")
    assert sum(injected.values())
    command_line.run("transform", tmp_path / "m", tmp_path / "c", "--csv", tmp_path / "w.csv")
    assert s3.get("w.csv") == (tmp_path / "w.csv").read_bytes()
    assert s3.get("w.parquet")[:4] == b"PAR1"
    assert s3.get("sheet.png")[:4] == s3.get("components/component-000.png")[:4] == b"\x89PNG"


COMMANDS = {
    "info": lambda url, source: ("info", url),
    "verify": lambda url, source: ("verify", url),
    "fit": lambda url, source: ("fit", url, "m", "-k", "2"),
    "fit to it": lambda url, source: ("fit", source, url, "-k", "2"),
    "ingest": lambda url, source: ("ingest", url, "c"),
    "ingest to it": lambda url, source: ("ingest", source, url),
    "plan": lambda url, source: ("plan", url, "-k", "2"),
    "rank to it": lambda url, source: ("rank", source, url, "-k", "2"),
    "transform": lambda url, source: ("transform", url, source, "w"),
    "reconstruct": lambda url, source: ("reconstruct", url, url, "r"),
    "plot": lambda url, source: ("plot", url, "--out", "p"),
    "show": lambda url, source: ("show", url),
    "components": lambda url, source: ("components", url, "--out", "p"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_fails_is_said_in_one_line(s3, source, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)

    def message(url):
        result = command_line.run(*COMMANDS[command](url, source), status=1)
        lines = [line for line in result.stderr.splitlines() if line[:2] != "20"]
        assert len(lines) == 1
        assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in result.output
        assert url in lines[0]
        return lines[0]

    with s3.answers("", 403), s3.answers("", 403, "HEAD"), s3.answers("", 403, "PUT"):
        assert "denied" in message(f"{s3.url}/x")
    assert re.search("no bucket no-such-bucket|does not exist", message("s3://no-such-bucket/x"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "no credentials" in message("s3://another/x")
    assert sorted(os.listdir(tmp_path)) == ["x.npy"]


def test_a_dead_endpoint_is_given_up(s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # of five
    dead = {**s3.options, "endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(DnmfError, match="Could not connect to the endpoint"):
        dnmf.open_corpus("s3://dead/x", storage_options=dead)
