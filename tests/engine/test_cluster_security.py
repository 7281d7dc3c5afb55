"""Who can reach a cluster: nobody from outside unless asked, and with TLS only holders of a key."""

from __future__ import annotations

import subprocess

import psutil
import pytest
from processes import fit_command, scheduler, started, wait_until, worker

import dnmf

pytestmark = pytest.mark.slow


def listening(pid):
    """Return the addresses on which a process and its children wait for connections."""
    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr)
    return found


def test_a_fit_with_workers_listens_on_the_loopback_interface_alone(corpus, tmp_path):
    command = fit_command(corpus, tmp_path / "m", "--workers", 2, "--max-iter", 100_000)
    with started(*command) as fit:
        fit.wait_for_pass(1)
        sockets = listening(fit.pid)
    assert len(sockets) >= 5, "scheduler, two nannies, two workers"
    assert {socket.ip for socket in sockets} == {"127.0.0.1"}


def test_a_fit_without_workers_listens_nowhere(corpus, tmp_path):
    with started(*fit_command(corpus, tmp_path / "m", "--max-iter", 100_000)) as fit:
        fit.wait_for_pass(1)
        assert listening(fit.pid) == set()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority of its own, and a key that it has signed."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "1")
    openssl(*new, "-x509", "-subj", "/CN=dnmf test", "-keyout", "ca-key.pem", "-out", "ca.pem")
    openssl(*new[:-2], "-subj", "/CN=job", "-keyout", "key.pem", "-out", "request.pem")
    signing = ("-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "1")
    openssl("x509", "-req", "-in", "request.pem", *signing, "-out", "cert.pem")
    return folder


def tls(folder):
    """Return Dask's settings for these files, as docs/evidence/reliability.md describes them."""
    names = {
        f"DASK_DISTRIBUTED__COMM__TLS__{role}__{part}": str(folder / file)
        for role in ("CLIENT", "SCHEDULER", "WORKER")
        for part, file in (("CERT", "cert.pem"), ("KEY", "key.pem"))
    }
    return {
        **names,
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "ca.pem"),
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
    }


def test_a_cluster_with_tls_takes_who_has_its_key_and_nobody_else(corpus, tmp_path, authority):
    env = tls(authority)
    with (
        scheduler(tmp_path, "--protocol", "tls", env=env) as (_, address),
        worker(address, env=env),
    ):
        assert address.startswith("tls://")
        command = fit_command(corpus, tmp_path / "m", "--scheduler", address, "--max-iter", 3)
        with started(*command, env=env) as fit:
            assert fit.end() == 0, fit.log
        assert f"the cluster at {address}" in fit.log
        for stranger in (address, address.replace("tls://", "tcp://")):
            command = fit_command(corpus, tmp_path / "n", "--scheduler", stranger)
            with started(*command, env={"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}) as fit:
                assert fit.end() == 1
            assert "no Dask scheduler answers at" in fit.log
    assert dnmf.load(tmp_path / "m").n_iter_ == 3
    wait_until(lambda: not (tmp_path / "n").exists(), "nothing of the stranger")


def test_workers_of_ones_own_use_tls_where_it_is_required(corpus, tmp_path, authority):
    command = fit_command(corpus, tmp_path / "m", "--workers", 1, "--max-iter", 2)
    with started(*command, env=tls(authority)) as fit:
        assert fit.end() == 0, fit.log
