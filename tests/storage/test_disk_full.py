"""A disk that is full, before or while something is written, has a name and leaves no trace."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import dnmf
from dnmf.errors import DnmfError, SpaceError
from dnmf.io.export import write_pngs, write_reconstruction, write_weights

MiB = 2**20
NOISE = np.random.default_rng(0).integers(0, 256, (600, 32, 32), dtype=np.uint8)  # 0.6 MB
"""Images that no codec makes smaller."""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB: a file system of its own, since nothing else is ever really full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0777", "dnmf-test", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    np.save(folder / "x.npy", NOISE)
    corpus = dnmf.ingest(folder / "x.npy", folder / "noise.zarr", block_rows=50)
    model = dnmf.NMF(60, random_state=0, tol=0.5).fit(corpus)
    return folder, corpus, model


def fill(disk, left):
    """Leave so many bytes free."""
    room = os.statvfs(disk)
    with open(disk / "ballast", "wb") as file:
        file.write(bytes(max(room.f_bavail * room.f_frsize - left, 0)))


def unaware(monkeypatch):
    """Let the check beforehand see room, as where others write at the same time."""
    usage = shutil.disk_usage
    plenty = usage("/")._replace(free=2**60)
    monkeypatch.setattr("dnmf.storage.atomic.shutil.disk_usage", lambda path: plenty)


def writers(made, disk):
    folder, corpus, model = made
    return {
        "ingest": lambda **force: dnmf.ingest(
            folder / "x.npy", disk / "out", block_rows=50, **force
        ),
        "transform": lambda **force: write_weights(model, corpus, disk / "out", **force),
        "reconstruct": lambda **force: write_reconstruction(model, corpus, disk / "out", **force),
    }


UNFINISHED = ".out.ingest"
"""Folder of an ingest of files that goes on when the same call is made again."""

WRITERS = pytest.mark.parametrize("writer", ["ingest", "transform", "reconstruct"])


@WRITERS
def test_too_small_a_disk_is_refused_before_anything_is_written(made, small_disk, writer):
    fill(small_disk, left=100_000)
    before = sorted(os.listdir(small_disk))
    with pytest.raises(SpaceError, match=r"takes up to [\d.,]+ [kM]B, and the disk has .* free"):
        writers(made, small_disk)[writer]()
    assert sorted(os.listdir(small_disk)) == before


@pytest.mark.parametrize("on_cluster", [False, True], ids=["threads", "cluster"])
@WRITERS
def test_a_disk_that_fills_up_leaves_nothing(
    made, small_disk, monkeypatch, request, writer, on_cluster
):
    if on_cluster:
        request.getfixturevalue("client")
    unaware(monkeypatch)
    fill(small_disk, left=100_000)
    before = sorted(os.listdir(small_disk))
    with pytest.raises(SpaceError, match=r"the disk is full: .* at .*out could not be written"):
        writers(made, small_disk)[writer]()
    assert sorted(set(os.listdir(small_disk)) - {UNFINISHED}) == before
    if writer == "ingest":  # what is written is not lost
        (small_disk / "ballast").unlink()
        assert (writers(made, small_disk)[writer]().images(slice(None)) == NOISE).all()
        assert os.listdir(small_disk) == ["out"]


@WRITERS
def test_what_was_there_stays_as_it_was(made, small_disk, tmp_path, monkeypatch, writer):
    unaware(monkeypatch)
    _, _, model = made
    few = tmp_path / "few.npy"
    np.save(few, NOISE[:20])
    small = dnmf.ingest(few, tmp_path / "few.zarr")
    old = {
        "ingest": lambda: dnmf.ingest(few, small_disk / "out"),
        "transform": lambda: write_weights(model, small, small_disk / "out"),
        "reconstruct": lambda: write_reconstruction(model, small, small_disk / "out"),
    }
    old[writer]()
    fill(small_disk, left=60_000)
    before = content(small_disk)
    with pytest.raises(SpaceError, match="the disk is full"):
        writers(made, small_disk)[writer](force=True)
    assert content(small_disk) == before


def content(folder):
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and UNFINISHED not in path.parts
    }


def test_every_room_that_is_left_is_tried(made, small_disk, monkeypatch):
    """The disk is full at another write each time: in pixels, ids, metadata, manifest, record."""
    unaware(monkeypatch)
    ends = []
    for left in range(0, 2 * MiB, 32 * 1024 + 4096):
        fill(small_disk, left=left)
        try:
            writers(made, small_disk)["ingest"]()
        except SpaceError:
            assert set(os.listdir(small_disk)) <= {"ballast", UNFINISHED}
            shutil.rmtree(small_disk / UNFINISHED, ignore_errors=True)
            ends.append("full")
        else:
            assert (dnmf.open_corpus(small_disk / "out").images(slice(None)) == NOISE).all()
            shutil.rmtree(small_disk / "out")
            ends.append("whole")
        (small_disk / "ballast").unlink()
    assert ends == sorted(ends)
    assert {"full", "whole"} == set(ends)


def test_pictures_that_do_not_fit_leave_none(made, small_disk, monkeypatch):
    unaware(monkeypatch)
    _, corpus, model = made
    fill(small_disk, left=50_000)
    with pytest.raises(SpaceError, match="the disk is full"):
        write_pngs(model, corpus, slice(0, 300), small_disk / "again")
    assert os.listdir(small_disk) == ["ballast"]
    write_pngs(model, corpus, slice(7, 8), small_disk / "mine")
    before = content(small_disk)
    with pytest.raises(SpaceError, match="the disk is full"):
        write_pngs(model, corpus, slice(0, 300), small_disk / "mine", force=True)
    assert content(small_disk) == before


class FullDisk:
    """A source whose second block cannot be stored; also where no file system may be mounted."""

    image_shape, dtype = (2, 2), np.dtype(np.uint8)

    def __init__(self, code) -> None:
        self.code = code

    def __len__(self):
        return 20

    def ids(self, start, stop):
        return [str(i) for i in range(start, stop)]

    def read(self, start, stop):
        if start:
            raise OSError(self.code, os.strerror(self.code))
        return np.zeros((stop - start, 2, 2), np.uint8)


@pytest.mark.parametrize("on_cluster", [False, True], ids=["threads", "cluster"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_an_error_of_a_task_is_named_too(tmp_path, request, on_cluster, code):
    if on_cluster:
        request.getfixturevalue("client")
    with pytest.raises(SpaceError, match=re.escape(os.strerror(code))):
        dnmf.ingest(FullDisk(code), tmp_path / "out", block_rows=5)
    assert os.listdir(tmp_path) == []


def test_another_error_of_a_disk_keeps_its_name(tmp_path):
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as error:
        dnmf.ingest(FullDisk(errno.EIO), tmp_path / "out", block_rows=5)
    assert not isinstance(error.value, DnmfError)
    assert os.listdir(tmp_path) == []
    assert Path(tmp_path).exists()
