"""Weights of a model on disk: one chunk per block of X, written by the task that reads the block.

An array of weights belongs to one pass and is written once. The task that writes a block returns
its checksum, and the pass keeps the checksums of all blocks: so a lost, altered or swapped block is
found when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np

from dnmf._typing import Array
from dnmf.errors import BlockError, CheckpointError
from dnmf.storage.checkpoint.commit import FLAT, translate_write_errors
from dnmf.storage.codecs import WEIGHTS_CODEC, compressors
from dnmf.storage.metadata import METADATA_BYTES
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c
from dnmf.storage.verified_array import VerifiedArray, open_array


def create_weights_array(
    store: ObjectStore, n_iter: int, shape: tuple[int, int], block_rows: int, dtype: str
) -> str:
    """Create the empty array for the weights of a pass, and return its name.

    The name is unique: a task of a fit that was killed may still be running somewhere, and must not
    write into weights that another fit uses.
    """
    import zarr
    from zarr.storage import MemoryStore

    name = f"weights-{n_iter:06d}-{uuid4().hex[:8]}"
    objects: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(objects),
        shape=shape,
        chunks=(min(block_rows, shape[0]), shape[1]),
        dtype=dtype,
        fill_value=np.nan,  # a lost chunk must not read as weights of zero
        compressors=compressors(WEIGHTS_CODEC),
        chunk_key_encoding=FLAT,
    )
    store.set(f"{name}/{METADATA}", objects[METADATA].to_bytes())
    return name


@dataclass(frozen=True)
class WeightsWriter:
    """Function that writes rows of weights inside a task; it opens the array where the task runs.

    Attributes
    ----------
    path : str
        Path of the array.
    """

    path: str

    def __call__(self, rows: Array, start: int) -> int:
        """Write whole chunks, fsynced, and return their checksum; safe to repeat.

        Parameters
        ----------
        rows : ndarray of shape (rows, d)
        start : int
            Number of the first row.
        """
        images = f"{start} to {start + len(rows) - 1}"
        with translate_write_errors(self.path, f"the weights of images {images}"):
            self._write(rows, start)
        return crc32c(rows)

    def _write(self, rows: Array, start: int) -> None:
        import zarr
        from zarr.buffer import cpu
        from zarr.storage import MemoryStore

        # Zarr encodes the chunks in memory: its own local store would not fsync them.
        store = ObjectStore(self.path)
        try:
            metadata = store.get(METADATA, METADATA_BYTES)
        except InvalidObjectError as error:
            raise CheckpointError(f"{self.path}: {METADATA} {error}") from error
        objects: dict[str, Any] = {METADATA: cpu.Buffer.from_bytes(metadata)}
        memory = MemoryStore(objects)
        array = zarr.open_array(memory, mode="r+", config={"write_empty_chunks": True})
        array[start : start + len(rows)] = rows
        for key, value in objects.items():
            if key != METADATA:
                store.set(key, memoryview(value.as_numpy_array()))


def open_weights_array(
    store: ObjectStore, name: str, shape: tuple[int, int], block_rows: int, dtype: str
) -> VerifiedArray:
    """Open an array of weights by its checked metadata; no chunk is read.

    Raises
    ------
    CheckpointError
        It is not as `create_weights_array` makes it from the same arguments.
    """
    advice = f"remove {name}, and the same `dnmf fit` writes weights again"
    try:
        found = open_array(store, name, advice, separator=FLAT["separator"])
        expected = (shape, (min(block_rows, shape[0]), shape[1]), dtype)
        if (found.shape, found.chunks, found.dtype.name) != expected:
            raise InvalidObjectError(f"{name}/{METADATA} is of other weights than belong there")
        return found
    except FileNotFoundError:
        what = f"{name}/{METADATA} is missing"
    except InvalidObjectError as error:
        what = str(error)
    raise CheckpointError(f"{store.path}: {what}; {advice}")


def read_weights(array: VerifiedArray, index: int, checksum: int) -> Array:
    """Read a block of weights and check it.

    Parameters
    ----------
    array : VerifiedArray
    index : int
        Block number.
    checksum : int
        crc32c of the block.

    Raises
    ------
    CheckpointError
        The block is missing, altered or swapped with another; the message names its images.
    """
    try:
        return array.read_block(index, checksum)
    except BlockError as error:
        raise CheckpointError(str(error)) from error
