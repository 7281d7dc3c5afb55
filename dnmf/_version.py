"""The version: one place, read by the build and written into every checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

__version__ = "0.1.0"


def installed_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the version of each package; None, if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = dict.fromkeys(packages)
    for name in found:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # also of one that was put beside the interpreter by hand
            continue
    return found
