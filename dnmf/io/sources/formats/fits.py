"""FITS images and cubes of astronomy, by astropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, named_errors
from dnmf.io.sources.formats.registry import require
from dnmf.io.sources.image_array import ImageArray

_SCALES = {"BSCALE", "BZERO", "BLANK"}
"""Words of a header by which numbers are changed when they are read, so that no file is mapped."""

_NAMES = ("x", "y", "z", "t")
"""Names of the axes that the header does not name, from NAXIS1 on."""


@dataclass(frozen=True)
class FitsImages:
    """The format of FITS files; see `Format`."""

    name: str = "FITS"
    suffixes: tuple[str, ...] = (
        *(".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz"),
    )

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is FITS by its first bytes."""
        return head.startswith(b"SIMPLE  =")

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Open the first image of a file, or the one that `array` names; scales are applied."""
        with named_errors(file):
            is_mapped = file.path is not None and not file.name.lower().endswith(".gz")
            found = _open(file, choices.array, is_mapped=True) if is_mapped else None
            found = found or _open(file, choices.array, is_mapped=False)
        assert found is not None
        return found


FORMAT = FitsImages()


def _open(file: ImageFile, wanted: str | None, *, is_mapped: bool) -> ImageArray | None:
    """Return the image of a file; None if it is to be mapped and its numbers are scaled."""
    fits = require("astropy.io.fits", "science")
    with file.open() as stream, fits.open(stream, memmap=is_mapped) as units:
        unit = _choose(units, wanted)
        if is_mapped and _SCALES & set(unit.header):
            return None
        return _as_image_array(unit, file.name, wanted)


def _as_image_array(unit: Any, name: str, wanted: str | None) -> ImageArray:
    data = unit.data
    axes, coords = _axes_of(unit.header, data.ndim)
    lengths = dict(zip(axes, data.shape, strict=True))
    along = {axis: _linear(unit.header, number, lengths[axis]) for axis, number in coords.items()}
    kept = {axis: values for axis, values in along.items() if values is not None}
    return ImageArray(data, axes, name if wanted is None else f"{name}::{wanted}", None, kept)


def _choose(units: Any, wanted: str | None) -> Any:
    """Return the unit of a file that holds the image."""
    images = {
        number: unit
        for number, unit in enumerate(units)
        if unit.is_image and unit.header.get("NAXIS", 0) >= 2
    }
    if wanted is None and images:
        return next(iter(images.values()))
    for number, unit in images.items():
        if wanted is not None and wanted.upper() in (str(number), unit.name):
            return unit
    listed = ", ".join(
        f"{number} ({unit.name or 'without a name'}, {format_shape(unit.shape)})"
        for number, unit in images.items()
    )
    raise IngestError(
        f"it holds no image{f' {wanted!r}' if wanted else ''}; its images are {listed or 'none'}: "
        "name one of them, file.fits::NAME"
    )


def _axes_of(header: Any, ndim: int) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the axes of the data, and the header's numbers of those it names."""
    names, numbers = list(_NAMES[:ndim]), {}
    names += [f"axis{number}" for number in range(len(names) + 1, ndim + 1)]
    for number in range(3, ndim + 1):
        kind = str(header.get(f"CTYPE{number}", "")).partition("-")[0].strip().lower()
        if kind.isalnum() and kind not in names:
            names[number - 1] = kind
        numbers[names[number - 1]] = number
    return tuple(reversed(names)), numbers


def _linear(header: Any, number: int, length: int) -> Array | None:
    """Return the numbers along an axis, if the header says that they are evenly spaced."""
    found = [header.get(f"{word}{number}") for word in ("CRVAL", "CDELT", "CRPIX")]
    if str(header.get(f"CTYPE{number}", "")).partition("-")[2]:  # an axis that is not linear
        return None
    if not all(isinstance(value, (int, float)) for value in found):
        return None
    value, step, first = found
    return np.asarray(value + (np.arange(1, length + 1) - first) * step, np.float64)
