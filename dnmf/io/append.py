"""Checks of images that are added to a corpus: they must be new, and like those that it has."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from dnmf.errors import IngestError
from dnmf.io.sources.arrays import ArrayImages
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.files import describe_images
from dnmf.storage.corpus import Corpus

SELECTING = ("array", "level", "axis", "channel")
"""Choices that say where images lie in a file; they may be others for other files."""


class KnownIds:
    """Ids of the images of a corpus, in eight bytes each; also those of files with several images.

    Parameters
    ----------
    corpus : Corpus
    """

    def __init__(self, corpus: Corpus) -> None:
        found: list[np.ndarray[Any, Any]] = []
        for index in range(corpus.n_blocks):
            ids = corpus.block_ids(index)
            files = (name.rpartition(":")[0] for name in ids)
            found.append(np.array([hash(name) for name in (*ids, *files)], np.int64))
        self._hashes = np.unique(np.concatenate(found))

    def __contains__(self, name: object) -> bool:
        place = np.searchsorted(self._hashes, hash(name))
        return bool(place < len(self._hashes) and self._hashes[place] == hash(name))


def choices_of(corpus: Corpus, asked: Choices) -> Choices:
    """Return the choices for new images of a corpus, which are those of its other images.

    Raises
    ------
    IngestError
        If the call asks for other choices.
    """
    recorded: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in corpus.choices.items()
    }
    given = {
        field.name: value
        for field in fields(asked)
        if (value := getattr(asked, field.name)) != field.default
    }
    for name, value in given.items():
        if name not in SELECTING and value != recorded.get(name):
            raise IngestError(
                f"{name} is {value}, but the images of {corpus.path} were made with "
                f"{recorded.get(name)}; leave it out, or ingest into a corpus of its own"
            )
    return Choices(**{**recorded, **given})


def numbered_after(corpus: Corpus, images: Any) -> Any:
    """Return images with numbers after those of a corpus, if numbers are their ids."""
    return replace(images, first=len(corpus)) if isinstance(images, ArrayImages) else images


def require_alike(corpus: Corpus, images: Any) -> None:
    """Raise IngestError unless new images and their columns are as those of a corpus."""
    shapes = (corpus.image_shape, corpus.dtype), (tuple(images.image_shape), images.dtype)
    if shapes[0] != shapes[1]:
        raise IngestError(
            f"the new images are {describe_images(*shapes[1])}, and those of {corpus.path} are "
            f"{describe_images(*shapes[0])}; convert them (--size, --color, --dtype), or ingest "
            "them into a corpus of their own"
        )
    new: dict[str, str] = dict(getattr(images, "columns", {}))
    names, known = corpus.names, corpus.columns
    found = {names.get(name, name): kind.replace("str", "string") for name, kind in new.items()}
    if found != known:
        raise IngestError(
            f"the new images have the columns {_listed(found)}, and those of {corpus.path} "
            f"{_listed(known)}; give them the same"
        )


def _listed(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in columns.items()) or "none"
