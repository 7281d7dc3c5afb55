"""Formats that other packages add, and how the format of a file is found."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

import dnmf
from dnmf.errors import IngestError
from dnmf.io.sources.formats import registry

CODE = """
import numpy as np
from dnmf.io.sources.image_array import ImageArray

class Raw:
    name = "raw bytes"
    suffixes = (".raw8",)

    def recognizes(self, head):
        return head.startswith(b"RAW8")

    def open(self, file, choices):
        with file.open() as stream:
            pixels = np.frombuffer(stream.read()[4:], "u1").reshape(4, 5)
        return ImageArray(pixels, ("y", "x"), file.name)

FORMAT = Raw()
"""

CACHES = (registry.all_formats, registry.known_suffixes, registry.all_suffixes)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution whose module has the given code."""

    def make(code):
        site = tmp_path / "site"
        info = site / "dnmf_raw-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dnmf-raw\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[dnmf.sources]\nraw = dnmf_raw_format:FORMAT\n")
        (site / "dnmf_raw_format.py").write_text(code)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        for cached in CACHES:
            cached.cache_clear()

    yield make
    sys.modules.pop("dnmf_raw_format", None)
    for cached in CACHES:
        cached.cache_clear()


def test_a_format_of_another_package_is_read_from_folders_and_by_its_first_bytes(tmp_path, install):
    install(CODE)
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype="u1")
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images):
        (tmp_path / f"in/{i}.raw8").write_bytes(b"RAW8" + image.tobytes())
    corpus = dnmf.ingest(tmp_path / "in", tmp_path / "c.zarr")
    assert (corpus.images(slice(None)) == images).all()
    (tmp_path / "unnamed").write_bytes(b"RAW8" + images[1].tobytes())
    corpus = dnmf.ingest(tmp_path / "unnamed", tmp_path / "d.zarr")
    assert (corpus.images(slice(None)) == images[1:2]).all()


def test_a_package_whose_format_cannot_be_loaded_is_named(tmp_path, install):
    install("import a_module_that_is_missing")
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(IngestError, match=r"dnmf-raw .*a_module_that_is_missing.*; .*remove"):
        dnmf.ingest(tmp_path / "a.npy", tmp_path / "c.zarr")
