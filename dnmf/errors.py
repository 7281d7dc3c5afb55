"""All errors that dnmf raises on purpose, in one tree.

    DnmfError
    ├── ParameterError (ValueError, TypeError)  a parameter out of its range
    ├── DtypeError (TypeError)            W or H of another dtype than X
    ├── DataError (ValueError)            pixels that cannot be factorised: negative, NaN ...
    ├── IngestError (ValueError)          image files that cannot become a corpus
    │   └── BadImagesError                too many of them, each with its reason
    ├── CorpusError (OSError)             a path that holds no readable corpus
    │   └── BlockError                    one block of it is missing or damaged
    ├── CheckpointError (OSError)         a path that holds no usable model, or that of another fit
    │   └── ClaimError                    a model that another fit is writing to
    ├── AccessError (OSError)             a URL that cannot be opened, or a bucket that is not there
    ├── OutputExistsError (FileExistsError)  something is already where a result should go
    ├── SpaceError (OSError)              a disk with too little space for a result
    ├── CapacityError (MemoryError)       a fit that needs more memory than there is
    └── ClusterError (ConnectionError)    a cluster that does not answer, or not any more
        └── TaskError                     a task that kills workers, mostly by too little memory

A message says what was found, what is allowed, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 20
"""Largest number of image files that one error names."""


class DnmfError(Exception):
    """Base of all errors that dnmf raises on purpose."""


class ParameterError(DnmfError, ValueError, TypeError):
    """A parameter is out of its range; a ValueError and a TypeError, as in scikit-learn."""


class DtypeError(DnmfError, TypeError):
    """W or H does not have the dtype of X."""


class DataError(DnmfError, ValueError):
    """Pixels cannot be factorised: they are negative, NaN or infinite, or X is not a matrix."""


class IngestError(DnmfError, ValueError):
    """Image files cannot become a corpus."""


class BadImagesError(IngestError):
    """Too many images cannot be read, or are not like the others.

    Attributes
    ----------
    errors : sequence of str
        The reason why each image cannot be used.
    names : sequence of str
        The path of each image.
    allowed, n_images : int or None
        Number of images that may be bad, and number of all images.
    """

    def __init__(
        self,
        errors: Sequence[str],
        names: Sequence[str] = (),
        allowed: int | None = None,
        n_images: int | None = None,
    ) -> None:
        super().__init__(errors, names, allowed, n_images)
        self.errors, self.names = errors, names
        self.allowed, self.n_images = allowed, n_images

    def __str__(self) -> str:
        advice = ""
        if self.allowed:
            advice = (
                f"of {self.n_images:,} images at most {self.allowed:,} may be left out: mend the "
                f"others, or allow more with --max-rejects N (max_rejects=N)"
            )
        elif self.allowed == 0:
            n = len(self.errors)
            advice = (
                f"to leave {'them' if n > 1 else 'it'} out, pass --max-rejects {n:,} "
                f"(max_rejects={n}), and drop --strict if it is there"
            )
        if len(self.errors) == 1:
            return "; ".join(filter(None, (self.errors[0], advice)))
        listed = "\n".join(self.errors[:SHOWN])
        more = f"\n... and {len(self.errors) - SHOWN:,} more" * (len(self.errors) > SHOWN)
        return (
            f"{len(self.errors):,} images cannot be used:\n{listed}{more}"
            + f"\n{advice}" * bool(advice)
        )


class CorpusError(DnmfError, OSError):
    """A path holds no readable corpus."""


class BlockError(CorpusError):
    """A block of a corpus is missing or damaged."""


class CheckpointError(DnmfError, OSError):
    """A path holds no usable model, or the checkpoint of another fit."""


class ClaimError(CheckpointError):
    """Another fit is writing to the model."""


class AccessError(DnmfError, OSError):
    """A URL cannot be opened, or its bucket does not exist."""


class OutputExistsError(DnmfError, FileExistsError):
    """Something is already where a result should go."""


class SpaceError(DnmfError, OSError):
    """A disk has too little space for a result."""


class CapacityError(DnmfError, MemoryError):
    """A fit needs more memory than this machine or a worker has."""


class ClusterError(DnmfError, ConnectionError):
    """The cluster does not answer, or not any more."""


class TaskError(ClusterError):
    """Workers that got a certain task died, several times."""
