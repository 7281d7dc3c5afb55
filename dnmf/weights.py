"""The weights of a model on disk: one chunk per block of X, written where the block was read.

An array of them is of one pass, and written once. The task that writes a block says its checksum,
and the pass that relies on the weights keeps them all: so a lost, altered or swapped block shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from dnmf.commits import FLAT, METADATA, Objects, faults_named
from dnmf.durable import put_file
from dnmf.errors import CheckpointError
from dnmf.layout import crc32c, stored_bytes
from dnmf.output import is_url

Array = np.ndarray[Any, np.dtype[Any]]

PREFIX = "weights-"


def new_weights(
    objects: Objects, n_iter: int, shape: tuple[int, int], rows: int, dtype: str
) -> str:
    """Make the array for the weights of a pass and return its name, which no other ever had.

    A task of a driver that died may still run somewhere: what it writes is nobody's.
    """
    name = f"{PREFIX}{n_iter:06d}-{uuid4().hex[:8]}"
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
    objects.put(f"{name}/{METADATA}", made[METADATA].to_bytes())
    return name


def weights_in(objects: Objects) -> list[str]:
    """List the arrays of weights."""
    return sorted(name for name in objects.names() if name.startswith(PREFIX))


@dataclass(frozen=True)
class ArraySink:
    """Writes rows to a Zarr array from inside a task; the array is opened where the task runs."""

    path: str

    def __call__(self, rows: Array, start: int) -> int:
        """Write rows from `start` on, for good, and return their checksum.

        Whole chunks, so safe to repeat.
        """
        with faults_named(self.path, f"the weights of images {start} to {start + len(rows) - 1}"):
            if is_url(self.path):
                _set(zarr.open_array(self.path, mode="r+"), rows, start)
            else:
                self._put(rows, start)
        return crc32c(rows)

    def _put(self, rows: Array, start: int) -> None:
        """Write a chunk as Zarr makes it: its own store would not fsync it."""
        with open(os.path.join(self.path, METADATA), "rb") as file:
            metadata = default_buffer_prototype().buffer.from_bytes(file.read())
        made: dict[str, Any] = {METADATA: metadata}
        _set(zarr.open_array(MemoryStore(made), mode="r+"), rows, start)
        for key, value in made.items():
            if key != METADATA:
                put_file(Path(self.path, key), memoryview(value.as_numpy_array()))


def _set(array: zarr.Array[Any], rows: Array, start: int) -> None:
    array.with_config({"write_empty_chunks": True})[start : start + len(rows)] = rows


def read_weights(path: str, name: str, index: int, expected: int) -> Array:
    """Read a block of weights.

    Parameters
    ----------
    path, name : str
        Of the model, and of the array in it.
    index : int
        Block number.
    expected : int
        Its checksum.

    Raises
    ------
    CheckpointError
        It is missing, altered or in another's place; says which images it is of.
    """
    array = open_weights(path, name)
    rows = array.chunks[0]
    start, stop = index * rows, min((index + 1) * rows, array.shape[0])
    key = f"{name}/{array.metadata.encode_chunk_key((index, 0))}"
    where = f"{path}: block {index} of the weights (images {start} to {stop - 1}, {key})"
    advice = f"remove {name}, and the same `dnmf fit` writes weights again"
    try:
        stored_bytes(array, index)
        block = np.asarray(array[start:stop])
    except FileNotFoundError:
        raise CheckpointError(f"{where} is missing; {advice}") from None
    except (OSError, ValueError, RuntimeError) as error:  # the latter are what codecs raise
        raise CheckpointError(f"{where} cannot be read ({error}); {advice}") from error
    if crc32c(block) != expected:
        raise CheckpointError(f"{where} is not what was written: altered or swapped; {advice}")
    return block


def open_weights(path: str, name: str) -> zarr.Array[Any]:
    """Open an array of weights, whose blocks it does not check."""
    try:
        return zarr.open_array(path, path=name, mode="r", zarr_format=3)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {name}/{METADATA} cannot be read ({error})") from error


def check_weights(path: str, name: str, checksums: Array) -> Iterator[str]:
    """Read all blocks and say what is wrong with them."""
    for index, expected in enumerate(checksums.tolist()):
        try:
            read_weights(path, name, index, expected)
        except CheckpointError as error:
            yield str(error)
