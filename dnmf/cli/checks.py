"""The checks of ``dnmf doctor``: functions from a case to a finding."""

from __future__ import annotations

import ipaddress
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import psutil

from dnmf._format import format_bytes, format_duration
from dnmf.cli.environment import describe_blas
from dnmf.cli.probes import facts_of_process, read_block, write_object
from dnmf.engine.ask import (
    REQUIRED,
    ask,
    describe_differences,
    name_some,
    own_versions,
    worker_versions,
)
from dnmf.engine.shared_options import options_on_workers
from dnmf.errors import ClusterError
from dnmf.storage.atomic import require_space
from dnmf.storage.paths import absolute, normalize_path
from dnmf.storage.store import ObjectStore, local_folder, require_parent

if TYPE_CHECKING:
    from distributed import Client

    from dnmf.solvers.plan import Plan

OK, WARNING, ERROR = "ok", "warning", "error"
"""Statuses of a finding; only an error changes the exit status."""

BLOCK_BYTES = 2**22
"""Bytes of the object that is written beside the model."""

LEAST_FREE = 10**9
"""Bytes below which the free space of a worker's folder is worth a warning."""

CLOCK_SECONDS = 2.0
"""Difference of clocks in seconds from which on logs and claims of two machines mislead."""


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes
    ----------
    status : str
        `OK`, `WARNING` or `ERROR`.
    found : str
    advice : str
        What to do; empty if all is well.
    """

    status: str
    found: str
    advice: str = ""


@dataclass
class Case:
    """What is looked at.

    Attributes
    ----------
    client : Client or None
        None, if what computes is the threads of this process.
    seconds : float
        Time that each check may take.
    corpus, model : str or None
        Paths of the images, and of the model that is to be written.
    part : dict
        Where in an array images lie, as `dnmf.cli.images.array_options` gives it.
    n_components : int or None
    """

    client: Client | None
    seconds: float
    corpus: str | None
    model: str | None
    part: dict[str, Any]
    n_components: int | None

    @cached_property
    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler knows about the workers, by their addresses."""
        if self.client is None:
            return {}
        return dict(self.client.scheduler_info(n_workers=-1)["workers"])

    @cached_property
    def versions(self) -> dict[str, Any]:
        """Versions on each worker, or the exception in their place."""
        if self.client is None:
            return {}
        return worker_versions(self.client, self.workers, self.seconds)

    @cached_property
    def able(self) -> list[str]:
        """Addresses of the workers that answer, and run functions of this Python."""
        python = own_versions()["python"]
        return [
            address
            for address, each in self.versions.items()
            if not isinstance(each, BaseException) and each["python"] == python
        ]

    @cached_property
    def equipped(self) -> list[str]:
        """Addresses of those of them that have this dnmf."""
        own = own_versions()["dnmf"]
        return [address for address in self.able if self.versions[address]["dnmf"] == own]

    @cached_property
    def here(self) -> dict[str, Any]:
        """Facts about this process."""
        return facts_of_process()()

    @cached_property
    def there(self) -> dict[str, dict[str, Any]]:
        """Facts about the workers that have answered."""
        answers = self.ask_workers(self.able, lambda _: facts_of_process())
        return {a: facts for a, facts in answers.items() if not isinstance(facts, BaseException)}

    @cached_property
    def images(self) -> Any:
        """Images, as a fit opens them."""
        from dnmf.cli.images import open_images

        return open_images(self.corpus or "", None, self.part)[0]

    def ask_workers(
        self, addresses: list[str], question: Callable[[int], Callable[[], Any]]
    ) -> dict[str, Any]:
        """Return the answers of workers to a question, which may depend on their number."""
        if self.client is None:
            return {}
        calls = {address: (address, question(i)) for i, address in enumerate(addresses)}
        return ask(self.client, calls, self.seconds)

    @cached_property
    def plan(self) -> Plan | None:
        """What `dnmf plan` says of the fit; None if that cannot be found out."""
        from dnmf.estimators.nmf import NMF

        if self.n_components is None or _failures(self.versions):
            return None  # it may ask a worker that does not answer, and wait for ever
        return NMF(self.n_components, random_state=0).plan(self.images, trial=False)

    def try_all(self, question: Callable[[int], Callable[[], Any]]) -> dict[str, Any]:
        """Return what all that compute answer: the workers that have dnmf, or this process."""
        if self.client is None:
            return {"here": question(0)()}
        if not self.equipped:
            raise ClusterError("no worker that answers has this dnmf, so none was asked to try")
        with options_on_workers(self.client):
            return self.ask_workers(self.equipped, question)

    @property
    def unequipped(self) -> str:
        """Clause about the workers that have not been asked, empty if there are none."""
        n = len(self.workers) - len(self.equipped)
        return f"; {_count(n, 'worker')} not tried, without an answer or this dnmf" * bool(n)


def check_workers(case: Case) -> Finding:
    """Find workers that do not answer."""
    if case.client is None:
        return Finding(OK, "none: the threads of this process compute")
    if silent := _failures(case.versions):
        advice = "look at their logs, and end or start them again"
        return Finding(ERROR, _describe_failures(silent, case.seconds), advice)
    threads = sum(worker["nthreads"] for worker in case.workers.values())
    hosts = {worker["host"] for worker in case.workers.values()}
    return Finding(
        OK,
        f"{_count(case.workers, 'worker')} with {_count(threads, 'thread')} on "
        f"{_count(hosts, 'machine')}",
    )


def check_versions(case: Case) -> Finding:
    """Compare the versions of all libraries that matter with those of this process."""
    own = own_versions()
    listed = ", ".join(f"{library} {version}" for library, version in own.items())
    if case.client is None:
        return Finding(OK, listed)
    known = {a: each for a, each in case.versions.items() if not isinstance(each, BaseException)}
    known = {"the scheduler": _scheduler_versions(case, own), **known}
    if clauses := describe_differences(own, known, own):
        is_refused = describe_differences(own, known, REQUIRED)
        advice = "install the same everywhere"
        return Finding(ERROR if is_refused else WARNING, "; ".join(clauses), advice)
    return Finding(OK, f"{listed}; here, on the scheduler and on all workers")


def check_blas(case: Case) -> Finding:
    """Compare the BLAS libraries, and the threads that tasks have with the cores there are."""
    places = {"here": case.here, **case.there}
    kinds: dict[str, list[str]] = {}
    for place, facts in places.items():
        if facts["blas"] is not None:
            kinds.setdefault(describe_blas(facts["blas"]), []).append(place)
    listed = "; ".join(f"{name_some(where)}: {names}" for names, where in kinds.items())
    libraries = {tuple(name for name, _ in f["blas"]) for f in places.values() if f["blas"]}
    if len(libraries) > 1:
        advice = "results of two fits may differ in their last bits; use the same builds and cores"
        return Finding(WARNING, listed, advice)
    if crowded := _crowded_hosts(case):
        advice = "they wait for each other; start workers with as many threads as there are cores"
        return Finding(WARNING, f"{listed}; {crowded}", advice)
    return Finding(OK, f"{listed}; a task uses one")


def check_cache(case: Case) -> Finding:
    """Find processes in which numba cannot keep what it compiles."""
    places = {"here": case.here, **case.there}
    failed = {
        place: OSError(facts["cache_error"])
        for place, facts in places.items()
        if facts["cache"] is None and (place == "here" or place in case.equipped)
    }
    if failed:
        return Finding(
            WARNING,
            _describe_failures(failed, case.seconds),
            "each process compiles anew, which takes seconds; set NUMBA_CACHE_DIR there to a "
            "folder that can be written to",
        )
    folders = sorted({facts["cache"] for facts in places.values() if facts["cache"]})
    return Finding(OK, f"numba writes to {name_some(folders)}")


def check_corpus(case: Case) -> Finding:
    """Read a block of images on each worker, all at once."""
    images = case.images
    path, n_blocks = absolute(normalize_path(case.corpus or "")), images.n_blocks
    n_readers = max(1, len(case.equipped))
    read = read_block()
    answers = case.try_all(lambda i: partial(read, path, case.part, i * n_blocks // n_readers))
    if failed := _failures(answers):
        advice = "it must be readable at this path or URL wherever a task may run"
        return Finding(ERROR, f"{path}: {_describe_failures(failed, case.seconds)}", advice)
    n_bytes = max(n_bytes for n_bytes, _ in answers.values())
    rates = _range_of_rates(n_bytes, [seconds for _, seconds in answers.values()])
    found = f"{path}: blocks of {format_bytes(n_bytes)} read at {rates}"
    return Finding(OK, f"{found} on {_describe_who(case)}{case.unequipped}")


def check_memory(case: Case) -> Finding:
    """Compare the memory of workers with what a fit needs."""
    limits = [worker["memory_limit"] for worker in case.workers.values()]
    found = f"{format_bytes(psutil.virtual_memory().available)} available here"
    if limits:
        least = min(limits)  # 0 without a limit
        words = f"{format_bytes(least)} or more" if least else "no limit"
        found = f"{words} for each of {_count(limits, 'worker')}, {found}"
    if case.n_components is None:
        return Finding(OK, f"{found}; -k says what a fit needs")
    if (plan := case.plan) is None:
        return Finding(WARNING, f"{found}; what a fit needs is not known while a worker is silent")
    needs = f"a task takes {format_bytes(plan.task_memory)}"
    if plan.workers:
        needs += f", a worker {format_bytes(plan.worker_memory)}"
    needs += f", the driver {format_bytes(plan.driver_memory)}; {found}"
    if plan.lack is None:
        return Finding(OK, needs)
    return Finding(
        ERROR,
        f"this fit needs {plan.lack}; {needs}",
        "take fewer components, blocks of fewer images, workers of fewer threads or more memory",
    )


def check_output(case: Case) -> Finding:
    """Write, read back and remove an object beside the model, on each worker."""
    path = absolute(normalize_path(case.model or ""))
    require_parent(path)
    if case.plan is not None:
        require_space(path, case.plan.checkpoint_bytes, "a checkpoint")
    parent, _, name = path.rpartition("/")
    token, n_places = uuid4().hex[:12], max(1, len(case.equipped)) + 1
    places = [f"{parent}/.{name}.doctor-{token}-{i}" for i in range(n_places)]
    content, write = os.urandom(BLOCK_BYTES), write_object()
    seen = ObjectStore(places[0])
    try:
        seen.set("block", content)
        answers = case.try_all(lambda i: partial(write, places[0], places[i + 1], "block", content))
    finally:
        for place in places:
            ObjectStore(place).delete(["block"])
    if failed := _failures(answers):
        advice = (
            "tasks write weights there, so each worker needs the same folder or URL, and rights"
        )
        return Finding(ERROR, f"{path}: {_describe_failures(failed, case.seconds)}", advice)
    wrote, back = (
        _range_of_rates(BLOCK_BYTES, seconds) for seconds in zip(*answers.values(), strict=True)
    )
    return Finding(
        OK,
        f"{path}: {format_bytes(BLOCK_BYTES)} written at {wrote}, read back at {back} on "
        f"{_describe_who(case)}{case.unequipped}",
    )


def check_disk(case: Case) -> Finding:
    """Look at the free space of the output and of the folders of workers."""
    found = []
    if case.model is not None and (folder := local_folder(case.model)) is not None:
        above = os.path.dirname(os.path.abspath(folder))
        found.append(f"{format_bytes(shutil.disk_usage(above).free)} free in {above}")
    free = {a: facts["free"] for a, facts in case.there.items() if facts["free"] is not None}
    if free:
        worst = min(free, key=lambda address: free[address])
        where = f"{case.there[worst]['folder']} on {case.there[worst]['host']}"
        found.append(f"{format_bytes(free[worst])} or more free in folders of workers ({where})")
        if free[worst] < LEAST_FREE:
            advice = "Dask moves there what memory cannot hold: make room, or set --local-directory"
            return Finding(WARNING, "; ".join(found), advice)
    return Finding(
        OK, "; ".join(found) or "nothing is known of it: no MODEL on a disk, and no workers"
    )


def check_clock(case: Case) -> Finding:
    """Compare the clocks of workers and of the scheduler with that of this process."""
    if case.client is None:
        return Finding(OK, "there is only one")
    began = time.time()
    answers = {"the scheduler": case.client.run_on_scheduler(time.time)}
    answers |= case.ask_workers([*case.able], lambda _: time.time)
    ended = time.time()
    middle, within = (began + ended) / 2, (ended - began) / 2
    offsets = {a: t - middle for a, t in answers.items() if not isinstance(t, BaseException)}
    worst = max(offsets, key=lambda place: abs(offsets[place]))
    found = f"at most {offsets[worst]:+.2f} s from here ({worst}), known to {within:.2f} s"
    if abs(offsets[worst]) - within > CLOCK_SECONDS:
        advice = "set the clocks by NTP: dates of logs and claims mislead, and S3 refuses requests"
        return Finding(WARNING, found, advice)
    return Finding(OK, found)


def check_ports(case: Case) -> Finding:
    """List what listens on other interfaces than the loopback one, and whether with TLS."""
    sockets = _sockets(case)
    if not sockets:
        return Finding(OK, "this process listens nowhere")
    open_ones = {where: tls for where, tls in sockets.items() if not _is_loopback(where[1])}
    plain = [f"{who} on {ip}:{port}" for (who, ip, port), tls in open_ones.items() if not tls]
    if plain:
        advice = (
            "whoever reaches these may run code as this user; use TLS (see "
            "docs/evidence/reliability.md), or --host 127.0.0.1 on one machine; "
            "--dashboard-address 127.0.0.1:0 closes the dashboard to others, --no-dashboard does "
            "not"
        )
        return Finding(WARNING, f"open without TLS: {name_some(plain)}", advice)
    if open_ones:
        return Finding(OK, "what listens on other interfaces than loopback asks for TLS")
    return Finding(OK, f"{_count(sockets, 'port')}, all on the loopback interface")


def _sockets(case: Case) -> dict[tuple[str, str, int], bool]:
    """Return who listens on which address and port, and whether it asks for TLS."""
    if case.client is None:
        return {("this process", ip, port): False for ip, port in case.here["sockets"]}
    info = case.client.scheduler_info(n_workers=0)
    tls = info["address"].startswith("tls://")
    found: dict[tuple[str, str, int], bool] = {}

    def add(who: str, address: str, sockets: list[tuple[str, int]], *, others: bool) -> None:
        own = urlsplit(address).port
        for ip, port in sockets:
            if port == own:
                found[who, ip, port] = tls
            elif others:
                found[f"the dashboard of {who}", ip, port] = False

    if _scheduler_versions(case, own_versions())["python"] == own_versions()["python"]:
        facts = case.client.run_on_scheduler(facts_of_process())
        add("the scheduler", info["address"], facts["sockets"], others=True)
    for address, facts in case.there.items():
        worker = case.workers[address]
        add(address, address, facts["sockets"], others=True)
        add(f"the nanny of {address}", worker["nanny"] or "", facts["parent_sockets"], others=False)
    return found


def _is_loopback(ip: str) -> bool:
    return ipaddress.ip_address(ip.partition("%")[0]).is_loopback


def _scheduler_versions(case: Case, own: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """Return the versions on the scheduler; what only workers need counts as the same if absent."""
    from dnmf.engine.versions import scheduler_versions

    assert case.client is not None
    found = scheduler_versions(case.client)
    return {name: found[name] or (own[name] if name != "dnmf" else None) for name in own}


def _crowded_hosts(case: Case) -> str:
    """Return a clause about a machine that has more threads of workers than cores, or nothing."""
    threads: dict[str, int] = {}
    cores = {facts["host"]: facts["cores"] for facts in case.there.values()}
    for address, facts in case.there.items():
        n_threads = threads.get(facts["host"], 0) + case.workers[address]["nthreads"]
        threads[facts["host"]] = n_threads
    return "; ".join(
        f"{host} has {_count(cores[host], 'core')} and workers with {_count(n, 'thread')}"
        for host, n in threads.items()
        if n > (cores[host] or n)
    )


def _failures(answers: Mapping[str, Any]) -> dict[str, BaseException]:
    return {a: each for a, each in answers.items() if isinstance(each, BaseException)}


def _describe_failures(failed: Mapping[str, BaseException], seconds: float) -> str:
    """Return a clause for each kind of failure, with the places that it happened at."""
    places: dict[str, list[str]] = {}
    for place, error in failed.items():
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, TimeoutError):
            text = f"no answer in {format_duration(seconds)}"
        places.setdefault(text, []).append(place)
    return "; ".join(f"{name_some(where)}: {text}" for text, where in places.items())


def _describe_who(case: Case) -> str:
    return "this process" if case.client is None else _count(case.equipped, "worker")


def _range_of_rates(n_bytes: int, seconds: Sequence[float]) -> str:
    """Write the least and the largest rate, in MB/s, of bytes that took some seconds each."""
    rates = [n_bytes / 1e6 / max(taken, 1e-9) for taken in (max(seconds), min(seconds))]
    low, high = (f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}" for rate in rates)
    return f"{low} MB/s" if low == high else f"{low} to {high} MB/s"


def _count(things: Any, word: str) -> str:
    n = things if isinstance(things, int) else len(things)
    return f"{n:,} {word}{'s' * (n != 1)}"


CHECKS: dict[str, Callable[[Case], Finding]] = {
    "workers": check_workers,
    "versions": check_versions,
    "blas": check_blas,
    "cache": check_cache,
    "corpus": check_corpus,
    "memory": check_memory,
    "output": check_output,
    "disk": check_disk,
    "clock": check_clock,
    "ports": check_ports,
}
"""All checks by their names, in the order of their lines."""
