"""The first minute: import and first fit in fresh processes, dnmf's and scikit-learn's.

    python benchmarks/first_minute.py [--times 3]

Prints medians of seconds: of the import, of the first fit of the 8x8 digits with 16 components,
with numba's cache and without, and of the second fit in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import json, time
marks = [time.perf_counter()]
from {module} import NMF
marks.append(time.perf_counter())
from sklearn.datasets import load_digits
X = load_digits().data
for _ in range(2):
    began = time.perf_counter()
    NMF(16, init="random", random_state=0).fit(X)
    marks.append(time.perf_counter() - began)
print(json.dumps([marks[1] - marks[0], *marks[2:]]))
"""


def run(module: str, cache: Path) -> list[float]:
    """Give the seconds of the import and of two fits in a process of its own."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    line = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(module=module)]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, check=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    rows: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run("dnmf", Path(folder, "used"))  # fills the cache, and the disk's
        run("sklearn.decomposition", Path(folder, "used"))
        for number in range(times):  # in turn, so that other load meets all alike
            for name, module, cache in (
                ("scikit-learn", "sklearn.decomposition", "used"),
                ("dnmf, cache", "dnmf", "used"),
                ("dnmf, no cache", "dnmf", f"new-{number}"),
            ):
                rows.setdefault(name, []).append(run(module, Path(folder, cache)))
    print(f"{'':15}  import  first fit  second fit   (s, medians of {times})")
    for name, runs in rows.items():
        first, second, third = map(statistics.median, zip(*runs, strict=True))
        print(f"{name:15}  {first:6.2f}  {second:9.2f}  {third:10.2f}")


if __name__ == "__main__":
    main()
