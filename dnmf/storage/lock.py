"""One fit per model: a lock that ends with its process.

On a disk a file beside the model is locked with ``flock`` while a fit runs, and holds who runs it.
The kernel releases the lock when the process ends, however it ends, so a killed fit blocks nobody
and no time-out is needed. The file lies beside the model, because a fit may begin by replacing the
model. At a URL, where nothing ends with a process, a `lease` lies there instead.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from dnmf.errors import ClaimError, OutputExistsError, SpaceError
from dnmf.storage.atomic import refuse_root, translate_disk_full
from dnmf.storage.lease import describe_owner, leased, refusal, this_process
from dnmf.storage.paths import absolute, is_url, normalize_path
from dnmf.storage.store import ObjectStore, require_parent


@contextmanager
def locked(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Lock a model for the duration of the block; do nothing for None.

    Raises
    ------
    ClaimError
        Another fit has locked the model; the message says which.
    OutputExistsError
        The folder that is to hold the model does not exist, or the place of the lock is taken.
    """
    target = None if path is None else normalize_path(path)
    if target is not None:
        refuse_root(target)
    if target is None:
        yield
        return
    if is_url(target):
        with _leased(target):
            yield
        return
    final = Path(absolute(target))
    lock = final.with_name(f".{final.name}.lock")
    try:
        with translate_disk_full(target, "the claim of a fit"):
            file = _acquire(lock, target)
    except (ClaimError, OutputExistsError, SpaceError):
        raise
    except OSError as error:
        raise OutputExistsError(
            f"{target} cannot be claimed ({error.strerror}: {error.filename or lock}); choose "
            "another path"
        ) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # still locked: who has opened it will find it gone and retry
        os.close(file)


def is_written(target: str) -> bool:
    """Check whether a fit says that it writes to a model, without taking its lock.

    A fit that was killed says so too at a URL, and on a disk of another host.
    """
    folder, _, name = absolute(target).rpartition("/")
    lock = f"{folder}/.{name}.lock"
    if is_url(target):
        return bool(ObjectStore(lock).list_dir())
    try:
        owner = json.loads(Path(lock).read_bytes()[:4096])
        return owner["host"] != this_process()["host"] or bool(psutil.pid_exists(owner["process"]))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True  # it is being written just now, say


@contextmanager
def _leased(target: str) -> Iterator[None]:
    """Hold the lease of a URL, or warn where a file system has no such thing."""
    with ExitStack() as stack:
        try:
            stack.enter_context(leased(target))
        except (ClaimError, OutputExistsError):
            raise
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                _warn(target, error)
                yield
                return
            raise OutputExistsError(
                f"{target} cannot be claimed ({error}): see to the network and to your rights, or "
                "choose another path"
            ) from error
        yield


def _warn(target: str, error: Exception) -> None:
    warnings.warn(
        f"nothing keeps a second fit from writing to {target} ({error}): see to it that there "
        "is none",
        RuntimeWarning,
        stacklevel=6,
    )


def _acquire(lock: Path, target: str) -> int:
    """Create and lock the file, and return its descriptor."""
    require_parent(target)
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _flock(file, target)
            if _is_same_file(file, lock):
                _require_lock_file(file, lock)
                with suppress(OSError):  # on a full disk the lock holds all the same, unnamed
                    os.truncate(file, 0)
                    os.write(file, json.dumps(this_process()).encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its owner has removed it since, on release


def _flock(file: int, target: str) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise refusal(target, describe_owner(os.pread(file, 4096, 0))) from None
    except (ImportError, OSError) as error:
        _warn(target, error)


def _require_lock_file(file: int, lock: Path) -> None:
    """Raise OutputExistsError if the file was there before and holds what no lock does."""
    content = os.pread(file, 4096, 0)
    if content and not content.startswith(b'{"host": '):
        raise OutputExistsError(
            f"{lock} must hold the claim of a fit, and dnmf did not write what it holds: move it, "
            "or choose another path for the model"
        )


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
