"""Checks before a long run: on this machine, on clusters, with workers that lack what they need."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from types import SimpleNamespace

import numba
import numpy
import psutil
import pytest
from command_line import run
from conftest import read_digits
from distributed import Client
from processes import is_worker, scheduler, worker

import dnmf
from dnmf.cli import checks
from dnmf.cli.probes import write_object
from dnmf.numerics import compiled

ALONE = {"PYTHONSAFEPATH": "1"}
"""Environment of workers that do not find dnmf in the working folder."""


def findings_of(*arguments, status=0):
    """Run the doctor; give its findings by the name of the check."""
    found = json.loads(run("doctor", "--json", *arguments, status=status).stdout)
    assert found["ok"] == (status == 0)
    assert all(set(one) == {"check", "status", "found", "advice"} for one in found["findings"])
    return {one["check"]: one for one in found["findings"]}


def statuses(findings):
    return {name: one["status"] for name, one in findings.items() if one["status"] != "ok"}


@pytest.fixture
def place(tmp_path):
    """A folder for a model that holds something of somebody."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/empty").mkdir()
    (tmp_path / "models/notes.txt").write_text("mine")
    yield tmp_path / "models"
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["empty", "notes.txt"]


def test_this_machine(corpus, place):
    found = findings_of(corpus.path, place / "m.model", "-k", 5)
    assert statuses(found) == {}
    assert f"numpy {numpy.__version__}" in found["versions"]["found"]
    assert "read at" in found["corpus"]["found"]
    assert "written at" in found["output"]["found"]
    assert "a task takes" in found["memory"]["found"]
    # The scheduler of the tests' own cluster may be in this process.
    assert re.search("listens nowhere|all on the loopback interface", found["ports"]["found"])


def test_a_line_for_each_check(place):
    lines = run("doctor").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", name]
        for name in ("workers", "versions", "blas", "cache", "memory", "disk", "clock", "ports")
    ]


def test_a_cluster(local_cluster, corpus, place):
    where = ("--scheduler", local_cluster.scheduler_address)
    found = findings_of(corpus.path, place / "m.model", "-k", 5, *where)
    assert statuses(found) == {}
    assert "2 workers with 2 threads on 1 machine" in found["workers"]["found"]
    assert "on the scheduler and on all workers" in found["versions"]["found"]
    assert "on 2 workers" in found["corpus"]["found"]
    assert "on 2 workers" in found["output"]["found"]
    assert "a worker" in found["memory"]["found"]
    assert "all on the loopback interface" in found["ports"]["found"]


def test_no_scheduler():
    found = findings_of("--scheduler", "tcp://127.0.0.1:1", "--timeout", 1, status=1)
    assert found["cluster"]["status"] == "error"
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in found["cluster"]["found"]


def test_a_damaged_corpus(corpus, tmp_path):
    shutil.copytree(corpus.path, tmp_path / "c.zarr")
    block = next((tmp_path / "c.zarr/pixels/c").rglob("0*"))
    block = next(path for path in [block, *block.rglob("*")] if path.is_file())
    block.write_bytes(block.read_bytes()[:100])
    found = findings_of(tmp_path / "c.zarr", status=1)
    assert statuses(found) == {"corpus": "error"}
    assert "block 0" in found["corpus"]["found"]


def test_more_components_than_memory(corpus):
    found = findings_of(corpus.path, "-k", 10**9, status=1)
    assert statuses(found) == {"memory": "error"}
    assert "this fit needs" in found["memory"]["found"]


def test_no_folder_for_the_cache(monkeypatch, tmp_path):
    (tmp_path / "probe.py").write_text("def probe():\n    return 1\n")
    (tmp_path / "__pycache__").touch()  # nobody, not even root, can write below a file
    spec = importlib.util.spec_from_file_location("probe", tmp_path / "probe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(compiled, "_is_first", module.probe)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    found = findings_of()
    assert statuses(found) == {"cache": "warning"}
    assert "NUMBA_CACHE_DIR" in found["cache"]["advice"]


def test_a_folder_that_another_machine_does_not_share_is_left_alone(tmp_path):
    seen, own = tmp_path / "elsewhere/seen", tmp_path / "elsewhere/own"
    with pytest.raises(FileNotFoundError):
        write_object()(str(seen), str(own), "block", b"content")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ip", "tls", "status"),
    [
        ("0.0.0.0", False, "warning"),
        ("0.0.0.0", True, "ok"),
        ("::", False, "warning"),
        ("10.1.2.3", False, "warning"),
        ("127.0.0.1", False, "ok"),
        ("::1", False, "ok"),
    ],
)
def test_ports(monkeypatch, ip, tls, status):
    sockets = {("the scheduler", ip, 8786): tls, ("tcp://127.0.0.1:1", "127.0.0.1", 1): False}
    monkeypatch.setattr(checks, "_sockets", lambda case: sockets)
    found = checks.check_ports(None)
    assert found.status == status
    assert (f"the scheduler on {ip}:8786" in found.found) == (status == "warning")


@pytest.mark.parametrize(("offset", "status"), [(0.5, "ok"), (-100, "warning"), (100, "warning")])
def test_clocks(offset, status):
    client = SimpleNamespace(run_on_scheduler=lambda ask: ask() + offset)
    case = SimpleNamespace(client=client, able=(), ask_workers=lambda able, question: {})
    assert checks.check_clock(case).status == status


@pytest.mark.parametrize("damage", [TimeoutError(), PermissionError(13, "Permission denied")])
def test_what_fails_on_workers_is_said_once_for_all_of_them(damage):
    failed = dict.fromkeys(["tcp://a:1", "tcp://b:2", "tcp://c:3"], damage)
    words = checks._describe_failures(failed, 30)
    assert words.startswith("tcp://a:1 and 2 others: ")
    assert words.endswith(("no answer in 30 s", "Permission denied"))


def test_wrong_usage(corpus, tmp_path):
    assert "-k says what a fit of CORPUS takes" in run("doctor", "-k", 5, status=2).output
    assert "does not exist" in run("doctor", tmp_path / "c.zarr", status=1).output


@pytest.fixture(scope="module")
def shadow(tmp_path_factory):
    """Folders that hide dnmf, or put another version in its place."""
    folder = tmp_path_factory.mktemp("shadow")
    for name, text in (("without", "raise ImportError('no dnmf')"), ("old", "__version__ = '0.0'")):
        (folder / name).mkdir()
        (folder / name / "dnmf.py").write_text(text)
    return folder


@pytest.mark.slow
def test_workers_that_lack_dnmf_or_have_another(corpus, place, tmp_path, shadow):
    def shadowed(name):
        return {**ALONE, "PYTHONPATH": str(shadow / name)}

    with (
        scheduler(tmp_path) as (_, address),
        worker(address),
        worker(address, env=shadowed("without")),
        worker(address, env=shadowed("old")),
    ):
        wait_for_workers(address, 3)
        found = findings_of(corpus.path, place / "m", "--scheduler", address, status=1)
    assert found["versions"]["status"] == "error"
    own = dnmf.__version__
    assert f"dnmf is {own} here and missing on tcp://" in found["versions"]["found"]
    assert f"dnmf is {own} here and 0.0 on tcp://" in found["versions"]["found"]
    for check in ("corpus", "output"):
        assert found[check]["status"] == "ok"
        assert "2 workers not tried" in found[check]["found"]


@pytest.mark.slow
def test_a_worker_that_does_not_answer(corpus, place, tmp_path):
    with scheduler(tmp_path) as (_, address), worker(address), worker(address) as stopped:
        wait_for_workers(address, 2)
        (process,) = [
            p for p in psutil.Process(stopped.pid).children(recursive=True) if is_worker(p)
        ]
        process.suspend()
        where = ("--scheduler", address, "--timeout", 3)
        found = findings_of(corpus.path, place / "m", "-k", 5, *where, status=1)
        process.resume()
    assert found["workers"]["status"] == "error"
    assert "no answer in 3 s" in found["workers"]["found"]
    for check in ("corpus", "output"):
        assert "1 worker not tried" in found[check]["found"]


@pytest.mark.slow
def test_a_worker_that_cannot_write(corpus, tmp_path):
    """... because its rights are others: it runs as nobody."""
    (tmp_path / "models").mkdir(mode=0o755)
    with scheduler(tmp_path) as (_, address), worker(address):
        wait_for_workers(address, 1)
        with Client(address, set_as_default=False) as client:
            client.run(exec, "import dnmf.storage.store")  # nobody may not read the environment
            client.run(os.seteuid, 65534)
        found = findings_of(corpus.path, tmp_path / "models/m", "--scheduler", address, status=1)
    assert found["output"]["status"] == "error"
    assert "ermission denied" in found["output"]["found"]
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.slow
def test_no_worker_comes(tmp_path):
    with scheduler(tmp_path) as (_, address):
        found = findings_of("--scheduler", address, "--timeout", 1, status=1)
    assert "no worker came in 1 s" in found["cluster"]["found"]


@pytest.mark.slow
def test_places_in_a_bucket(s3):
    corpus = dnmf.ingest(read_digits(30), f"{s3.url}/c.zarr")
    s3.put("photos/a.jpg", b"mine")
    found = findings_of(corpus.path, f"{s3.url}/photos/m.model", "-k", 5)
    assert statuses(found) == {}
    assert s3.keys("photos") == ["photos/a.jpg"]


def wait_for_workers(address, n):
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(n, timeout=60)
