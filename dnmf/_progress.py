"""What a fit or an ingest shows while it runs, with ``verbose=1``.

In a notebook and in a terminal that is a bar of tqdm, elsewhere lines on stdout, as scikit-learn
prints them. Those who have something to say do not know who listens: `say` writes to the log of
dnmf, and to the bar of the fit that it is called in.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from itertools import count
from shutil import get_terminal_size
from typing import Any

from dnmf._format import format_duration

log = logging.getLogger("dnmf")

LINE_SECONDS = 10
"""Least number of seconds between two printed lines about images that are done."""


class Bar:
    """Bar of a fit: what its last pass has come to, and how far the next one is.

    The ``with`` block is the fit.
    """

    def __enter__(self) -> Bar:
        options = {"desc": "starting", "bar_format": "{desc} [{elapsed}]{postfix}"}
        self._bar = _open(**options) if is_live() else None
        self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _current.reset(self._token)
        if self._bar is not None:
            self._bar.set_postfix_str(f"ended by {kind.__name__}" if kind else "", refresh=False)
            self._bar.close()

    def show(self, line: str, *, is_pass: bool) -> None:
        """Show a line: of a pass, of which there may be thousands in a second, or of the start."""
        if self._bar is None:
            _print(line)
            return
        self._bar.set_postfix_str("", refresh=False)
        self._bar.set_description_str(line, refresh=not is_pass)
        self._bar.update(is_pass)

    def show_part(self, text: str) -> None:
        """Show how far a pass is; not on lines, of which there would be too many."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(0)


def _print(line: str) -> None:
    """Print a line in one piece: models of a sweep start on several threads."""
    print(f"{line}\n", end="", flush=True)  # noqa: T201 - what verbose is for


_current: ContextVar[Bar | None] = ContextVar("bar of the fit", default=None)


def bar_of(verbose: int) -> AbstractContextManager[Any]:
    """Return the context of a fit: a bar, unless `verbose` is 0 or False."""
    return Bar() if verbose else nullcontext()


def count_bar(unit: str, verbose: int) -> AbstractContextManager[Callable[[int, int], None]]:
    """Return the context of a callback that counts: a bar, unless `verbose` is 0 or False."""
    return CountBar(unit) if verbose else nullcontext(lambda done, total: None)


def say(line: str) -> None:
    """Write a line to the log, which the next one may replace on a terminal, and show it."""
    log.info(line, extra={"live": True})
    if (bar := _current.get()) is not None:
        bar.show(line, is_pass=False)


def report_pass(line: str) -> None:
    """Show what a pass has come to, where there is a bar."""
    if (bar := _current.get()) is not None:
        bar.show(line, is_pass=True)


def part_counter(label: str, total: int) -> Callable[[], None]:
    """Return a function to call after each part of a pass, which shows how far the pass is."""
    bar, numbers = _current.get(), count(1)
    if bar is None or not label:
        return lambda: None
    return lambda: bar.show_part(f"{label.replace('-', ' ')}: {next(numbers) / total:.0%}")


class CountBar:
    """Bar of what is done of a known number, with rate and time left; elsewhere lines.

    Parameters
    ----------
    unit : str
        What is counted.
    write : callable
        Called with a line where there is no bar: at most once in `LINE_SECONDS`, and at the end.
    """

    def __init__(self, unit: str, write: Callable[[str], None] = _print) -> None:
        self._unit, self._write, self._is_live = unit, write, is_live()
        self._bar: Any = None
        self._first: tuple[float, int] | None = None
        self._shown = -math.inf

    def __enter__(self) -> CountBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Show how many are done."""
        if self._is_live:
            if self._bar is None:  # what an earlier process has done does not count for the rate
                self._bar = _open(total=total, initial=done, desc=self._unit, unit="")
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        began, before = self._first = self._first or (now, done)
        if done < total and now - self._shown < LINE_SECONDS:
            return
        self._shown, line = now, f"{done:,} of {total:,} {self._unit}"
        if now > began:
            rate = (done - before) / (now - began)
            line += f"   {rate:,.0f} {self._unit}/s"
            line += f"   about {format_duration((total - done) / rate)} left" * (done < total)
        self._write(line)


def is_live() -> bool:
    """Check whether a line can be replaced by the next: in a notebook, and in a terminal."""
    return _is_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _is_notebook() -> bool:
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _open(**options: Any) -> Any:
    """Return a bar of tqdm, which is a widget in a notebook that has ipywidgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets it warns, and is a line of text
        from tqdm.auto import tqdm
    if _is_notebook():  # where stderr is on red
        return tqdm(**options, file=sys.stdout, miniters=0, dynamic_ncols=True)
    columns, rows = get_terminal_size()  # tqdm takes 0 of a terminal that does not know its size
    return tqdm(**options, file=sys.stderr, miniters=0, ncols=columns, nrows=rows)


def relative_change(losses: Sequence[float]) -> float | None:
    """Compute the share by which the last pass lowered the loss; None after the first pass."""
    if len(losses) < 2 or losses[-2] == 0:
        return None
    return (losses[-2] - losses[-1]) / losses[-2]
