"""The size of an installation: megabytes of each package that dnmf brings along, and who needs it.

    python benchmarks/install_size.py [--least 1]

Adds up the files that the packages of this environment have recorded, and what Python has compiled
of them. Run it in a fresh environment, `python -m venv new && new/bin/pip install .`.
"""

from __future__ import annotations

import argparse
import re
from importlib.metadata import Distribution, distributions

from packaging.requirements import Requirement

OUTSIDE = ("pip", "setuptools", "wheel")
"""Packages that an environment has before dnmf is installed."""


def name_of(text: str) -> str:
    """Return the name of a package as PyPI writes it."""
    return re.sub(r"[-_.]+", "-", text).lower()


def size_of(package: Distribution) -> int:
    """Return the bytes of the files that a package has recorded; those it lacks count nothing."""
    paths = {path.locate() for path in package.files or ()}
    return sum(path.stat().st_size for path in paths if path.is_file())


def needed_by(package: Distribution) -> set[str]:
    """Return the names of what a package needs on this machine, without extras."""
    requirements = map(Requirement, package.requires or ())
    return {
        name_of(each.name)
        for each in requirements
        if each.marker is None or each.marker.evaluate({"extra": ""})
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=float, default=1, help="Least MB of a line of its own.")
    least = parser.parse_args().least
    found = {name_of(package.name): package for package in distributions()}
    sizes = {name: size_of(package) / 1e6 for name, package in found.items()}
    users: dict[str, list[str]] = {}
    for name in sorted(found):
        for needed in needed_by(found[name]):
            users.setdefault(needed, []).append(name)
    rows = sorted((name for name in sizes if name not in OUTSIDE), key=lambda name: -sizes[name])
    for name in rows:
        if sizes[name] >= least:
            why = ", ".join(users.get(name, ["nothing here"]))
            print(f"{sizes[name]:8.1f} MB  {name:16} {found[name].version:14} needed by {why}")
    small = [name for name in rows if sizes[name] < least]
    print(f"{sum(sizes[name] for name in small):8.1f} MB  {len(small)} packages of less each")
    print(f"{sum(sizes[name] for name in rows):8.1f} MB  in all, {len(rows)} packages")


if __name__ == "__main__":
    main()
