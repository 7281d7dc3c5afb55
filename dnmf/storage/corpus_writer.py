"""Layout of a corpus on disk, and how it is written.

A corpus is a matrix with ids and metadata, as `verified_matrix` describes it; the matrix is

    pixels      (n, y, x), (n, y, x, channel) or (n, p)      the images' own dtype
    wavelength  (bands,)                                     numbers along an axis of the images

Blocks can be written in any order, by any process, and repeatedly. Without the record a corpus is
unfinished.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnmf._format import format_bytes
from dnmf._typing import Array
from dnmf.errors import CorpusError, ParameterError
from dnmf.storage.metadata import CHUNK_BYTES, DTYPES
from dnmf.storage.table_writer import Line, NewArray, commit_table, create_table
from dnmf.storage.verified_matrix import MATRIX

OVERHEAD = 256
"""Largest number of bytes of a block beside its numbers: headers, checksums, manifest line."""

TEXT_ESTIMATE = 64
"""Number of bytes that an id or another text is taken to have: it is not known beforehand."""

FORMAT = "dnmf-corpus"
VERSION = 2


@dataclass(frozen=True)
class Layout:
    """Layout of a corpus, which must be known before its first block is written.

    Attributes
    ----------
    n_images : int
    image_shape : tuple of int
        (h, w), (h, w, channels) or (p,).
    dtype : str
        NumPy name of the dtype of the pixels.
    block_rows : int
        Number of images per block.
    codec : str
        Name of the codec of the pixels, of `dnmf.storage.codecs.CODECS`.
    columns : mapping of str to str
        Columns of metadata and their types, as `table_writer.create_table` takes them.
    axes : tuple of str
        Names of the axes of an image; by default those of `default_axes`.
    """

    n_images: int
    image_shape: tuple[int, ...]
    dtype: str
    block_rows: int
    codec: str
    columns: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[str, ...] = ()

    @property
    def n_pixels(self) -> int:
        """Number of pixels of one image; counts channels."""
        return math.prod(self.image_shape)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_images // self.block_rows)

    @property
    def max_bytes(self) -> int:
        """Largest number of bytes that the corpus can take in a store, without compression."""
        widths = [DTYPES.get(dtype, TEXT_ESTIMATE) for dtype in self.columns.values()]
        row_bytes = self.n_pixels * DTYPES[self.dtype] + TEXT_ESTIMATE + sum(widths)
        return self.n_blocks * (self.block_rows * row_bytes + (1 + len(widths)) * OVERHEAD)


def default_axes(image_shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the axes of an image where nothing else names them."""
    return ("pixel",) if len(image_shape) == 1 else ("y", "x", "channel")[: len(image_shape)]


def create_corpus(path: str, layout: Layout, coords: Mapping[str, Array] | None = None) -> None:
    """Create the empty arrays of a corpus; without `commit_corpus` it is unfinished.

    Parameters
    ----------
    path : str
    layout : Layout
    coords : mapping of str to ndarray, optional
        Numbers or names along axes of the images, such as wavelengths, by the axes' names.

    Raises
    ------
    ParameterError
        A block is larger than Blosc can compress at once, or columns have no possible names.
    """
    block_bytes = layout.block_rows * layout.n_pixels * np.dtype(layout.dtype).itemsize
    if block_bytes > CHUNK_BYTES:
        raise ParameterError(
            f"blocks of {layout.block_rows} images of {layout.dtype} take "
            f"{format_bytes(block_bytes)}; at most 2 GiB are possible: use fewer images per block "
            "(--block-rows, block_rows)"
        )
    pixels = NewArray(
        MATRIX[FORMAT],
        (layout.n_images, *layout.image_shape),
        layout.block_rows,
        layout.dtype,
        ("image", *(layout.axes or default_axes(layout.image_shape))),
        layout.codec,
    )
    create_table(path, FORMAT, pixels, layout.columns, coords)


def commit_corpus(
    path: str,
    layout: Layout,
    manifest: Sequence[Line],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the manifest, and then the record, which makes the corpus finished.

    Parameters
    ----------
    path : str
    layout : Layout
    manifest : sequence of Line
    facts : mapping, optional
        What the record also says, of `order`, `skipped`, `choices`, `facts` and `rows`; the last
        is ``{"axes": names, "shape": lengths}`` where rows are pixels of a map. See
        `dnmf.storage.corpus.Corpus`.
    """
    n = sum(line[0] for line in manifest)
    if n != layout.n_images:
        raise CorpusError(f"{path}: {n} of {layout.n_images} images were written")
    record = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": layout.dtype,
        "image_shape": list(layout.image_shape),
        "axes": list(layout.axes or default_axes(layout.image_shape)),
        **(facts or {}),
    }
    commit_table(path, manifest, record)
