"""Memory for blocks that are read, which is used again when nothing refers to it any more.

The system clears the memory that it gives to a process. For the blocks of a pass this would take
half as long as decoding them.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np

from dnmf._typing import Array

LEAST_BYTES, MOST_BYTES = 2**20, 2**25
"""Smallest and largest number of bytes for which memory is kept; it is taken in units of the
first."""

_spare: deque[Array] = deque(maxlen=4)


def take_bytes(count: int) -> Array:
    """Return an array of bytes of arbitrary values.

    Its memory is given to another caller when neither the array nor a view of it exists any more.

    Parameters
    ----------
    count : int

    Returns
    -------
    ndarray of shape (count,), uint8
    """
    if not LEAST_BYTES <= count <= MOST_BYTES:
        return np.empty(count, np.uint8)
    memory = _take_spare(count)
    if memory is None:
        memory = np.empty(-(-count // LEAST_BYTES) * LEAST_BYTES, np.uint8)
    # Views of an array refer to the first one that is made of the memory, and not to views between.
    whole = np.frombuffer(memory.data, np.uint8)
    weakref.finalize(whole, _spare.append, memory).atexit = False
    return whole[:count]


def _take_spare(count: int) -> Array | None:
    """Take the memory for some bytes from what was given back, unless that is much too large."""
    for _ in range(len(_spare)):
        try:
            memory = _spare.popleft()  # atomic, and so is `append`: a finalizer may run at any time
        except IndexError:
            return None
        if count <= len(memory) <= 2 * count:
            return memory
        _spare.append(memory)
    return None
