"""The test images of MNIST."""

from __future__ import annotations

import gzip
from importlib.resources import files

import numpy as np

from dnmf._typing import Array

FILE = files("dnmf") / "data" / "t10k-images-idx3-ubyte.gz"
"""Gzip-compressed file in IDX format: a header of 16 bytes, then the pixels."""


def digits() -> Array:
    """Read the 10,000 bundled images of handwritten digits, the test images of MNIST.

    Returns
    -------
    ndarray of shape (10000, 784), uint8
        One row per image of 28 x 28 pixels, from 0 (paper) to 255 (ink).
    """
    pixels = np.frombuffer(gzip.decompress(FILE.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 28 * 28)
