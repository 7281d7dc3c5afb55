"""Find the format of a file, among those of dnmf and those of other packages."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING

from dnmf.errors import IngestError
from dnmf.io.sources.formats.content import HEAD_BYTES, describe_content
from dnmf.io.sources.formats.file import Format, ImageFile, named_errors

if TYPE_CHECKING:
    from dnmf.io.sources.choices import Choices
    from dnmf.io.sources.image_array import ImageArray

PICTURES = ("netpbm", "pillow", "tiff", "fits", "dicom", "nifti")
"""Modules of formats of pictures, which folders are searched for."""

ARRAYS = ("npy", "idx", "hdf5", "zarr_arrays")
"""Modules of formats of arrays. Folders are searched for them only if there are no pictures: beside
pictures, arrays are labels or results."""

ENTRY_POINTS = "dnmf.sources"
"""Entry point group of the formats of other packages."""


@cache
def all_formats() -> tuple[Format, ...]:
    """Return the formats of other packages, and then those of dnmf."""
    others = map(_load, entry_points(group=ENTRY_POINTS))
    folder = __name__.rpartition(".")[0]
    modules = (import_module(f"{folder}.{name}") for name in (*PICTURES, *ARRAYS))
    return (*others, *(module.FORMAT for module in modules))


def _load(entry: EntryPoint) -> Format:
    """Import a format of another package; raise IngestError that names the package."""
    try:
        found: Format = entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist is not None else entry.module
        raise IngestError(
            f"the package {package} adds the format {entry.name}, which cannot be loaded "
            f"({error}); mend or remove that package"
        ) from error
    return found


@cache
def known_suffixes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ends of the names of pictures, and those of arrays, in lower case."""
    ends = [each.suffixes for each in all_formats()]
    n = len(ends) - len(ARRAYS)
    return tuple(chain.from_iterable(ends[:n])), tuple(chain.from_iterable(ends[n:]))


@cache
def all_suffixes() -> tuple[str, ...]:
    """Return the ends of the names of pictures and of arrays, in lower case."""
    return tuple(chain(*known_suffixes()))


def open_image_file(file: ImageFile, choices: Choices) -> ImageArray:
    """Open a file in the format that its name, or else its first bytes, say.

    Raises
    ------
    IngestError
        It cannot be read, or no format reads it; the message begins with its name.
    """
    return _find_format(file).open(file, choices)


def _find_format(file: ImageFile) -> Format:
    name = file.name.lower()
    for each in all_formats():
        if name.endswith(each.suffixes):
            return each
    if file.path is not None and os.path.isdir(file.path):
        return all_formats()[-1]  # Zarr
    with named_errors(file), file.open() as stream:
        head = stream.read(HEAD_BYTES)
    for each in all_formats():
        if each.recognizes(head):
            return each
    raise IngestError(
        f"{file.name}: it is {describe_content(head)}, which no format reads; dnmf reads "
        f"{', '.join(each.name for each in all_formats())}, and other packages may add formats"
    )


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an extra; raise IngestError with what to install if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise IngestError(
            f"{module.partition('.')[0]} is not installed: pip install 'dnmf[{extra}]'"
        ) from error
