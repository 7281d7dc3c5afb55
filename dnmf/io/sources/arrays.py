"""Arrays of images: in memory, or lazy ones of Dask, Zarr, xarray and HDF5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from dask.base import is_dask_collection

from dnmf._typing import Array
from dnmf.errors import IngestError
from dnmf.estimators.rows import Rows, is_outside_memory
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.prepare import prepare


@dataclass(frozen=True)
class ArrayImages:
    """Images that are the rows of an array; a `Source`.

    Attributes
    ----------
    load : callable ``(start, stop) -> ndarray``
        Reads rows `start` to `stop - 1`; picklable.
    name : str
        What holds the array, for messages.
    stem : str
        Beginning of the ids; the numbers of the rows follow it.
    choices : Choices
        What is done to the images.
    image_shape : tuple of int
    dtype : numpy.dtype
    n_images : int
    """

    load: Callable[[int, int], Array]
    name: str
    stem: str
    choices: Choices
    image_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    n_images: int

    def __len__(self) -> int:
        return self.n_images

    def ids(self, start: int, stop: int) -> list[str]:
        """Return ids made of the stem and the number of the row."""
        return [f"{self.stem}:{i}" for i in range(start, stop)]

    def read(self, start: int, stop: int) -> Array:
        """Read rows `start` to `stop - 1`; see `Source.read`."""
        images = self.load(start, stop)
        if self.choices != Choices():
            images = prepare(images, None, self.choices)
        return images.astype(self.dtype, copy=False)


def open_array(array: Any, choices: Choices) -> ArrayImages:
    """Open an array as a source.

    Parameters
    ----------
    array : array of shape (n, h, w), (n, h, w, channels) or (n, p)
        In memory, or one with a shape and a dtype that is read by slices of its rows: a Dask or
        Zarr array, an xarray object, an HDF5 dataset.
    choices : Choices

    Raises
    ------
    IngestError
        It holds no images, or numbers that are no pixels.
    """
    name = f"the {type(array).__name__}"
    if isinstance(array, np.ma.MaskedArray):
        raise IngestError(
            "the masked array would lose its mask: ingest array.data, and give "
            "np.ma.getmaskarray(array) to fit as mask"
        )
    if hasattr(array, "tocsr"):
        array = array.tocsr()
    if not (hasattr(array, "shape") and hasattr(array, "dtype")):
        try:
            array = np.asarray(array)
        except ValueError as error:
            raise IngestError(
                f"{name} is not one array ({error}); make images of one shape and dtype"
            ) from error
    if not hasattr(array, "__getitem__"):
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
    return images_of(array, partial(_rows_of, array), name, "image", choices)


def images_of(
    array: Any,
    load: Callable[[int, int], Array],
    name: str,
    stem: str,
    choices: Choices,
) -> ArrayImages:
    """Return the images of an array as a source; see `ArrayImages` for the parameters.

    Raises
    ------
    IngestError
        The array holds no images, or numbers that are no pixels.
    """
    shape, found = tuple(array.shape), np.dtype(array.dtype)
    if 0 in shape:
        raise IngestError(f"{name} holds no images: its shape is {shape}")
    if len(shape) not in (2, 3, 4):
        raise IngestError(
            f"{name} holds an array of shape {shape}; images are (n, h, w), (n, h, w, channels) or "
            "(n, pixels)"
        )
    if found.kind not in "buif" or found.itemsize > 8:
        raise IngestError(
            f"{name} holds {found}; pixels are integers or floats of at most 64 bits: convert them"
        )
    image_shape, dtype = shape[1:], np.dtype("u1") if found.kind == "b" else found.newbyteorder("=")
    if choices != Choices():
        first = prepare(load(0, 1), None, choices)[0]
        image_shape, dtype = first.shape, first.dtype
    return ArrayImages(load, name, stem, choices, image_shape, dtype, shape[0])


def _graph_of(array: Any) -> Mapping[Any, Any]:
    """Return the graph of a Dask collection; of anything else an empty one."""
    graph = getattr(array, "__dask_graph__", lambda: None)()
    return {} if graph is None else dict(graph)


def _rows_of(array: Any, start: int, stop: int) -> Array:
    """Read rows of an array; of a Dask array on this thread, which may be one of its cluster's."""
    rows = array[start:stop]
    if hasattr(rows, "compute"):
        rows = rows.compute(scheduler="synchronous")
    if isinstance(rows, np.ma.MaskedArray):
        raise IngestError(
            f"images {start} to {stop - 1} are a masked array, whose mask would be lost: ingest "
            "its data, and give the mask to fit"
        )
    rows = np.asarray(rows.todense() if hasattr(rows, "todense") else rows)
    expected = (stop - start, *array.shape[1:])
    dtype = np.dtype(array.dtype)
    if rows.shape != expected or rows.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise IngestError(
            f"images {start} to {stop - 1} came as {rows.dtype} of shape {rows.shape}, but the "
            f"{type(array).__name__} promises {dtype} of {expected}: correct the chunks, the "
            "dtype or the meta that it was made with"
        )
    return rows
