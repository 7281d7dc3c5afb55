"""Compiled functions work, and give the same numbers, whatever state their cache on disk is in."""

from __future__ import annotations

import importlib.util
import os
import resource
import warnings
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from dnmf.numerics import compiled as module

SOURCE = """
from dnmf.numerics.compiled import compiled

@compiled(nogil=True)
def twice(x):
    return 2 * x

@compiled(nogil=True)
def five_times(x):
    return twice(x) + twice(x) + x
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Import the functions above as a new process would, with a cache in a folder."""
    (tmp_path / "kernels.py").write_text(SOURCE)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))

    def load():
        monkeypatch.setattr(module, "_said", set())
        spec = importlib.util.spec_from_file_location("kernels", tmp_path / "kernels.py")
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        return kernels

    return load


def files(folder, suffix):
    return sorted(folder.rglob(f"*.{suffix}"))


def run(kernels):
    assert kernels.five_times(3) == 15
    assert kernels.five_times(0.5) == 2.5


def test_what_is_compiled_is_loaded_by_the_next_process(load, tmp_path):
    run(load())
    stamps = {file: file.stat().st_mtime_ns for file in files(tmp_path, "nb?")}
    assert len(stamps) == 2 + 4
    run(load())
    assert {file: file.stat().st_mtime_ns for file in files(tmp_path, "nb?")} == stamps


def test_what_takes_seconds_is_said_once(load, caplog):
    with caplog.at_level("INFO", "dnmf"):
        run(load())
        assert [record.message for record in caplog.records] == [
            "compiling for the first time on this machine, which takes seconds"
        ]
        run(load())
    assert len(caplog.records) == 1, "the second process has loaded what the first compiled"


DAMAGE = {
    "empty": lambda content: b"",
    "short": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "a page of zeros": lambda content: content[:4096] + bytes(4096) + content[8192:],
    "other bytes": lambda content: np.random.default_rng(0).bytes(len(content)),
}


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_made_again(load, tmp_path, suffix, damage):
    run(load())
    sound = {file: file.stat().st_size for file in files(tmp_path, suffix)}
    for file in sound:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        run(load())
    mended = {file: file.stat().st_size for file in files(tmp_path, suffix)}
    assert mended.keys() == sound.keys()
    run(load())  # without a warning


def test_no_folder_for_the_cache(load, tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    (tmp_path / "__pycache__").touch()  # nobody, not even root, can write below a file
    kernels = load()
    with pytest.warns(RuntimeWarning, match="seconds .* set NUMBA_CACHE_DIR to a folder") as said:
        run(kernels)
    assert len(said) == 1, "two functions, four combinations of types, one warning"


@pytest.mark.parametrize("most", [0, 2000])  # the second has room for the index alone
def test_no_space_for_the_cache(load, tmp_path, most):
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kernels = load()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        with pytest.warns(RuntimeWarning, match=r"OSError.*too large.*NUMBA_CACHE_DIR"):
            run(kernels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    run(load())


def test_an_error_of_the_function_itself_is_raised(load):
    with pytest.raises(numba.TypingError, match="none"):
        load().twice(None)


def test_many_threads_at_once(load):
    for _ in range(3):
        kernels = load()
        with ThreadPoolExecutor(4) as pool:
            assert [*pool.map(kernels.five_times, [3] * 8)] == [15] * 8
            assert [*pool.map(kernels.twice, [0.5, 3] * 4)] == [1, 6] * 4
