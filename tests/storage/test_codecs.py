"""How pixels are compressed: the rule that chooses, the names, and the memory to decode into."""

from __future__ import annotations

import gc
from collections import deque

import numpy as np
import pytest
import zarr
from test_corpus import ROWS, make

import dnmf
from dnmf.errors import BlockError, ParameterError
from dnmf.storage import memory
from dnmf.storage.codecs import CODECS, check_codec, choose_codec, codec_name, try_codecs
from dnmf.storage.memory import LEAST_BYTES, MOST_BYTES, take_bytes

MB, BIT = 10**6, "lz4-bitshuffle"


@pytest.mark.parametrize("slow", [1, 2], ids=["quiet", "busy"])
@pytest.mark.parametrize(
    ("pixels", "ratios", "speeds", "expected"),
    [  # speeds in MB/s, on one core
        ("digits", (2.44, None, 1.54, 3.28, 2.30, 1), (4600, 0, 1540, 1130, 720, 1e9), "lz4"),
        ("natural", (1.29, None, 1.45, 1.5, 1.5, 1), (5700, 0, 2100, 600, 500, 1e9), "lz4"),
        ("uint16", (1.0, 1.17, 1.64, 1.23, 1.7, 1), (26e3, 3500, 4100, 580, 600, 1e9), BIT),
        ("noise", (0.99, None, 0.99, 0.99, 0.99, 1), (26e3, 0, 26e3, 26e3, 26e3, 1e9), "none"),
        ("flat", (90, None, 100, 2000, 500, 1), (9e3, 0, 8e3, 9e3, 8e3, 1e9), "zstd"),
    ],
)
def test_the_codec_with_which_a_block_is_soonest_read(pixels, ratios, speeds, expected, slow):
    measured = [item for item in zip(CODECS, ratios, speeds, strict=True) if item[1]]
    stored = {name: round(16 * MB / ratio) for name, ratio, _ in measured}
    seconds = {name: slow * 16 / speed for name, _, speed in measured}
    assert choose_codec(stored, seconds) == expected


def test_a_near_tie_goes_to_the_least_room_and_a_tie_to_the_first():
    assert choose_codec({"lz4": 10 * MB, "zstd": 5 * MB}, {"lz4": 0, "zstd": 0.0079}) == "zstd"
    assert choose_codec({"lz4": 10 * MB, "zstd": 5 * MB}, {"lz4": 0, "zstd": 0.0081}) == "lz4"
    assert choose_codec({"lz4": MB, "zstd": MB}, {"lz4": 1e-5, "zstd": 0}) == "lz4"


def test_the_trial_compresses_the_pixels_that_it_is_given():
    # What noise costs does not depend on the clock: each codec stores it as it is, and then some.
    noise = np.random.default_rng(0).integers(0, 256, 2**20, dtype=np.uint8)
    assert try_codecs(noise) == "none"
    assert try_codecs(np.zeros(2**20, np.uint16)) != "none"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read_named_and_checked(tmp_path, codec, dtype):
    path = tmp_path / "c"
    X = make(str(path), np.arange(60).reshape(10, 6).astype(dtype), codec=codec)
    corpus = dnmf.open_corpus(path)
    assert corpus.codec == codec
    assert (corpus.images(slice(None)).reshape(10, 6) == X).all()
    assert (zarr.open_array(path / "pixels", mode="r")[:].reshape(X.shape) == X).all()
    block = corpus.read_block(0)
    block[0] = 9  # what is read belongs to the caller
    assert (corpus.read_block(0) == X[:ROWS]).all()
    chunk = path / "pixels/c/1/0/0"
    content = bytearray(chunk.read_bytes())
    for place in (0, len(content) // 2, len(content) - 1):
        content[place] ^= 1
        chunk.write_bytes(content)
        with pytest.raises(BlockError, match=r"block 1 .*restore pixels/c/1/0"):
            corpus.read_block(1)
        content[place] ^= 1


@pytest.mark.parametrize("wrong", ["lz5", "", "LZ4", 5, ["lz4"]])
def test_an_unknown_codec_is_refused_with_those_there_are(wrong):
    with pytest.raises(ParameterError, match=r"codec is .*one of lz4, lz4-shuffle, .*, none, or"):
        check_codec(wrong)


def test_codecs_that_others_choose_have_names_too():
    assert codec_name({"cname": "blosclz", "shuffle": "shuffle"}) == "blosclz-shuffle"


class TestMemory:
    """Memory is used again when nothing refers to it, and not before."""

    def test_it_is_used_again(self, monkeypatch):
        # What earlier tests gave back would be taken first.
        monkeypatch.setattr(memory, "_spare", deque(maxlen=4))
        first = take_bytes(3 * LEAST_BYTES)
        place = first.ctypes.data
        del first
        gc.collect()
        assert take_bytes(2 * LEAST_BYTES).ctypes.data == place

    @pytest.mark.parametrize(
        "view",
        [
            lambda array: array[5:],
            lambda array: array.view(np.float32).reshape(3, -1)[1:][:, 3:],
            lambda array: memoryview(array[3:]),
        ],
    )
    def test_not_while_there_is_a_view(self, view):
        array = take_bytes(3 * LEAST_BYTES)
        array[:] = 1
        kept = view(array)
        before = bytes(kept)
        del array
        others = [take_bytes(3 * LEAST_BYTES) for _ in range(6)]
        for other in others:
            other[:] = 2
        assert bytes(kept) == before

    @pytest.mark.parametrize("count", [0, 1, LEAST_BYTES - 1, LEAST_BYTES + 1, MOST_BYTES + 1])
    def test_any_number_of_bytes(self, count):
        array = take_bytes(count)
        assert (array.shape, array.dtype, array.flags.writeable) == ((count,), np.uint8, True)
