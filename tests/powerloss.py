"""A disk that loses power: what the trace of a process leaves there, when nothing is promised.

Of a file, what was written since its last fsync may be there, be gone, be torn or read as zeros. Of
a folder, each change of a name since its last fsync may be there or not. That is weaker than what
file systems do; what survives here survives on them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MODES = ("whole", "empty", "torn", "zeros")
SAMPLES = 4
"""Crash states per call with some names lost and some files torn, drawn at random."""


@dataclass
class File:
    """Content as written, and as fsynced."""

    now: bytes = b""
    safe: bytes | None = None

    def after(self, mode: str) -> bytes:
        """Give what a power failure leaves."""
        if self.safe == self.now or mode == "whole":
            return self.now
        half = self.now[: len(self.now) // 2]
        return {"empty": b"", "torn": half, "zeros": bytes(len(self.now))}[mode]


@dataclass
class Folder:
    """Names as they are, as they were at the last fsync, and the changes since."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def change(self, names: dict[str, File | Folder | None]) -> None:
        """Set and remove names, all or none of them."""
        self.changes.append(names)
        _apply(self.now, names)

    def sync(self) -> None:
        """Make the names last."""
        self.safe, self.changes = dict(self.now), []


def _apply(names: dict, change: dict) -> None:
    for name, what in change.items():
        names.pop(name, None)
        if what is not None:
            names[name] = what


class Disk(dict):
    """Files by their path, as a power failure left them; None for a folder."""

    @classmethod
    def of(cls, path: Path) -> Disk:
        """Read a folder."""
        found = sorted(path.rglob("*"))
        return cls({p.relative_to(path): p.read_bytes() if p.is_file() else None for p in found})

    def write(self, target: Path) -> None:
        """Write the files into a new folder."""
        target.mkdir()
        for path, data in self.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                (target / path).mkdir(exist_ok=True)
            else:
                (target / path).write_bytes(data)


def replay(
    lines: list[str], root: Path, start: Disk, *, files: bool = True, folders: bool = True
) -> Iterator[tuple[Disk, int]]:
    """Yield what a power failure may leave after each call, and how often was acknowledged then.

    With `files` or `folders` false, their fsyncs do nothing.
    """
    tree, rng, seen, count = _grown(start), random.Random(0), set(), 0
    for line in ["", *lines]:
        if line.startswith("access(") and "acknowledged" in _text(line):
            count += 1
        elif line and not _follow(tree, str(root), _text(line), _data(line), files, folders):
            continue
        for disk in _left(tree, rng):
            key = (count, hash(frozenset(disk.items())))
            if key not in seen:
                seen.add(key)
                yield disk, count


def _grown(start: Disk) -> Folder:
    tree = Folder()
    for path, data in start.items():
        parent, name = _find(tree, path.as_posix())
        parent.now[name] = Folder() if data is None else File(data, data)
        parent.sync()
    return tree


def _find(tree: Folder, path: str) -> tuple[Folder, str]:
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree.now[folder]  # type: ignore[assignment]
    return tree, name


def _text(line: str) -> str:
    """Decode what strace wrote in hexadecimal, but for data."""
    return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda found: _bytes(found[0]).decode("latin-1"), line)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _data(line: str) -> bytes:
    found = re.match(r'write\(\d+<[^>]*>, "((?:\\x[0-9a-f]{2})*)", \d+\) += +(\d+)', line)
    return _bytes(found[1])[: int(found[2])] if found else b""


def _follow(tree: Folder, root: str, text: str, data: bytes, files: bool, folders: bool) -> bool:
    """Do what a call did; False if that changes nothing here."""
    call = text.split("(", 1)[0]
    if re.search(r"\) += +-1 ", text) or (f"{root}/" not in text + "/" and f"<{root}>" not in text):
        return False
    path = rf"{re.escape(root)}/?([^\"<>]*)"
    if call == "openat" and "O_CREAT" in text:
        folder, name = _find(tree, re.search(rf'"{path}"', text)[1])
        folder.change({name: File()})
    elif call == "mkdir":
        folder, name = _find(tree, re.search(rf'"{path}"', text)[1])
        folder.change({name: Folder()})
    elif call == "write":
        folder, name = _find(tree, re.search(rf"<{path}>", text)[1])
        folder.now[name].now += data  # type: ignore[union-attr]
    elif call == "rename":
        (a, old), (b, new) = (_find(tree, p) for p in re.findall(rf'"{path}"', text))
        assert a is b, "a rename from one folder to another would be two changes"
        a.change({old: None, new: a.now[old]})
    elif call in ("unlink", "rmdir"):
        folder, name = _find(tree, re.search(rf'"{path}"', text)[1])
        folder.change({name: None})
    elif call == "unlinkat":
        where, name = re.search(rf'<{path}>, "([^"]*)"', text).groups()
        folder, name = _find(tree, f"{where}/{name}".lstrip("/"))
        folder.change({name: None})
    elif call == "fsync":
        where = re.search(rf"<{path}>", text)[1]
        folder, name = _find(tree, where)
        what = folder.now[name] if where else tree
        if isinstance(what, Folder):
            if folders:
                what.sync()
        elif files:
            what.safe = what.now
    else:
        return False
    return True


def _left(tree: Folder, rng: random.Random) -> Iterator[Disk]:
    def plain(mode: str, share: float) -> Disk:
        return _state(tree, lambda: mode, lambda: share == 1)

    yield from (plain(mode, share) for mode in MODES for share in (0, 1))
    for _ in range(SAMPLES):
        share = rng.choice((0.2, 0.5, 0.8))
        yield _state(tree, lambda: rng.choice(MODES), lambda share=share: rng.random() < share)


def _state(tree: Folder, mode, kept) -> Disk:
    disk = Disk()

    def visit(folder: Folder, at: Path) -> None:
        names = dict(folder.safe)
        for change in folder.changes:
            if kept():
                _apply(names, change)
        for name, what in names.items():
            if isinstance(what, Folder):
                disk[at / name] = None
                visit(what, at / name)
            else:
                disk[at / name] = what.after(mode())

    visit(tree, Path())
    return disk
