"""Codecs of the pixels of a corpus, and the trial that chooses one.

A corpus is read once per pass and written once, so what counts is how soon a block is in memory:
the time to read what is stored, and to decode it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dnmf.errors import ParameterError

if TYPE_CHECKING:
    from dnmf._typing import Array


class Settings(NamedTuple):
    """Settings of Blosc, by the names that Zarr and numcodecs give them."""

    cname: str
    clevel: int
    shuffle: str


CODECS: dict[str, Settings | None] = {
    "lz4": Settings("lz4", 5, "noshuffle"),
    "lz4-shuffle": Settings("lz4", 5, "shuffle"),
    "lz4-bitshuffle": Settings("lz4", 5, "bitshuffle"),
    "zstd": Settings("zstd", 1, "noshuffle"),
    "zstd-bitshuffle": Settings("zstd", 1, "bitshuffle"),
    "none": None,
}
"""Codecs that a user can name, in the order that decides where two take the same room."""

WEIGHTS_CODEC = "lz4"
"""Codec of weights, many of which are 0: to shuffle their bytes would break up the zeros."""

STORAGE_BYTES_PER_SECOND = 7.5e8
"""Bandwidth of the storage for which a codec is chosen, for each core that reads."""

NEAR_TIE = 1.1
"""Ratio to the least time up to which a time counts as equal to it: clocks are no more exact."""

TRIAL_BYTES = 2**20
"""Bytes of pixels that a trial takes; for a corpus of fewer it is not worth its time."""

TRIAL_ROUNDS = 5
"""Number of times that a trial decodes with each codec."""


def check_codec(name: Any) -> None:
    """Raise ParameterError unless there is a codec of a name."""
    if not isinstance(name, str) or name not in CODECS:
        raise ParameterError(
            f"codec is {name!r}; it must be one of {', '.join(CODECS)}, or left out: then it is "
            "chosen by a trial"
        )


def default_codec(itemsize: int) -> str:
    """Return the codec of pixels that are too few for a trial, given their size in bytes."""
    return "lz4" if itemsize == 1 else "lz4-bitshuffle"


def codec_name(settings: Mapping[str, Any] | None) -> str:
    """Return the name of a codec, given its settings in Zarr's metadata; None is no compression."""
    if settings is None:
        return "none"
    shuffle = settings["shuffle"]
    return f"{settings['cname']}{'' if shuffle == 'noshuffle' else f'-{shuffle}'}"


def compressors(name: str) -> list[Any]:
    """Return the Zarr codecs for the chunks of an array: compression and a checksum."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    settings = CODECS[name]
    compression = [] if settings is None else [BloscCodec(**settings._asdict())]
    return [*compression, Crc32cCodec()]


def try_codecs(pixels: Array) -> str:
    """Choose the codec of a corpus by encoding and decoding some of its pixels.

    Parameters
    ----------
    pixels : ndarray
        Contiguous; about `TRIAL_BYTES` of them.

    Returns
    -------
    str
        Name of the codec that `choose_codec` chooses.
    """
    return choose_codec(*measure_codecs(pixels))


def measure_codecs(pixels: Array) -> tuple[dict[str, int], dict[str, float]]:
    """Return the bytes that pixels take with each codec, and the seconds to decode them."""
    # To shuffle the bytes of numbers of one byte does nothing.
    names = [name for name in CODECS if pixels.dtype.itemsize > 1 or name != "lz4-shuffle"]
    stored = {name: compress(name, pixels) for name in names}
    rounds = [_time_decoding(stored, pixels) for _ in range(TRIAL_ROUNDS)]
    # Another process may halve the speed for a while: in the quietest round it did so for none.
    seconds = min(rounds, key=lambda times: sum(times.values()))
    return {name: len(content) for name, content in stored.items()}, seconds


def choose_codec(stored_bytes: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    """Choose the codec with the least stored bytes among those with nearly the least time.

    The time is that to read the stored bytes at `STORAGE_BYTES_PER_SECOND` and to decode them;
    nearly the least is at most `NEAR_TIE` times the least.

    Parameters
    ----------
    stored_bytes : mapping of str to int
        What the same pixels take with each codec.
    seconds : mapping of str to float
        Seconds to decode them.
    """
    times = {
        name: stored / STORAGE_BYTES_PER_SECOND + seconds[name]
        for name, stored in stored_bytes.items()
    }
    near = [name for name, time in times.items() if time <= NEAR_TIE * min(times.values())]
    return min(near, key=lambda name: stored_bytes[name])


def import_blosc() -> Any:
    """Return the module `numcodecs.blosc`, set to decode on the thread of the caller."""
    from numcodecs import blosc

    # On the main thread Blosc would start threads of its own. Blocks are read on several already.
    blosc.use_threads = False
    return blosc


def _blosc(settings: Settings) -> Any:
    blosc = import_blosc()
    numbers = {
        "noshuffle": blosc.NOSHUFFLE,
        "shuffle": blosc.SHUFFLE,
        "bitshuffle": blosc.BITSHUFFLE,
    }
    return blosc.Blosc(settings.cname, settings.clevel, numbers[settings.shuffle])


def compress(name: str, numbers: Array) -> memoryview:
    """Compress contiguous numbers as Zarr does with a codec; without one nothing is copied."""
    settings = CODECS[name]
    body: Any = numbers if settings is None else _blosc(settings).encode(numbers)
    return memoryview(body).cast("B")


def _time_decoding(stored: Mapping[str, memoryview], pixels: Array) -> dict[str, float]:
    """Measure the seconds to decode with each codec; what is not compressed takes none."""
    import numpy as np

    out, seconds = np.empty_like(pixels), dict.fromkeys(stored, 0.0)
    for name, content in stored.items():
        if (settings := CODECS[name]) is not None:
            began = time.perf_counter()
            _blosc(settings).decode(content, out=out)
            seconds[name] = time.perf_counter() - began
    return seconds
