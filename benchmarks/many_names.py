"""Memory of an ingest's plan against the number of its files.

    python benchmarks/many_names.py [LARGEST]

Plans an ingest of text lists of 10^5, 10^6, ... names up to LARGEST (default 10^7), and of folders
of 10^5 and 10^6 empty files but one, each in a process of its own, and prints the peak of its
resident memory and the seconds that the plan takes. A Python list of the names is the peer.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def plan(source: str, target: str) -> None:
    from dnmf.io.ingest import plan_ingest

    start = time.perf_counter()
    n = plan_ingest(source, target, codec="lz4").layout.n_images
    report(n, time.perf_counter() - start)


def hold(source: str, target: str) -> None:
    start = time.perf_counter()
    names = Path(source).read_text().splitlines()
    report(len(names), time.perf_counter() - start)


def report(n: int, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n:>11,} files   {seconds:7.1f} s   {peak:7,.0f} MB at the peak")


def run(action: str, *arguments: str) -> None:
    subprocess.run([sys.executable, __file__, action, *arguments], check=True)


def main(largest: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(f"{folder}/image-000000000.png")
        n = 10**5
        while n <= largest:
            with open(f"{folder}/list.txt", "w") as file:
                file.writelines(f"image-{i:09d}.png\n" for i in range(n))
            print("a list:        ", end="", flush=True)
            run("plan", f"{folder}/list.txt", f"{folder}/{n}.zarr")
            print("names in memory:", end="", flush=True)
            run("hold", f"{folder}/list.txt", "")
            n *= 10
        os.remove(f"{folder}/list.txt")
        os.mkdir(f"{folder}/in")
        os.rename(f"{folder}/image-000000000.png", f"{folder}/in/image-000000000.png")
        for start, stop in ((1, 10**5), (10**5, 10**6)):
            for i in range(start, stop):
                os.close(os.open(f"{folder}/in/image-{i:09d}.png", os.O_CREAT | os.O_WRONLY))
            print("a folder:      ", end="", flush=True)
            run("plan", f"{folder}/in", f"{folder}/folder-{stop}.zarr")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        {"plan": plan, "hold": hold}[sys.argv[1]](*sys.argv[2:])
    else:
        main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**7)
