"""Image files, opened as an ingest opens them and read whole or not at all; upright images."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from dnmf.errors import BadImagesError
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.source import open_source

UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
"""What the value of the orientation tag asks for."""


class Opened:
    """Images in files; `read` raises BadImagesError where an ingest would leave images out."""

    def __init__(self, paths: Sequence[Any], **choices: Any) -> None:
        scratch = tempfile.mkdtemp(prefix="dnmf-")
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self.source, self.rejects = open_source(paths, Choices(**choices), scratch)
        self.image_shape, self.dtype = self.source.image_shape, self.source.dtype

    def __len__(self) -> int:
        return len(self.source)

    def ids(self, start: int, stop: int) -> list[str]:
        return self.source.load(start, stop).ids

    def read(self, start: int, stop: int) -> np.ndarray:
        batch = self.source.load(start, stop)
        if rejects := [*self.rejects, *batch.rejects]:
            raise BadImagesError(list(map(str, rejects)))
        return batch.images
