"""Arrays whose axes are reordered or mirrored, or whose colours are converted, when read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dnmf._typing import Array


class MappedArray:
    """An array whose pixels are converted when slices of it are read.

    Parameters
    ----------
    base : array
        Has a `shape`, a `dtype` and slices along all axes.
    order : sequence of int
        Axes of `base`, in the order in which they are seen.
    mirrored : set of int
        Axes of `base` that are seen from their end.
    convert : callable, optional
        Converts pixels that have been read, with all of their last axis if there are `channels`.
    channels : (int or None, int or None), optional
        Length of the last axis that `convert` takes and of the one that it gives; None where there
        is no such axis.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(
        self,
        base: Any,
        order: Sequence[int],
        mirrored: frozenset[int] = frozenset(),
        convert: Callable[[Array], Array] | None = None,
        channels: tuple[int | None, int | None] = (None, None),
    ) -> None:
        self._base, self._order, self._mirrored = base, tuple(order), mirrored
        self._convert, self._channels = convert, channels
        shape = tuple(int(base.shape[axis]) for axis in self._order)
        taken, given = channels
        self.shape = (shape[:-1] if taken else shape) + ((given,) if given else ())
        self.dtype = np.dtype(base.dtype)
        if convert is not None:
            one = np.zeros((1, taken) if taken else (1,), self.dtype)
            self.dtype = convert(one).dtype

    def __getitem__(self, key: slice | tuple[slice, ...]) -> Array:
        """Read slices of the first axes."""
        asked = list(key) if isinstance(key, tuple) else [key]
        asked += [slice(None)] * (len(self.shape) - len(asked))
        last = asked.pop() if self._channels[1] else slice(None)
        if self._channels[0]:
            asked.append(slice(None))
        index = [slice(None)] * len(self._order)
        for axis, part in zip(self._order, asked, strict=True):
            length = self._base.shape[axis]
            start, stop, _ = part.indices(length)
            mirrored = axis in self._mirrored
            index[axis] = slice(length - stop, length - start) if mirrored else slice(start, stop)
        pixels = np.asarray(self._base[tuple(index)])
        turn = [slice(None, None, -1 if axis in self._mirrored else 1) for axis in self._order]
        pixels = pixels.transpose(self._order)[tuple(turn)]
        if self._convert is not None:
            pixels = self._convert(pixels)
        return pixels[..., last] if self._channels[1] else pixels
