"""The plan of an ingest: the files, the layout of the corpus, and the blocks that are done.

It is in the unfinished corpus, under ``plan/``, until the corpus is finished:

    plan/plan.json           the request, the layout, and what the list of files does not say
    plan/files/000000.json   the files, some thousands in each part
    plan/done/000000.json    line of the manifest of each block that is written, and its rejects

With it, an ingest that was killed can continue, and the jobs of an array need only the path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import numpy as np

from dnmf._access import inherit_options
from dnmf.errors import IngestError
from dnmf.io.sources.arrays import ArrayImages
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.entries import Entries, copy_entries
from dnmf.io.sources.files import FileImages
from dnmf.io.sources.places.place import Reject
from dnmf.io.sources.source import Source, places_of
from dnmf.storage.corpus_writer import Layout
from dnmf.storage.paths import absolute, is_url
from dnmf.storage.store import InvalidObjectError, ObjectStore
from dnmf.storage.table_writer import Line

PLAN = "plan/plan.json"
"""Key of the plan in the unfinished corpus."""

PLAN_BYTES = 2**28
"""Largest plan, or line of a block, that is read."""

VERSION = 1

AnySource = Source | ArrayImages | FileImages
"""What gives the images of an ingest."""


@dataclass(frozen=True)
class Limits:
    """How many images may be bad.

    Attributes
    ----------
    strict : bool
        Whether a single bad image ends the ingest.
    max_rejects : int, float or None
        Largest number of bad images, or as a float their largest share. None allows a tenth that
        cannot be read, but none that differs from the others, because options can convert these.
    """

    strict: bool = False
    max_rejects: int | float | None = None

    def excess(self, bad: Sequence[Reject], n_images: int) -> int | None:
        """Return how many images might be bad if these are too many, else None."""
        if self.strict:
            return 0 if bad else None
        if self.max_rejects is None and any(reject.is_unlike for reject in bad):
            return 0
        most = 0.1 if self.max_rejects is None else self.max_rejects
        allowed = max(1, int(most * n_images)) if isinstance(most, float) else most
        return allowed if len(bad) > allowed else None


@dataclass(frozen=True)
class Plan:
    """What an ingest reads and writes.

    Attributes
    ----------
    path : str
        Path of the corpus when it is finished.
    building : str
        Path of the unfinished corpus.
    source : AnySource
    layout : Layout
        Of all images that are planned.
    limits : Limits
    rejects : list of Reject
        Files that could not even be planned.
    request : mapping, or None
        Arguments of the call, to be compared when an ingest is continued; None if the source is not
        a path.
    token : str
        Name of this ingest, so that images are not added twice.
    append : bool
        Whether the images are added to the corpus at `path`.
    """

    path: str
    building: str
    source: AnySource
    layout: Layout
    limits: Limits
    rejects: list[Reject]
    request: Mapping[str, Any] | None
    token: str
    append: bool = False

    @property
    def choices(self) -> Choices:
        """What is done to the images."""
        return getattr(self.source, "choices", Choices())


@dataclass(frozen=True)
class Done:
    """Result of a block: its line of the manifest (None without a good image), and its rejects."""

    line: Line | None
    rejects: list[Reject]


def building_place(path: str, *, append: bool = False) -> str:
    """Return the path of the unfinished corpus: beside the corpus; at a URL that of the corpus.

    Images that are to be added to a corpus lie beside it also at a URL.
    """
    ending = "append" if append else "ingest"
    if is_url(path):
        return f"{path}.{ending}" if append else path
    final = os.path.realpath(path)
    return os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.{ending}")


def write_plan(plan: Plan) -> Plan:
    """Write a plan into its unfinished corpus, and return it with its list of files there."""
    source = plan.source
    if not isinstance(source, FileImages):
        return plan
    source = replace(source, entries=copy_entries(source.entries, plan.building))
    content = {
        "version": VERSION,
        "request": plan.request,
        "layout": asdict(plan.layout),
        "limits": asdict(plan.limits),
        "rejects": [astuple(reject) for reject in plan.rejects],
        "choices": asdict(source.choices),
        "starts": source.entries.starts,
        "image_shape": source.image_shape,
        "dtype": str(source.dtype),
        "example": source.example,
        "columns": dict(source.columns),
        "axes": source.axes,
        "coords": dict(source.coords),
        "facts": dict(source.facts),
        "of": source.version,
        "append": plan.append,
    }
    ObjectStore(plan.building).set(PLAN, json.dumps(content).encode())
    return replace(plan, source=source)


def read_plan(path: str, building: str) -> Plan | None:
    """Read the plan of an unfinished corpus; None if there is none.

    Parameters
    ----------
    path, building : str
        Paths of the corpus and of the unfinished corpus.

    Raises
    ------
    IngestError
        If it is damaged, or of another version of dnmf, or its sources do not exist any more.
    """
    try:
        content = json.loads(ObjectStore(building).get(PLAN, PLAN_BYTES))
    except FileNotFoundError:
        return None
    except (InvalidObjectError, ValueError) as error:
        raise IngestError(f"{building}/{PLAN} cannot be read ({error}); {_ANEW}") from error
    try:
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {content['version']}, not {VERSION}")
        return _plan_of(content, path, building)
    except (KeyError, TypeError, ValueError) as error:
        raise IngestError(f"{building}/{PLAN} is damaged ({error}); {_ANEW}") from error


_ANEW = "begin anew with --force (force=True in Python)"


def _plan_of(content: Mapping[str, Any], path: str, building: str) -> Plan:
    for each in content["request"]["sources"]:
        inherit_options(path, each)
    source = FileImages(
        places=tuple(places_of(content["request"]["sources"])),
        entries=Entries(absolute(building), tuple(content["starts"])),
        choices=Choices(**_tuples(content["choices"])),
        image_shape=tuple(content["image_shape"]),
        dtype=np.dtype(content["dtype"]),
        example=content["example"],
        columns=content["columns"],
        axes=tuple(content["axes"]),
        coords=content["coords"],
        facts=content["facts"],
        version=content["of"],
    )
    return Plan(
        path,
        building,
        source,
        Layout(**_tuples(content["layout"])),
        Limits(**content["limits"]),
        [Reject(*reject) for reject in content["rejects"]],
        content["request"],
        content["of"],
        content["append"],
    )


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


def write_done(building: str, index: int, done: Done) -> None:
    """Note that a block is written."""
    content = {"line": done.line, "rejects": [astuple(reject) for reject in done.rejects]}
    ObjectStore(building).set(_done_key(index), json.dumps(content).encode())


def done_blocks(building: str) -> list[int]:
    """List the numbers of the blocks that are written."""
    names = ObjectStore(building).list_dir("plan/done")
    return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[0] != ".")


def read_done(building: str, index: int) -> Done:
    """Read the result of a block."""
    content = json.loads(ObjectStore(building).get(_done_key(index), PLAN_BYTES))
    line = None if content["line"] is None else tuple(content["line"])
    return Done(line, [Reject(*reject) for reject in content["rejects"]])


def forget_done(building: str, indices: Sequence[int]) -> None:
    """Remove the notes that blocks are written, because their images will change."""
    ObjectStore(building).delete([_done_key(index) for index in indices], "plan/done")


def remove_plan(building: str) -> None:
    """Remove the plan from a corpus that is finished."""
    store = ObjectStore(building)
    store.delete(store.list_keys("plan"), "plan")


def _done_key(index: int) -> str:
    return f"plan/done/{index:06d}.json"
