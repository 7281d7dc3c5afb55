"""Zarr arrays of version 2 and 3, and images of OME-Zarr; they are read when they are asked for.

A store may come from anybody: Zarr refuses codecs that would unpickle what they read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._format import format_shape
from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.formats.file import ImageFile, named_errors, require_unpacked
from dnmf.io.sources.image_array import ImageArray
from dnmf.storage.paths import for_zarr

if TYPE_CHECKING:
    import zarr

LISTED = 20
"""Number of arrays of a group that an error lists."""

DEEPEST = 4
"""Number of groups inside each other that are searched for arrays."""

CHUNK_BYTES = 2**31
"""Largest chunk that is decoded: metadata of a hundred bytes can promise any number of pixels."""

OME_AXES = "tczyx"
"""Axes of images of OME-Zarr before version 0.3, which does not name them."""


@dataclass(frozen=True)
class ZarrArrays:
    """The format of Zarr arrays and groups; see `Format`."""

    name: str = "Zarr"
    suffixes: tuple[str, ...] = (".zarr",)

    def recognizes(self, head: bytes) -> bool:
        """Return False: a Zarr store is a folder, not a file."""
        return False

    def open(self, file: ImageFile, choices: Choices) -> ImageArray:
        """Open the array that `array` or `level` name, or the only one of a group."""
        with named_errors(file):
            return _open_node(_open_store(file), file.name, choices)


FORMAT = ZarrArrays()


def _open_store(file: ImageFile) -> Any:
    import zarr
    import zarr.errors

    path = for_zarr(file.name if file.path is None else str(file.path))
    try:
        return zarr.open(path, mode="r")
    except (zarr.errors.NodeNotFoundError, FileNotFoundError, KeyError):
        raise IngestError("no Zarr array or group is there; give the path of one") from None


def _open_node(node: Any, name: str, choices: Choices) -> ImageArray:
    """Open an array, or the array of a group that is meant."""
    import zarr

    if isinstance(node, zarr.Group) and choices.array is not None:
        key = choices.array.strip("/")
        if key not in node:
            raise IngestError(f"it holds no array {choices.array!r}{_listed(node)}")
        node, name = node[key], f"{name}::{choices.array}"
    if isinstance(node, zarr.Group) and (image := _multiscale_of(node)) is not None:
        return _open_level(node, image, name, choices)
    if isinstance(node, zarr.Group):
        found = _arrays_in(node)
        if len(found) != 1:
            what = f"holds {len(found)} arrays" if found else "holds no arrays"
            raise IngestError(f"it {what}{_listed(node)}")
        ((key, array),) = found.items()
        name = f"{name}::{key}"
        if isinstance(array, zarr.Group):  # of OME-Zarr, as bioformats2raw writes it
            return _open_level(array, _multiscale_of(array) or {}, name, choices)
    else:
        array = node
    if choices.level:
        raise IngestError(f"it is no pyramid of resolutions; leave out --level {choices.level}")
    _require_small_chunks(array)
    require_unpacked(array.attrs.asdict())
    axes = _axes_of(array)
    return ImageArray(array, axes, name, coords=_coords_of(node, array, axes))


def _open_level(
    group: zarr.Group, image: Mapping[str, Any], name: str, choices: Choices
) -> ImageArray:
    """Open a level of an image of OME-Zarr."""
    levels = image.get("datasets") or []
    if choices.level >= len(levels):
        raise IngestError(
            f"it is a pyramid of {len(levels)} levels; give --level from 0 to {len(levels) - 1}"
        )
    array: Any = group[levels[choices.level]["path"]]
    _require_small_chunks(array)
    named = [axis if isinstance(axis, str) else axis["name"] for axis in image.get("axes") or ()]
    axes = tuple(str(axis).lower() for axis in named) or tuple(OME_AXES[-array.ndim :])
    if len(axes) != array.ndim:
        raise IngestError(f"its metadata name the axes {', '.join(axes)} of an array {array.shape}")
    labels = [
        str(channel.get("label", number))
        for number, channel in enumerate(_ome(group).get("omero", {}).get("channels", ()))
    ]
    known = "c" in axes and len(labels) == array.shape[axes.index("c")]
    return ImageArray(array, axes, name, coords={"c": np.array(labels)} if known else {})


def _require_small_chunks(array: Any) -> None:
    if (found := math.prod(array.chunks) * array.dtype.itemsize) > CHUNK_BYTES:
        raise IngestError(
            f"its chunks of {format_shape(array.chunks)} take {found:,} bytes each, more than "
            f"{CHUNK_BYTES:,}; write it in smaller chunks"
        )


def _ome(group: zarr.Group) -> Mapping[str, Any]:
    """Return the attributes of OME-Zarr: under ``ome`` since version 0.5."""
    attributes: Any = group.attrs.asdict()
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _multiscale_of(group: zarr.Group) -> Mapping[str, Any] | None:
    """Return the description of the image that a group of OME-Zarr holds; None if there is none."""
    images = _ome(group).get("multiscales")
    return images[0] if isinstance(images, list) and images else None


def _arrays_in(group: zarr.Group, prefix: str = "", depth: int = DEEPEST) -> dict[str, Any]:
    """Return arrays of numbers of at least two axes, and images of OME-Zarr, by their names."""
    import zarr

    found: dict[str, Any] = {}
    for key, node in sorted(group.members()):
        if isinstance(node, zarr.Array):
            if node.ndim > 1 and node.dtype.kind in "buif":
                found[prefix + key] = node
        elif _multiscale_of(node) is not None:
            found[prefix + key] = node
        elif depth:
            found |= _arrays_in(node, f"{prefix}{key}/", depth - 1)
    return found


def _listed(group: Any) -> str:
    import zarr

    found = _arrays_in(group) if isinstance(group, zarr.Group) else {}
    if not found:
        return ""
    words = [f"{name} ({_describe(node)})" for name, node in list(found.items())[:LISTED]]
    more = " ..." * (len(found) > LISTED)
    return f"; name one of them with --array: {', '.join(words)}{more}"


def _describe(node: Any) -> str:
    return f"{format_shape(node.shape)} {node.dtype}" if hasattr(node, "dtype") else "OME-Zarr"


def _axes_of(array: Any) -> tuple[str, ...] | None:
    """Return the names of the axes of an array, of Zarr v3 or as xarray writes them in v2."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if not names or len(names) != array.ndim or None in names or len(set(names)) < len(names):
        return None
    return tuple(str(name).lower() for name in names)


def _coords_of(node: Any, array: Any, axes: tuple[str, ...] | None) -> dict[str, Array]:
    """Return the numbers and names along axes, which lie in a group beside its array."""
    import zarr

    if axes is None or not isinstance(node, zarr.Group):
        return {}
    found: dict[str, Array] = {}
    parent, names = array.path.rpartition("/")[0], dict(zip(axes, array.shape, strict=True))
    top = node.path
    for name, length in names.items():
        key = f"{parent}/{name}".removeprefix(top).strip("/")
        values: Any = node.get(key)
        if isinstance(values, zarr.Array) and values.shape == (length,):
            found[name] = np.asarray(values[:])
    return found
