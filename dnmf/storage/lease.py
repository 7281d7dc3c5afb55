"""A lease: the right to write to a store at a URL, held by one process while it renews the lease.

Object stores have no locks that end with a process. They have a write that succeeds only if the
object does not exist; see `ObjectStore.create`. Beside the store at ``s3://bucket/faces.model``
there are therefore numbered objects, ``.faces.model.lock/lease-000000000007.json``:

- Who creates the next number holds the lease. The holder creates a new one every `RENEW_SECONDS`,
  from a thread, and removes the one before.
- Another process that finds one watches it on its own clock, since those of hosts differ. If the
  next number appears, the holder lives, and is named. If none does for as long as `STALE_SECONDS`,
  the watcher creates it, and so takes over.
- A holder that comes too late to create its next number has lost the lease, and so has one that
  finds another object. It asks before each commit, unless it has renewed the lease within a time in
  which nobody can have taken over.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from dnmf.errors import ClaimError, OutputExistsError
from dnmf.storage.store import InvalidObjectError, ObjectStore

RENEW_SECONDS = 10.0
"""Seconds between two renewals of a lease."""

STALE_SECONDS = 60.0
"""Seconds without a renewal after which a lease may be taken over. If its own time says that it is
older, twice `RENEW_SECONDS` are enough."""

LEASE_BYTES = 4096
"""Largest size of the object of a lease."""

_NAME = re.compile(r"lease-(\d{12})\.json")

_held: dict[str, Lease] = {}

log = logging.getLogger("dnmf")


def this_process() -> dict[str, Any]:
    """Return what a lock says about its holder: host, process and time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": now}


def describe_owner(content: bytes) -> str:
    """Return who holds a lock, given what the holder has written into it."""
    try:
        owner = json.loads(content)
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "which has not said who it is"


def refusal(path: str, owner: str) -> ClaimError:
    """Return the error for a path that another process writes to.

    Parameters
    ----------
    path : str
    owner : str
        The process, from `describe_owner`.
    """
    return ClaimError(
        f"{path} is being written by another process, {owner}: wait for it, stop it, or choose "
        "another path"
    )


@contextmanager
def leased(path: str) -> Iterator[None]:
    """Hold the lease of a store at a URL for the duration of the block.

    Raises
    ------
    ClaimError
        Another process holds it; the message says which.
    OutputExistsError
        Objects that dnmf did not write lie where the lease belongs.
    OSError
        The file system cannot be written; the errno is ENOTSUP if it cannot create an object only
        where none is.
    """
    lease = Lease(path)
    lease.acquire()
    _held[path] = lease
    try:
        yield
    finally:
        del _held[path]
        lease.release()


def require_lease(path: str) -> None:
    """Raise ClaimError if a store lies in one whose lease this process has lost.

    Does nothing where this process never held one: a disk has locks.
    """
    for place, lease in list(_held.items()):
        if path == place or path.startswith(f"{place}/"):
            lease.check()


class Lease:
    """The lease of a store at a URL, and the thread that renews it.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self.path = path
        self.store = ObjectStore(f"{folder}/.{name}.lock")
        self.owner = this_process()
        self.number = 0
        self.lost = ""
        self._renewed = (0.0, 0.0)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_for_ever, name="lease", daemon=True)

    def acquire(self) -> None:
        """Create the lease, or take over one whose holder is silent; see `leased`."""
        number = self._newest()
        if number:
            self._watch(number)
        began = _clocks()
        if not self.store.create(_key(number + 1), self._content()):
            raise self._refusal(number + 1)
        self.number, self._renewed = number + 1, began
        try:
            self._remove_others({number})
            if self.store.create(_key(self.number), self._content()):
                what = "it replaces objects that it should only create"
                raise OSError(errno.ENOTSUP, what)
        except BaseException:
            self.store.delete([_key(self.number)])
            raise
        self._thread.start()

    def release(self) -> None:
        """Give the lease back."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):  # it becomes stale
            if not self.lost:
                self.store.delete([_key(self.number)])

    def check(self) -> None:
        """Raise ClaimError if another process may have taken the lease over."""
        with self._lock:
            if not self.lost and _seconds_since(self._renewed) > 1.5 * RENEW_SECONDS:
                self._renew()
            if self.lost:
                raise ClaimError(
                    f"{self.path} was taken over by {self.lost}, since this process had given no "
                    "sign of life: it writes nothing more there, and what the other writes is "
                    "intact"
                )

    def _renew_for_ever(self) -> None:
        while not self._ended.wait(RENEW_SECONDS) and not self.lost:
            with self._lock, suppress(OSError, InvalidObjectError):  # tried again, and by `check`
                self._renew()

    def _renew(self) -> None:
        began, before = _clocks(), self.number
        if not self.store.create(_key(before + 1), self._content()):
            self.lost = f"another process, {self._describe(before + 1)}"
            return
        self.number = before + 1
        try:
            if before not in self._remove_others({before}):
                self.lost = "another process, which has come to its end since"
        except ClaimError as error:
            self.lost = f"another process ({error})"
        if self.lost:
            self.store.delete([_key(self.number)])
        self._renewed = began

    def _remove_others(self, known: set[int]) -> set[int]:
        """Remove the leases before this one, and return their numbers.

        Raises
        ------
        ClaimError
            There is one that is not known.
        """
        others = self._numbers() - {self.number}
        if strangers := others - known:
            raise self._refusal(max(strangers))
        self.store.delete([_key(number) for number in others])
        return others

    def _watch(self, number: int) -> None:
        """Wait until a lease counts as stale; raise ClaimError if it is renewed or given back."""
        age = time.time() - self._made(number)
        patience = min(max(STALE_SECONDS - max(age, 0), 2 * RENEW_SECONDS), STALE_SECONDS)
        log.info(
            "%s is claimed by %s: waiting up to %.0f s to see whether it lives",
            self.path,
            self._describe(number),
            patience,
        )
        began = _clocks()
        while _seconds_since(began) < patience:
            time.sleep(RENEW_SECONDS / 10)
            newest = self._newest()
            if newest > number:
                raise self._refusal(newest)
            if not newest:  # given back
                return
        log.info("%s is taken over from %s", self.path, self._describe(number))

    def _refusal(self, number: int) -> ClaimError:
        return refusal(self.path, self._describe(number))

    def _numbers(self) -> set[int]:
        names = self.store.list_dir()
        if strange := [name for name in names if not _NAME.fullmatch(name)]:
            raise OutputExistsError(
                f"{self.store.path} must hold the claim of a fit, and holds {strange[0]}, which "
                "dnmf did not write: move it, or choose another path for the model"
            )
        return {int(name[6:18]) for name in names}

    def _newest(self) -> int:
        return max(self._numbers(), default=0)

    def _content(self) -> bytes:
        return json.dumps({**self.owner, "made": time.time(), "nonce": uuid4().hex}).encode()

    def _read(self, number: int) -> bytes:
        try:
            return self.store.get(_key(number), LEASE_BYTES)
        except (FileNotFoundError, InvalidObjectError):
            return b""

    def _describe(self, number: int) -> str:
        return describe_owner(self._read(number))

    def _made(self, number: int) -> float:
        try:
            return float(json.loads(self._read(number))["made"])
        except (ValueError, KeyError, TypeError):
            return time.time()


def _key(number: int) -> str:
    return f"lease-{number:012d}.json"


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()


def _seconds_since(then: tuple[float, float]) -> float:
    """Return the seconds since a time, by the clock that says more: one may stop with a machine."""
    return max(now - before for now, before in zip(_clocks(), then, strict=True))
