"""Folders of pictures, in which only pictures that dnmf has written are replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from dnmf.errors import OutputExistsError, ParameterError
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.store import require_parent

SOFTWARE = {"Software": "dnmf"}
"""Text in each PNG file that dnmf writes, by which it knows the file again."""


def picture_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder on this machine that pictures are to be written to; it need not exist.

    Raises
    ------
    ParameterError
        The path is a URL.
    OutputExistsError
        It is a file, or the folder above it does not exist.
    """
    location = normalize_path(path)
    if is_url(location):
        raise ParameterError(f"{location} is a URL; pictures are written to a folder on this disk")
    require_parent(location)
    folder = Path(location)
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; choose a folder")
    return folder


def require_own_pictures(folder: Path, names: Iterable[str]) -> None:
    """Raise OutputExistsError if one of some files exists and is no picture of dnmf's."""
    for name in names:
        if os.path.lexists(folder / name) and not _is_own(folder / name):
            raise OutputExistsError(
                f"{folder / name} exists, and does not say that dnmf wrote it: move it elsewhere, "
                "or choose another folder"
            )


def _is_own(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get("Software") == SOFTWARE["Software"]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
