"""Access to URLs: options of file systems, which a process keeps by the root of the URL.

Options may hold secrets, so no object, record, task or message holds them. A public function with
`storage_options` remembers them for the root of each of its URLs (``s3://bucket``). The code that
opens a URL looks them up by its root. Without options, the configuration of fsspec and the
environment are used. Workers of a cluster get options from `dnmf.engine.shared_options`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from dnmf.errors import AccessError

StorageOptions = Mapping[str, Any] | None
"""Options of the fsspec file system behind a URL."""

Places = dict[str, dict[str, Any]]
"""Options by the root of URLs."""

PROCESS = uuid4().hex
"""Name of this process, which its own worker threads compare with."""

EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
    **dict.fromkeys(("http", "https"), "http"),
}
"""Extra of dnmf that installs the file system of each protocol."""

ABSENT = (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError)
"""Errors which mean that a place was reached, and say what is or is not there."""

CREDENTIALS = (
    "give them in the environment of each process, such as AWS_ACCESS_KEY_ID, or as "
    "--storage-option NAME=VALUE (storage_options in Python)"
)

REASON = 300
"""Largest number of characters of a library's message that is shown."""

_own: Places = {}
_of_others: dict[str, Places] = {}


def remember_options(options: StorageOptions, *paths: str | os.PathLike[str] | None) -> None:
    """Remember the options of file systems for the roots of URLs, in place of earlier ones.

    Parameters
    ----------
    options : mapping of str to object, or None
        Options of fsspec. A mapping under the name of a protocol, as in ``{"s3": {...}}``, is used
        only for URLs of that protocol. None changes nothing.
    *paths : str, path or None
        URLs. A local path, such as that of a table of URLs, may be given, too.
    """
    if options is not None:
        roots = (_root(os.fsdecode(path)) for path in paths if path is not None)
        _own.update((root, dict(options)) for root in roots)


def inherit_options(path: str, url: str) -> None:
    """Use the options of a path for a URL that it names, unless the URL has its own."""
    for places in (_own, *_of_others.values()):
        if _root(path) in places:
            places.setdefault(_root(url), places[_root(path)])


def known_options() -> Places:
    """Return all options that this process was given."""
    return dict(_own)


def take_options(owner: str, places: Places) -> None:
    """Take the options of another process, until `drop_options` is called for that owner."""
    _of_others[owner] = places


def drop_options(owner: str) -> None:
    """Forget the options of another process, and the file systems that were made with them."""
    from fsspec import get_filesystem_class

    for protocol in {_protocol(root) for root in _of_others.pop(owner, {}) if "://" in root}:
        get_filesystem_class(protocol).clear_instance_cache()


def options_at(url: str) -> dict[str, Any]:
    """Return the options for a URL.

    File systems are told not to cache listings, which other processes make outdated.

    Raises
    ------
    AccessError
        If there is no library for it.
    """
    from fsspec import available_protocols
    from fsspec.asyn import AsyncFileSystem

    protocol, root = _protocol(url), _root(url)
    known = (_own, *reversed(_of_others.values()))
    found = next((places[root] for places in known if root in places), {})
    keeps_lists = issubclass(_file_system_class(url, protocol), AsyncFileSystem)
    nested = {n for n, v in found.items() if isinstance(v, Mapping) and n in available_protocols()}
    return {
        **({"use_listings_cache": False} if keeps_lists else {}),
        **{name: value for name, value in found.items() if name not in nested},
        **(found[protocol] if protocol in nested else {}),
    }


def _file_system_class(url: str, protocol: str) -> type:
    from fsspec import get_filesystem_class

    try:
        found: type = get_filesystem_class(protocol)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        remedy = f"pip install 'dnmf[{extra}]'" if extra else "install its library"
        # Only what is there and cannot be imported has more to say.
        cause = None if isinstance(error.__cause__, ModuleNotFoundError) else error
        raise AccessError(f"{url} needs a library that is not there ({error}): {remedy}") from cause
    except ValueError as error:
        raise AccessError(
            f"{url} begins with {protocol}://, which is no file system of fsspec; common ones are "
            "s3://, gs://, az:// and https://"
        ) from error
    return found


def open_file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system behind a URL, and the path in it.

    Raises
    ------
    AccessError
        If there is no library for it, or its options are wrong.
    """
    from fsspec.core import url_to_fs

    options = options_at(url)
    try:
        fs, path = url_to_fs(url, **options)
    except Exception as error:  # of whatever kind its library raises
        raise AccessError(f"{url} cannot be opened: {reason_of(error)}") from error
    return fs, str(path)


@contextmanager
def readable_errors(prefix: str = "") -> Iterator[None]:
    """Turn errors of the library of a file system into an OSError with a readable message."""
    try:
        yield
    except (AccessError, *ABSENT):
        raise
    except PermissionError as error:
        raise PermissionError(f"{prefix}{reason_of(error)}") from error
    except OSError as error:
        if not prefix or error.errno is not None:
            raise
        raise OSError(f"{prefix}{reason_of(error)}") from error
    except Exception as error:  # of whatever kind
        raise OSError(f"{prefix}{reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """Return in one line why a file system failed, and what to do if that is known."""
    text = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    for value in _secrets(list(_own.values())):
        text = text.replace(value, "...")
    text = text if len(text) <= REASON else f"{text[:REASON]} ..."
    names = " ".join(kind.__name__ for kind in type(error).__mro__)
    if "Credential" in names or "Authentication" in names:
        return f"no credentials: {text.rstrip('.')}; {CREDENTIALS}"
    if isinstance(error, PermissionError):
        return f"access denied: {text.rstrip('.')}; the credentials that were found do not allow it"
    return text


def _secrets(values: Any) -> Iterator[str]:
    """Yield texts in options that may be secrets: all except short ones and URLs."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _secrets(value)
    elif isinstance(values, str) and len(values) > 5 and "://" not in values:
        yield values


def _protocol(url: str) -> str:
    return url.partition("://")[0].partition("::")[0] if "://" in url else ""


def _root(path: str) -> str:
    """Return protocol and bucket or host of a URL; a local path is its own root."""
    before, mark, rest = path.partition("://")
    if not mark:
        return os.path.abspath(os.path.expanduser(path))
    return f"{before}{mark}{rest.partition('/')[0]}"
