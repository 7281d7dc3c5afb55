"""Shared data and engines. One cluster of two processes serves each of pytest's own processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
import s3
from hypothesis import HealthCheck, settings

import dnmf
from dnmf.data import digits as bundled_digits

# numba's cache is not made for two processes that save types of one function at the same time.
if WORKER := os.environ.get("PYTEST_XDIST_WORKER"):
    cache = Path(__file__).parents[1] / ".pytest_cache" / f"numba-{WORKER}"
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache))

settings.register_profile(
    "dnmf", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dnmf")


def read_digits(n: int) -> np.ndarray:
    """The first n of 10,000 digits, (n, 28, 28) uint8."""
    return bundled_digits()[:n].reshape(n, 28, 28)


@pytest.fixture(scope="session")
def digits() -> np.ndarray:
    """The first 700 digits, (700, 784) uint8."""
    return read_digits(700).reshape(700, 784)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> dnmf.Corpus:
    """The same digits as a corpus of 6 blocks, the last one short; nobody may write to it."""
    folder = tmp_path_factory.mktemp("corpus")
    return dnmf.ingest(read_digits(700), folder / "digits.zarr", block_rows=128)


@pytest.fixture(scope="session")
def s3_server() -> Iterator:
    """Give the proxy of an S3 server; only slow tests may ask for it, since it takes seconds."""
    for library in ("s3fs", "moto.server"):
        pytest.importorskip(library, reason="pip install '.[slow]'")
    with s3.s3_proxy() as proxy:
        yield proxy


@pytest.fixture(name="s3")
def s3_bucket(s3_server) -> Iterator[s3.S3]:
    """Give a bucket of its own, to which the environment leads; see `s3.py`."""
    with s3.bucket_of(s3_server) as bucket:
        yield bucket


@pytest.fixture(scope="session")
def local_cluster() -> Iterator:
    from distributed import LocalCluster

    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": "ERROR"}
    # Workers would look at what they do a hundred times a second.
    with dask.config.set({"distributed.worker.profile.enabled": False}):
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, **options)
    with cluster:
        yield cluster


@pytest.fixture
def client(local_cluster) -> Iterator:
    from distributed import Client

    with Client(local_cluster) as client:
        yield client
