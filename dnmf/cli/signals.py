"""Signals that stop a fit, because its time on a machine is up or the machine is needed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import Any, TypeVar

from dnmf._format import format_duration

Argument = TypeVar("Argument")

EXIT_STATUS = 75
"""Exit status of a fit that a signal has stopped: EX_TEMPFAIL of sysexits.h, "try again later"."""

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]

ONE_REQUEST = 1.0
"""Seconds in which further signals are part of the first: batch systems send one to a script, which
passes it on, and to what the script has started."""

LONGEST = 1e7
"""Longest grace period in seconds: a timer takes no more, and nothing waits four months."""


class StoppedBySignal(KeyboardInterrupt):
    """A signal has stopped a fit; like Ctrl-C, not an `Exception`."""


def leave_on_signals() -> None:
    """Let SIGTERM and SIGUSR1 end this process at once, with the status of a stopped fit.

    The program does so before it imports what takes seconds. A fit hears the signals by itself
    while it computes; before and after that there is nothing to finish.
    """
    for number in SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    _write(f"{signal.Signals(number).name}: stopped by a signal before a pass")
    os._exit(EXIT_STATUS)  # an exception would be lost where an import catches all of them


def _write(line: str) -> None:
    # Not through sys.stderr: the signal may have come while that writes a line.
    os.write(2, f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z} {line}\n".encode())


class StopRequest:
    """Context in which SIGTERM and SIGUSR1 stop a fit.

    The first signal lets the current pass finish and be committed, if that takes no longer than
    the grace period. After it, or at a second signal that comes at least a second later, the pass
    is abandoned where it is: nothing that is committed is harmed by that. Only the main thread
    receives signals; on other threads the context does nothing.

    Parameters
    ----------
    grace : float
        Grace period in seconds.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.is_requested = self.is_raised = False
        self.time_of_request = 0.0
        self.previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            handlers = {**dict.fromkeys(SIGNALS, self._request), signal.SIGALRM: self._abandon}
            self.previous_handlers = {
                number: signal.signal(number, handler) for number, handler in handlers.items()
            }
        return self

    def __exit__(self, *_: object) -> None:
        if self.previous_handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def raise_if_requested(self) -> None:
        """Raise StoppedBySignal if a signal has come."""
        if self.is_requested:
            self.is_raised = True
            raise StoppedBySignal

    def wrap(self, *callbacks: Callable[[Argument], None]) -> Callable[[Argument], None]:
        """Return a callback that calls others and then `raise_if_requested`.

        A fit calls it after each pass that it has committed.
        """

        def call(argument: Argument) -> None:
            for on_pass in callbacks:
                on_pass(argument)
            self.raise_if_requested()

        return call

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            if time.monotonic() - self.time_of_request > ONE_REQUEST:
                self._abandon(number, frame)
            return
        self.is_requested, self.time_of_request = True, time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, min(max(self.grace, 1e-3), LONGEST))
        name = signal.Signals(number).name
        left = format_duration(self.grace)
        _write(f"{name}: the fit ends after this pass, or without it in {left}")

    def _abandon(self, number: int, frame: FrameType | None) -> None:
        if not self.is_raised:  # only once: the cleaning up after it is not interrupted
            self.is_raised = True
            import logging

            # Dask cancels what it waited for, and asyncio would log each of these as an error.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise StoppedBySignal
