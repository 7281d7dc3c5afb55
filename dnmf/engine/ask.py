"""Questions to the workers of a cluster, each with a time limit, and the versions that they have.

A worker may be dead, stopped or busy, or have no dnmf. Therefore it is sent functions of the
standard library or of Dask, or functions by value. No answer in time counts as an answer, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

if TYPE_CHECKING:
    from distributed import Client

Key = TypeVar("Key", bound=Hashable)
Versions = Mapping[str, str | None]

LIBRARIES = ("numpy", "scipy", "numba", "dask", "distributed", "zarr")
"""Libraries whose versions are to be the same everywhere, beside those of Python and dnmf."""

OWN = "dnmf:__version__"
"""Name by which the version of dnmf is asked for, which needs no function of dnmf."""

REQUIRED = ("dnmf", "python")
"""Names whose version must be the same on a worker as here: otherwise tasks fail or do something
else. Other libraries change at most the last bits of results."""


def ask(
    client: Client, calls: Mapping[Key, tuple[str, Callable[[], Any]]], seconds: float
) -> dict[Key, Any]:
    """Call functions on workers, all at once, and return what they gave.

    Parameters
    ----------
    client : Client
    calls : mapping
        Address of the worker and function without arguments, by any key.
    seconds : float
        Time in which all calls must end.

    Returns
    -------
    dict
        By the same keys: the result, or the exception that the call raised; a TimeoutError where
        the worker has not answered.
    """
    from distributed import CancelledError, wait

    end = time.monotonic() + seconds
    futures = {
        key: client.submit(call, workers=[address], key=("ask", uuid4().hex), priority=1)
        for key, (address, call) in calls.items()
    }
    try:
        with suppress(TimeoutError, CancelledError):
            wait(list(futures.values()), timeout=seconds)
        answers: dict[Key, Any] = {}
        for key, future in futures.items():
            try:
                if not future.done():
                    raise TimeoutError
                answers[key] = future.result(timeout=max(1.0, end - time.monotonic()))
            except (Exception, CancelledError) as error:
                answers[key] = error
        return answers
    finally:
        client.cancel(list(futures.values()))


def own_versions() -> Versions:
    """Return the versions that this process has."""
    from distributed.versions import get_versions

    return versions_in(get_versions(LIBRARIES), resolve_name(OWN))


def worker_versions(
    client: Client, addresses: Iterable[str], seconds: float
) -> dict[str, Versions | BaseException]:
    """Return the versions that workers have, by address; None for what is not there.

    Works with any version of Python on a worker, and without dnmf there. A worker that has not
    answered has a TimeoutError in place of versions.
    """
    from distributed.versions import get_versions

    addresses = list(addresses)
    questions = {
        "dnmf": partial(resolve_name, OWN),
        "others": partial(get_versions, LIBRARIES),
    }
    calls = {(a, name): (a, call) for a in addresses for name, call in questions.items()}
    answers = ask(client, calls, seconds)
    found: dict[str, Versions | BaseException] = {}
    for address in addresses:
        others, own = answers[address, "others"], answers[address, "dnmf"]
        failure = others if isinstance(others, BaseException) else own
        is_known = isinstance(failure, (str, ImportError))
        found[address] = versions_in(others, own) if is_known else failure
    return found


def describe_differences(
    here: Versions, there: Mapping[str, Versions], names: Iterable[str]
) -> list[str]:
    """Return a clause for each version that is not the same as here.

    Parameters
    ----------
    here : mapping
        Versions of this process, from `own_versions`.
    there : mapping of str to mapping
        Versions elsewhere, by address.
    names : iterable of str
        What to compare, such as ``"numpy"``.

    Returns
    -------
    list of str
        Such as ``"numpy is 2.4.1 here and 2.3.0 on tcp://10.0.0.2:4711 and 3 others"``.
    """
    clauses = []
    for name in names:
        places: dict[str | None, list[str]] = {}
        for address, versions in there.items():
            if versions[name] != here[name]:
                places.setdefault(versions[name], []).append(address)
        for version, addresses in places.items():
            what = "missing" if version is None else version
            clauses.append(f"{name} is {here[name]} here and {what} on {name_some(addresses)}")
    return clauses


def name_some(addresses: list[str]) -> str:
    """Write one address and the number of the others."""
    more = len(addresses) - 1
    return addresses[0] + (f" and {more} other{'s' * (more > 1)}" if more else "")


def versions_in(found: dict[str, dict[str, Any]], dnmf: str | BaseException) -> Versions:
    """Return versions from what `distributed.versions.get_versions` gives, and that of dnmf."""
    packages = found["packages"]
    return {
        "dnmf": dnmf if isinstance(dnmf, str) else None,
        "python": ".".join(packages["python"].split(".")[:2]),
        **{name: packages[name] for name in LIBRARIES},
    }
