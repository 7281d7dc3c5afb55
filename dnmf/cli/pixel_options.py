"""Options that choose the images in a file, and options that change their pixels."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from dnmf.cli.options import Number, Size, add_options
from dnmf.io.sources.choices import ALPHAS, COLORS, DTYPES, NANS, Choices


class Axes(click.ParamType[tuple[str, ...]]):
    """Names or numbers of axes, written ``t,z``."""

    name = "AXIS,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Return the names or numbers."""
        return value if isinstance(value, tuple) else tuple(str(value).split(","))


class Crop(click.ParamType[tuple[int, int, int, int]]):
    """Part of an image, written ``HxW`` for its middle or ``HxW+TOP+LEFT``."""

    name = "HxW[+TOP+LEFT]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int, int]:
        """Return top and left, -1 for the middle, and height and width."""
        size, plus, place = str(value).partition("+")
        found = re.fullmatch(r"([0-9]{1,9})\+([0-9]{1,9})", place)
        if plus and found is None:
            self.fail(
                f"{value!r} is no part of an image; write height x width, like 64x64 for the "
                "middle, or 64x64+10+20 from row 10 and column 20 on",
                param,
                ctx,
            )
        top, left = (int(found[1]), int(found[2])) if found else (-1, -1)
        return (top, left, *Size().convert(size, param, ctx))


class Patches(click.ParamType[tuple[int, int, int]]):
    """Size and distance of patches, written ``HxW:STRIDE``, or ``HxW`` for squares in a grid."""

    name = "HxW[:STRIDE]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int, int]:
        """Return height, width and stride."""
        size, colon, stride = str(value).partition(":")
        height, width = Size().convert(size, param, ctx)
        if not colon and height == width:
            return height, width, height
        if not re.fullmatch(r"[1-9][0-9]{0,8}", stride):
            self.fail(
                f"{value!r} has no distance from one patch to the next; write it in pixels, like "
                f"{size}:{min(height, width)}",
                param,
                ctx,
            )
        return height, width, int(stride)


part_options = add_options(
    click.option(
        "--array",
        metavar="NAME",
        help="Array in a file or group that holds several (or PATH::NAME).",
    ),
    click.option(
        "--level",
        type=click.IntRange(min=0),
        help="Level of a pyramid of resolutions, 0 for the largest images  [0].",
    ),
    click.option(
        "--axis", type=Axes(), help="Axes that count the images of an array, by name or number."
    ),
    click.option("--channel", metavar="C", help="Take only this channel, by name or number."),
)
"""Options that find images in an array."""

pixel_options = add_options(
    click.option(
        "--crop", type=Crop(), help="Take a part of every image, by default its middle (pixels)."
    ),
    click.option(
        "--patches", type=Patches(), help="Cut every image into patches, one each STRIDE pixels."
    ),
    click.option(
        "--alpha",
        type=click.Choice(ALPHAS),
        help="Put transparent pixels on a background, or drop their transparency  [refuse].",
    ),
    click.option(
        "--color", type=click.Choice(COLORS), help="Convert every image to grey or to colour."
    ),
    click.option(
        "--size", type=Size(), help="Resize every image to HEIGHTxWIDTH pixels, by averaging."
    ),
    click.option(
        "--pad", type=Size(), help="Extend smaller images to HEIGHTxWIDTH pixels with zeros."
    ),
    click.option(
        "--scale", type=Number(min=0, min_open=True), help="Multiply every pixel by this number."
    ),
    click.option(
        "--clip",
        is_flag=True,
        default=None,
        help="Set negative pixels to 0, and too large ones to the largest number that fits.",
    ),
    click.option(
        "--dtype", type=click.Choice(DTYPES), help="Type of the stored pixels  [as in the file]."
    ),
    click.option(
        "--nan",
        type=click.Choice(NANS),
        help="Whether NaN is refused, or kept for a fit with --missing ignore  [refuse].",
    ),
)
"""Options that change images."""


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field of `Choices`; the command gets the options that are given."""

    @wraps(command)
    def call(**arguments: Any) -> Any:
        return command(
            **{
                name: value
                for name, value in arguments.items()
                if value is not None or name not in Choices.__dataclass_fields__
            }
        )

    return part_options(pixel_options(call))
