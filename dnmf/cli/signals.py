"""Signals that ask a fit to stop: its time on a machine is up, or somebody else needs it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from dnmf._format import format_duration
from dnmf.cli.progress import dated

Told = TypeVar("Told")
STATUS = 75
"""Exit status of a fit that was asked to stop: EX_TEMPFAIL of sysexits.h, "try again later"."""

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A fit was asked to stop. Like Ctrl-C, it passes whatever catches mere errors."""


class StopRequest:
    """Inside its ``with`` block, SIGTERM and SIGUSR1 stop a fit.

    The first signal lets the pass that runs come to its end and be committed, if that takes no
    longer than the grace. After it, or at a second signal, the pass is abandoned where it is:
    nothing that is committed is harmed by that. Only the main thread hears signals.

    Parameters
    ----------
    grace : float
        In seconds.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.asked = self.over = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            handlers = {**dict.fromkeys(SIGNALS, self._ask), signal.SIGALRM: self._abandon}
            self.before = {which: signal.signal(which, do) for which, do in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        if self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for which, handler in self.before.items():
            signal.signal(which, handler)

    def check(self) -> None:
        """Raise Stopped if a signal has asked for it."""
        if self.asked:
            self.over = True
            raise Stopped

    def after(self, tell: Callable[[Told], None]) -> Callable[[Told], None]:
        """Check after each pass, which then is committed, and has been told of."""

        def told(state: Told) -> None:
            tell(state)
            self.check()

        return told

    def _ask(self, which: int, frame: FrameType | None) -> None:
        if self.asked:
            self._abandon(which, frame)
            return
        self.asked = True
        signal.setitimer(signal.ITIMER_REAL, max(self.grace, 1e-3))
        name = signal.Signals(which).name
        # Not through sys.stderr: the signal may have come while that writes a line.
        line = (
            f"{name}: the fit ends after this pass, or without it in {format_duration(self.grace)}"
        )
        os.write(2, dated(line).encode())

    def _abandon(self, which: int, frame: FrameType | None) -> None:
        if not self.over:  # once: what cleans up is left in peace
            self.over = True
            # What Dask waited for is cancelled, and asyncio would tell of each that nobody asked.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise Stopped
