"""The manifest of a matrix: checksums of each block, by which damage is found.

A corpus that grows has a manifest for each generation, so that the manifest of an open reader stays
true.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import BlockError, CorpusError
from dnmf.storage.store import ObjectStore, crc32c
from dnmf.storage.verified_array import VerifiedArray

MANIFESTS = "manifests"
"""Name of the group that holds the manifests, which other software does not take for data."""


def manifest_array(array: VerifiedArray, name: str, n_columns: int) -> VerifiedArray:
    """Return the array of a manifest, of whose metadata nothing is read.

    It is one chunk that is not compressed, so that a reader knows its number of bytes beforehand.

    Parameters
    ----------
    array : VerifiedArray
        The matrix that the manifest belongs to.
    name : str
        Name of the manifest in the store.
    n_columns : int
        Number of columns of the manifest.
    """
    shape, codecs = (array.n_blocks, n_columns), ["bytes", "crc32c"]
    dtype = np.dtype(np.int64)
    return VerifiedArray(array.store, name, array.advice, shape, shape, dtype, codecs, "none")


def read_manifest(array: VerifiedArray, name: str, n_columns: int, checksum: int) -> Array:
    """Read a manifest.

    Parameters
    ----------
    array, name, n_columns
        See `manifest_array`.
    checksum : int
        crc32c of the manifest.

    Returns
    -------
    ndarray of shape (blocks, n_columns), int64
        One line per block: images, stored bytes, crc32c of the numbers, and other checksums.

    Raises
    ------
    CorpusError
        The manifest is missing, damaged, or belongs to another matrix.
    """
    path, advice = array.store.path, array.advice
    lines = manifest_array(array, name, n_columns)
    try:
        manifest = lines.read_block(0, checksum)
    except BlockError as error:
        raise CorpusError(
            f"{path}: the manifest is damaged or lost; restore {lines.chunk_key(0)} from a copy, "
            f"or {advice}"
        ) from error
    starts = np.arange(len(manifest), dtype=np.int64) * array.chunks[0]
    counts = np.minimum(starts + array.chunks[0], array.shape[0]) - starts
    if (
        manifest.min(initial=0) < 0
        or manifest[:, 1].max(initial=0) > array.max_stored_bytes
        or (manifest[:, 0] != counts).any()
    ):
        raise CorpusError(f"{path}: the manifest is none of these blocks; {advice}")
    return manifest


def write_manifest(path: str, name: str, lines: Array) -> int:
    """Write a manifest of a store and return its checksum.

    Parameters
    ----------
    path : str
        Path of the store.
    name : str
    lines : ndarray of shape (blocks, columns), int64
    """
    import zarr
    from zarr.codecs import Crc32cCodec
    from zarr.storage import MemoryStore

    objects: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(objects),
        data=lines,
        chunks=lines.shape,
        compressors=[Crc32cCodec()],
        dimension_names=["block", "entry"],
        config={"write_empty_chunks": True},
    )
    store = ObjectStore(path)
    for key, value in objects.items():
        store.set(f"{name}/{key}", value.to_bytes())
    return crc32c(lines)
