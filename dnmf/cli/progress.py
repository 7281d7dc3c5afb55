"""What commands print on stderr while they run: a live line on a terminal, dated lines in a log."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dnmf._format import format_duration
from dnmf._progress import CountBar, relative_change

if TYPE_CHECKING:
    from dnmf.numerics.state import State
    from dnmf.solvers.multi_fit import Progress

STOP_REASONS = {
    "converged": "converged: the last gained less than --tol (a smaller one continues)",
    "max_iter": "stopped by --max-iter (a larger one continues)",
}


DASK_LOGS = ("distributed.client", "asyncio")
"""Logs that have levels of their own beside that of ``distributed``."""


class PassProgress:
    """Progress of a fit: error, relative change, images per second and time left for each pass.

    Parameters
    ----------
    n_images : int
    tol, max_iter : float, int
        Parameters of the fit; they bound the time left.
    """

    def __init__(self, n_images: int, tol: float, max_iter: int) -> None:
        self.n_images, self.tol, self.max_iter = n_images, tol, max_iter
        self.previous = time.monotonic()
        self.is_timed = False

    def __call__(self, state: State) -> None:
        """Report the state after a pass."""
        # Both import NumPy, which would make `--help` slow.
        from dnmf.io.pass_log import passes_left

        now = time.monotonic()
        seconds, self.previous = now - self.previous, now
        change = relative_change(state.losses)
        line = f"pass {state.n_iter:3d}   error {format_error(state.error)}"
        if change is not None:
            line += f"   change {change:.1e}" if state.accepted else "   step back     "
        if self.is_timed:
            left = passes_left(state.losses, self.tol, self.max_iter)
            line += f"   {self.n_images / max(seconds, 1e-9):,.0f} images/s"
            word = "at most" if state.n_iter + left == self.max_iter else "about"
            line += f"   {word} {format_duration(left * seconds)} left" if left else "   done"
        self.is_timed = True  # the time of the first pass includes the start before it
        print_line(line, live=True)


class SweepProgress:
    """Progress of a sweep: how many models continue, and the time of each pass."""

    def __init__(self) -> None:
        self.previous = time.monotonic()
        self.timed_group: int | None = None

    def __call__(self, progress: Progress) -> None:
        """Report a pass."""
        now = time.monotonic()
        seconds, self.previous = now - self.previous, now
        line = f"pass {progress.n_pass:3d}   {progress.active} of {progress.models} models continue"
        if progress.groups > 1:
            line += f"   (group {progress.group} of {progress.groups})"
        if self.timed_group == progress.group:
            line += f"   {format_duration(seconds)} a pass"
        self.timed_group = progress.group  # the first pass includes the starts before it
        print_line(line, live=True)


class LogPrinter(logging.Handler):
    """Logging handler that prints dnmf's log records on stderr while its ``with`` block runs."""

    def __enter__(self) -> LogPrinter:
        logging.getLogger("dnmf").addHandler(self)
        logging.getLogger("dnmf").setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("dnmf").removeHandler(self)
        logging.getLogger("dnmf").setLevel(logging.NOTSET)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        if record.levelno > logging.INFO:
            end_live_line()
            write_line(record.getMessage())
        else:
            print_line(record.getMessage(), live=getattr(record, "live", False))


@contextmanager
def silent_dask() -> Iterator[None]:
    """Leave out Dask's log: what matters in it is in an error or in a warning of dnmf's."""
    import distributed  # sets the levels when it is imported

    logs = [logging.getLogger(name) for name in (distributed.__name__, *DASK_LOGS)]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def explain_resume(path: str, *, overwrite: bool = False) -> Iterator[None]:
    """Print that a run continues from its checkpoint and, if interrupted, how to continue it.

    Parameters
    ----------
    path : str
        Checkpoint of a fit or of a sweep.
    overwrite : bool, default False
        Whether the run replaces its checkpoint instead.
    """
    from dnmf.solvers.multi_fit import starts_of
    from dnmf.storage.atomic import is_absent
    from dnmf.storage.paths import normalize_path

    def exists() -> bool:
        return not all(map(is_absent, (normalize_path(path), starts_of(path))))

    if exists() and not overwrite:
        print_line(f"{path} exists: continuing from its last pass")
    try:
        yield
    except KeyboardInterrupt:
        end_live_line()
        if exists():
            again = "again without --force" if overwrite else "again"
            print_line(f"run the same line {again} to continue {path} from its last pass")
        raise


def count_progress(unit: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Return the context of a callback: a bar on a terminal, lines in a log, nothing with -q."""
    return nullcontext(lambda done, total: None) if is_quiet() else CountBar(unit, print_line)


def is_quiet() -> bool:
    """Check whether progress is left out: -q sets the level of dnmf's log so."""
    return logging.getLogger("dnmf").level > logging.INFO


def print_line(line: str, *, live: bool = False) -> None:
    """Print a line of progress on stderr, unless -q was given.

    On a terminal a live line is replaced by the next; elsewhere, in a log, each has its date.
    """
    if not is_quiet():
        write_line(line, live=live)


def write_line(line: str, *, live: bool = False) -> None:
    """Print a line on stderr; see `print_line`."""
    on_terminal = f"\r\x1b[K{line}" if live else f"{line}\n"
    sys.stderr.write(on_terminal if sys.stderr.isatty() else dated_line(line))
    sys.stderr.flush()


def dated_line(line: str) -> str:
    """Return a line of a log, which begins with date and time."""
    return f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z} {line}\n"


def end_live_line() -> None:
    """Move below the live line of a terminal."""
    if sys.stderr.isatty() and not is_quiet():
        sys.stderr.write("\n")


def summary_of_fit(facts: dict[str, Any]) -> str:
    """Return the last line of a fit: its error, its passes and why it stopped.

    Parameters
    ----------
    facts : dict
        Facts about the model, from `dnmf.cli.describe.describe`.
    """
    share = f"sqrt(2 D), {facts['loss']}"
    if facts["relative_error"] is not None:
        share = f"relative error {facts['relative_error']:.1%}"
    line = (
        f"{facts['path']}: error {format_error(facts['error'])} ({share}) after {facts['passes']} "
        f"passes, {STOP_REASONS[facts['stop_reason']]}"
    )
    empty = facts["empty_components"]
    return line + (f"; {empty} of {facts['components']} components are empty" if empty else "")


def format_error(error: float) -> str:
    """Write an error with eight digits, so that passes differ, and without an exponent."""
    digits = math.floor(math.log10(error)) + 1 if error > 0 else 1
    return f"{error:,.{max(0, 8 - max(digits, 1))}f}"
