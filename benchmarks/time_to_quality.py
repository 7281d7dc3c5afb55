"""Error against time: dnmf and its peers on the same MNIST images, threads and seed.

    python benchmarks/time_to_quality.py MNIST_FOLDER [--ranks 9 100 225] [--methods dnmf ...]
        [--threads 2] [--rows 70000] [--iterations N] [--json FILE] [--again] [--picture FILE]

All get random_state 0, a random start and otherwise their own defaults; dnmf gets X as uint8, the
others as floats, converted off the clock. The error of a result is ||X - W H|| for the W and H
that the method gives, computed in the same way for all and off the clock. dnmf gives W by another
pass, `transform`, whose seconds are shown apart. All first run on 1,200 images, to be imported and
compiled. Curves, from the call of `fit`:

- dnmf: its own error after each pass (`on_pass`), with defaults, with tol=0.002 and with tol=0.01,
  for a rough answer; dnmf-long goes on to 40 passes, and so does dnmf-cold, from the random H that
  scikit-learn draws, without the warm start. Ratios count the soonest of the first three;
- scikit-learn's NMF says nothing on its way: besides the whole fit there is one with tol=0, from
  the start and timed, for each max_iter of --curve;
- MiniBatchNMF: `partial_fit` of 1,024 images at a time, in their order, for --epochs epochs; after
  1, 2, 4, ... of them the clock stops while its `transform` makes a W;
- nmf-torch (online HALS) prints its error after each pass, torchnmf (beta=2) tells its progress
  bar every tenth iteration: that is listened to.

Reads are those of the whole of X: two per iteration for coordinate descent and multiplicative
updates, which need X H' and W' X at different times; one per epoch of MiniBatchNMF; two per pass
of nmf-torch, whose error is a read of its own, and one for its last W.

--iterations stops scikit-learn's NMF after N of its 200; what 200 would take is then projected.
With --json, results gather in the file, and what is there is not run again without --again; but
dnmf runs beside whatever runs, as a ratio counts only within one run. The tables and the picture
show all that the file has for so many rows and threads, the latest of each.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import about, load, pin
from peers import METHODS, PASSES, Curve

TIMES = (1, 3, 10, 30)
CLOSE = 1.003
OURS = ("dnmf", "dnmf-middle", "dnmf-rough")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_all(X: np.ndarray, options: argparse.Namespace, records: list[dict]) -> None:
    """Add what is missing to the records, and write them after each."""
    began, warm = now(), set()
    for rank in options.ranks:
        same = {"rank": rank, "rows": len(X), "threads": options.threads}
        for name in missing(same, options, records):
            if name not in warm:
                METHODS[name].run(X[:1200], 3, options)  # compilers, imports, pools of threads
                warm.add(name)
            result = METHODS[name].run(X, rank, options)
            head = same | {"method": name, "run": began, "finished": now(), "about": about()}
            records.append(head | result)
            print(
                f"d = {rank}: {name} {result['error']:,.0f} {result['seconds']:.1f} s", flush=True
            )
            if options.json:
                options.json.write_text(json.dumps({"records": records}, indent=1))


def missing(same: dict, options: argparse.Namespace, records: list[dict]) -> list[str]:
    there = {r["method"] for r in records if same.items() <= r.items()}
    wanted = [n for n in options.methods if options.again or n not in there]
    for name in wanted:
        if not find_spec(METHODS[name].module):
            print(f"d = {same['rank']}: {name} is not installed", flush=True)
    wanted = [n for n in wanted if find_spec(METHODS[n].module)]
    beside = [n for n in OURS if wanted and n in options.methods]
    return beside + [n for n in wanted if n not in OURS]


def latest(records: list[dict]) -> list[dict]:
    order = list(METHODS)
    last = {(r["rank"], order.index(r["method"])): r for r in records}
    return [last[key] for key in sorted(last)]


def table(head: str, rows: list[list[str]]) -> None:
    if rows:
        print(f"\n| {head} |\n|{'---|' * (head.count('|') + 1)}")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 1 else f"{value:,.1f}"


def reached(curve: Curve, error: float) -> float | None:
    return next((seconds for seconds, e in curve if e <= error), None)


def first(records: list[dict], error: float) -> float | None:
    times = [reached(r["curve"], error) for r in records]
    return min((seconds for seconds in times if seconds is not None), default=None)


def over(slow: float, fast: float | None) -> float | None:
    return None if fast is None else slow / fast


def finals(records: list[dict], runs: dict[str, str]) -> list[list[str]]:
    rows = []
    for r in records:
        seconds = number(r["seconds"])
        if "transform_seconds" in r:
            seconds += f" + {number(r['transform_seconds'])} for W"
        if "projected_seconds" in r:
            each, whole = f"{r['seconds_per_iteration']:.3g}", f"{r['projected_seconds']:,.0f}"
            seconds += f" ({each} per iteration, {whole} projected for 200)"
        past = [[e for s, e in r["curve"] if s <= limit] for limit in TIMES]
        errors = [f"{e[-1]:,.0f}" if e else "-" for e in past]
        counts = [f"{r['iterations']}", f"{r['reads']:.1f}", seconds]
        head = [f"{r['rank']}", METHODS[r["method"]].label, f"{r['error']:,.2f}"]
        rows.append([*head, *counts, *errors, runs[r["run"]]])
    return rows


def ratios(records: list[dict], every: list[dict], runs: dict[str, str]) -> list[list[str]]:
    """Compare times to the error that scikit-learn ends with, within one run."""
    rows = []
    for r in (r for r in records if r["method"] == "sklearn32"):
        stopped = f" (stopped after {r['iterations']})" if "projected_seconds" in r else ""
        row = [f"{r['rank']}", f"{r['error']:,.2f}{stopped}", number(r["seconds"])]
        beside = {key: r[key] for key in ("rank", "run")}
        mine = [m for m in every if beside.items() <= m.items() and m["method"] in OURS]
        there, close = (first(mine, share * r["error"]) for share in (1, CLOSE))
        for mark in (there, close):
            row += [number(mark), number(over(r["seconds"], mark))]
        after = reached(r["curve"], CLOSE * r["error"])
        before = max((s for s, e in r["curve"] if s < after), default=0.0)
        row += [f"{number(before)} to {number(after)}", number(over(before, close))]
        rows.append([*row, runs[r["run"]] if mine else f"{runs[r['run']]}, without dnmf"])
    return rows


def after_passes(records: list[dict]) -> list[list[str]]:
    rows = []
    for r in (r for r in records if r["method"] in ("dnmf-long", "dnmf-cold")):
        at = [f"{e:,.0f} ({s:.1f} s)" for s, e in (r["curve"][n - 1] for n in PASSES)]
        rows.append([f"{r['rank']}", METHODS[r["method"]].label, *at])
    return rows


def report(records: list[dict]) -> None:
    shown = latest(records)
    runs = {run: f"{i + 1}" for i, run in enumerate(sorted({r["run"] for r in shown}))}
    times = " | ".join(f"error at {t} s" for t in TIMES)
    table(f"d | method | error | iterations | reads | seconds | {times} | run", finals(shown, runs))
    table(
        "d | scikit-learn cd float32 ends with | after, s | dnmf there, s | ratio | dnmf within "
        "0.3 %, s | ratio | scikit-learn within 0.3 %, s | ratio of these, at least | run",
        ratios(shown, records, runs),
    )
    passes = " | ".join(f"after pass {n}" for n in PASSES)
    table(f"d | method | {passes}", after_passes(shown))
    for run, label in runs.items():
        first = next(r for r in shown if r["run"] == run)
        print(f"\nRun {label}: {run}, {first['rows']:,} images, {first['threads']} threads,")
        print(", ".join(f"{key} {value}" for key, value in first["about"].items()))


def draw(records: list[dict], path: Path) -> None:
    """Draw error against seconds, a panel per rank."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = latest(records)
    ranks = sorted({r["rank"] for r in shown})
    size = (4.2 * len(ranks) + 0.6, 4.2)
    figure, axes = plt.subplots(1, len(ranks), figsize=size, squeeze=False, layout="constrained")
    lines = {}
    for ax, rank in zip(axes[0], ranks, strict=True):
        here = [r for r in shown if r["rank"] == rank]
        for r in here:
            m = METHODS[r["method"]]
            style = {"color": m.colour, "marker": m.marker, "markersize": 4}
            if r["method"] == "dnmf":
                style |= {"markersize": 6, "zorder": 3}
            if r["method"] == "sklearn32":  # what the others are to reach
                ax.axhline(r["error"], color=m.colour, linestyle=":", linewidth=1)
            lines[m.label] = ax.plot(*zip(*r["curve"], strict=True), **style)[0]
        best = min(e for r in here for _, e in r["curve"])
        ax.set(xscale="log", xlabel="seconds", title=f"d = {rank}", ylim=(0.99 * best, 1.25 * best))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:,.0f}"))
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel("error ‖X − W H‖")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    peers = [name for name in METHODS if name not in ("dnmf-long", "dnmf-cold")]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[9, 100, 225])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=peers)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rows", type=int, default=70_000)
    parser.add_argument("--iterations", type=int, help="of scikit-learn's NMF, where 200 are many")
    parser.add_argument("--curve", type=int, nargs="*", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--epochs", type=int, default=8, help="of MiniBatchNMF")
    parser.add_argument("--json", type=Path, help="where results gather")
    parser.add_argument("--again", action="store_true", help="run what is in --json, too")
    parser.add_argument("--picture", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    pin(options.threads)
    warnings.simplefilter("ignore")
    X = load(options.folder)[: options.rows]
    records = []
    if options.json and options.json.exists():
        records = json.loads(options.json.read_text())["records"]
    run_all(X, options, records)
    here = {"rows": len(X), "threads": options.threads}
    alike = [r for r in records if here.items() <= r.items()]
    report(alike)
    if options.picture:
        draw(alike, options.picture)


if __name__ == "__main__":
    main()
