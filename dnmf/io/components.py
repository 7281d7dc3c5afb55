"""Write the components of a model as images, or as spectra, in formats that other programs read.

The folder is a Zarr group whose record lists its files, so that --force can replace the folder
without removing other files. For OME-Zarr the images are an array of that group.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from PIL import Image

from dnmf._access import StorageOptions, remember_options
from dnmf._format import name_components
from dnmf._typing import Array
from dnmf.errors import DataError, ParameterError
from dnmf.estimators.nmf import NMF
from dnmf.storage.atomic import RECORD, clear_place, new_store, translate_disk_full, unfinished
from dnmf.storage.corpus import Corpus
from dnmf.storage.paths import for_zarr, normalize_path
from dnmf.storage.pictures import SOFTWARE, png_bytes
from dnmf.storage.store import ObjectStore

FORMAT = "dnmf-components"
VERSION = 1

FORMATS = ("png", "tiff", "ome-zarr", "npy", "csv")
"""Formats of `write_components`."""

SCALES = ("each", "common")
"""Meaning of white in PNG files: the maximum of each component, or of all components."""

OME_VERSION = "0.5"


def write_components(
    model: NMF,
    path: str | os.PathLike[str],
    *,
    corpus: Corpus | None = None,
    file_format: str | None = None,
    scale: str = "each",
    force: bool = False,
    storage_options: StorageOptions = None,
) -> list[str]:
    """Write the components of a model into a new folder.

    Parameters
    ----------
    model : NMF
        Fitted model. Component j is row j of ``components_``; its weights are column j of W.
    path : str or path
        Path of the folder.
    corpus : Corpus, optional
        Corpus of such images. Spectra are written over the wavelengths that it has.
    file_format : "png", "tiff", "ome-zarr", "npy" or "csv", optional
        ``component-000.png`` and so on, of 8 bits; ``component-000.tiff`` of float32; the folder as
        an OME-Zarr image of float32 with the axes c, y, x; ``components.npy`` of shape (d,) +
        image shape; or ``spectra.csv`` with a row for each pixel, for flat images. By default PNG,
        and CSV for flat images.
    scale : "each" or "common", default "each"
        Whether white in PNG files is the maximum of each component, or of all.
    force : bool, default False
        Whether to replace a folder of components that dnmf wrote there before.
    storage_options : dict, optional
        Options of the file systems behind URLs, as of `dnmf.open_corpus`.

    Returns
    -------
    list of str
        Names of the files in the folder, or of the array.

    Raises
    ------
    OutputExistsError
        Something is at `path`.
    DataError
        The images have no such form.
    ParameterError
        `file_format` or `scale` is none of those.
    """
    remember_options(storage_options, path)
    location = normalize_path(path)
    if scale not in SCALES:
        raise ParameterError(f"scale is {scale!r}; it must be 'each' or 'common'")
    H, shape = model._known_components(), model.image_shape_
    chosen = file_format or ("csv" if len(shape) == 1 else "png")
    if chosen not in FORMATS:
        raise ParameterError(f"format is {file_format!r}; it must be one of {', '.join(FORMATS)}")
    if (len(shape) == 1) != (chosen == "csv") and chosen != "npy":
        raise DataError(_describe_misfit(chosen, shape))
    if corpus is not None:
        model._require_pixels_of(corpus)
    tops = H.max(axis=1) if scale == "each" else np.full(len(H), H.max())
    images = H.reshape(-1, *shape).astype(np.float32, copy=False)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "file_format": chosen,
        "image_shape": list(shape),
        "components": len(H),
        **({"white": tops.tolist()} if chosen == "png" else {}),
    }
    with (
        translate_disk_full(location, "components"),
        new_store(location, FORMAT, force=force) as building,
    ):
        clear_place(building, FORMAT)
        group = zarr.create_group(
            for_zarr(building), zarr_format=3, attributes={RECORD: unfinished(FORMAT)}
        )
        if chosen == "ome-zarr":
            attributes, names = {"ome": _write_ome_zarr(group, images)}, ["0"]
        else:
            attributes, names = (
                {},
                _write_files(building, _encode(chosen, images, tops, _pixels_of(model, corpus))),
            )
        group.attrs.put({**attributes, RECORD: record})
    return names


def _describe_misfit(chosen: str, shape: tuple[int, ...]) -> str:
    if chosen == "csv":
        return (
            f"components of shape {shape} are images, and CSV is for spectra, without height and "
            "width: choose --format png, tiff, ome-zarr or npy"
        )
    return (
        f"components of shape {shape} have no height and width, as {chosen} needs: choose --format "
        "csv or npy, or set model.image_shape_ = (h, w) and save the model"
    )


def _pixels_of(model: NMF, corpus: Corpus | None) -> tuple[str, Array]:
    """Return what the pixels of flat images are called, and the name or number of each."""
    if corpus is not None and (values := corpus.coords.get(corpus.axes[0])) is not None:
        return corpus.axes[0], values
    numbers = np.arange(model.n_features_in_)
    return "pixel", np.asarray(getattr(model, "feature_names_in_", numbers))


def _encode(chosen: str, images: Array, tops: Array, pixels: tuple[str, Array]) -> dict[str, bytes]:
    """Return the content of each file by its name."""
    if chosen == "csv":
        return {"spectra.csv": _encode_spectra(images, *pixels)}
    if chosen == "npy":
        content = io.BytesIO()
        np.save(content, images, allow_pickle=False)
        return {"components.npy": content.getvalue()}
    encode = _encode_png if chosen == "png" else _encode_tiff
    return {
        f"{name}.{chosen}": encode(image / (top or 1.0) if chosen == "png" else image)
        for name, image, top in zip(name_components(len(images)), images, tops, strict=True)
    }


def _encode_png(image: Array) -> bytes:
    """Encode an image of numbers from 0 to 1 with 8 bits."""
    image = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if image.ndim == 3 and image.shape[2] != 3:
        raise DataError(
            f"components of shape {image.shape} have {image.shape[2]} channels, and PNG has 1 or "
            "3: choose --format tiff, ome-zarr or npy"
        )
    return png_bytes(Image.fromarray(np.rint(255 * image).astype(np.uint8)))


def _encode_tiff(image: Array) -> bytes:
    """Encode an image as float32; channels other than three colours follow each other as pages."""
    image = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    content = io.BytesIO()
    try:
        import tifffile
    except ImportError:
        if image.ndim == 3:
            raise DataError(
                f"TIFF files of {image.shape[2]} channels need tifffile: "
                "`pip install 'dnmf[tiff]'`, or choose --format ome-zarr or npy"
            ) from None
        Image.fromarray(image).save(content, "TIFF", software=SOFTWARE["Software"])
        return content.getvalue()
    is_rgb = image.ndim == 3 and image.shape[2] == 3
    pages = np.moveaxis(image, 2, 0) if image.ndim == 3 and not is_rgb else image
    photometric = "rgb" if is_rgb else "minisblack"
    axes = {2: "YX", 3: "YXS" if is_rgb else "CYX"}[image.ndim]
    tifffile.imwrite(
        content,
        pages,
        photometric=photometric,
        software=SOFTWARE["Software"],
        metadata={"axes": axes},
    )
    return content.getvalue()


def _encode_spectra(spectra: Array, name: str, pixels: Array) -> bytes:
    """Encode spectra with a column for each, over the names or numbers of the pixels."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name, *name_components(len(spectra))])
    # NumPy writes the fewest digits from which the same number is read again.
    rows = zip(pixels.tolist(), spectra.T.astype(str).tolist(), strict=True)
    writer.writerows([pixel, *values] for pixel, values in rows)
    return text.getvalue().encode()


def _write_files(path: str, files: Mapping[str, bytes]) -> list[str]:
    """Write files and return their names."""
    for name, content in files.items():
        ObjectStore(path).set(name, content)
    return list(files)


def _write_ome_zarr(group: zarr.Group, images: Array) -> dict[str, Any]:
    """Write images into the array ``0``, with the channels of each component one after the other.

    Returns
    -------
    dict
        The attributes of OME-Zarr for the group.
    """
    names = name_components(len(images))
    if images.ndim == 4:
        names = [f"{name} channel {c}" for name in names for c in range(images.shape[3])]
        images = np.moveaxis(images, 3, 1).reshape(-1, *images.shape[1:3])
    group.create_array(
        "0", data=images, chunks=(1, *images.shape[1:]), dimension_names=("c", "y", "x")
    )
    return _ome_attributes(images, names)


def _ome_attributes(images: Array, names: list[str]) -> dict[str, Any]:
    """Return the metadata of OME-Zarr for an array of the axes c, y, x."""
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    dataset = {
        "path": "0",
        "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}],
    }
    channels = [
        {
            "label": name,
            "color": "FFFFFF",
            "active": True,
            "window": {"min": 0.0, "max": top, "start": 0.0, "end": top},
        }
        for name, top in zip(names, images.max(axis=(1, 2)).tolist(), strict=True)
    ]
    return {
        "version": OME_VERSION,
        "multiscales": [{"name": "components", "axes": axes, "datasets": [dataset]}],
        "omero": {"channels": channels},
    }
