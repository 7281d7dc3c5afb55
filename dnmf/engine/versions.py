"""Versions of libraries, which must be the same on the driver, the scheduler and all workers.

The scheduler and the workers unpickle objects of dnmf, so they need the same version of dnmf and of
Python. Another version of a numerical library may change last bits: then results depend on which
worker gets which block.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dnmf.engine.ask import (
    LIBRARIES,
    OWN,
    REQUIRED,
    Versions,
    describe_differences,
    own_versions,
    versions_in,
)
from dnmf.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("dnmf")

_asked: WeakKeyDictionary[Client, set[str]] = WeakKeyDictionary()
"""Addresses of the workers that each client has asked."""


def require_same_versions(client: Client) -> None:
    """Ask the scheduler, and workers that have not been asked yet, for their versions.

    Raises
    ------
    ClusterError
        The scheduler or a worker has no dnmf, or another version of it or of Python. Where only
        other libraries differ, a warning says so.
    """
    asked = _asked.setdefault(client, set())
    try:
        new = client.nthreads().keys() - asked
        if not new:
            return
        scheduler = {} if asked else {"the Dask scheduler": scheduler_versions(client)}
        workers = _of_workers(client, new)
    except OSError:
        return  # the scheduler is lost: who needs it next says so
    here = own_versions()
    if clauses := describe_differences(here, scheduler | workers, REQUIRED):
        raise ClusterError(
            f"{'; '.join(clauses)}: install the same for the scheduler and all workers"
        )
    if clauses := describe_differences(here, workers, LIBRARIES):
        log.warning(
            "%s: last bits of results may depend on which worker computes what",
            "; ".join(clauses),
        )
    asked.update(workers)


def scheduler_versions(client: Client) -> Versions:
    """Return the versions that the scheduler has; None for what is not there."""
    from distributed.versions import get_versions

    own: Any
    try:
        own = client.run_on_scheduler(resolve_name, OWN)
    except ImportError as error:
        own = error
    return versions_in(client.run_on_scheduler(get_versions, LIBRARIES), own)


def _of_workers(client: Client, addresses: Iterable[str]) -> dict[str, Versions]:
    """Ask workers, busy ones too, and leave out those that are gone meanwhile."""
    from distributed.versions import get_versions

    at = sorted(addresses)
    others = client.run(get_versions, LIBRARIES, workers=at, on_error="return")
    own = client.run(resolve_name, OWN, workers=at, on_error="return")
    return {
        each: versions_in(others[each], own[each])
        for each in at
        if not isinstance(others[each], BaseException) and not isinstance(own[each], OSError)
    }
