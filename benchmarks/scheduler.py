"""Measure what a pass costs a Dask scheduler, and predict it for large clusters.

    python benchmarks/scheduler.py tasks [--tasks 10000 100000] [--group 1] [--workers 2]
    python benchmarks/scheduler.py broadcast [--workers 1 2 4]
    python benchmarks/scheduler.py tree [--workers 2]
    python benchmarks/scheduler.py model JSON... [-d 64] [--store-gb-per-s GB]

`tasks` runs dnmf's own graph with tasks that do nothing, `broadcast` sends H as a pass does, and
`tree` adds up sums of real size. Scheduler and workers are processes of their own, on the loopback
interface. `--json FILE` adds the figures to FILE. `model` reads such files and one with {"rates":
{"64x784": images/s/core, ...}, "read_mb_per_s": pixels per core, "source": origin of the rates},
and predicts, in seconds:

    pass      = tasks * begin + max(compute, tasks * run, bytes / store) + broadcast + tree
    compute   = leaves / workers, rounded up, * (images * (1 / rate + p / read) + result)
    broadcast = MB of H * (first + round * log3 workers, rounded up)
    tree      = 8 * levels * result           result = sum * MB of sums
    leaves    = blocks / blocks per task      tasks  = 8 / 7 leaves

`begin` is the time in which the graph is built, sent and taken in, and no task runs yet; `run` the
CPU time of the scheduler from then on. With `most_workers` or more, workers wait for the scheduler.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from common import about
from distributed import Client
from out_of_core import tasks_left

from dnmf.engine.dask_graph import DaskBlocks
from dnmf.engine.tree_reduce import blocks_per_task, choose_block_rows, even_ranges
from dnmf.numerics.block import Block
from dnmf.numerics.statistics import Basis, SufficientStats

Row = dict[str, Any]
BASES = ((100, 784), (12, 65536), (115, 65536), (763, 65536))
SUMS, RESULTS, REPEATS = ((100, 784), (32, 65536)), 64, 5
SIZES, PIXELS = (1e6, 1e9), (784, 65536)
WORKERS, GROUPS = (1, 4, 16, 64, 256, 1024, 4096), (1, 8, 64, 512, 4096)


@contextmanager
def cluster(workers: int) -> Iterator[tuple[Client, list[float], list[Any]]]:
    """Start a scheduler and workers, and record the client's calls and the scheduler's load."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        calls, load, scheduler = [], [], start(stack, folder, "scheduler --port 0")
        for _ in range(workers):
            start(stack, folder, "worker --nthreads 1 --no-nanny")
        client = stack.enter_context(Client(scheduler_file=f"{folder}/scheduler.json"))
        stack.callback(client.shutdown)
        client.wait_for_workers(workers)
        blocks_of(64).map_sum(len)  # not timed: imports
        client.scatter = partial(recorded, calls, client.scatter)
        client.compute = partial(recorded, calls, client.compute)
        threading.Thread(target=watch, args=(scheduler.pid, load), daemon=True).start()
        yield client, calls, load


def start(stack: ExitStack, folder: str, command: str) -> subprocess.Popen[bytes]:
    options = "--host 127.0.0.1 --no-dashboard --scheduler-file scheduler.json"
    line = [sys.executable, "-m", "dask", *command.split(), *options.split()]
    quiet = os.environ | {"DASK_LOGGING__DISTRIBUTED": "error"}
    process = stack.enter_context(subprocess.Popen(line, env=quiet, cwd=folder))
    stack.callback(process.kill)
    return process


def recorded(times: list[float], call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    times.append(time.time())
    result = call(*args, **options)
    times.append(time.time())
    return result


def watch(pid: int, load: list[Any]) -> None:
    """Record time, CPU seconds and resident MB of a process every 20 ms until it ends."""
    process = psutil.Process(pid)
    with suppress(psutil.Error):
        while True:
            cpu, memory = sum(process.cpu_times()[:2]), process.memory_info().rss / 1e6
            load.append((time.time(), cpu, memory))
            time.sleep(0.02)


def blocks_of(n: int) -> DaskBlocks:
    return DaskBlocks((n, 1), np.dtype(np.uint8), even_ranges(n, 1), empty)


def empty(block: int) -> Any:
    return np.zeros((1, 1), np.uint8)


def measure(a: argparse.Namespace) -> dict[str, list[Row]]:
    rows: list[Row] = []
    for workers in a.workers:
        with cluster(workers) as on:
            rows += [{"workers": workers} | row for row in a.rows(a, *on)]
    return {a.command: rows}


def measure_tasks(a: Any, client: Client, calls: list[float], load: list[Any]) -> Iterator[Row]:
    for leaves in a.tasks:
        blocks, first, began = blocks_of(leaves * a.group), len(load), time.time()
        counted, end = blocks.map_sum(len, group=a.group), time.time()
        left, events = tasks_left(client), client.get_events("scheduler")
        time.sleep(1)
        graph = [e["metrics"] for _, e in events if e.get("action") == "update-graph"][-1]
        n, ready = graph["tasks"], graph["start_timestamp_seconds"] + graph["duration_seconds"]
        steps, (moments, cpu, rss) = np.diff([*calls[-3:], ready, end]), np.transpose(load[first:])
        spent = np.diff(np.interp([began, ready, end + 1], moments, cpu)) * 1e3 / n
        row = {"blocks": counted, "tasks": n, "left": left}
        row |= dict(zip(("build", "send", "take_in", "run"), steps, strict=True))
        row |= {"all": end - began, "ms": 1e3 / n * (end - began)}
        row |= {"ms_cpu_begin": spent[0], "ms_cpu_run": spent[1]}
        yield row | {"rss_before": rss[0], "rss_peak": rss.max(), "rss_after": rss[-1]}


def measure_broadcast(a: Any, client: Client, calls: list[float], load: list[Any]) -> Iterator[Row]:
    for d, p in BASES:
        H = np.random.default_rng(0).random((d, p), np.float32)
        for _ in range(REPEATS):
            blocks_of(1).map_sum(partial(carry, Basis.from_H(H, H.dtype)))
            tasks_left(client)
        seconds = min(np.diff(calls[-4 * REPEATS :])[::4])
        row = {"d": d, "p": p, "mb": H.nbytes / 1e6, "seconds": seconds}
        yield row | {"rss_peak": max(rss for *_, rss in load)}


def measure_tree(a: Any, client: Client, calls: list[float], load: list[Any]) -> Iterator[Row]:
    for d, p in SUMS:
        times: list[float] = []
        for sent in (True, False) * REPEATS:
            recorded(times, blocks_of(RESULTS).map_sum, partial(make_sums, d, p, sent))
        seconds, without = (min(np.diff(times)[first::4]) for first in (0, 2))
        row = {"results": RESULTS, "d": d, "p": p, "mb": sum_mb(d, p), "seconds": seconds}
        yield row | {"without": without, "ms_per_result": 1e3 * (seconds - without) / RESULTS}


def make_sums(d: int, p: int, sent: bool, block: Block) -> SufficientStats | int:
    stats = SufficientStats(np.ones((d, d)), np.ones((d, p)), np.ones(p), len(block))
    return stats if sent else len(block)


def carry(basis: Basis, block: Block) -> int:
    return len(basis.H)


def sum_mb(d: int, p: int) -> float:
    return 8 * (d * d + d * p + p) / 1e6


def coefficients(known: Row) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and source of each coefficient of the model."""
    tasks = max(known["tasks"], key=lambda row: row["tasks"])
    n, where = tasks["tasks"], f"tasks, {tasks['tasks']:,}"
    yield "begin", (tasks["build"] + tasks["send"] + tasks["take_in"]) / n, f"{where}: s per task"
    yield "run", tasks["ms_cpu_run"] / 1e3, f"{where}: s per task"
    yield "memory", (tasks["rss_peak"] - tasks["rss_before"]) / n, f"{where}: MB per task"
    sent = {row["workers"]: row["seconds"] / row["mb"] for row in known["broadcast"]}  # the largest
    yield "first", sent[1], "broadcast, largest, 1 worker: s/MB"
    yield "round", sent[2] - sent[1], "broadcast, largest, 2 workers: s/MB more"
    largest = known["tree"][-1]
    yield "sum", largest["ms_per_result"] / largest["mb"] / 1e3, "tree, largest: s/MB of a result"
    if known["store_gb_per_s"]:
        yield "store", known["store_gb_per_s"] * 1e3, "--store-gb-per-s: MB/s"
    yield "read", known["read_mb_per_s"], f"{known['source']}: MB/s/core"
    for name, rate in known["rates"].items():
        yield name, rate, f"{known['source']}: images/s/core"


class EqualRanges:
    """Ranges of blocks of equal length, computed when they are asked for."""

    def __init__(self, count: int, rows: int) -> None:
        self.count, self.rows = count, rows

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[int, int]:
        return 0, self.rows


def predict(k: dict[str, float], size: float, d: int, p: int, group: int, workers: int) -> Row:
    """Predict the seconds of a pass over `size` MB of pixels; group 0 is what dnmf chooses."""
    rows = choose_block_rows(int(size * 1e6 / p), p)
    blocks = math.ceil(size * 1e6 / p / rows)
    like = SimpleNamespace(shape=(0, p), ranges=EqualRanges(blocks, rows), dtype=np.dtype("u1"))
    group = group or blocks_per_task(like, d)
    leaves, result = math.ceil(blocks / group), k["sum"] * sum_mb(d, p)
    leaf = group * rows * (1 / k[f"{d}x{p}"] + 1e-6 * p / k["read"]) + result
    tasks, rounds = leaves * 8 / 7, math.ceil(math.log(workers, 3))
    limits = {"compute": math.ceil(leaves / workers) * leaf, "scheduler": tasks * k["run"]}
    limits["store"] = size / k.get("store", math.inf)
    rest = {"begin": tasks * k["begin"], "tree": 8 * math.ceil(math.log(leaves, 8)) * result}
    rest["broadcast"] = d * p * 4e-6 * (k["first"] + k["round"] * rounds)
    row = {"TB": size / 1e6, "p": p, "group": group, "workers": workers, "tasks": tasks}
    row["pass"] = max(limits.values()) + sum(rest.values())
    row |= {"limit": max(limits, key=limits.get)} | limits | rest | {"leaf": leaf}
    return row | {"most_workers": leaf / k["run"] * 7 / 8, "rss_mb": tasks * k["memory"]}


def model(a: argparse.Namespace) -> dict[str, list[Row]]:
    known: Row = {"store_gb_per_s": a.store_gb_per_s}
    for file in a.files:
        known |= json.loads(file.read_text())
    rows, found = [], list(coefficients(known))
    k = {name: value for name, value, _ in found}
    for size, p in product(SIZES, (p for p in PIXELS if f"{a.d}x{p}" in k)):
        rows += [predict(k, size, a.d, p, 0, workers) for workers in WORKERS]
        rows += [predict(k, size, a.d, p, group, WORKERS[-1]) for group in GROUPS]
    named = [dict(zip(("name", "value", "source"), one, strict=True)) for one in found]
    return {"coefficients": named, "model": rows}


def table(rows: list[Row]) -> None:
    """Print rows as a Markdown table."""
    print(f"\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print("|", " | ".join(c if isinstance(c, str) else f"{c:,.4g}" for c in row.values()), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    for rows in (measure_tasks, measure_broadcast, measure_tree):
        command = commands.add_parser(rows.__name__.removeprefix("measure_"))
        command.set_defaults(run=measure, rows=rows)
        command.add_argument("--workers", type=int, nargs="+", default=[2])
    commands.choices["broadcast"].set_defaults(workers=[1, 2, 4])
    tasks = commands.choices["tasks"]
    tasks.add_argument("--tasks", type=int, nargs="+", default=[10_000, 100_000])
    tasks.add_argument("--group", type=int, default=1)
    command = commands.add_parser("model")
    command.set_defaults(run=model)
    command.add_argument("files", type=Path, nargs="+", metavar="JSON")
    command.add_argument("-d", type=int, default=64)
    command.add_argument("--store-gb-per-s", type=float)
    for command in commands.choices.values():
        command.add_argument("--json", type=Path)
    a = parser.parse_args()
    sections = a.run(a)
    for rows in sections.values():
        table(rows)
    if a.json:
        before = json.loads(a.json.read_text()) if a.json.exists() else {}
        a.json.write_text(json.dumps(before | {"about": about()} | sections, indent=1))


if __name__ == "__main__":
    main()
