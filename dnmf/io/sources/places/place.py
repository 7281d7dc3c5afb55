"""The interface of a place where image files lie, and what a list of them consists of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dnmf.errors import IngestError
from dnmf.io.sources.formats.file import ImageFile


@dataclass(frozen=True)
class Listed:
    """A file that may hold images, as a list of a place has it.

    Attributes
    ----------
    name : str
        Its name in the place.
    id : str
        Id of its image.
    values : mapping of str to object
        What a table says of it, by column.
    """

    name: str
    id: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reject:
    """A file or an image that cannot be used.

    Attributes
    ----------
    path : str
        Its path, its URL, or the path of its archive and its name in it.
    reason : str
    row : int or None
        Its number among all images that were planned; None if it is not even in the plan.
    is_unlike : bool
        Whether it can be read, but differs from the other images in shape or dtype.
    """

    path: str
    reason: str
    row: int | None = None
    is_unlike: bool = False

    def __str__(self) -> str:
        """Return what is said of it; the reason may begin with the path."""
        if self.reason.startswith(self.path):
            return self.reason
        colon = ":" if self.reason.startswith(("it ", "its ", "each ", "image ")) else ""
        return f"{self.path}{colon} {self.reason}"


class Place(Protocol):
    """A folder, an archive, a table or a bucket with image files; picklable and hashable."""

    def __hash__(self) -> int: ...

    def list_files(self) -> Iterator[Listed | Reject]:
        """Yield the files that may hold images, in the order of the corpus, and what cannot be."""
        ...

    def open_files(self, names: Sequence[str]) -> Iterator[ImageFile | IngestError]:
        """Yield files by name, or the reason why one cannot be opened."""
        ...
