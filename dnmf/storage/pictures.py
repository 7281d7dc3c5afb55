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

from dnmf.errors import OutputExistsError
from dnmf.storage.atomic import READ_AGAIN, translate_disk_full
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.store import InvalidObjectError, ObjectStore, disk_error, require_parent

SOFTWARE = {"Software": "dnmf"}
"""Text in each PNG file that dnmf writes, by which it knows the file again."""


PICTURE_BYTES = 2**28
"""Largest picture that is read to know whether dnmf wrote it."""


def picture_folder(path: str | os.PathLike[str]) -> Path | str:
    """Return the folder that pictures are to be written to, or its URL; it need not exist.

    Raises
    ------
    OutputExistsError
        It is a file, or the folder above it does not exist.
    AccessError
        The bucket of a URL does not exist.
    """
    location = normalize_path(path)
    require_parent(location)
    if is_url(location):
        return location
    folder = Path(location)
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; choose a folder")
    return folder


def file_in(folder: Path | str, name: str) -> Path | str:
    """Return the path of a file in a folder, or its URL."""
    return folder / name if isinstance(folder, Path) else f"{folder}/{name}"


def require_own_pictures(folder: Path | str, names: Iterable[str]) -> None:
    """Raise OutputExistsError if one of some files exists and is no picture of dnmf's."""
    for name in names:
        if not _is_own(folder, name):
            raise OutputExistsError(
                f"{file_in(folder, name)} exists, and does not say that dnmf wrote it: move it "
                "elsewhere, or choose another folder"
            )


def save_pictures(
    folder: Path | str, pictures: Mapping[str, Image.Image | bytes]
) -> list[Path | str]:
    """Save PNG files into a folder, which is created if need be; on a disk all of them or none.

    Raises
    ------
    SpaceError
        The disk is full.
    """
    contents = (
        (name, each if isinstance(each, bytes) else png_bytes(each))
        for name, each in pictures.items()
    )
    if isinstance(folder, Path):
        _save_on_disk(folder, contents)
    else:
        for name, content in contents:
            ObjectStore(folder).set(name, content)
    return [file_in(folder, name) for name in pictures]


def _save_on_disk(folder: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    is_new = not folder.exists()
    with translate_disk_full(folder, "pictures"):
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".dnmf-", dir=folder) as temporary:
            names = []
            try:
                for name, content in contents:
                    Path(temporary, name).write_bytes(content)
                    names.append(name)
            except BaseException:
                if is_new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            for name in names:
                os.replace(Path(temporary) / name, folder / name)


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as a PNG file that says that dnmf wrote it."""
    text, content = PngInfo(), io.BytesIO()
    for key, value in SOFTWARE.items():
        text.add_text(key, value)
    picture.save(content, "PNG", pnginfo=text)
    return content.getvalue()


def _is_own(folder: Path | str, name: str) -> bool:
    """Check whether a file is a picture of dnmf's, or not there."""
    if isinstance(folder, Path) and os.path.islink(folder / name):
        return False
    try:
        content = io.BytesIO(ObjectStore(str(folder)).get(name, PICTURE_BYTES))
        with Image.open(content, formats=["PNG"]) as picture:
            return picture.info.get("Software") == SOFTWARE["Software"]
    except FileNotFoundError:
        return True
    except InvalidObjectError as error:
        if is_url(str(folder)) and disk_error(error) is not None:
            raise OutputExistsError(f"{file_in(folder, name)} {error}: {READ_AGAIN}") from error
        return False
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
