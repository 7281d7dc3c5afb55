"""What a run says while it runs: a live line on a terminal, a dated line per step in a log."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TextIO

from dnmf._format import format_duration
from dnmf.estimators.beginning import starts_of
from dnmf.numerics.state import State
from dnmf.solvers.multi_fit import Progress
from dnmf.storage.atomic import is_absent

WHY = {
    "converged": "converged: the last gained less than --tol (a smaller one goes on)",
    "max_iter": "stopped by --max-iter (a larger one goes on)",
}


class PassReport:
    """Prints a pass, its error, relative change, images per second and the time left.

    Parameters
    ----------
    n_images : int
    tol : float
    max_iter : int
        As given to the fit; they bound the time left.
    out : file, optional
        stderr by default.
    """

    def __init__(self, n_images: int, tol: float, max_iter: int, out: TextIO | None = None) -> None:
        self.n_images, self.tol, self.max_iter = n_images, tol, max_iter
        self.out = out or sys.stderr
        self.since = time.monotonic()
        self.first: int | None = None

    def __call__(self, state: State) -> None:
        """Report a state after its pass."""
        now = time.monotonic()
        seconds, self.since = now - self.since, now
        change = relative_change(state.losses)
        left = passes_left(state.losses, self.tol, self.max_iter)
        line = f"pass {state.n_iter:3d}   error {number(state.error)}"
        if change is not None:
            line += f"   change {change:.1e}" if state.accepted else "   step back     "
        if self.first is not None:  # the first pass is timed with the start before it
            line += f"   {self.n_images / max(seconds, 1e-9):,.0f} images/s"
            word = "at most" if state.n_iter + left == self.max_iter else "about"
            line += f"   {word} {format_duration(left * seconds)} left" if left else "   done"
        self.first = state.n_iter
        say(line, self.out, live=True)


class SweepReport:
    """Prints a pass of many models: how many go on, and its time."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.first: int | None = None

    def __call__(self, progress: Progress) -> None:
        """Report a pass."""
        now = time.monotonic()
        seconds, self.since = now - self.since, now
        line = f"pass {progress.n_pass:3d}   {progress.going} of {progress.models} models go on"
        if progress.groups > 1:
            line += f"   (group {progress.group} of {progress.groups})"
        if self.first == progress.group:  # the first pass is timed with the starts before it
            line += f"   {format_duration(seconds)} a pass"
        self.first = progress.group
        say(line, live=True)


def say(line: str, out: TextIO | None = None, *, live: bool = False) -> None:
    """Print a line: on a terminal a live one replaces itself, in a log each has its time."""
    out = out or sys.stderr
    on_terminal = f"\r\x1b[K{line}" if live else f"{line}\n"
    out.write(on_terminal if out.isatty() else dated(line))
    out.flush()


def dated(line: str) -> str:
    """Write a line of a log."""
    return f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z} {line}\n"


class Warnings(logging.Handler):
    """Says what dnmf logs, such as that a cluster has lost its workers, while it is entered."""

    def __enter__(self) -> Warnings:
        logging.getLogger("dnmf").addHandler(self)
        logging.getLogger("dnmf").setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("dnmf").removeHandler(self)
        logging.getLogger("dnmf").setLevel(logging.NOTSET)

    def emit(self, record: logging.LogRecord) -> None:
        """Say a record."""
        end_live()
        say(record.getMessage())


@contextmanager
def resumable(path: str, *, force: bool = False) -> Iterator[None]:
    """Say that what is at a path is gone on from, and how to, once it is interrupted."""

    def is_there() -> bool:
        return not (is_absent(path) and is_absent(starts_of(path)))

    if is_there() and not force:
        say(f"{path} is there: going on from its last commit")
    try:
        yield
    except KeyboardInterrupt:
        end_live()
        if is_there():
            say(f"run the same line again to continue {path} from its last commit")
        raise


def end_live(out: TextIO | None = None) -> None:
    """Close the live line."""
    out = out or sys.stderr
    if out.isatty():
        out.write("\n")


def outcome(facts: dict[str, Any]) -> str:
    """Say how a fit ended, from what `describe` gives of its model."""
    share = f"sqrt(2 D), {facts['loss']}"
    if facts["relative_error"] is not None:
        share = f"{facts['relative_error']:.1%} of the images' norm"
    line = (
        f"{facts['path']}: error {number(facts['error'])} ({share}) after {facts['passes']} "
        f"passes, {WHY[facts['stop_reason']]}"
    )
    empty = facts["empty_components"]
    return line + (f"; {empty} of {facts['components']} components are empty" if empty else "")


def number(value: float) -> str:
    """Write an error with eight digits, so that passes differ, and without an exponent."""
    digits = math.floor(math.log10(value)) + 1 if value > 0 else 1
    return f"{value:,.{max(0, 8 - max(digits, 1))}f}"


def relative_change(losses: Sequence[float]) -> float | None:
    """Compute the share by which the last pass lowered the loss; None after the first."""
    if len(losses) < 2 or losses[-2] == 0:
        return None
    return (losses[-2] - losses[-1]) / losses[-2]


def passes_left(losses: Sequence[float], tol: float, max_iter: int) -> int:
    """Guess the passes still to come: the change shrinks as it did over the last few passes."""
    most = max_iter - len(losses)
    recent = [relative_change(losses[: len(losses) - back]) for back in (2, 1, 0)]
    changes = [change for change in recent if change]  # a step back changes nothing
    if tol > 0 and losses[-1] == 0:
        return 0
    if tol <= 0 or not recent[-1]:
        return most
    if recent[-1] <= tol:
        return 0
    ratio = (changes[-1] / changes[0]) ** (1 / (len(changes) - 1)) if len(changes) > 1 else 1.0
    if ratio >= 1:
        return most
    return min(most, math.ceil(math.log(tol / changes[-1]) / math.log(ratio)))
