"""HDF5 and what is written in it: NeXus, NWB, EMD, hyperspy. Datasets are read when asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, named_errors, require_unpacked
from dnmf.io.sources.formats.registry import require
from dnmf.io.sources.image_array import ImageArray

MAGIC = b"\x89HDF\r\n\x1a\n"

LISTED = 20
"""Number of datasets that an error lists."""


@dataclass(frozen=True)
class Hdf5Datasets:
    """The format of HDF5 files; see `Format`."""

    name: str = "HDF5"
    suffixes: tuple[str, ...] = (
        *(".h5", ".hdf5", ".hdf", ".he5", ".nxs", ".nwb", ".emd", ".hspy", ".ims"),
    )

    def recognizes(self, head: bytes) -> bool:
        """Check whether a file is HDF5 by its first bytes."""
        return head.startswith(MAGIC)

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Open the dataset that `array` names, that NeXus says is the one, or the only one."""
        h5py = require("h5py", "hdf5")
        with suppress(ImportError):
            import_module("hdf5plugin")  # adds Blosc, LZ4 and other filters to h5py
        with named_errors(file):
            opened = _open(h5py, file)
            dataset = _find(opened, choices.array)
            _require_near(opened, dataset, file)
            require_unpacked(dataset.attrs)
            axes, coords = _axes_of(dataset)
            return ImageArray(dataset, axes, f"{file.name}::{dataset.name}", coords=coords)


FORMAT = Hdf5Datasets()


def _open(h5py: Any, file: ImageFile) -> Any:
    try:
        return h5py.File(file.open() if file.path is None else file.path, "r")
    except OSError as error:
        if "unable to lock" in str(error) or "open for write" in str(error):
            raise IngestError(
                "a program has opened it to write, or crashed while it did; close it there, or "
                "after a crash run `h5clear -s` on it, then ingest it"
            ) from error
        raise


def _find(file: Any, key: str | None) -> Any:
    """Return a dataset of a file."""
    import h5py

    if key is not None:
        found = file.get(key)
        if isinstance(found, h5py.Group):
            found = _signal_of(found) or found
        if not isinstance(found, h5py.Dataset):
            raise IngestError(f"it holds no dataset {key!r}{_listed(_candidates(file))}")
        return found
    if (signal := _default_of(file)) is not None:
        return signal
    candidates = _candidates(file)
    if len(candidates) != 1:
        count = len(candidates) or "no"
        raise IngestError(f"it holds {count} datasets that may be images{_listed(candidates)}")
    return candidates[0]


def _default_of(file: Any) -> Any:
    """Return the dataset that a NeXus file says is the one to look at; None if it does not."""
    import h5py

    node = file
    for _ in range(4):
        if (signal := _signal_of(node)) is not None:
            return signal
        node = node.get(_text(node.attrs.get("default", "")) or ".")
        if not isinstance(node, h5py.Group):
            return None
    return None


def _signal_of(group: Any) -> Any:
    import h5py

    name = _text(group.attrs.get("signal", ""))
    found = group.get(name) if name else None
    return found if isinstance(found, h5py.Dataset) else None


def _candidates(file: Any) -> list[Any]:
    """Return the datasets of numbers of at least two axes."""
    import h5py

    found: list[Any] = []

    def look(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim > 1 and node.dtype.kind in "buif":
            found.append(node)

    file.visititems(look)
    return found


def _listed(candidates: Sequence[Any]) -> str:
    if not candidates:
        return ""
    words = [f"{each.name} ({format_shape(each.shape)} {each.dtype})" for each in candidates]
    more = " ..." * (len(words) > LISTED)
    return f"; name one of them, file.h5::/NAME or --array: {', '.join(words[:LISTED])}{more}"


def _require_near(file: Any, dataset: Any, source: ImageFile) -> None:
    """Raise IngestError if a file of somebody's leads to a dataset outside its own folder."""
    folder = None if source.path is None else os.path.dirname(os.path.realpath(source.path))
    linked = [dataset.file.filename] if dataset.file.filename != file.filename else []
    linked += [name for name, *_ in dataset.external or ()]
    linked += [s.file_name for s in dataset.virtual_sources()] if dataset.is_virtual else []
    for name in linked:
        if name == ".":  # the file itself
            continue
        path = os.path.realpath(os.path.join(folder or "", os.fsdecode(name)))
        if folder is None or os.path.commonpath([folder, path]) != folder:
            raise IngestError(
                f"its dataset {dataset.name} is a link to {os.fsdecode(name)}, out of its folder; "
                "give that file"
            )


def _axes_of(dataset: Any) -> tuple[tuple[str, ...] | None, dict[str, Array]]:
    """Return the names of the axes of a dataset, where it has some, and the numbers along them."""
    group, coords = dataset.parent, {}
    names = [dimension.label for dimension in dataset.dims]
    nexus = [_text(name) for name in np.atleast_1d(group.attrs.get("axes", []))]
    if len(nexus) == dataset.ndim and _signal_of(group) == dataset:
        names = ["" if name == "." else name for name in nexus]
        coords = {n: _numbers(group.get(n)) for n in names if n and group.get(n) is not None}
    hyperspy = [group.get(f"axis-{i}") for i in range(dataset.ndim)]
    if None not in hyperspy:
        names = [_text(axis.attrs.get("name", "")) for axis in hyperspy]
        coords = {n: _scale_of(a) for n, a in zip(names, hyperspy, strict=True) if n}
    lower = [name.lower() for name in names]
    if "" in lower or len(set(lower)) < len(lower):
        return None, {}
    fitting = {
        name.lower(): values
        for name, values in coords.items()
        if values.shape == (dataset.shape[names.index(name)],)
    }
    return tuple(lower), fitting


def _numbers(dataset: Any) -> Array:
    return np.asarray(dataset[()] if hasattr(dataset, "dtype") else ())


def _scale_of(axis: Any) -> Array:
    """Return the numbers along an axis of hyperspy: a scale, an offset and a size."""
    size, known = int(axis.attrs.get("size", 0)), axis.attrs
    return np.asarray(known.get("offset", 0) + known.get("scale", 1) * np.arange(size))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
