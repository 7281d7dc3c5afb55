"""What each codec makes of pixels: room, and the speed to read a corpus on one thread.

    python benchmarks/reading.py MNIST_FOLDER [--megabytes 32] [--rounds 7] [--json FILE]

Digits are those of MNIST. Natural tiles are noise with the spectrum of photographs (amplitude by
1 / frequency) in 128 x 128 pixels, a fifth of them black or white, as 8 bits, and as 12 bits in
uint16 with noise of three counts.
"ingest" is `dnmf.ingest` of the array with that codec, on all threads; "read" is
`Corpus.read_block` of all blocks, checks included, from files that the system has in memory;
"decode" is the codec alone on 1 MiB, and "cost" what the trial compares: the time to read at
750 MB/s and to decode. The trial takes the codec with a star. All codecs are timed in turn, and
the quietest round counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import about, load

import dnmf
from dnmf.storage.codecs import (
    STORAGE_BYTES_PER_SECOND,
    TRIAL_BYTES,
    choose_codec,
    measure_codecs,
)

SIDE = 128
HEAD = """\
| pixels | codec | ratio | ingest, MB/s | read, MB/s | decode, MB/s | cost, ms/MB |
|---|---|---|---|---|---|---|"""


def draw_tiles(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw tiles between 0 and 1 with the spectrum of photographs, (count, SIDE, SIDE)."""
    frequency = np.fft.fftfreq(SIDE)
    amplitude = 1 / np.maximum(np.hypot(frequency, frequency[:, None]), 1 / SIDE)
    tiles = np.empty((count, SIDE, SIDE), np.float32)
    for tile in tiles:
        tile[:] = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIDE, SIDE))) * amplitude).real
        tile *= 0.4 / tile.std()
    return np.clip(tiles + 0.5, 0, 1, out=tiles)


def draw_pixels(folder: Path, megabytes: int) -> dict[str, np.ndarray]:
    """Make about as many megabytes of each kind of images."""
    rng, size = np.random.default_rng(0), megabytes * 10**6
    tiles = draw_tiles(size // SIDE**2, rng)
    half = tiles[: len(tiles) // 2]
    counts = 4095 * half + 3 * rng.standard_normal(half.shape, np.float32)
    return {
        "digits": load(folder)[: size // 784].reshape(-1, 28, 28),
        "natural tiles": np.rint(255 * tiles).astype(np.uint8),
        "12 bits in uint16": np.rint(np.clip(counts, 0, 65535)).astype(np.uint16),
    }


def read_seconds(corpora: dict[str, dnmf.Corpus], rounds: int) -> dict[str, float]:
    """Read all blocks of corpora in turn; the seconds for each in the quietest round."""
    found = []
    for _ in range(rounds):
        seconds = {}
        for codec, corpus in corpora.items():
            began = time.perf_counter()
            for index in range(corpus.n_blocks):
                corpus.read_block(index)
            seconds[codec] = time.perf_counter() - began
        found.append(seconds)
    return min(found, key=lambda seconds: sum(seconds.values()))


def measure(name: str, X: np.ndarray, rounds: int) -> list[dict[str, object]]:
    """Ingest an array with each codec, and print a line for each."""
    trial = X.reshape(-1)[: TRIAL_BYTES // X.itemsize]
    stored, decode = measure_codecs(trial)
    with TemporaryDirectory() as folder:
        corpora, ingest = {}, {}
        for codec in stored:
            began = time.perf_counter()
            corpora[codec] = dnmf.ingest(X, f"{folder}/{codec}", codec=codec)
            ingest[codec] = time.perf_counter() - began
        read = read_seconds(corpora, rounds)
        ratios = {codec: c.nbytes / c.stored_bytes for codec, c in corpora.items()}
    rows, megabytes = [], X.nbytes / 1e6
    for codec in stored:
        cost = (stored[codec] / STORAGE_BYTES_PER_SECOND + decode[codec]) * 1e9 / trial.nbytes
        row = {"pixels": name, "codec": codec, "ratio": ratios[codec], "cost": cost}
        row |= {"ingest": megabytes / ingest[codec], "read": megabytes / read[codec]}
        row |= {"decode": trial.nbytes / 1e6 / decode[codec] if decode[codec] else None}
        row |= {"chosen": codec == choose_codec(stored, decode)}
        rows.append(row)
        print(
            f"| {name} | {codec}{' *' * row['chosen']} | {row['ratio']:.2f} | {row['ingest']:,.0f} "
            f"| {row['read']:,.0f} | {format(row['decode'] or 0, ',.0f')} | {cost:.2f} |",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kinds = draw_pixels(arguments.folder, arguments.megabytes)
    with TemporaryDirectory() as folder:
        dnmf.ingest(kinds["digits"][:100], f"{folder}/a")  # not timed: imports
    print(HEAD)
    rows = [row for item in kinds.items() for row in measure(*item, arguments.rounds)]
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about(), "codecs": rows}, indent=1))


if __name__ == "__main__":
    main()
