"""Write weights and reconstructions of a corpus, each block from the task that computes it."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from dnmf._access import StorageOptions, remember_options
from dnmf._typing import Array
from dnmf.engine.blocks import Blocks
from dnmf.errors import DataError, OutputExistsError, ParameterError
from dnmf.estimators.inputs import blocks_of
from dnmf.estimators.nmf import NMF
from dnmf.io.in_place import ImagesInPlace
from dnmf.numerics.block import Block
from dnmf.numerics.objective import Projection
from dnmf.storage.atomic import new_store, require_space, translate_disk_full
from dnmf.storage.codecs import default_codec
from dnmf.storage.corpus import Corpus, open_corpus
from dnmf.storage.corpus_writer import (
    FORMAT,
    Layout,
    commit_corpus,
    create_corpus,
)
from dnmf.storage.paths import is_url, normalize_path
from dnmf.storage.pictures import picture_folder, require_own_pictures, save_pictures
from dnmf.storage.store import ObjectStore
from dnmf.storage.table_writer import Line, write_block
from dnmf.storage.weights import FORMAT as WEIGHTS
from dnmf.storage.weights import commit_weights, create_weights

Images = Corpus | ImagesInPlace


def write_weights(
    model: NMF,
    corpus: Images,
    path: str | os.PathLike[str],
    *,
    mask: Any = None,
    force: bool = False,
    storage_options: StorageOptions = None,
) -> int:
    """Write the weights of a corpus to a Zarr array of shape (n, d), in the blocks of the corpus.

    Parameters
    ----------
    model : NMF
    corpus : Corpus or ImagesInPlace
    path : str or path
        Path of the new array.
    mask : array of shape (n, p), bool, optional
        True where a pixel is to be ignored.
    force : bool, default False
        Whether to replace weights that are already there.
    storage_options : dict, optional
        Options of the file systems behind URLs, as of `dnmf.open_corpus`.

    Returns
    -------
    int
        Number of images.
    """
    remember_options(storage_options, path)
    location = normalize_path(path)
    with (
        translate_disk_full(location, "the weights"),
        new_store(location, WEIGHTS, force=force) as building,
    ):
        blocks, projection = _prepare(model, corpus, mask)
        dtype = projection.basis.H.dtype
        shape = (len(corpus), model.n_components_)
        layout = Layout(
            len(corpus), shape[1:], str(dtype), corpus.block_rows, "lz4", corpus.columns
        )
        require_space(location, layout.max_bytes, "the array of weights")
        names = list(map(str, model.get_feature_names_out()))
        create_weights(building, shape, corpus.block_rows, dtype, corpus.columns, names)
        task = partial(_weigh_block, projection=projection, corpus=corpus, path=building)
        commit_weights(building, corpus.fingerprint, blocks.map_sum(task), corpus.rows)
    return len(corpus)


def write_reconstruction(
    model: NMF,
    corpus: Corpus,
    path: str | os.PathLike[str],
    *,
    mask: Any = None,
    force: bool = False,
    storage_options: StorageOptions = None,
) -> Corpus:
    """Write the reconstruction of a corpus: a corpus of floating-point images with the same ids.

    Parameters
    ----------
    model : NMF
    corpus : Corpus
    path : str or path
        Path of the new corpus.
    mask : array of shape (n, p), bool, optional
        True where a pixel is to be ignored; the model fills it in.
    force : bool, default False
        Whether to replace a corpus that is already there.
    storage_options : dict, optional
        Options of the file systems behind URLs, as of `dnmf.open_corpus`.

    Returns
    -------
    Corpus
        The reconstruction.
    """
    remember_options(storage_options, path)
    location = normalize_path(path)
    places = [p if is_url(p) else os.path.realpath(p) for p in (location, corpus.path)]
    if places[0] == places[1]:
        raise OutputExistsError(f"{location} is the corpus itself; choose another path")
    with (
        translate_disk_full(location, "the reconstruction"),
        new_store(location, FORMAT, force=force) as building,
    ):
        blocks, projection = _prepare(model, corpus, mask)
        dtype = str(projection.basis.H.dtype)
        shape, rows = corpus.image_shape, corpus.block_rows
        codec = default_codec(projection.basis.H.itemsize)
        layout = Layout(len(corpus), shape, dtype, rows, codec, corpus.columns, corpus.axes)
        require_space(location, layout.max_bytes, "the reconstruction")
        create_corpus(building, layout, corpus.coords)
        task = partial(_reconstruct_block, projection=projection, corpus=corpus, path=building)
        commit_corpus(building, layout, blocks.map_sum(task), corpus.facts_of_images)
    return open_corpus(location)


def write_pngs(
    model: NMF,
    corpus: Corpus,
    rows: slice,
    folder: str | os.PathLike[str],
    *,
    mask: Any = None,
    force: bool = False,
    storage_options: StorageOptions = None,
) -> int:
    """Write reconstructions of some images as PNG files, named by their row numbers.

    Values are rounded and clipped to the corpus's integer type; floating-point images are scaled
    so that the brightest pixel of the originals is white.

    Parameters
    ----------
    model : NMF
    corpus : Corpus
    rows : slice
    folder : str or path
    mask : array of shape (n, p), bool, optional
        True where a pixel is to be ignored; the model fills it in.
    force : bool, default False
        Whether to write into a folder that is not empty, if dnmf wrote all the pictures in it.
    storage_options : dict, optional
        Options of the file systems behind URLs, as of `dnmf.open_corpus`.

    Returns
    -------
    int
        Number of files.
    """
    remember_options(storage_options, folder)
    numbers = np.arange(len(corpus))[rows]
    if not len(numbers):
        raise ParameterError(
            f"--rows {rows.start}:{rows.stop} selects no image; the corpus has {len(corpus)} images"
        )
    target = picture_folder(folder)
    found = ObjectStore(str(target)).list_dir()
    require_own_pictures(target, found)
    if found and not force:
        raise OutputExistsError(f"{target} is not empty; choose another folder or pass --force")
    model._require_pixels_of(corpus)
    originals = corpus.images(rows)
    pixel_mask = None if mask is None else np.asarray(mask[rows])
    weights = model.transform(originals.reshape(len(numbers), -1), pixel_mask)
    reconstructed = model.inverse_transform(weights).reshape(originals.shape)
    pictures = [_to_image(pixels, originals) for pixels in reconstructed]
    save_pictures(target, {f"{n:06d}.png": each for n, each in zip(numbers, pictures, strict=True)})
    return len(numbers)


def _prepare(model: NMF, corpus: Images, mask: Any) -> tuple[Blocks, Projection]:
    model._require_pixels_of(corpus)
    projection = model._projection(corpus.dtype, mask)
    return blocks_of(corpus, mask=mask, rules=projection.rules), projection


def _weigh_block(
    block: Block, *, projection: Projection, corpus: Images, path: str
) -> tuple[Line, ...]:
    return (_write_like(corpus, block, projection.weights(block), path),)


def _reconstruct_block(
    block: Block, *, projection: Projection, corpus: Corpus, path: str
) -> tuple[Line, ...]:
    pixels = projection.weights(block) @ projection.basis.H
    return (_write_like(corpus, block, pixels, path),)


def _write_like(corpus: Any, block: Block, rows: Array, path: str) -> Line:
    """Write rows for the images of a block, with the ids and the metadata that the corpus has."""
    index = block.start // corpus.block_rows
    columns = {name: corpus.read_column_block(name, index) for name in corpus.columns}
    return write_block(path, index, rows, corpus.block_ids(index), columns)


def _to_image(pixels: Array, originals: Array) -> Image.Image:
    """Convert a reconstruction to integer pixels; see `write_pngs`."""
    if originals.dtype.kind in "ui":
        dtype = originals.dtype if originals.dtype in (np.uint8, np.uint16) else np.dtype("u2")
        pixels = np.clip(np.rint(pixels), 0, np.iinfo(dtype).max).astype(dtype)
    else:
        top = float(originals.max()) or 1.0
        pixels = np.rint(np.clip(pixels / top, 0, 1) * 255).astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    try:
        return Image.fromarray(pixels)
    except TypeError as error:
        raise DataError(
            f"images of shape {pixels.shape} and type {pixels.dtype} have no PNG form; "
            "write OUT.zarr instead"
        ) from error
