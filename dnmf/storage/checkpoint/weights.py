"""Weights of a model on disk: one chunk per block of X, written by the task that reads the block.

An array of weights belongs to one pass and is written once. The task that writes a block returns
its checksum, and the pass keeps the checksums of all blocks. A lost, altered or swapped block is
therefore found when it is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import uuid4

from dnmf._typing import Array
from dnmf.errors import BlockError, CheckpointError
from dnmf.storage.checkpoint.commit import FLAT, new_array, translate_write_errors
from dnmf.storage.codecs import WEIGHTS_CODEC
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore
from dnmf.storage.verified_array import VerifiedArray, open_array


def create_weights_array(
    store: ObjectStore, n_iter: int, shape: tuple[int, int], block_rows: int, dtype: str
) -> tuple[str, WeightsWriter]:
    """Create the empty array for the weights of a pass; return its name, and what writes to it.

    The name is unique: a task of a fit that was killed may still be running somewhere, and must not
    write into weights that another fit uses.
    """
    name = f"weights-{n_iter:06d}-{uuid4().hex[:8]}"
    chunks = (min(block_rows, shape[0]), shape[1])
    dims = ("image", "component")
    new, node = new_array(store, name, shape, chunks, dtype, WEIGHTS_CODEC, dims)
    store.set(f"{name}/{METADATA}", json.dumps(node).encode())
    return name, WeightsWriter(new)


@dataclass(frozen=True)
class WeightsWriter:
    """Function that writes a block of weights inside a task, which need not read anything for it.

    Attributes
    ----------
    array : VerifiedArray
    """

    array: VerifiedArray

    def __call__(self, rows: Array, start: int) -> int:
        """Write a block, fsynced, and return its checksum; safe to repeat.

        Parameters
        ----------
        rows : ndarray of shape (rows, d)
        start : int
            Number of the first row.
        """
        images = f"{start} to {start + len(rows) - 1}"
        with translate_write_errors(self.array.store.path, f"the weights of images {images}"):
            return self.array.write_block(start // self.array.chunks[0], rows)[1]


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
