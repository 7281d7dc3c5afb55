"""A log of the passes of a fit or of a sweep: JSON lines, and a file for Prometheus."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil

from dnmf._progress import relative_change
from dnmf._version import __version__
from dnmf.errors import OutputExistsError, ParameterError

if TYPE_CHECKING:
    from dnmf.numerics.state import State
    from dnmf.solvers.multi_fit import Progress

log = logging.getLogger("dnmf")

GAUGES = {
    "passes": "Passes over the images that are done.",
    "reads": "Reads of all images so far.",
    "loss": "Loss after the last pass.",
    "error": "Error after the last pass, sqrt(2 D).",
    "pass_seconds": "Time of the last pass.",
    "images_per_second": "Images that the last pass read in a second.",
    "left_seconds": "Estimate of the time that is left.",
    "memory_bytes": "Memory of the process that drives the fit.",
    "models_active": "Models of a sweep that need further passes.",
    "running": "1 while the fit runs, 0 when it has ended.",
    "failed": "1 if the fit has ended by an error, else 0.",
    "last_event_timestamp_seconds": "When the last line of the log was written.",
}
"""Names of Prometheus' gauges, after ``dnmf_``, and what they are."""


class PassLog:
    """Callback `on_pass` of a fit or a sweep that writes a JSON line after each pass.

    In a ``with`` block it also writes how the fit ends. Lines are appended, so that a fit that is
    resumed continues the same file.

    Parameters
    ----------
    path : str or path, optional
        File of JSON lines, on a disk.
    metrics : str or path, optional
        File for Prometheus, replaced after each pass; its name must end with ``.prom`` for the
        textfile collector of node_exporter.
    name : str
        Name of the fit, such as the path of its model.
    n_images : int, optional
        Number of images, for the images per second.
    tol, max_iter : float and int, optional
        Parameters of the fit, for the time left.

    Raises
    ------
    OutputExistsError
        A file is there that dnmf did not write, or it cannot be written.
    ParameterError
        A path is a URL, to which nothing can be appended.

    Examples
    --------
    >>> with PassLog("fit.jsonl", n_images=len(X)) as log:
    ...     dnmf.NMF(16, on_pass=log).fit(X)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        metrics: str | os.PathLike[str] | None = None,
        *,
        name: str = "",
        n_images: int | None = None,
        tol: float = 0.0,
        max_iter: int | None = None,
    ) -> None:
        self.path = None if path is None else _own_file(path, b'{"event": ', "the log")
        self.metrics = None if metrics is None else _own_file(metrics, b"# HELP dnmf_", "metrics")
        self.name, self.n_images, self.tol, self.max_iter = name, n_images, tol, max_iter
        self.began = self.previous = time.monotonic()
        self.timed_group: int | None = None
        self.is_begun = self.is_failing = False
        self.gauges: dict[str, float] = {}

    def __enter__(self) -> PassLog:
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        facts: dict[str, Any] = {"seconds": round(time.monotonic() - self.began, 3)}
        self.gauges["running"] = 0
        if error is None:
            self._write("end", facts)
            return
        self.gauges["failed"] = float(isinstance(error, Exception))
        self._write("error", {**facts, "type": type(error).__name__, "message": str(error)})

    def __call__(self, progress: State | Progress) -> None:
        """Write the results of a pass."""
        from dnmf.solvers.multi_fit import Progress

        self._begin()
        now = time.monotonic()
        seconds, self.previous = now - self.previous, now
        if isinstance(progress, Progress):
            facts, group = _facts_of_sweep(progress), progress.group
        else:
            facts, group = self._facts_of_fit(progress, seconds), 1
        is_timed, self.timed_group = group == self.timed_group, group
        if not is_timed:  # this pass includes the start before it
            facts.pop("left_seconds", None)
        facts["pass_seconds"] = round(seconds, 3)
        if self.n_images is not None and is_timed:
            facts["images_per_second"] = round(self.n_images / max(seconds, 1e-9), 1)
        facts["memory_bytes"] = psutil.Process().memory_info().rss
        self.gauges |= {"passes": facts["pass"], **_numbers(facts)}
        self._write("pass", facts)

    def _begin(self) -> None:
        if not self.is_begun:
            self.is_begun = True
            self.gauges |= {"running": 1, "failed": 0}
            process = {"host": socket.gethostname(), "process": os.getpid(), "dnmf": __version__}
            try:
                self._write("start", process)
            except OSError as error:
                raise OutputExistsError(
                    f"{error.filename or self.path or self.metrics} cannot be written "
                    f"({error.strerror}): choose another path"
                ) from error

    def _facts_of_fit(self, state: State, seconds: float) -> dict[str, Any]:
        change = relative_change(state.losses)
        facts = {
            "pass": state.n_iter,
            "loss": state.losses[-1],
            "error": state.error,
            "change": change,
            "accepted": state.accepted,
            "reads": state.n_reads,
        }
        if self.max_iter is not None:
            left = passes_left(state.losses, self.tol, self.max_iter)
            facts["left_seconds"] = round(left * seconds, 3)
        return facts

    def _write(self, event: str, facts: Mapping[str, Any]) -> None:
        """Append a line and replace the metrics; a disk that is full does not end the fit."""
        now = datetime.now(UTC)
        self.gauges["last_event_timestamp_seconds"] = now.timestamp()
        head = {"event": event, "time": now.isoformat(timespec="milliseconds"), "name": self.name}
        try:
            if self.path is not None:
                _append(self.path, json.dumps({**head, **_finite(facts)}))
            if self.metrics is not None:
                from dnmf.storage.store import write_file

                write_file(self.metrics, self._for_prometheus().encode())
            self.is_failing = False
        except OSError as error:
            if event == "start":
                raise
            if not self.is_failing:
                log.warning("the log of passes cannot be written (%s): the fit continues", error)
            self.is_failing = True

    def _for_prometheus(self) -> str:
        """Return the gauges in Prometheus' text format."""
        escaped = self.name.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        lines = []
        for name, what in GAUGES.items():
            if name in self.gauges:
                lines += [f"# HELP dnmf_{name} {what}", f"# TYPE dnmf_{name} gauge"]
                lines.append(f'dnmf_{name}{{name="{escaped}"}} {self.gauges[name]!r}')
        return "\n".join(lines) + "\n"


def _facts_of_sweep(progress: Progress) -> dict[str, Any]:
    models = [
        {"components": len(state.H), "loss": state.losses[-1], "error": state.error}
        for state in progress.states
        if state.losses
    ]
    return {
        "pass": progress.n_pass,
        "reads": max(state.n_reads for state in progress.states),
        "group": progress.group,
        "groups": progress.groups,
        "models_active": progress.active,
        "models": models,
    }


def _numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in facts.items()
        if name in GAUGES and isinstance(value, (int, float))
    }


def _finite(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts in JSON types, in which no number is NaN or infinite."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }


def _own_file(path: str | os.PathLike[str], beginning: bytes, what: str) -> Path:
    """Return the path of a file that is not there yet, or that dnmf has written."""
    from dnmf.storage.store import local_folder, require_parent

    local = local_folder(os.fspath(path))
    if local is None:
        raise ParameterError(
            f"{os.fspath(path)} is a URL, and {what} must be a file on a disk: give another path"
        )
    require_parent(local)
    file = Path(os.path.abspath(local))
    try:
        content = b""
        if file.exists():
            with open(file, "rb") as opened:
                content = opened.read(len(beginning))
    except OSError as error:
        raise OutputExistsError(f"{file} cannot be read ({error.strerror})") from error
    if content and content != beginning:
        raise OutputExistsError(
            f"{file} is for {what}, and holds something else: choose another path"
        )
    return file


def _append(path: Path, line: str) -> None:
    """Append a line at once, so that those of two processes do not mix."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        is_cut = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # by a process that was killed
        os.write(file, f"{'' if not is_cut else chr(10)}{line}\n".encode())
    finally:
        os.close(file)


def passes_left(losses: Sequence[float], tol: float, max_iter: int) -> int:
    """Estimate the number of passes left.

    The estimate assumes that the relative change keeps shrinking as in the last three passes.

    Parameters
    ----------
    losses : sequence of float
        Loss after each pass so far.
    tol, max_iter : float, int
        Parameters of the fit.
    """
    at_most = max_iter - len(losses)
    recent = [relative_change(losses[: len(losses) - back]) for back in (2, 1, 0)]
    changes = [change for change in recent if change]  # a step back changes nothing
    if tol > 0 and losses[-1] == 0:
        return 0
    if tol <= 0 or not recent[-1]:
        return at_most
    if recent[-1] <= tol:
        return 0
    ratio = (changes[-1] / changes[0]) ** (1 / (len(changes) - 1)) if len(changes) > 1 else 1.0
    if ratio >= 1:
        return at_most
    return min(at_most, math.ceil(math.log(tol / changes[-1]) / math.log(ratio)))
