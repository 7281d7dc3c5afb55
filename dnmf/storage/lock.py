"""One driver per model: a lock that dies with its process.

A file beside the model is locked with flock for as long as a fit runs, and says who runs it. The
kernel gives the lock back when the process ends, however it ends, so a dead driver's claim needs no
time-out. It lies beside the model, not in it, since a fit may begin by making or replacing that.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from dnmf.errors import ClaimError, OutputExistsError, SpaceError
from dnmf.storage.atomic import absolute, is_url, translate_disk_full


@contextmanager
def locked(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Hold a model for this process; nothing is held behind a URL, or for None.

    Raises
    ------
    ClaimError
        Another fit holds it; says which.
    """
    target = None if path is None else os.fspath(path)
    if target is None or is_url(target):
        yield
        return
    final = Path(absolute(target))
    lock = final.with_name(f".{final.name}.lock")
    try:
        with translate_disk_full(target, "the claim of a fit"):
            file = _locked(lock, target)
    except (ClaimError, SpaceError):
        raise
    except OSError as error:
        raise OutputExistsError(
            f"{target} cannot be claimed ({error.strerror}: {error.filename or lock}); choose "
            "another path"
        ) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is locked: whoever opened it before tries again
        os.close(file)


def _locked(lock: Path, target: str) -> int:
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(file, target)
            if _is_at(file, lock):
                with suppress(OSError):  # on a full disk it holds all the same, without a name
                    os.truncate(file, 0)
                    os.write(file, json.dumps(_me()).encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its owner removed it meanwhile, as it gave it back


def _lock(file: int, target: str) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ClaimError(
            f"{target} is being written by another fit, {_owner(file)}: wait for it, stop it, or "
            "choose another path"
        ) from None
    except (ImportError, OSError) as error:
        warnings.warn(
            f"nothing keeps a second fit from writing to {target} ({error}): see to it that there "
            "is none",
            RuntimeWarning,
            stacklevel=6,
        )


def _is_at(file: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(lock))
    except FileNotFoundError:
        return False


def _me() -> dict[str, str | int]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": now}


def _owner(file: int) -> str:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "which has not said who it is"
