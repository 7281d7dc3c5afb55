"""Colours, titles, axes and files that the figures of models and of sweeps share."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnmf.storage.pictures import SOFTWARE, picture_folder, require_own_pictures, save_pictures

BLUE = "#31688e"
"""Colour of the main curve: from the middle of viridis, distinct from black and from orange with
every colour vision."""

GREY = "#767676"
"""Colour of a secondary curve."""

LABEL_HEIGHT = 0.14
"""Height of a line of a label under an image, in inches."""

CHARACTERS_PER_INCH = 120
"""Characters in an inch of text at a font size of one point, rather too few than too many."""


def count_components(n_components: int) -> str:
    """Write a number of components, as in ``1 component``."""
    return f"{n_components} component{'s' * (n_components != 1)}"


def style_axes(axes: Axes) -> None:
    """Draw a faint grid, and no spines at the top and on the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def wrap(figure: Figure, text: str, size: int) -> str:
    """Break text into lines that fit the width of a figure, at a font size in points."""
    return textwrap.fill(text, int(figure.get_figwidth() * CHARACTERS_PER_INCH / size))


def set_title(figure: Figure, text: str, size: int = 11) -> None:
    """Set the title of a complete figure and lay it out."""
    figure.suptitle(wrap(figure, text, size), fontsize=size)
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.03)


def write_figures(
    figures: Mapping[str, Callable[[], Figure]], folder: str | os.PathLike[str]
) -> list[Path | str]:
    """Draw figures, one after the other, and write each as a PNG file of its name to a folder.

    The folder, which may be a URL, is created for the first of them. Pictures that dnmf wrote there
    before are replaced.

    Raises
    ------
    OutputExistsError
        One of the files exists, and dnmf did not write it.
    """
    target = picture_folder(folder)
    require_own_pictures(target, [f"{name}.png" for name in figures])
    paths: list[Path | str] = []
    for name, draw in figures.items():
        content = io.BytesIO()
        draw().savefig(content, dpi=150, metadata=SOFTWARE)
        paths += save_pictures(target, {f"{name}.png": content.getvalue()})
    return paths
