"""How many requests a pass makes of an object store; the proxy of `s3.py` counts them."""

from __future__ import annotations

import numpy as np
import pytest

import dnmf
from dnmf.storage import lease

pytestmark = pytest.mark.slow

BLOCKS = 8


@pytest.mark.parametrize("every", [1, 100])
def test_a_pass_makes_few(s3, tmp_path, monkeypatch, every):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 600.0)  # on a busy machine a pass is long
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((64, 8, 8)))
    corpus = dnmf.ingest(tmp_path / "x.npy", f"{s3.url}/c", block_rows=64 // BLOCKS)
    counts, previous = [], {}
    with s3.count() as seen:

        def passed(state):
            counts.append({key: n - previous.get(key, 0) for key, n in seen.items()})
            previous.update(seen)

        options = {"tol": 0, "max_iter": 9, "random_state": 0, "checkpoint_every": every}
        dnmf.NMF(3, checkpoint=f"{s3.url}/m", on_pass=passed, **options).fit(corpus)
    weights = BLOCKS if every == 1 else 0
    for pass_counts in counts[3:]:  # the first have nothing to remove, or much
        assert pass_counts["GET"] <= BLOCKS + 5
        assert pass_counts["PUT"] <= weights + 4
        assert pass_counts.get("POST", 0) <= 4
        assert pass_counts.get("HEAD", 0) == 0
