"""Image files opened as a source, as an ingest opens them, and read whole or not at all."""

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
