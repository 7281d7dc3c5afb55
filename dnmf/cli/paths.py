"""Checks of paths that a person has typed, with a guess at the path that was meant.

This module reads records without Zarr, which takes long to import, so that errors come at once.
"""

from __future__ import annotations

import difflib
import glob
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnmf._access import options_at
from dnmf.errors import CheckpointError, CorpusError, DataError, IngestError, OutputExistsError
from dnmf.storage.paths import is_url, normalize_path

RECORD_BYTES = 2**22
"""Largest ``zarr.json`` that is read."""

SHOWN = 200
"""Number of names in a folder among which the path that was meant is looked for."""

MADE_BY = {
    "corpus": "`dnmf ingest IMAGES NEW.zarr` makes one",
    "model": "`dnmf fit CORPUS NEW.model -k 16` makes one",
    "sweep": "`dnmf rank CORPUS NEW.sweep -k 9,25,49` makes one",
    "weights": "`dnmf transform MODEL CORPUS NEW.zarr` makes them",
}
"""How each kind of store is made."""

ARRAY_SUFFIXES = (".npy", ".h5", ".hdf5", ".hdf", ".nxs", ".nwb", ".emd")
"""Suffixes of files with arrays that can be fitted without a copy."""

IMAGES = ("corpus", "array")
"""Kinds of what a model can be fitted to."""

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".npy", ".gz", ".gif", ".bmp",
)  # fmt: skip
"""Suffixes by which a file, or a folder of files, counts as images."""


@dataclass(frozen=True)
class Argument:
    """An argument or option that is a path to something dnmf has written.

    Attributes
    ----------
    name : str
        As the help writes it, such as ``CORPUS``.
    path : str
        What was typed.
    kinds : tuple of str
        Kinds that it may be, of `MADE_BY` and ``array``.
    is_output : bool
        Whether the command writes it, so that nothing need be there.
    may_exist : bool
        Whether such an output may be there already, to be replaced or continued.
    """

    name: str
    path: str
    kinds: tuple[str, ...]
    is_output: bool = False
    may_exist: bool = True


def check_arguments(*arguments: Argument) -> None:
    """Raise an error that says what to type if an input is missing or of the wrong kind.

    Raises
    ------
    CorpusError, CheckpointError
        An input is not there, or is something else.
    OutputExistsError
        The folder of an output is not there.
    """
    found = {argument: kind_at(argument.path) for argument in arguments}
    for argument, kind in found.items():
        if argument.is_output or kind in (*argument.kinds, "unknown"):
            continue
        error = CorpusError if "corpus" in argument.kinds else CheckpointError
        for other in arguments:
            if found[other] in argument.kinds and found[other] not in other.kinds:
                raise error(_describe_swap(argument, kind, other, found[other]))
        raise error(_describe_wrong(argument, kind))
    for argument, kind in found.items():
        if argument.is_output:
            _check_output(argument, kind)


def _check_output(argument: Argument, kind: str) -> None:
    path = argument.path
    if kind in ("nothing", "unknown"):
        require_folder_of(path)
    elif kind in argument.kinds and not argument.may_exist:
        raise OutputExistsError(f"{path} already exists; choose another path or pass --force")
    elif kind in MADE_BY and kind not in argument.kinds:
        raise OutputExistsError(
            f"{path} already exists and is {_a(kind)}, which is not replaced; choose another path"
        )
    elif kind in ("file", "array") or (kind == "folder" and any(_folder(path).iterdir())):
        raise OutputExistsError(
            f"{path} already exists and is {_a(kind)} not written by dnmf; choose another path"
        )


def kind_at(path: str) -> str:
    """Return what is at a path.

    Returns
    -------
    str
        A kind of store of `MADE_BY`; or ``"array"``, for arrays of others: Zarr, and files of
        HDF5 and NumPy, also with a name in them after ``::``; or ``"nothing"``, ``"file"``,
        ``"folder"``; or ``"unknown"`` for what is neither of these behind a URL or cannot be read,
        of which the library will say more.

    Raises
    ------
    DnmfError
        What is behind a URL cannot be looked at.
    """
    if is_url(location := normalize_path(path)):
        return _kind_behind(location)
    place = Path(location)
    try:
        if not place.is_dir():
            return _kind_of_file(place)
        if any((place / name).exists() for name in (".zarray", ".zgroup")):  # of Zarr v2
            return "array"
        with (place / "zarr.json").open("rb") as file:
            attributes = json.loads(file.read(RECORD_BYTES)).get("attributes", {})
        if "dnmf" not in attributes:
            return "folder" if kind_at(str(place.parent)) in MADE_BY else "array"
        record = attributes["dnmf"]["format"]
        kind = str(record).removeprefix("dnmf-")
        return kind if kind in MADE_BY else "unknown"
    except FileNotFoundError:
        return "folder"
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "unknown"


def _kind_behind(url: str) -> str:
    """Return what dnmf has written to a URL, or ``"unknown"``; raise as `kind_at` does."""
    from dnmf.storage.atomic import format_at

    kind = str(format_at(url)).removeprefix("dnmf-")
    return kind if kind in MADE_BY else "unknown"


def _kind_of_file(place: Path) -> str:
    """Return what is at a path that is no folder; see `kind_at`."""
    if place.exists():
        return "array" if place.name.lower().endswith(ARRAY_SUFFIXES) else "file"
    above, separator, _ = str(place).rpartition("::")
    return "array" if separator and os.path.exists(above) else "nothing"


def require_exists(name: str, path: str) -> None:
    """Raise DataError unless something is at a path that an option names."""
    if kind_at(path) == "nothing":
        raise DataError(f"{name}: {_describe_absent(path)}")


def require_folder_of(path: str) -> None:
    """Raise OutputExistsError unless the folder that is to hold an output exists."""
    from dnmf.storage.store import require_parent

    require_parent(normalize_path(path))


def check_sources(sources: Sequence[str], corpus: str, *, force: bool) -> None:
    """Raise IngestError or OutputExistsError if these cannot be the paths of `dnmf ingest`.

    Parameters
    ----------
    sources, corpus : sequence of str, str
        Paths as they were typed.
    force : bool
        Whether a corpus may be there already.
    """
    target = kind_at(corpus)
    for source in sources:
        if is_url(place := normalize_path(source)):
            options_at(place)  # is there a library for it?
            continue
        kind = kind_at(source)
        if kind == "nothing" and kind_at(source.rpartition("::")[0] or source) != "nothing":
            continue  # an array in a file
        if kind == "nothing" and glob.glob(source, recursive=True):
            continue
        if kind == "nothing":
            if target in ("folder", "file", "array") and _holds_images(_folder(corpus)):
                raise IngestError(
                    f"{source} does not exist, and {corpus} holds images: the new corpus comes "
                    f"last, `dnmf ingest {corpus} {source}`"
                )
            raise IngestError(_describe_absent(source))
        if kind in MADE_BY:
            raise IngestError(
                f"{source} is {_a(kind)} already; give image files or folders of them"
            )
    if target in ("folder", "file", "array") and _holds_images(_folder(corpus)):
        raise OutputExistsError(
            f"{corpus} holds images, and the last argument must be the new corpus: "
            "`dnmf ingest IMAGES... NEW.zarr`"
        )
    _check_output(Argument("CORPUS", corpus, ("corpus",), is_output=True, may_exist=force), target)


def _describe_swap(argument: Argument, kind: str, other: Argument, found: str) -> str:
    what = "does not exist" if kind == "nothing" else f"is {_a(kind)}"
    return (
        f"{argument.name} is {argument.path}, which {what}, and {other.name} is {other.path}, "
        f"{_a(found)}: swap the two"
    )


def _describe_wrong(argument: Argument, kind: str) -> str:
    path, wanted = argument.path, " or ".join(_a(kind) for kind in argument.kinds)
    if len(argument.kinds) > 2:
        wanted = "what dnmf has written: a corpus, weights, a model or a sweep"
    must_be = f"{argument.name} must be {wanted}"
    if argument.kinds[1:] in ((), IMAGES[1:]):
        must_be += f": {MADE_BY[argument.kinds[0]]}"
    if kind == "nothing":
        absent = _describe_absent(path, argument.kinds)
        return absent if absent.endswith("?") else f"{absent}; {must_be}"
    if kind in MADE_BY:
        return f"{path} is {_a(kind)}, and {must_be}"
    if kind_at(above := os.path.dirname(path) or ".") in argument.kinds:
        return f"{path} is a part of {above}; did you mean that?"
    inside = [
        name for name in _names_in(_folder(path)) if kind_at(f"{path}/{name}") in argument.kinds
    ]
    if inside:
        return f"{path} is a folder; did you mean {os.path.join(path, inside[0])}?"
    if _holds_images(_folder(path)) and "corpus" in argument.kinds:
        return (
            f"{path} holds images and is no corpus: make one of them with "
            f"`dnmf ingest {path} NEW.zarr`, then give that"
        )
    return f"{path} is a {kind} that dnmf has not written; {must_be}"


def _describe_absent(path: str, kinds: tuple[str, ...] = ()) -> str:
    """Say that nothing is at a path, and name the most similar path in the same folder.

    Of several similar paths, one of these kinds is preferred.
    """
    whole = place = Path(os.path.abspath(normalize_path(path)))
    while not place.parent.is_dir():
        place = place.parent
    nearest = difflib.get_close_matches(place.name, _names_in(place.parent), n=9)
    nearest.sort(key=lambda name: kind_at(str(place.parent / name)) not in kinds)
    where = "" if place == whole else f": there is no folder {place}"
    if not nearest:
        return f"{path} does not exist{where}"
    meant = str(place.parent / nearest[0] / whole.relative_to(place))
    return (
        f"{path} does not exist{where}; did you mean "
        f"{meant if os.path.isabs(path) else os.path.relpath(meant)}?"
    )


def _folder(path: str) -> Path:
    return Path(normalize_path(path))


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))[:SHOWN]
    except OSError:
        return []


def _holds_images(place: Path) -> bool:
    names = [place.name, *_names_in(place)]
    return any(name.lower().endswith(IMAGE_SUFFIXES) for name in names)


def _a(kind: str) -> str:
    article = {"weights": "", "array": "an "}.get(kind, "a ")
    return f"{article}{kind}"
