"""What ``dnmf --version --verbose`` prints: the libraries and the machine that dnmf runs on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import psutil

from dnmf._format import format_bytes
from dnmf._version import __version__, installed_versions
from dnmf.cli.probes import facts_of_process
from dnmf.engine.ask import LIBRARIES
from dnmf.engine.threads import LIMITS, VARIABLE, thread_count
from dnmf.errors import ParameterError

NUMBERS = (VARIABLE, *LIMITS, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that change how many threads compute. Others may hold secrets, and are not
read."""

PROCESSORS = Path("/proc/cpuinfo")
"""File that names the processors on Linux."""


def describe_environment() -> dict[str, Any]:
    """Describe the libraries, the machine and the settings that a report of a fault needs.

    Returns
    -------
    dict
        JSON types. ``libraries`` maps the packages that dnmf requires to their versions, and
        ``optional`` those that ``dnmf[all]`` adds; None stands for what is not installed. There is
        no name of the machine, and the user's folder is written ``~``.
    """
    facts = facts_of_process()()
    memory = psutil.virtual_memory()
    required, optional = _requirements()
    found = {
        "dnmf": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "processor": _processor(),
        "cores": facts["cores"],
        "threads": _threads(),
        "memory": memory.total,
        "memory_available": memory.available,
        "blas": facts["blas"],
        "numba_cache": facts["cache"] or f"none: {facts['cache_error']}",
        "libraries": installed_versions(required),
        "optional": installed_versions(optional),
        "variables": {name: os.environ[name] for name in NUMBERS if name in os.environ},
    }
    hidden: dict[str, Any] = _without_home(found)
    return hidden


def format_environment(found: Mapping[str, Any]) -> str:
    """Write what `describe_environment` has found, as lines to be pasted into a report."""
    total, available = (format_bytes(found[name]) for name in ("memory", "memory_available"))
    threads = f"{found['cores']} cores, {found['threads'] or 'unknown'} threads for a fit"
    variables = [f"{name}={value}" for name, value in found["variables"].items()]
    rows = {
        "python": found["python"],
        "system": found["system"],
        "processor": f"{found['processor']}, {threads}",
        "memory": f"{total}, {available} available",
        "BLAS": describe_blas(found["blas"]),
        "numba's cache": found["numba_cache"],
        "libraries": _list_versions(found["libraries"]),
        "optional": _list_versions(found["optional"]),
        "variables": ", ".join(variables) or "none that set threads",
    }
    lines = [f"{name + ':':15}{text}" for name, text in rows.items()]
    return "\n".join([f"dnmf, version {found['dnmf']}", *lines])


def describe_blas(libraries: Sequence[tuple[str, int]] | None) -> str:
    """Write names and threads of BLAS libraries, as `facts_of_process` gives them."""
    named = [f"{name} with {n} thread{'s' * (n != 1)}" for name, n in libraries or ()]
    return " and ".join(named) or "no library that is known"


def _threads() -> int | None:
    """Return the threads that a fit uses; None, if the environment names no number of them."""
    with suppress(ParameterError):
        return thread_count()
    return None


def _processor() -> str:
    """Return the name of the processor; that of its kind where the system does not tell."""
    with suppress(OSError):
        if names := re.findall(r"^model name\s*: (.+)$", PROCESSORS.read_text(), re.M):
            return str(names[0])
    return platform.processor() or platform.machine()


def _requirements() -> tuple[list[str], list[str]]:
    """Return the names of the packages that dnmf requires, and of those that ``all`` adds."""
    declared: list[str] = []
    with suppress(PackageNotFoundError):  # a folder on the path, which nobody has installed
        declared = requires("dnmf") or []
    names = {line: re.split(r"[^\w.-]", line)[0] for line in declared}
    required = [names[line] for line in declared if "extra ==" not in line]
    optional = [names[line] for line in declared if re.search(r"extra == ['\"]all['\"]", line)]
    return required or list(LIBRARIES), optional


def _list_versions(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {number or '-'}" for name, number in versions.items())


def _without_home(found: Any) -> Any:
    """Return JSON types in which the user's folder, and so the user's name, is ``~``."""
    if isinstance(found, Mapping):
        return {key: _without_home(each) for key, each in found.items()}
    if isinstance(found, (list, tuple)):
        return [_without_home(each) for each in found]
    home = str(Path.home())
    return found.replace(home, "~") if isinstance(found, str) and len(home) > 1 else found
