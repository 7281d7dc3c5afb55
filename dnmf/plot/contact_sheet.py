"""A contact sheet: small copies of many images of a corpus, each with its name below."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from dnmf._access import StorageOptions, remember_options
from dnmf._format import shorten
from dnmf._typing import Array
from dnmf.errors import ParameterError
from dnmf.storage.corpus import Corpus
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.pictures import picture_folder, require_own_pictures, save_pictures
from dnmf.storage.thumbnails import draw_thumbnails

SIDE = 112
"""Largest height and width of an image on a sheet, in pixels: four times those of MNIST."""

GAP = 12
"""Pixels between images."""

FONT_SIZE = 9
"""Height of the font in pixels."""

LINE = 11
"""Height of a line of text in pixels."""

LABELS = ("label", "class", "cls")
"""Names of columns of metadata that are written under the images."""

N_IMAGES = 60
"""Number of images on a sheet of a larger corpus."""

MOST_IMAGES = 2000
"""Largest number of images on a sheet; a larger sheet could not be looked at."""


def contact_sheet(
    corpus: Corpus,
    rows: slice | None = None,
    *,
    columns: int | None = None,
    channel: str | int | None = None,
) -> Image.Image:
    """Draw small copies of images of a corpus, each with its number, name and label below.

    All have one scale of grey, from black at zero to white. Names that are too long are shortened
    in the middle.

    Parameters
    ----------
    corpus : Corpus
        The images.
    rows : slice, optional
        Numbers of the images. By default all of up to 60, else 60 at even distances.
    columns : int, optional
        Number of images side by side. By default the sheet is nearly square.
    channel : str or int, optional
        Name or number of the channel to draw. By default three channels are drawn as red, green and
        blue, and the mean of any other number of channels in grey.

    Returns
    -------
    PIL.Image.Image
        The sheet.

    Raises
    ------
    ParameterError
        If `rows` selects no image or too many, or `columns` or `channel` is out of its range.
    """
    n = len(corpus)
    numbers = np.arange(n)[rows] if rows else np.linspace(0, n - 1, min(n, N_IMAGES)).astype(int)
    if not 0 < len(numbers) <= MOST_IMAGES:
        raise ParameterError(
            f"rows {rows.start if rows else 0}:{rows.stop if rows else n} select {len(numbers)} of "
            f"{n:,} images; a sheet shows from 1 to {MOST_IMAGES:,}"
        )
    if columns is not None and columns < 1:
        raise ParameterError(f"columns is {columns}; it must be at least 1")
    thumbnails = draw_thumbnails(corpus, numbers, SIDE, channel)
    font = ImageFont.truetype(findfont("DejaVu Sans Mono"), FONT_SIZE)
    width = int(SIDE / font.getlength("0"))
    captions = [_caption(corpus, int(row), width) for row in numbers]
    return _lay_out(thumbnails, captions, columns, font)


def write_contact_sheet(
    corpus: Corpus,
    path: str | os.PathLike[str] | None = None,
    *,
    rows: slice | None = None,
    columns: int | None = None,
    channel: str | int | None = None,
    storage_options: StorageOptions = None,
) -> Path | str:
    """Write a contact sheet as a PNG file, replacing one that dnmf wrote before.

    Parameters
    ----------
    corpus : Corpus
        The images.
    path : str or path, optional
        The file, or its URL. By default ``NAME-sheet.png`` beside the corpus, or in the working
        folder if the corpus is at a URL.
    rows, columns, channel
        As in `contact_sheet`.
    storage_options : dict, optional
        Options of the file system behind a URL, as in `dnmf.open_corpus`.

    Returns
    -------
    Path, or str for a URL
        The file.

    Raises
    ------
    OutputExistsError
        If the file exists, and dnmf did not write it.
    ParameterError
        If its name does not end with ``.png``, or another parameter is out of its range.
    """
    remember_options(storage_options, path)
    if path is None:
        place = Path(corpus.path.rpartition("://")[2] if is_url(corpus.path) else corpus.path)
        path = (Path() if is_url(corpus.path) else place.parent) / f"{place.stem}-sheet.png"
    folder, name = os.path.split(normalize_path(path))
    if os.path.splitext(name)[1] != ".png":
        raise ParameterError(f"out is {path}; a contact sheet is a PNG file: give NAME.png")
    if is_url(str(path)) and not is_url(folder):
        raise ParameterError(f"out is {path}; give a file in a bucket, like s3://bucket/NAME.png")
    target = picture_folder(folder or ".")
    require_own_pictures(target, [name])
    sheet = contact_sheet(corpus, rows, columns=columns, channel=channel)
    return save_pictures(target, {name: sheet})[0]


def _lay_out(
    thumbnails: Array, captions: Sequence[str], columns: int | None, font: ImageFont.FreeTypeFont
) -> Image.Image:
    """Arrange pictures in lines, from the top left on, each over its caption."""
    n, height, width = thumbnails.shape[:3]
    step = height + LINE * max(caption.count("\n") + 1 for caption in captions) + GAP
    cell = SIDE + GAP
    columns = min(columns or math.ceil(math.sqrt(n * step / cell)), n)
    size = columns * cell + GAP, math.ceil(n / columns) * step + GAP
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for place, (pixels, caption) in enumerate(zip(thumbnails, captions, strict=True)):
        top, middle = GAP + place // columns * step, (GAP + cell) // 2 + place % columns * cell
        sheet.paste(Image.fromarray(pixels), (middle - width // 2, top))
        pen.text((middle, top + height + 2), caption, "black", font, "ma", align="center")
    return sheet


def _caption(corpus: Corpus, row: int, width: int) -> str:
    block, place = divmod(row, corpus.block_rows)
    labels = [
        shorten(f"{name} {corpus.read_column_block(name, block)[place]}", width)
        for name in corpus.columns
        if name.lower() in LABELS
    ]
    name = shorten(corpus.block_ids(block)[place], width)
    one_line = len(f"{row} {name}") <= width
    return "\n".join([f"{row} {name}" if one_line else f"{row}\n{name}", *labels])
