"""Formats of image files: one module each, which opens a file as an array with named axes.

A module of a format has a constant ``FORMAT``, an object as `Format` describes. Other packages add
theirs under the entry point group ``dnmf.sources``, whose entries are such objects.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING

from dnmf.errors import IngestError
from dnmf.io.sources.formats.file import Format, ImageFile

if TYPE_CHECKING:
    from dnmf.io.sources.choices import Choices
    from dnmf.io.sources.image_array import ImageArray

MODULES = ("netpbm", "pillow")
"""Modules of this folder that hold a format, in the order in which they are asked."""

ENTRY_POINTS = "dnmf.sources"
"""Entry point group of the formats of other packages."""


@cache
def all_formats() -> tuple[Format, ...]:
    """Return the formats of other packages, and then those of dnmf."""
    others = [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    return (*others, *(import_module(f"{__name__}.{name}").FORMAT for name in MODULES))


@cache
def known_suffixes() -> tuple[str, ...]:
    """Return the ends of the names of files that folders are searched for, in lower case."""
    return tuple(suffix for each in all_formats() for suffix in each.suffixes)


def open_image_file(file: ImageFile, choices: Choices) -> ImageArray:
    """Open a file in the format that its name, or else its first bytes, say.

    Raises
    ------
    IngestError
        It cannot be read, or no format reads it; the message begins with its name.
    """
    name = file.name.lower()
    found = next(
        (each for each in all_formats() if name.endswith(each.suffixes)), all_formats()[-1]
    )
    return found.open(file, choices)


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an extra; raise IngestError with what to install if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise IngestError(
            f"{module.partition('.')[0]} is not installed: pip install 'dnmf[{extra}]'"
        ) from error
