"""Corpora larger than the memory of all workers: a fit on a Dask cluster beside the bare kernel.

    python benchmarks/out_of_core.py build MNIST_FOLDER CORPUS [--images 8100000] [--workers 1]
    python benchmarks/out_of_core.py build-large CORPUS [--images 20000] [--side 256]
    python benchmarks/out_of_core.py fit CORPUS [-d 64] [--workers 2] [--memory 1GB] [--passes 5]
        [--bare-seconds 60] [--json FILE]

`build` turns and shifts MNIST digits at random, `build-large` adds up smooth parts and noise; block
i of either depends on the seed and i alone. `fit` prints what `dnmf plan` says, then runs
`dnmf.NMF` on single-threaded worker processes of limited memory, started as `--workers` does.
Before each pass and after the last it gives the same H to others:

- "bare": as many plain processes, which read and measure the same blocks without Dask;
- "memory": one process of as many threads, which has a gigabyte of the blocks in memory: a pass
  over an array;
- "threads": the same process and the same blocks, which it now reads from the corpus.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numba
import numpy as np
import psutil
from common import about, load

import dnmf
from dnmf.engine.client import freed_memory_kept
from dnmf.engine.threads import VARIABLE, one_blas_thread
from dnmf.engine.tree_reduce import choose_block_rows
from dnmf.estimators import nmf
from dnmf.estimators.inputs import blocks_of
from dnmf.numerics.block import Block
from dnmf.numerics.objective import Basis
from dnmf.numerics.quadratic import Quadratic
from dnmf.solvers.loop import measure
from dnmf.storage.atomic import new_store
from dnmf.storage.codecs import CODECS, try_codecs
from dnmf.storage.corpus_writer import FORMAT, Layout, commit_corpus, create_corpus
from dnmf.storage.table_writer import write_block

SPAWN = multiprocessing.get_context("spawn")
Rng = np.random.Generator
Draw = Callable[[int, Rng], np.ndarray]
load_once = lru_cache(maxsize=1)(load)

ANGLE, SHIFT = np.deg2rad(15), 2
"""The most that a digit is turned, radians, and shifted along each axis, pixels."""

MARGIN = 8
"""Black pixels around a digit: a corner that is turned and shifted reaches less far."""

IN_MEMORY = 10**9
"""Bytes of pixels for the runs in memory."""

PARTS, BLOBS, SHARE, LEVEL, NOISE = 64, 3, 0.4, 30, 3
"""Of large images: their parts, the blobs of a part, the share of the parts in an image, and the
grey levels of the peak of a part of weight 1 and of the noise."""


def draw_digits(folder: Path, rows: int, rng: Rng) -> np.ndarray:
    """Draw MNIST digits under small random turns and shifts, (rows, p) uint8."""
    digits = load_once(folder).reshape(-1, 28, 28)
    picks = rng.integers(len(digits), size=rows)
    angles = rng.uniform(-ANGLE, ANGLE, rows).astype(np.float32)
    shifts = rng.uniform(-SHIFT, SHIFT, (rows, 2)).astype(np.float32)
    out = np.empty((rows, 28 * 28), np.uint8)
    warp(digits, picks, np.cos(angles), np.sin(angles), shifts, out)
    return out


@numba.njit
def warp(images, picks, cosines, sines, shifts, out):
    """Turn and shift images about their middle: bilinear between pixels, black outside."""
    side = images.shape[1]
    middle, margin = np.float32((side - 1) / 2), np.float32(MARGIN)
    frame = np.zeros((side + 2 * MARGIN, side + 2 * MARGIN), np.float32)
    for i in range(len(picks)):
        frame[MARGIN : MARGIN + side, MARGIN : MARGIN + side] = images[picks[i]]
        for r in range(side):
            down = np.float32(r) - middle - shifts[i, 0]
            for c in range(side):
                across = np.float32(c) - middle - shifts[i, 1]
                y = cosines[i] * down + sines[i] * across + middle + margin
                x = cosines[i] * across - sines[i] * down + middle + margin
                a, b = int(y), int(x)
                v, u = y - np.float32(a), x - np.float32(b)
                upper = frame[a, b] + u * (frame[a, b + 1] - frame[a, b])
                lower = frame[a + 1, b] + u * (frame[a + 1, b + 1] - frame[a + 1, b])
                out[i, r * side + c] = np.uint8(upper + v * (lower - upper) + np.float32(0.5))


def draw_blobs(side: int, seed: int, rows: int, rng: Rng) -> np.ndarray:
    """Draw sums of some of the parts with random weights, and noise, (rows, p) uint8."""
    weights = rng.standard_exponential((rows, PARTS), np.float32)
    weights *= rng.random((rows, PARTS)) < SHARE
    X = weights @ draw_parts(side, seed)
    X += NOISE * rng.standard_normal(X.shape, np.float32)
    return np.clip(np.rint(X, out=X), 0, 255, out=X).astype(np.uint8)


@lru_cache(maxsize=1)
def draw_parts(side: int, seed: int) -> np.ndarray:
    """Draw the parts, each a few Gaussian blobs, (parts, p)."""
    rng, shape = np.random.default_rng([seed, 1]), (2, PARTS, BLOBS, 1)
    centres, widths = rng.uniform(0, side, shape), rng.uniform(side / 32, side / 8, shape)
    down, across = np.exp(-0.5 * ((np.arange(side) - centres) / widths) ** 2)
    parts = np.einsum("kbr,kbc->krc", down, across).reshape(PARTS, -1)
    return (LEVEL * parts / parts.max(axis=1, keepdims=True)).astype(np.float32)


def draw_block(path: str, layout: Layout, draw: Draw, seed: int, index: int) -> Any:
    start = index * layout.block_rows
    stop = min(start + layout.block_rows, layout.n_images)
    with one_blas_thread():
        images = draw(stop - start, np.random.default_rng([seed, 2, index]))
    return write_block(path, index, images, [f"{i:08d}" for i in range(start, stop)])


def build(arguments: argparse.Namespace, side: int, draw: Draw) -> None:
    """Write a corpus, its blocks in parallel."""
    path, n, workers = arguments.corpus, arguments.images, arguments.workers
    rows = choose_block_rows(n, side * side)
    began = time.perf_counter()
    codec = arguments.codec or try_codecs(draw(min(n, 2**22 // side**2), np.random.default_rng(0)))
    layout = Layout(n, (side, side), "uint8", rows, codec)
    with new_store(path, FORMAT) as building, ProcessPoolExecutor(workers, SPAWN) as pool:
        create_corpus(building, layout)
        write = partial(draw_block, building, layout, draw, arguments.seed)
        commit_corpus(building, layout, list(pool.map(write, range(layout.n_blocks))))
    seconds = time.perf_counter() - began
    corpus = dnmf.open_corpus(path)
    print(f"{corpus!r}, {corpus.stored_bytes / 1e6:,.0f} MB stored")
    print(f"{seconds:.1f} s, {n / seconds:,.0f} images/s; processes: {workers}")


class Monitor(threading.Thread):
    """Watches the resident memory of the workers and of this process."""

    def __init__(self, cluster: Any) -> None:
        super().__init__(daemon=True)
        self.cluster, self.peaks, self.over = cluster, {}, threading.Event()
        self.start()

    def run(self) -> None:
        """Look every 0.2 s."""
        while not self.over.wait(0.2):
            self.look()

    def look(self) -> None:
        """Raise the peaks; a worker that its nanny starts again keeps its name."""
        pids = {name: nanny.pid for name, nanny in list(self.cluster.workers.items())}
        for name, pid in ({"driver": os.getpid()} | pids).items():
            with suppress(psutil.NoSuchProcess):
                rss = psutil.Process(pid).memory_info().rss if pid else 0
                self.peaks[name] = max(self.peaks.get(name, 0), rss)

    def take(self) -> dict[str, Any]:
        """Give the peaks since the last call."""
        self.look()
        peaks, self.peaks = self.peaks, {}
        return {"driver_rss": peaks.pop("driver"), "worker_rss": list(peaks.values())}

    def close(self) -> None:
        """Stop looking."""
        self.over.set()
        self.join()


def troubles(dask_scheduler: Any = None) -> dict[str, int]:
    """Count pauses and restarts of workers for lack of memory, since the cluster started."""
    topics = dask_scheduler.get_events()
    events = [event for topic in topics.values() for _, event in topic if isinstance(event, dict)]
    changes = [event["status"] for event in events if event.get("action") == "worker-status-change"]
    restarts = len(topics.get("worker-restart-memory", ()))
    return {"pauses": changes.count("paused"), "restarts": restarts}


def spilled(dask_worker: Any = None) -> float:
    """Count the bytes that a worker has written to disk since it started."""
    return getattr(dask_worker.data, "cumulative_metrics", {}).get(("disk-write", "bytes"), 0)


def tasks_left(client: Any) -> int:
    """Count the tasks of the scheduler: those released take a moment to be gone."""
    for _ in range(20):
        time.sleep(0.1)
        if not (left := client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))):
            break
    return left


class Bare:
    """Plain processes, each with one BLAS thread, that measure alternate blocks without Dask."""

    def __init__(self, path: str, processes: int, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.pools = [ProcessPoolExecutor(1, SPAWN) for _ in range(processes)]

    def rate(self, H: np.ndarray) -> float:
        """Give images per second, of all processes together."""
        share = partial(measure_share, self.path, H, self.seconds, len(self.pools))
        shares = [pool.submit(share, k) for k, pool in enumerate(self.pools)]
        return sum(one.result() for one in shares)

    def close(self) -> None:
        """End the processes."""
        for pool in self.pools:
            pool.shutdown()


def measure_share(path: str, H: np.ndarray, seconds: float, processes: int, k: int) -> float:
    corpus = dnmf.open_corpus(path)
    basis = Basis.for_pixels(H, corpus.dtype)

    def stats_of(index: int) -> Any:
        block = Block(corpus.read_block(index), corpus.block_range(index)[0])
        return Quadratic().block_stats(block, basis)[0]

    with one_blas_thread():
        total, images = stats_of(0), 0.0  # not timed: loads the compiled kernels
        began = time.perf_counter()
        for index in range(k, corpus.n_blocks, processes):
            stats = stats_of(index)
            total, images = total + stats, images + stats.total_weight
            if time.perf_counter() - began > seconds:
                break
        return images / (time.perf_counter() - began)


class Memory:
    """A plain process that has some blocks in memory, and measures them with and without a read."""

    def __init__(self, path: str, threads: int) -> None:
        self.path, self.threads = path, threads
        self.pool = ProcessPoolExecutor(1, SPAWN)

    def rates(self, H: np.ndarray) -> dict[str, float]:
        """Give images per second, from memory and from the corpus."""
        return self.pool.submit(measure_both, self.path, H, self.threads).result()

    def close(self) -> None:
        """End the process."""
        self.pool.shutdown()


def measure_both(path: str, H: np.ndarray, threads: int) -> dict[str, float]:
    os.environ[VARIABLE] = str(threads)
    corpus, X = load_blocks(path)
    only = list(range(-(-len(X) // corpus.block_rows)))
    runs = {"memory": (blocks_of(X), None), "threads": (blocks_of(corpus), only)}
    seconds = {name: [] for name in runs}
    with one_blas_thread():
        for _ in range(4):  # the first is not timed: it loads the compiled kernels
            for name, (blocks, numbers) in runs.items():
                began = time.perf_counter()
                measure(blocks, Quadratic(), H, only=numbers)
                seconds[name].append(time.perf_counter() - began)
    return {name: len(X) / min(times[1:]) for name, times in seconds.items()}


@lru_cache(maxsize=1)
def load_blocks(path: str) -> tuple[dnmf.Corpus, np.ndarray]:
    """Read a gigabyte of a corpus in whole blocks, or all of it."""
    corpus = dnmf.open_corpus(path)
    block_bytes = corpus.block_rows * corpus.shape[1] * corpus.dtype.itemsize
    numbers = range(min(-(-IN_MEMORY // block_bytes), corpus.n_blocks))
    return corpus, np.concatenate([corpus.read_block(number) for number in numbers])


HEADER = """\
| | s | images/s | error | RSS of workers, MB | driver | spilled, MB | pauses | restarts | tasks |
|---|---|---|---|---|---|---|---|---|---|"""


class Log:
    """The steps of a fit as they end, each followed by what others make of the same H."""

    def __init__(
        self, n_images: int, client: Any, monitor: Monitor, bare: Bare, memory: Memory
    ) -> None:
        self.n_images, self.client, self.monitor = n_images, client, monitor
        self.bare, self.memory = bare, memory
        self.rows: list[dict[str, Any]] = []
        self.before = {"spilled": 0, "pauses": 0, "restarts": 0}
        self.began = time.perf_counter()

    def step(self, state: Any) -> None:
        """Note the end of the warm start or of a pass."""
        row = {"what": "warm start", "seconds": time.perf_counter() - self.began}
        if state.n_iter:
            rate = self.n_images / row["seconds"]
            row |= {"what": f"pass {state.n_iter}", "rate": rate, "error": state.error}
        self.rows.append(row | self.monitor.take() | self._troubles())
        print(line_of(self.rows[-1]), flush=True)
        # At Y the next pass evaluates W.
        rates = {"bare": self.bare.rate(state.Y)} | self.memory.rates(state.Y)
        for what, rate in rates.items():
            self.rows.append({"what": what, "rate": rate})
            print(line_of(self.rows[-1]), flush=True)
        self.monitor.take()
        self.began = time.perf_counter()

    def _troubles(self) -> dict[str, float]:
        now = {"spilled": sum(self.client.run(spilled).values())}
        now |= self.client.run_on_scheduler(troubles)
        new = {name: value - self.before[name] for name, value in now.items()}
        self.before = now
        return new | {"tasks": tasks_left(self.client)}

    def ratios(self) -> dict[str, list[float]]:
        """Compare each pass with the mean of the runs of others before and after it."""
        rates: dict[str, list[float]] = {}
        for row in self.rows[1:]:
            rates.setdefault(row["what"].split()[0], []).append(row["rate"])
        means = {what: [sum(two) / 2 for two in pairwise(rates[what])] for what in rates}
        pairs = {
            "dask / bare": (rates["pass"], means["bare"]),
            "dask / memory": (rates["pass"], means["memory"]),
            "threads / memory": (rates["threads"], rates["memory"]),
        }
        return {
            what: [one / other for one, other in zip(*both, strict=True)]
            for what, both in pairs.items()
        }


def line_of(row: dict[str, Any]) -> str:
    formats = {"seconds": ".1f", "rate": ",.0f", "error": ",.0f"}
    cells = [row["what"], *(format(row[k], f) if k in row else "" for k, f in formats.items())]
    memory = [*row.get("worker_rss", []), row.get("driver_rss", 0), row.get("spilled", 0)]
    *workers, driver, spill = (f"{size / 1e6:.0f}" if "tasks" in row else "" for size in memory)
    cells += [" ".join(workers), driver, spill]
    cells += [str(row.get(name, "")) for name in ("pauses", "restarts", "tasks")]
    return f"| {' | '.join(cells)} |"


def told_of_start(tell: Callable[[Any], None]) -> Any:
    """Call `tell` with the first state of a fit, too: `on_pass` hears of the passes only."""

    def start(*args: Any, plain: Any = nmf.start) -> Any:
        for run in plain(*args):
            tell(run.state)
            yield run

    return mock.patch.object(nmf, "start", start)


def fit(a: argparse.Namespace) -> tuple[Log, dict[str, Any]]:
    from distributed import Client, LocalCluster

    corpus = dnmf.open_corpus(a.corpus)
    limits = {"n_workers": a.workers, "threads_per_worker": 1, "memory_limit": a.memory}
    with (
        closing(Bare(a.corpus, a.workers, a.bare_seconds)) as bare,
        closing(Memory(a.corpus, a.workers)) as memory,
        freed_memory_kept(),
        LocalCluster(**limits, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        closing(Monitor(cluster)) as monitor,
    ):
        log = Log(len(corpus), client, monitor, bare, memory)
        options = {"init": "random", "random_state": 0, "tol": 0, "max_iter": a.passes}
        model = dnmf.NMF(a.d, **options, on_pass=log.step)
        plan = model.plan(corpus)
        print(f"{plan}\n\n{HEADER}", flush=True)
        monitor.take()
        log.began = time.perf_counter()
        with told_of_start(log.step):
            model.fit(corpus)
    return log, plan.as_dict()


def run_fit(a: argparse.Namespace) -> None:
    print(f"{dnmf.open_corpus(a.corpus)!r}, d = {a.d}, {a.workers} workers of {a.memory}\n")
    machine = about() | {"memory": psutil.virtual_memory().total}
    machine |= {name: version(name) for name in ("distributed", "zarr")}
    log, plan = fit(a)
    ratios = log.ratios()
    print()
    for what, each in ratios.items():
        listed = " ".join(f"{ratio:.3f}" for ratio in each)
        print(f"{what}, pass by pass: {listed}; median {statistics.median(each):.3f} (aim 0.85)")
    if a.json:
        given = {name: value for name, value in vars(a).items() if name not in ("run", "json")}
        given["corpus"] = Path(a.corpus).name
        result = {"about": machine, "arguments": given, "plan": plan, "steps": log.rows}
        result["ratios"] = ratios
        a.json.write_text(json.dumps(result, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    digits = commands.add_parser("build")
    digits.add_argument("folder", type=Path)
    digits.set_defaults(run=lambda a: build(a, 28, partial(draw_digits, a.folder)))
    large = commands.add_parser("build-large")
    large.add_argument("--side", type=int, default=256)
    large.set_defaults(run=lambda a: build(a, a.side, partial(draw_blobs, a.side, a.seed)))
    for builder, n_images in ((digits, 8_100_000), (large, 20_000)):
        builder.add_argument("corpus")
        for flag, default in (("--images", n_images), ("--workers", 1), ("--seed", 0)):
            builder.add_argument(flag, type=int, default=default)
        builder.add_argument("--codec", choices=CODECS)
    fitting = commands.add_parser("fit")
    fitting.add_argument("corpus")
    fitting.add_argument("--memory", default="1GB")
    for flag, default in (("-d", 64), ("--workers", 2), ("--passes", 5), ("--bare-seconds", 60)):
        fitting.add_argument(flag, type=int, default=default)
    fitting.add_argument("--json", type=Path)
    fitting.set_defaults(run=run_fit)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
