"""Zarr stores behind URLs, whose pickles hold the URL alone."""

from __future__ import annotations

from typing import Any

from zarr.storage import FsspecStore

from dnmf._access import options_at


class UrlStore(FsspecStore):
    """Zarr store behind a URL; options of the file system are looked up where it is opened.

    Parameters
    ----------
    url : str
    read_only : bool, default False
    """

    def __init__(self, url: str, read_only: bool = False) -> None:
        made = FsspecStore.from_url(url, storage_options=options_at(url), read_only=read_only)
        super().__init__(made.fs, read_only, made.path)
        self._url = url

    def with_read_only(self, read_only: bool = False) -> UrlStore:
        """Return the same store, read-only or not."""
        return UrlStore(self._url, read_only)

    def __reduce__(self) -> tuple[Any, ...]:
        return UrlStore, (self._url, self.read_only)
