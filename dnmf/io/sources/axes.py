"""Which axes of an array count its images, and which are those of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dnmf.errors import IngestError

if TYPE_CHECKING:
    from dnmf.io.sources.choices import Choices
    from dnmf.io.sources.image_array import ImageArray

ONE_IMAGE = "none"
"""What is given as axis if an array is one image."""

_COLOR_NAMES = {"rgb": "rgb", "rgb+alpha": "rgba", "gray+alpha": "ya"}
"""Letters by which a channel can be named where the array has no names."""


@dataclass(frozen=True)
class Selection:
    """What the axes of an array are.

    Attributes
    ----------
    names : tuple of str
        Of all axes; their numbers where the array has no names.
    rows : tuple of int
        Axes along which images follow each other, the slowest first; () for one image.
    image : tuple of int
        Axes of an image: of y and x, perhaps also of channels; or of the pixels.
    parts : tuple of slice
        The part of each axis that is taken; an axis of neither kind has a part of length 1.
    colors : str or None
        What the last axis of an image means.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    image: tuple[int, ...]
    parts: tuple[slice, ...]
    colors: str | None

    def lengths(self, axes: Sequence[int]) -> tuple[int, ...]:
        """Return the lengths of the taken parts of axes."""
        return tuple(self.parts[axis].stop - self.parts[axis].start for axis in axes)

    def with_parts(self, parts: Sequence[slice]) -> Selection:
        """Return the same axes with other parts of them."""
        return replace(self, parts=tuple(parts))


def select(source: ImageArray, choices: Choices) -> Selection:
    """Decide what the axes of an array are; see `find_images`.

    Raises
    ------
    IngestError
        A choice does not fit the array, or several axes could be that of the images.
    """
    names = source.axes or tuple(map(str, range(len(source.array.shape))))
    asked = None if choices.axis is None else _numbers(source, names, choices.axis)
    upright = {"y", "x"} <= set(names) and not {names[axis] for axis in asked or ()} & {"y", "x"}
    split = _split_named if upright else _split_unnamed
    taken = choices.channel is not None
    rows, image, channel = split(source, names, asked, taken)
    parts = [
        slice(0, length if axis in rows or axis in image else 1)
        for axis, length in enumerate(source.array.shape)
    ]
    if choices.channel is not None:
        number = _channel_number(source, names, channel, choices.channel)
        parts[channel] = slice(number, number + 1)
    return Selection(names, rows, image, tuple(parts), _colors_of(source, image))


def describe_axes(source: ImageArray) -> str:
    """Write the axes of an array with their lengths, such as ``t=5, y=64, x=64``."""
    shape = tuple(source.array.shape)
    if source.axes is None:
        return f"shape {shape}"
    return "axes " + ", ".join(f"{n}={k}" for n, k in zip(source.axes, shape, strict=True))


def _split_named(
    source: ImageArray, names: tuple[str, ...], asked: tuple[int, ...] | None, taken: bool
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return the axes of rows and of an image, and that of channels, of an array with y and x."""
    shape = source.array.shape
    candidates = [len(shape) - 1] if source.colors is not None else []
    candidates += [names.index("c")] if "c" in names else []
    channel = _channel_axis(source, candidates[::-1], asked) if taken else -1
    image = [names.index("y"), names.index("x")]
    image += [
        axis
        for axis in candidates
        if axis != channel and axis not in (asked or ()) and shape[axis] > 1
    ][:1]
    others = tuple(
        axis
        for axis, length in enumerate(shape)
        if length > 1 and axis != channel and axis not in image and axis not in (asked or ())
    )
    if asked is None and len(others) < 2:
        return others, tuple(image), channel
    if others:
        every = sorted((*(asked or ()), *others))
        raise IngestError(
            f"{source.name} has {describe_axes(source)}: along which of them do images follow each "
            f"other? Give --axis {','.join(names[axis] for axis in every)} for all"
            + (", or --channel to take one of c" if "c" in [names[axis] for axis in others] else "")
        )
    return asked or (), tuple(image), channel


def _split_unnamed(
    source: ImageArray, names: tuple[str, ...], asked: tuple[int, ...] | None, taken: bool
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return the axes of rows and of an image, and that of channels, by their positions."""
    shape = source.array.shape
    rows = (0,) if asked is None else asked
    rest = [axis for axis in range(len(shape)) if axis not in rows]
    if source.axes is not None:
        rest = [axis for axis in rest if shape[axis] > 1] or rest[:1]
        rest.sort(key=lambda axis: names[axis] == "c")
    channel = _channel_axis(source, rest[2:], asked) if taken else -1
    image = tuple(axis for axis in rest if axis != channel)
    if not rest:
        raise IngestError(
            f"{source.name} has {describe_axes(source)}, and none is left for the pixels of an "
            f"image; images are (n, h, w), (n, h, w, channels) or (n, pixels), or give --axis "
            f"{ONE_IMAGE} if it is one image"
        )
    if len(rest) > 3:
        raise IngestError(
            f"{source.name} has {describe_axes(source)}; images are (n, h, w), "
            "(n, h, w, channels) or (n, pixels): give --axis with those along which images follow "
            f"each other, such as --axis {','.join(names[: len(shape) - 2])}"
        )
    return rows, image, channel


def _numbers(source: ImageArray, names: Sequence[str], asked: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of axes that are given by their names or numbers."""
    if tuple(asked) == (ONE_IMAGE,):
        return ()
    found = []
    for word in (str(word).strip().lower() for word in asked):
        if word in names:
            axis = names.index(word)
        elif word.lstrip("-").isdigit() and -len(names) <= int(word) < len(names):
            axis = int(word) % len(names)
        else:
            raise IngestError(
                f"{source.name} has no axis {word}: it has {describe_axes(source)}; give --axis "
                "with one of them or its number"
            )
        if axis in found:
            raise IngestError(f"--axis names axis {word} of {source.name} twice; give it once")
        found.append(axis)
    return tuple(found)


def _channel_axis(
    source: ImageArray, candidates: Sequence[int], asked: tuple[int, ...] | None
) -> int:
    """Return the axis of which --channel takes one."""
    if not candidates:
        raise IngestError(
            f"{source.name} has {describe_axes(source)} and no channels; leave out --channel"
        )
    if candidates[0] in (asked or ()):
        raise IngestError(
            f"{source.name}: --axis makes each channel an image, and --channel takes one; "
            "leave out one of them"
        )
    return candidates[0]


def _channel_number(source: ImageArray, names: Sequence[str], axis: int, asked: str) -> int:
    """Return the number of a channel that is given by its number or name."""
    count = source.array.shape[axis]
    if asked.isdigit() and int(asked) < count:
        return int(asked)
    known = [str(name) for name in source.coords.get(names[axis], ())]
    if not known and axis == len(source.array.shape) - 1:
        known = list(_COLOR_NAMES.get(source.colors or "", ""))
    if known.count(asked) != 1:
        listed = f", or one of {', '.join(known)}" if known else ""
        raise IngestError(
            f"{source.name} has no channel {asked}; give --channel with a number from 0 to "
            f"{count - 1}{listed}"
        )
    return known.index(asked)


def _colors_of(source: ImageArray, image: Sequence[int]) -> str | None:
    if len(image) < 3:
        return None
    last = len(source.array.shape) - 1
    if source.colors is not None and image[2] == last:
        return source.colors
    return "rgb" if source.axes is None and source.array.shape[image[2]] == 3 else "channels"
