"""Images a second of `dnmf.ingest`, beside a loop that only decodes the same files.

    python benchmarks/ingest.py [--files 2000] [--rounds 5] [--threads 2] [--json FILE]

"JPEG 512 to 128, grey" are files of 512 x 512 rgb, ingested with size (128, 128) and colour
"gray". Its bare loop opens each file with Pillow, lets the decoder shrink it to grey, and makes an
array of it; "whole" decodes all pixels, converts and averages them, as loops mostly do. "16-bit
TIFF" are files of 256 x 256, ingested as they are; their bare loop is `tifffile.imread`, and the
"saving" one writes what it has read with `numpy.save`, 128 images to a file, as a corpus holds
them. Other loops keep nothing, while an ingest lists, checks and writes: of files that are not
compressed this is most of the work. Loops run on as many threads as the ingest. All are timed in
turn, and the quietest round of each counts. The files are made first, and in the memory of the
system when they are read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
from common import about, pin
from PIL import Image

import dnmf

SIZE = (128, 128)
PATTERNS = 20
HEAD = """\
| files | loop, images/s | dnmf.ingest, images/s | ratio |
|---|---|---|---|"""


def draw(side: int, seed: int) -> np.ndarray:
    """Draw waves with noise, between 0 and 1, that compress about as photographs do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    waves = np.sin(x / (9 + seed)) + np.cos(y / 23 + x / (40 + seed))
    return np.clip(0.5 + 0.2 * waves + rng.normal(0, 0.03, (side, side)), 0, 1)


def write_jpegs(folder: Path, files: int) -> None:
    """Write rgb files of 512 x 512, of which some have the same pixels."""
    for i in range(files):
        path = folder / f"{i}.jpg"
        if i < PATTERNS:
            channels = [draw(512, i) * 255 for _ in range(3)]
            Image.fromarray(np.stack(channels, 2).astype(np.uint8)).save(path, quality=85)
        else:
            path.write_bytes((folder / f"{i % PATTERNS}.jpg").read_bytes())


def write_tiffs(folder: Path, files: int, compression: str | None) -> None:
    """Write grey files of 256 x 256 and 16 bits, of which some have the same pixels."""
    for i in range(files):
        path = folder / f"{i}.tif"
        if i < PATTERNS:
            pixels = (draw(256, i) * 65535).astype(np.uint16)
            tifffile.imwrite(
                path, pixels, compression=compression, predictor=compression is not None
            )
        else:
            path.write_bytes((folder / f"{i % PATTERNS}.tif").read_bytes())


def decode_small(path: Path) -> np.ndarray:
    """Decode a JPEG to grey of the size, as fast as Pillow can."""
    with Image.open(path) as image:
        image.draft("L", SIZE)
        return np.asarray(image)


def decode_whole(path: Path) -> np.ndarray:
    """Decode all pixels of a JPEG, and then convert and average them."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize(SIZE, Image.Resampling.BOX))


def loop(decode: Callable[[Path], np.ndarray], paths: list[Path], threads: int) -> None:
    """Decode files on some threads, of which each has a share of them."""

    def run(share: list[Path]) -> int:
        return sum(decode(path).ndim == 2 for path in share)

    with ThreadPoolExecutor(threads) as pool:
        assert sum(pool.map(run, (paths[i::threads] for i in range(threads)))) == len(paths)


def saving_loop(paths: list[Path], threads: int) -> None:
    """Read TIFF files, and write them as ``.npy`` files of 128 images."""
    with TemporaryDirectory() as out, ThreadPoolExecutor(threads) as pool:

        def run(start: int) -> None:
            images = [tifffile.imread(path) for path in paths[start : start + 128]]
            np.save(f"{out}/{start}.npy", np.stack(images))

        list(pool.map(run, range(0, len(paths), 128)))


def ingest(folder: Path, choices: dict[str, object]) -> None:
    with TemporaryDirectory() as out:
        dnmf.ingest(folder, f"{out}/c", **choices)


def seconds_of(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Time runs in turn; the seconds of the quietest round of each."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - began)
    return {name: min(seconds) for name, seconds in found.items()}


def measure(
    name: str,
    folder: Path,
    decoders: dict[str, Callable[[Path], np.ndarray]],
    choices: dict[str, object],
    arguments: argparse.Namespace,
) -> list[dict[str, object]]:
    """Compare loops with an ingest of a folder, and print a line for each."""
    paths = sorted(folder.iterdir())
    runs: dict[str, Callable[[], None]] = {
        kind: partial(loop, decode, paths, arguments.threads) for kind, decode in decoders.items()
    }
    if tifffile.imread in decoders.values():
        runs["saving"] = partial(saving_loop, paths, arguments.threads)
    runs["ingest"] = partial(ingest, folder, choices)
    runs["ingest"]()  # what is imported late is imported now
    seconds = seconds_of(runs, arguments.rounds)
    speed = {kind: len(paths) / found for kind, found in seconds.items()}
    rows = []
    for kind in [kind for kind in runs if kind != "ingest"]:
        rows.append(
            {"files": f"{name}, {kind} loop", "loop": speed[kind], "ingest": speed["ingest"]}
        )
        print(
            f"| {name}, {kind} loop | {speed[kind]:,.0f} | {speed['ingest']:,.0f} "
            f"| {speed['ingest'] / speed[kind]:.2f} |",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pin(arguments.threads)
    with TemporaryDirectory() as work:
        jpegs = Path(work, "jpeg")
        jpegs.mkdir()
        write_jpegs(jpegs, arguments.files)
        print(HEAD)
        rows = measure(
            "JPEG 512 to 128, grey",
            jpegs,
            {"bare": decode_small, "whole": decode_whole},
            {"size": SIZE, "color": "gray"},
            arguments,
        )
        for compression in ("zlib", "lzw", None):
            tiffs = Path(work, f"tiff-{compression}")
            tiffs.mkdir()
            write_tiffs(tiffs, arguments.files, compression)
            name = f"16-bit TIFF, {compression or 'not compressed'}"
            rows += measure(name, tiffs, {"bare": tifffile.imread}, {}, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about(), "ingest": rows}, indent=1))


if __name__ == "__main__":
    main()
