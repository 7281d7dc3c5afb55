"""Check what is in a wheel and in a source distribution: contents.py WHEEL SDIST."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

LICENSES = {"LICENSE", "dnmf/data/README.md"}
NEEDED = (
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "README.md",
    "docs/index.md",
    "examples/",
    "tests/conftest.py",
)
"""What who packages or tests dnmf needs of its sources, beside the package."""


def main(wheel: str, sdist: str) -> None:
    """Fail unless the wheel is the package and its licences, and the sdist holds all else, too."""
    package = {str(path) for path in Path("dnmf").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == package, f"the wheel is not the package: {(names - info) ^ package}"
    licenses = {name.partition("/licenses/")[2] for name in info if "/licenses/" in name}
    assert licenses == LICENSES, f"the wheel has the licences {licenses}"
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert package <= sources, f"the sdist lacks {package - sources}"
    missing = [each for each in NEEDED if not any(name.startswith(each) for name in sources)]
    assert not missing, f"the sdist lacks {missing}"
    print(f"{len(names)} files in the wheel, {len(sources)} in the sdist")


if __name__ == "__main__":
    main(*sys.argv[1:])
