"""Folders of pictures, in which only pictures that dnmf has written are replaced."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dnmf.errors import OutputExistsError, ParameterError
from dnmf.storage.atomic import translate_disk_full
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


def save_pictures(folder: Path, pictures: Mapping[str, Image.Image]) -> list[Path]:
    """Save PNG files into a folder, which is created if need be; all of them or none.

    Raises
    ------
    SpaceError
        The disk is full.
    """
    is_new = not folder.exists()
    with translate_disk_full(folder, "pictures"):
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dnmf-", dir=folder) as temporary:
            try:
                for name, picture in pictures.items():
                    Path(temporary, name).write_bytes(png_bytes(picture))
            except BaseException:
                if is_new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            for name in pictures:
                os.replace(Path(temporary) / name, folder / name)
    return [folder / name for name in pictures]


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as a PNG file that says that dnmf wrote it."""
    text, content = PngInfo(), io.BytesIO()
    for key, value in SOFTWARE.items():
        text.add_text(key, value)
    picture.save(content, "PNG", pnginfo=text)
    return content.getvalue()


def _is_own(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get("Software") == SOFTWARE["Software"]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
