"""Functions that numba compiles, with a cache on disk that may be absent, damaged or full.

With its own cache numba fails where no folder can be written to, where a file of the cache was cut
short, and where the disk is full. Machine code that is damaged even ends the process. None of these
is a reason not to compute: the function is compiled again.

Numba takes as long to import as scikit-learn, so it is imported when the first function is called.
"""

from __future__ import annotations

import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnmf._progress import say

_lock = threading.RLock()
_said: set[str] = set()


class Kernel:
    """A function that is compiled for the types of its arguments when it is called.

    Parameters
    ----------
    function : function
        Its globals may be kernels, too; they are replaced by what numba makes of them.
    options : dict
        Options of `numba.njit`.
    cached : bool
        Whether machine code is kept on disk.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any], cached: bool) -> None:
        self._function, self._options, self._cached = function, options, cached
        self._dispatcher: Any = None
        self.__doc__, self.__name__ = function.__doc__, function.__name__

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return (self._dispatcher or self.dispatcher)(*arguments)

    @property
    def dispatcher(self) -> Any:
        """What numba makes of the function."""
        with _lock:
            if self._dispatcher is None:
                known = self._function.__globals__
                for name in self._function.__code__.co_names:
                    if isinstance(known.get(name), Kernel):
                        known[name] = known[name].dispatcher
                make = _with_cache if self._cached else _without_cache
                self._dispatcher = make(self._function, self._options)
            return self._dispatcher


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that does what ``numba.njit(cache=True)`` does, and works without a cache.

    The first time that the cache fails, a warning says so.

    Parameters
    ----------
    **options
        Options of `numba.njit`, other than ``cache``.
    """
    return lambda function: Kernel(function, options, cached=True)


def part_of_compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for a function that only compiled functions call, as part of them."""
    return lambda function: Kernel(function, options, cached=False)


def _without_cache(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    import numba

    return numba.njit(**options)(function)


def _with_cache(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    import numba

    kernel, cached = numba.njit(**options)(function), numba.njit(**options)(function)
    compile_here = kernel.compile

    def compile_or_load(signature: Any) -> Any:
        for _ in range(2):  # the second time without the files that failed the first time
            try:
                _load(cached, signature)
                break
            except numba.NumbaError:  # of the function itself
                raise
            except Exception as error:  # a damaged file can be any error
                _warn_once(error)
                with suppress(OSError):
                    _remove_files(cached)
        with _lock:
            for types, result in list(cached.overloads.items()):
                if types not in kernel.overloads:
                    kernel.add_overload(result)
        return compile_here(signature)  # compiles only what was not added

    kernel.compile = compile_or_load  # numba calls it once for all types of arguments
    return kernel


def _load(cached: Any, signature: Any) -> None:
    """Load a function from the cache, or compile it and put it there."""
    if cached.stats.cache_path is None:
        cached.enable_caching()
    if not all(seal.exists() for seal in _seals(cached)):
        _remove_files(cached)  # of an older dnmf, of a process that was killed, or damaged
    if not any(_files(cached, "*.nbi")) and _is_first("compiling"):
        say("compiling for the first time on this machine, which takes seconds")
    cached.compile(signature)
    if not cached.stats.cache_hits[signature]:
        for seal in _seals(cached):
            seal.touch()


def _seals(cached: Any) -> Iterator[Path]:
    """Yield, for each file of machine code, the path of an empty file that names its checksum."""
    for file in _files(cached, "*.nbc"):
        with suppress(FileNotFoundError):  # another process or thread has just removed it
            yield file.with_name(f"{file.name}.{zlib.crc32(file.read_bytes()):08x}")


def _files(cached: Any, pattern: str) -> Iterator[Path]:
    folder = cached.stats.cache_path
    name = cached.py_func.__qualname__
    return Path(folder).glob(f"*.{name}-{pattern}") if folder else iter(())


def _remove_files(cached: Any) -> None:
    for pattern in ("*.nbi", "*.nbc", "*.nbc.????????"):
        for file in _files(cached, pattern):
            file.unlink(missing_ok=True)


def _warn_once(error: Exception) -> None:
    if _is_first("cache failed"):
        warnings.warn(
            f"numba's cache of compiled functions failed ({type(error).__name__}: {error}): they "
            "are compiled again, which takes seconds in each process until the cache works; set "
            "NUMBA_CACHE_DIR to a folder that this user can write to, on a disk with space",
            RuntimeWarning,
            stacklevel=6,
        )


def _is_first(word: str) -> bool:
    """Check whether this process has not said something before, and is now about to."""
    with _lock:
        first = word not in _said
        _said.add(word)
    return first


def cache_folder() -> str:
    """Return the folder in which numba keeps the machine code of dnmf.

    Raises
    ------
    RuntimeError
        No folder that numba may use can be written to.
    """
    import numba

    probe: Any = numba.njit(_is_first)  # of this folder, as all others; it is not compiled
    probe.enable_caching()
    return str(probe.stats.cache_path)
