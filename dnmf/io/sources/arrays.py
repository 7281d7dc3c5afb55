"""Arrays of images: in memory, or lazy ones of Dask, Zarr, xarray and HDF5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.base import is_dask_collection

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.estimators.rows import Rows, is_outside_memory
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.facts import axes_of, coords_of, facts_of
from dnmf.io.sources.files import Batch
from dnmf.io.sources.image_array import ImageArray, ImageRows, find_images
from dnmf.io.sources.prepare import prepare
from dnmf.numerics.block import find_invalid, invalid_pixel_error
from dnmf.storage.verified_matrix import VerifiedMatrix


@dataclass(frozen=True)
class ArrayImages:
    """Images in an array; see `FileImages`.

    Attributes
    ----------
    rows : ImageRows
        The images, as they are in the array.
    choices : Choices
        What is done to them.
    image_shape : tuple of int
    dtype : numpy.dtype
    names : ndarray of shape (n,), or None
        Ids of the images; by default their numbers.
    values : mapping of str to ndarray of shape (n,)
        Columns of metadata.
    first : int
        Number of the first image; where it is not 0, ids are numbers that follow it.
    """

    rows: ImageRows
    choices: Choices
    image_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    names: Array | None
    values: Mapping[str, Array]
    first: int = 0

    @property
    def columns(self) -> dict[str, str]:
        """Type of each column of metadata."""
        return {
            name: str(column.dtype) if column.dtype.kind in "buif" else "str"
            for name, column in self.values.items()
        }

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of an image."""
        return axes_of(self.rows, self.image_shape)

    @property
    def coords(self) -> dict[str, list[Any]]:
        """Numbers or names along axes of an image."""
        return coords_of(self.rows, self.image_shape)

    @property
    def facts(self) -> dict[str, Any]:
        """What the corpus's record says of the order of the images."""
        return facts_of(self.rows, len(self))

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, start: int, stop: int) -> Batch:
        """Read images `start` to `stop - 1`, with their ids and metadata.

        Raises
        ------
        DataError
            A pixel is negative, NaN or infinite; the message names its image.
        """
        raw = self.rows.read(start, stop)
        if self.names is None and self.first:
            ids = [f"image:{self.first + row}" for row in range(start, stop)]
        elif self.names is None:
            ids = [f"image:{suffix}" for suffix in self.rows.ids(start, stop)]
        else:
            ids = list(map(str, self.names[start:stop]))
        if self.choices.nan == "refuse" and not self.choices.clip:
            invalid = find_invalid(raw.reshape(len(raw), -1), start)
            if invalid is not None:
                raise invalid_pixel_error(invalid, lambda row: f"image {row} ({ids[row - start]})")
        images = prepare(raw, self.rows.colors, self.choices)
        columns = {name: column[start:stop] for name, column in self.values.items()}
        return Batch(images, ids, columns)


def open_array(array: Any, choices: Choices) -> ArrayImages:
    """Open an array as a source.

    Parameters
    ----------
    array : array of shape (n, h, w), (n, h, w, channels) or (n, p)
        In memory, or one with a shape and a dtype that is read by slices: a Dask or Zarr array, an
        HDF5 dataset, an xarray.DataArray, whose dimensions are names of axes. Of the latter, the
        index of the images becomes their ids, other coordinates of them columns of metadata, and
        coordinates of an image's axes are kept.
    choices : Choices

    Raises
    ------
    IngestError
        It holds no images, or numbers that are no pixels.
    """
    given = array
    rows = find_images(as_image_array(array), choices)
    black = np.zeros((1, *rows.image_shape), rows.dtype)  # what becomes of its shape and type
    first = prepare(black, rows.colors, choices)
    names, values = _labels_of(given, rows)
    return ArrayImages(rows, choices, first.shape[1:], first.dtype, names, values)


def as_image_array(array: Any) -> ImageArray:
    """Return an array with the names of its axes; see `open_array`."""
    name = f"the {type(array).__name__}"
    if hasattr(array, "data_vars"):
        raise IngestError(
            f"{name} holds {', '.join(map(str, array.data_vars))}: give one of them, as in "
            "dataset['name']"
        )
    if isinstance(array, np.ma.MaskedArray):
        raise IngestError(
            "the masked array would lose its mask: ingest array.data, and give "
            "np.ma.getmaskarray(array) to fit as mask"
        )
    axes, coords = _names_of(array)
    if hasattr(array, "tocsr"):
        array = array.tocsr()
    if not (hasattr(array, "shape") and hasattr(array, "dtype")):
        array = _as_numpy(array, name)
    if not hasattr(array, "__getitem__") or isinstance(array, VerifiedMatrix):
        raise IngestError(f"{name} cannot be read by slices of rows; give an array or paths")
    if any(length != length for length in array.shape):  # NaN, says Dask
        raise IngestError(
            f"{name} has rows of unknown number, shape {array.shape}; call its "
            "compute_chunk_sizes() first"
        )
    if any(type(value).__name__ == "Future" for value in _graph_of(array).values()):
        raise IngestError(
            f"{name} is persisted on a cluster; give it as it was before persist(), or write it "
            "with its to_zarr() and ingest zarr.open_array() of that"
        )
    if not is_dask_collection(array) and is_outside_memory(array):
        array = Rows(array)  # one thread at a time, and workers open an HDF5 file themselves
        array.require_sendable(name)
    return ImageArray(array, axes, name, None, coords)


def _as_numpy(array: Any, name: str) -> Array:
    try:
        return np.asarray(array)
    except ValueError as error:
        raise IngestError(
            f"{name} is not one array ({error}); make images of one shape and dtype"
        ) from error


def _names_of(array: Any) -> tuple[tuple[str, ...] | None, dict[str, Array]]:
    """Return the names of the axes of an xarray.DataArray, and the numbers along them."""
    if not (hasattr(array, "dims") and hasattr(array, "coords")):
        return None, {}
    axes = tuple(str(dim).lower() for dim in array.dims)
    along = {
        axis: np.asarray(array.coords[dim].values)
        for axis, dim in zip(axes, array.dims, strict=True)
        if dim in array.coords
    }
    # Names that say nothing of height and width: then the order of the axes counts.
    return (axes if {"y", "x"} <= set(axes) else None), along


def _labels_of(array: Any, rows: ImageRows) -> tuple[Array | None, dict[str, Array]]:
    """Return the ids and the metadata that an xarray.DataArray has of its images."""
    if not (hasattr(array, "dims") and hasattr(array, "coords")) or len(rows.selection.rows) != 1:
        return None, {}
    dim = array.dims[rows.selection.rows[0]]
    if rows.patches is not None or array.sizes[dim] != len(rows):
        return None, {}
    names = np.asarray(array.coords[dim].values) if dim in array.coords else None
    values = {
        str(name): np.asarray(coord.values)
        for name, coord in array.coords.items()
        if coord.dims == (dim,) and name != dim
    }
    return names, values


def _graph_of(array: Any) -> Mapping[Any, Any]:
    """Return the graph of a Dask collection; of anything else an empty one."""
    graph = getattr(array, "__dask_graph__", lambda: None)()
    return {} if graph is None else dict(graph)
