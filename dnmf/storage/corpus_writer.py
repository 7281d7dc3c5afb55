"""Layout of a corpus on disk, and how it is written.

A corpus is a Zarr v3 group:

    pixels      (n, p)             the images' own dtype, one chunk per block of whole images
    ids         (n, width) uint8   UTF-8, NUL-padded, in the same blocks
    manifest    (blocks, 4) int64  images, stored bytes, crc32c of pixels, crc32c of ids
    attributes                     the record: format, version, image shape, crc32c of the manifest;
                                   written last

Blocks can be written in any order, by any process, and repeatedly. Without the record a corpus is
unfinished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._format import format_bytes
from dnmf._typing import Array
from dnmf.errors import CorpusError, ParameterError
from dnmf.storage.atomic import RECORD, clear_place, unfinished
from dnmf.storage.codecs import compressors
from dnmf.storage.metadata import CHUNK_BYTES
from dnmf.storage.paths import for_zarr
from dnmf.storage.store import ObjectStore, crc32c

if TYPE_CHECKING:
    import zarr

OVERHEAD = 256
"""Largest number of bytes of a block beside its numbers: headers, checksums, manifest line."""

FORMAT = "dnmf-corpus"
VERSION = 1

ManifestLine = tuple[int, int, int, int]
"""Line of the manifest for a block: images, stored bytes, crc32c of pixels, crc32c of ids."""


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
        Type of each column of metadata.
    id_bytes : int
        Length of the longest id in UTF-8.
    """

    n_images: int
    image_shape: tuple[int, ...]
    dtype: str
    block_rows: int
    codec: str
    columns: Any = None
    id_bytes: int = 100

    @property
    def n_pixels(self) -> int:
        """Number of pixels of one image; counts channels."""
        return int(np.prod(self.image_shape))

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_images // self.block_rows)

    @property
    def max_bytes(self) -> int:
        """Largest number of bytes that the corpus can take in a store, without compression."""
        row_bytes = self.n_pixels * np.dtype(self.dtype).itemsize + self.id_bytes
        return self.n_blocks * (self.block_rows * row_bytes + OVERHEAD)


def create_corpus(path: str, layout: Layout) -> None:
    """Create the empty arrays of a corpus; without `commit_corpus` it is unfinished.

    Raises
    ------
    ParameterError
        A block is larger than Blosc can compress at once.
    """
    block_bytes = layout.block_rows * layout.n_pixels * np.dtype(layout.dtype).itemsize
    if block_bytes > CHUNK_BYTES:
        raise ParameterError(
            f"blocks of {layout.block_rows} images of {layout.dtype} take "
            f"{format_bytes(block_bytes)}; at most 2 GiB are possible: use fewer images per block "
            "(--block-rows, block_rows)"
        )
    import zarr

    clear_place(path, FORMAT)
    group = zarr.create_group(
        for_zarr(path), zarr_format=3, attributes={RECORD: unfinished(FORMAT)}
    )
    for name, width, dtype, codec in (
        ("pixels", layout.n_pixels, layout.dtype, layout.codec),
        ("ids", layout.id_bytes, "uint8", "lz4-bitshuffle"),
    ):
        group.create_array(
            name,
            shape=(layout.n_images, width),
            chunks=(layout.block_rows, width),
            dtype=dtype,
            compressors=compressors(codec),
        )


def write_block(
    path: str, index: int, images: Array, ids: Sequence[str], columns: Any = None
) -> ManifestLine:
    """Write one block and return its line of the manifest; safe to repeat.

    Parameters
    ----------
    path : str
    index : int
        Block number.
    images : ndarray of shape (rows, p)
    ids : sequence of str

    Returns
    -------
    tuple of int
        Images, stored bytes, crc32c of pixels, crc32c of ids.
    """
    import zarr

    group = zarr.open_group(for_zarr(path), mode="r+")
    pixels, names = _writable(group, "pixels"), _writable(group, "ids")
    encoded = _encode_ids(ids, names.shape[1])
    stored, checksum = write_rows(path, pixels, index, images)
    return len(images), stored, checksum, write_rows(path, names, index, encoded)[1]


def write_rows(path: str, array: zarr.Array[Any], index: int, rows: Array) -> tuple[int, int]:
    """Write one block of a matrix and return the bytes it takes in the store and its checksum.

    Parameters
    ----------
    path : str
        The store that the array was opened from.
    array : zarr.Array
    index : int
        Block number.
    rows : ndarray of shape (rows, columns)
    """
    start = index * array.chunks[0]
    array[start : start + len(rows)] = rows
    stored = ObjectStore(path).getsize(f"{array.path}/c/{index}/0".lstrip("/"))
    return stored, crc32c(rows)


def commit_corpus(
    path: str,
    layout: Layout,
    manifest: Sequence[ManifestLine],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the manifest, and then the record, which makes the corpus finished.

    Parameters
    ----------
    path : str
    layout : Layout
    manifest : sequence of ManifestLine
    facts : mapping, optional
        What the record also says, of `order` and `skipped`; see `dnmf.storage.corpus.Corpus`.
    """
    import zarr

    lines = np.asarray(manifest, dtype=np.int64).reshape(layout.n_blocks, 4)
    if lines[:, 0].sum() != layout.n_images:
        raise CorpusError(f"{path}: {lines[:, 0].sum()} of {layout.n_images} images were written")
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "shape": [layout.n_images, layout.n_pixels],
        "dtype": layout.dtype,
        "image_shape": list(layout.image_shape),
        "manifest_crc32c": write_manifest(path, lines),
        **(facts or {}),
    }
    zarr.open_group(for_zarr(path), mode="r+").attrs.put({RECORD: record})


def write_manifest(path: str, lines: Array) -> int:
    """Write the manifest of a store and return its checksum.

    It is not compressed, so that a reader knows its number of bytes beforehand.

    Parameters
    ----------
    path : str
        Path of the store.
    lines : ndarray of shape (blocks, columns), int64
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    zarr.create_array(
        for_zarr(f"{path}/manifest"),
        data=lines,
        chunks=lines.shape,
        compressors=[Crc32cCodec()],
    )
    return crc32c(lines)


def _writable(group: zarr.Group, name: str) -> zarr.Array[Any]:
    import zarr

    node = group[name]
    assert isinstance(node, zarr.Array)
    # Zarr does not store this setting, and without it deletes chunks of zeros.
    return node.with_config({"write_empty_chunks": True})


def _encode_ids(ids: Sequence[str], width: int) -> Array:
    encoded = np.array([name.encode(errors="surrogateescape") for name in ids], dtype=f"S{width}")
    return encoded.view(np.uint8).reshape(len(ids), width)


def read_rows(path: str, layout: Layout, index: int, line: ManifestLine) -> Any:
    """Read the images of a block, their ids and their columns."""
    import zarr

    group: Any = zarr.open_group(for_zarr(path), mode="r")
    start = index * layout.block_rows
    ids = [bytes(e).rstrip(b"\0").decode() for e in group["ids"][start : start + line[0]]]
    return group["pixels"][start : start + line[0]], ids, {}


def shrink_corpus(path: str, layout: Layout, n_images: int) -> None:
    """Give the arrays of a corpus fewer images than were planned."""
    import zarr

    group: Any = zarr.open_group(for_zarr(path), mode="r+")
    for name in ("pixels", "ids"):
        group[name].resize((n_images, group[name].shape[1]))
