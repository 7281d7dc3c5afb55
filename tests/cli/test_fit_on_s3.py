"""Corpora, models, sweeps and weights in a bucket: real commands, kills and faults."""

from __future__ import annotations

import json
import signal

import command_line
import numpy as np
import pytest
from processes import started

import dnmf
from dnmf.storage import lease
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


def test_requests_that_fail_cost_no_bits(s3, corpus):
    expected = whole(corpus, 4)
    options = {"random_state": 0, "tol": 0, "checkpoint": f"{s3.url}/m"}
    with s3.faults(chance=0.05) as injected:
        for passes in (2, 4):
            model = dnmf.NMF(3, max_iter=passes, **options).fit(corpus)
    assert sum(injected.values()) > 10, injected
    assert model.components_.tobytes() == expected.components_.tobytes()
    assert dnmf.verify(f"{s3.url}/m").findings == []
