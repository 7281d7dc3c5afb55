"""Paths as users write them, and as the rest of dnmf uses them.

Every function that takes a path from a user calls `normalize_path` on it. After that a path is
either a URL for fsspec, which contains ``://``, or a local path.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from dnmf.errors import ParameterError

FILE, LOCAL = "file:/", "local://"
"""How URLs of local files begin: those of RFC 8089, and those of fsspec."""


def normalize_path(path: str | os.PathLike[str]) -> str:
    """Return a path as dnmf uses it: a local path, or a URL of something that is not local.

    A ``file://`` or ``local://`` URL becomes the local path that it names, with its percent signs
    decoded if it is ``file://``. The ``~`` of a home folder is expanded, and slashes at the end are
    removed.

    Parameters
    ----------
    path : str or path

    Raises
    ------
    ParameterError
        The path is empty or contains a null character.
    """
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ParameterError(f"the path is {text!r}; it must name a file, a folder or a URL")
    if text.lower().startswith(FILE):
        return _local(_path_of_file_url(text))
    if text.startswith(LOCAL):
        return _local(text.removeprefix(LOCAL))
    return _url(text) if is_url(text) else _local(text)


def is_url(path: str) -> bool:
    """Check whether a path is a URL."""
    return "://" in path


def absolute(path: str) -> str:
    """Return the absolute path, for workers with another working folder; a URL is kept as it is."""
    return path if is_url(path) else os.path.abspath(path)


def for_zarr(path: str) -> Any:
    """Return what to pass to Zarr: it would take a local path with ``::`` in it for a URL."""
    if not is_url(path):
        return Path(absolute(path))
    from dnmf.storage.url_store import UrlStore

    return UrlStore(path)


def _path_of_file_url(url: str) -> str:
    """Return the path that a URL like ``file:///a%20b``, ``file:/a`` or ``file://a`` names.

    The last is relative, as in fsspec, and not the name of a host.
    """
    rest = url[len(FILE) - 1 :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = f"/{path}" if host.lower() in ("", "localhost") else f"{host}{slash}{path}"
    return os.fsdecode(unquote_to_bytes(rest))


def _local(path: str) -> str:
    return os.path.expanduser(path).rstrip("/") or "/"


def _url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rstrip('/')}"
