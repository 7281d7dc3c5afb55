"""The lines that ``dnmf info --watch`` prints while another process runs a fit."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import click

from dnmf._format import format_duration
from dnmf._progress import relative_change
from dnmf.cli.progress import STOP_REASONS, end_live_line, format_error, print_line
from dnmf.errors import CheckpointError
from dnmf.storage.checkpoint.checkpoint import Checkpoint, open_checkpoint
from dnmf.storage.checkpoint.commit import list_committed, require_model
from dnmf.storage.lock import is_written
from dnmf.storage.paths import normalize_path
from dnmf.storage.store import ObjectStore

FAILURES = 5
"""Number of reads in a row that may fail (a network may) before a watch ends with the error."""


def watch(path: str, every: float, *, as_json: bool) -> None:
    """Print a line for each new pass of a model, until its fit has ended.

    Parameters
    ----------
    path : str
    every : float
        Seconds between two reads.
    as_json : bool
        Whether to print JSON lines.
    """
    location, known, reason = normalize_path(path), 0, None
    require_model(location)
    seen: float | None = None
    for model in _newest(location, every):
        now = time.monotonic()
        if model is not None:
            passes, reason = model.state.n_iter, model.stop_reason
            first = known + 1 if seen is not None else max(passes, 1)
            seconds = None if seen is None else (now - seen) / max(passes - known, 1)
            for number in range(first, passes + 1):
                click.echo(_line(model, number, seconds, as_json=as_json))
            if passes > known or seen is None:
                known, seen = passes, now
            if reason is not None:
                break
        if seen is not None and sys.stderr.isatty():
            print_line(f"{format_duration(now - seen)} since pass {known} was seen", live=True)
    end_live_line()
    _say_end(path, known, reason, as_json=as_json)


def _newest(location: str, every: float) -> Iterator[Checkpoint | None]:
    """Yield a model whenever it has a new pass, else None, while a fit may be writing to it."""
    store, newest, failures, is_last = ObjectStore(location), "", 0, False
    while True:
        is_running, found = True, None
        try:
            is_running = is_written(location)
            names = list_committed(store)
            if names and names[-1] != newest:
                found, newest = open_checkpoint(location), names[-1]
            failures = 0
        except (CheckpointError, OSError):  # the pass has just been removed, or the network failed
            failures += 1
            if failures == FAILURES:
                raise
        yield found
        if is_last and not failures:
            return
        is_last = not is_running  # it may have committed a pass between the two looks
        if not is_last:
            time.sleep(every)


def _line(model: Checkpoint, number: int, seconds: float | None, *, as_json: bool) -> str:
    """Return the line of a pass; the error is known of the newest alone."""
    state, n_images = model.state, model.spec.X["shape"][0]
    losses = state.losses[:number]
    error = state.error if number == state.n_iter else None
    change = relative_change(losses)
    rate = None if seconds is None else n_images / max(seconds, 1e-9)
    if as_json:
        facts = {"pass": number, "loss": losses[-1], "error": error, "change": change}
        return json.dumps(
            {"event": "pass", **facts, "pass_seconds": seconds, "images_per_second": rate}
        )
    words = [f"pass {number:3d}", f"loss {losses[-1]:.6g}"]
    words += [] if error is None else [f"error {format_error(error)}"]
    words += [] if change is None else [f"change {change:.1e}"]
    words += [] if seconds is None else [f"{format_duration(seconds)} a pass"]
    words += [] if rate is None else [f"{rate:,.0f} images/s"]
    return "   ".join(words)


def _say_end(path: str, passes: int, reason: str | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": "end", "pass": passes, "stop_reason": reason}))
    elif reason is None:
        click.echo(f"{path}: no fit writes to it; the same line of `dnmf fit` continues it")
    else:
        click.echo(f"{path}: {passes} passes, {STOP_REASONS.get(reason, reason)}")
