"""The weights of a model on disk: one chunk per block of X, written where the block was read.

An array of them is of one pass, and written once. The task that writes a block says its checksum,
and the pass that relies on the weights keeps them all: so a lost, altered or swapped block shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.buffer import cpu
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from dnmf._typing import Array
from dnmf.errors import BlockError, CheckpointError
from dnmf.storage.checkpoint.commit import FLAT, translate_write_errors
from dnmf.storage.metadata import METADATA_BYTES
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c
from dnmf.storage.verified_array import VerifiedArray, open_array


def new_weights(
    store: ObjectStore, n_iter: int, shape: tuple[int, int], rows: int, dtype: str
) -> str:
    """Make the array for the weights of a pass and return its name, which no other ever had.

    A task of a driver that died may still run somewhere: what it writes is nobody's.
    """
    name = f"weights-{n_iter:06d}-{uuid4().hex[:8]}"
    made: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(made),
        shape=shape,
        chunks=(min(rows, shape[0]), shape[1]),
        dtype=dtype,
        fill_value=np.nan,  # a lost chunk must not read as weights of zero
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        chunk_key_encoding=FLAT,
    )
    store.set(f"{name}/{METADATA}", made[METADATA].to_bytes())
    return name


@dataclass(frozen=True)
class ArraySink:
    """Writes rows to a Zarr array from inside a task; the array is opened where the task runs."""

    path: str

    def __call__(self, rows: Array, start: int) -> int:
        """Write rows from `start` on, for good, and return their checksum.

        Whole chunks, so safe to repeat.
        """
        with translate_write_errors(
            self.path, f"the weights of images {start} to {start + len(rows) - 1}"
        ):
            self._put(rows, start)
        return crc32c(rows)

    def _put(self, rows: Array, start: int) -> None:
        """Write a chunk as Zarr makes it: its own store would not fsync it."""
        store = ObjectStore(self.path)
        try:
            metadata = store.get(METADATA, METADATA_BYTES)
        except InvalidObjectError as refused:
            raise CheckpointError(f"{self.path}: {METADATA} {refused}") from refused
        made: dict[str, Any] = {METADATA: cpu.Buffer.from_bytes(metadata)}
        array = zarr.open_array(MemoryStore(made), mode="r+", config={"write_empty_chunks": True})
        array[start : start + len(rows)] = rows
        for key, value in made.items():
            if key != METADATA:
                store.set(key, memoryview(value.as_numpy_array()))


def find_weights(
    store: ObjectStore, name: str, shape: tuple[int, int], rows: int, dtype: str
) -> VerifiedArray:
    """Open an array of weights, by its checked metadata alone.

    Raises
    ------
    CheckpointError
        It is not what `new_weights` makes of the same.
    """
    advice = f"remove {name}, and the same `dnmf fit` writes weights again"
    try:
        found = open_array(store, name, advice, separator=FLAT["separator"])
        expected = (shape, (min(rows, shape[0]), shape[1]), dtype)
        if (found.shape, found.chunks, found.dtype.name) != expected:
            raise InvalidObjectError(f"{name}/{METADATA} is of other weights than belong there")
        return found
    except FileNotFoundError:
        what = f"{name}/{METADATA} is missing"
    except InvalidObjectError as refused:
        what = str(refused)
    raise CheckpointError(f"{store.path}: {what}; {advice}")


def read_weights(array: VerifiedArray, index: int, expected: int) -> Array:
    """Read a block of weights.

    Parameters
    ----------
    array : VerifiedArray
    index : int
        Block number.
    expected : int
        Its checksum.

    Raises
    ------
    CheckpointError
        It is missing, altered or in another's place; says which images it is of.
    """
    try:
        return array.read(index, expected)
    except BlockError as error:
        raise CheckpointError(str(error)) from error
