"""Image files behind a URL: ``s3://``, ``gs://``, ``az://``, ``https://`` and others of fsspec."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dnmf._access import open_file_system, reason_of
from dnmf.errors import AccessError, IngestError
from dnmf.io.sources.formats.file import ImageFile
from dnmf.io.sources.places.folder import STORE_FILES, has_suffix, report_ignored
from dnmf.io.sources.places.order import natural, sort_flat
from dnmf.io.sources.places.place import Listed, Reject
from dnmf.storage.store import MAGIC

AT_ONCE = 32
"""Number of objects that are fetched at once, because a single fetch mostly waits."""

WHOLE_BYTES = 2**26
"""Largest object that is fetched as a whole; of larger ones a reader fetches the parts it needs."""


@dataclass(frozen=True)
class RemoteFiles:
    """Files behind a URL; a `Place`.

    Attributes
    ----------
    root : str
        URL that the names are relative to.
    targets : tuple of str
        URLs of folders, patterns and files, in the order of the corpus.
    """

    root: str
    targets: tuple[str, ...] = ()

    def is_folder(self, url: str) -> bool:
        """Check whether a URL is of a folder; raise IngestError if nothing is there."""
        fs, path = open_file_system(url)
        if MAGIC.intersection(path):
            return False
        try:
            return bool(fs.info(path)["type"] == "directory") and not _is_store(fs, path)
        except FileNotFoundError as error:
            raise IngestError(
                f"{url} does not exist; give folders, files or patterns behind URLs"
            ) from error
        except Exception as error:  # of whatever kind the file system's library raises
            raise IngestError(f"{url} cannot be looked at ({reason_of(error)})") from error

    def list_files(self) -> Iterator[Listed | Reject]:
        """Yield the objects below the targets, of folders those with the suffix of an image."""
        ignored: Counter[str] = Counter()
        for target in self.targets:
            try:
                yield from self._list(target, ignored)
            except (AccessError, IngestError):
                raise
            except Exception as error:  # of whatever kind the file system's library raises
                raise IngestError(f"{target} cannot be listed ({reason_of(error)})") from error
        report_ignored(ignored)

    def _list(self, target: str, ignored: Counter[str]) -> Iterator[Listed | Reject]:
        fs, path = open_file_system(target)
        start = len(open_file_system(self.root)[1].rstrip("/")) + 1
        if MAGIC.intersection(path):
            found = fs.glob(path)
        elif not self.is_folder(target):
            yield Listed(path[start:], path[start:])
            return
        else:
            found = fs.find(path)
        for name in sort_flat(found, key=lambda name: [natural(part) for part in name.split("/")]):
            relative = name[start:]
            if any(part.startswith(".") for part in relative.split("/")):
                continue
            if has_suffix(name):
                yield Listed(relative, relative)
            else:
                ignored[f".{name.rpartition('.')[2]}"] += 1

    def open_files(self, names: Sequence[str]) -> Iterator[ImageFile | IngestError]:
        """Yield files by their names, of which some are fetched at once."""
        fs, root = open_file_system(self.root)
        for first in range(0, len(names), AT_ONCE):
            wanted = [f"{root.rstrip('/')}/{name}" for name in names[first : first + AT_ONCE]]
            small = self._small(fs, wanted)
            found = fs.cat(small, on_error="return") if small else {}
            for name, path in zip(names[first : first + AT_ONCE], wanted, strict=True):
                url = f"{self.root.rstrip('/')}/{name}"
                content = found.get(path)
                if isinstance(content, bytes):
                    yield ImageFile(url, partial(io.BytesIO, content))
                elif content is None:
                    yield ImageFile(url, partial(fs.open, path, "rb"))
                else:
                    yield IngestError(f"{url} cannot be fetched ({reason_of(content)})")

    def _small(self, fs: Any, paths: Sequence[str]) -> list[str]:
        """Return the paths of objects that are fetched as a whole."""
        if len(paths) > 1:
            return list(paths)
        try:
            info = fs.info(paths[0])
        except Exception:  # of whatever kind; the fetch will say why
            return list(paths)
        return list(paths) if info["type"] == "file" and (info["size"] or 0) <= WHOLE_BYTES else []


def _is_store(fs: Any, path: str) -> bool:
    """Check whether a folder is a Zarr array or group, which counts as one file."""
    return any(fs.exists(f"{path}/{name}") for name in STORE_FILES)


def open_remote(urls: Sequence[str]) -> RemoteFiles:
    """Return a place for URLs of one file system; raise IngestError unless something is there."""
    anywhere = RemoteFiles("")
    roots = [url if anywhere.is_folder(url) else url.rpartition("/")[0] for url in urls]
    root = roots[0]
    while MAGIC.intersection(root) or not all(
        f"{other}/".startswith(f"{root}/") for other in roots
    ):
        root = root.rpartition("/")[0]
    if root.endswith((":", ":/")):
        raise IngestError(
            f"{urls[0]} and {urls[-1]} are in different places; ingest them into separate corpora"
        )
    return RemoteFiles(root, tuple(urls))
