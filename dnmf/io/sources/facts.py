"""What a corpus keeps of the arrays that its images were in: axes, and the numbers along them."""

from __future__ import annotations

from typing import Any

from dnmf.io.sources.image_array import ImageRows


def axes_of(rows: ImageRows, image_shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the axes of prepared images; () if they have others than raw ones."""
    axes = rows.image_axes
    return axes if len(axes) == len(image_shape) and len(set(axes)) == len(axes) else ()


def coords_of(rows: ImageRows, image_shape: tuple[int, ...]) -> dict[str, list[Any]]:
    """Return numbers or names along the axes of images, unless these were cut or resized."""
    if rows.image_shape != image_shape:
        return {}
    return {name: values.tolist() for name, values in rows.image_coords.items()}


def facts_of(rows: ImageRows, n_images: int) -> dict[str, Any]:
    """Return what the record of a corpus says of how its images lie in a file or an array.

    Parameters
    ----------
    rows : ImageRows
    n_images : int
        Number of images of the corpus: if the file has them all, it is known how they lie.
    """
    shape = rows.row_shape
    if n_images != len(rows) or len(shape) < 2:
        return {}
    return {"rows": {"axes": list(rows.row_axes), "shape": list(shape)}}
