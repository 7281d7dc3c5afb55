"""Images that a model is fitted or applied to: a corpus, or an array that is not copied."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from dnmf.cli.paths import kind_at
from dnmf.cli.pixel_options import part_options

if TYPE_CHECKING:
    import zarr

    from dnmf.io.in_place import ImagesInPlace
    from dnmf.storage.corpus import Corpus

PARTS = ("array", "level", "axis", "channel")
"""Names of the options of `array_options`, and of the fields of `Choices` that they set."""


def array_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that find images in an array; the command gets them as the dict `part`."""

    @wraps(command)
    def call(**arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in PARTS}
        part = {name: value for name, value in given.items() if value is not None}
        return command(**arguments, part=part)

    return part_options(call)


def open_images(
    path: str, mask: str | None, part: dict[str, Any]
) -> tuple[Corpus | ImagesInPlace, zarr.Array[Any] | None]:
    """Open images and the mask of their pixels, if there is one.

    Parameters
    ----------
    path, mask : str
        Paths, as the command got them.
    part : dict
        Options of `array_options` that were given.

    Raises
    ------
    click.UsageError
        If `part` is not empty, but `path` is a corpus.
    """
    from dnmf.storage.atomic import format_at, is_absent
    from dnmf.storage.corpus import open_corpus
    from dnmf.storage.paths import is_url, normalize_path

    place = normalize_path(path)
    is_array = kind_at(path) == "array" or (
        is_url(place) and format_at(place) is None and not is_absent(place)
    )
    if part and not is_array:
        raise click.UsageError(
            f"--{next(iter(part))} is for arrays, but {path} is a corpus; leave it out"
        )
    images: Corpus | ImagesInPlace
    if is_array:
        from dnmf.io.in_place import ImagesInPlace
        from dnmf.io.sources.choices import Choices

        images = ImagesInPlace(path, Choices(**part))
    else:
        images = open_corpus(path)
    return images, open_pixel_mask(mask, images.shape)


def open_pixel_mask(mask: str | None, shape: tuple[int, ...]) -> zarr.Array[Any] | None:
    """Open the mask of images of that shape, if a path is given."""
    from dnmf.estimators.inputs import open_mask

    return None if mask is None else open_mask(mask, shape)
