"""Ingest images into a corpus: one task per block reads, checks and writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.engine.executors import each_block
from dnmf.engine.tree_reduce import choose_block_rows
from dnmf.errors import BadImagesError, IngestError, ParameterError
from dnmf.io.sources.arrays import open_array
from dnmf.io.sources.image_files import ImageFiles, Size
from dnmf.io.sources.source import Source, check_options, open_source
from dnmf.numerics.block import find_invalid, invalid_pixel_error
from dnmf.storage.atomic import new_store, require_space, translate_disk_full
from dnmf.storage.codecs import (
    TRIAL_BYTES,
    check_codec,
    default_codec,
    try_codecs,
)
from dnmf.storage.corpus import Corpus, open_corpus
from dnmf.storage.corpus_writer import (
    FORMAT,
    Layout,
    ManifestLine,
    commit_corpus,
    create_corpus,
    write_block,
)
from dnmf.storage.paths import is_url, normalize_path

MAX_BAD_IMAGES = 1000
"""Number of bad images after which an ingest stops looking for more."""

TRIAL_PLACES = 4
"""Number of places in the corpus from which a trial of codecs takes images: the first may be
black."""


def ingest(
    source: Any,
    path: str | os.PathLike[str],
    *,
    size: Size | None = None,
    color: str | None = None,
    block_rows: int | None = None,
    codec: str | None = None,
    skip_bad: bool = False,
    force: bool = False,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> Corpus:
    """Ingest images into a corpus.

    Blocks are read and written in parallel: on the active Dask client if there is one, else on
    threads. The corpus appears at `path` when all of it is written, and not at all on an error.

    Parameters
    ----------
    source : path, sequence of paths, array, or Source
        Folders of PNG, JPEG, TIFF or PGM images, such files, IDX (``.gz`` too) or ``.npy`` files;
        or an array of shape (n, h, w), (n, h, w, channels) or (n, p), lazy ones of Dask and Zarr
        too, or a list of images.
    path : str or path
        Path of the new corpus; at a URL it is written in place.
    size : (h, w), optional
        Size to which every image is resized.
    color : "gray" or "rgb", optional
        Colours to which every image is converted; without it all must be alike, grey or RGB.
    block_rows : int, optional
        Number of images per block; by default about 16 MiB of them.
    codec : str, optional
        How pixels are compressed: "lz4", "lz4-shuffle", "lz4-bitshuffle", "zstd",
        "zstd-bitshuffle" or "none". By default a trial on 1 MiB of them chooses the one with which
        a block is soonest read, at 750 MB/s, and decoded; of those that take at most a tenth
        longer, the one that takes the least room.
    skip_bad : bool, default False
        Whether to leave out image files that cannot be used, up to a thousand and not more than
        half of all; the corpus records them in its `skipped`. All are decoded once more to find
        them.
    force : bool, default False
        Whether to replace a corpus that is already there.
    on_block : callable
        Called after each block with the number of blocks done and of all blocks.

    Returns
    -------
    Corpus

    Raises
    ------
    IngestError
        There are no images; or, as BadImagesError, which names up to a thousand of them, some are
        unreadable or differ in size or colour.
    DataError
        A floating-point or signed image has a negative, NaN or infinite pixel.
    OutputExistsError
        There is something at `path`.
    SpaceError
        The disk has no room for all pixels uncompressed, or is full before the end.

    Examples
    --------
    >>> dnmf.ingest("faces/", "faces.zarr", size=(64, 64), color="gray")
    <Corpus faces.zarr: 13,233 images of 64 x 64 uint8, 54.2 MB in 16 blocks>
    """
    location = normalize_path(path)
    if block_rows is not None and block_rows < 1:
        raise ParameterError(f"block_rows is {block_rows}; it must be at least 1")
    if codec is not None:
        check_codec(codec)
    with (
        translate_disk_full(location, "the corpus"),
        new_store(location, FORMAT, force=force) as building,
    ):
        images = _as_source(source, size, color)
        facts: dict[str, Any] = {}
        if isinstance(images, ImageFiles):
            facts["order"] = images.order
            if skip_bad and (bad := _find_bad(images, block_rows, on_block)) is not None:
                images = _without(images, bad)
                facts["skipped"] = dict(zip(bad.names, bad.errors, strict=True))
        layout = _layout_of(images, block_rows)
        require_space(location, layout.max_bytes, "the corpus")
        if codec is None:
            ((_, codec),) = each_block(partial(_try_codecs, layout=layout), images, 1)
        layout = replace(layout, codec=codec)
        create_corpus(building, layout)
        task = partial(_ingest_block, path=building, layout=layout)
        manifest, found = _run(task, images, layout, on_block)
        if found is not None:
            raise found
        commit_corpus(building, layout, manifest, facts)
    return open_corpus(location)


def _as_source(source: Any, size: Size | None, color: str | None) -> Source:
    if hasattr(source, "read") and hasattr(source, "image_shape"):
        if size is not None or color is not None:
            raise IngestError(
                "size and color are for paths and arrays; a Source gives its images as they are"
            )
        return source  # type: ignore[no-any-return]
    check_options(size, color)
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if hasattr(source, "shape"):
        return open_array(source, size, color)
    items = list(source) if isinstance(source, Iterable) and not hasattr(source, "keys") else []
    if not items:
        raise IngestError(
            f"the source is a {type(source).__name__}, or empty; give paths, an array of images, a "
            "list of either, or a Source"
        )
    if all(isinstance(item, (str, os.PathLike)) for item in items):
        return open_source(_local_paths(items), size=size, color=color)
    return open_array(items, size, color)


def _local_paths(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return paths of files on this machine as dnmf uses them; raise IngestError for a URL."""
    local = list(map(normalize_path, paths))
    for path in filter(is_url, local):
        raise IngestError(
            f"{path} is a URL; images are read from files on this machine: copy them first"
        )
    return local


def _layout_of(source: Source, block_rows: int | None) -> Layout:
    if (n := len(source)) == 0:
        raise IngestError("the source holds no images")
    image_bytes = source.dtype.itemsize
    for length in source.image_shape:
        image_bytes *= length
    rows = min(block_rows or choose_block_rows(n, image_bytes), n)
    starts = range(0, n, rows)
    ids = (name for start in starts for name in source.ids(start, min(start + rows, n)))
    id_bytes = max((len(name.encode(errors="surrogateescape")) for name in ids), default=0) or 1
    codec = default_codec(source.dtype.itemsize)
    return Layout(n, tuple(source.image_shape), str(source.dtype), id_bytes, rows, codec)


def _try_codecs(source: Source, _: int, *, layout: Layout) -> str:
    """Return the name of the codec that a trial on some of the images chooses."""
    n, itemsize = layout.n_images, np.dtype(layout.dtype).itemsize
    if n * layout.n_pixels * itemsize < TRIAL_BYTES:
        return layout.codec
    share = TRIAL_BYTES // (TRIAL_PLACES * itemsize)  # pixels of one place
    rows = -(-share // layout.n_pixels)
    starts = range(0, n, max(-(-n // TRIAL_PLACES), rows))
    try:
        parts = [_read(source, start, min(start + rows, n), layout)[0] for start in starts]
    except BadImagesError:
        return layout.codec  # the task of their block will name them
    return try_codecs(np.concatenate([part.reshape(-1)[:share] for part in parts]))


def _run(
    task: Callable[[Source, int], ManifestLine | BadImagesError | None],
    images: Source,
    layout: Layout,
    on_block: Callable[[int, int], None],
) -> tuple[list[ManifestLine], BadImagesError | None]:
    """Run a task on each block; return the lines of the manifest and one error for bad images."""
    lines: dict[int, ManifestLine] = {}
    bad: dict[int, BadImagesError] = {}
    for done, (index, line) in enumerate(each_block(task, images, layout.n_blocks), 1):
        if isinstance(line, BadImagesError):
            bad[index] = line
            if sum(len(error.errors) for error in bad.values()) >= MAX_BAD_IMAGES:
                break
        elif line is not None:
            lines[index] = line
        on_block(done, layout.n_blocks)
    if not bad:
        return [lines[index] for index in sorted(lines)], None
    found = [bad[index] for index in sorted(bad)]
    errors = [text for error in found for text in error.errors]
    return [], BadImagesError(errors, [name for error in found for name in error.names])


def _find_bad(
    images: ImageFiles, block_rows: int | None, on_block: Callable[[int, int], None]
) -> BadImagesError | None:
    """Decode all images, and return the error that names those that are bad, if any are."""
    layout = _layout_of(images, block_rows)
    return _run(partial(_check_block, layout=layout), images, layout, on_block)[1]


def _check_block(source: Source, index: int, *, layout: Layout) -> BadImagesError | None:
    start = index * layout.block_rows
    try:
        source.read(start, min(start + layout.block_rows, layout.n_images))
    except BadImagesError as error:
        return error
    return None


def _without(images: ImageFiles, bad: BadImagesError) -> ImageFiles:
    """Return the source without its bad images, unless they are too many."""
    rest = [name for name in images.names if name not in set(bad.names)]
    if len(bad.names) >= MAX_BAD_IMAGES or len(bad.names) > len(rest):
        raise IngestError(
            f"{len(bad.names):,} of {len(images):,} images cannot be used, too many to skip: at "
            f"most half of them, and fewer than {MAX_BAD_IMAGES:,}; the first is {bad.errors[0]}"
        ) from bad
    return replace(images, names=rest)


def _ingest_block(
    source: Source, index: int, *, path: str, layout: Layout
) -> ManifestLine | BadImagesError:
    """Read, check and write a block; return its line of the manifest.

    Bad images are returned, not raised: the ingest goes on, and names those of other blocks too.
    """
    start = index * layout.block_rows
    stop = min(start + layout.block_rows, layout.n_images)
    try:
        images, ids = _read(source, start, stop, layout)
    except BadImagesError as error:
        return error
    if (invalid := find_invalid(images, start)) is not None:
        raise invalid_pixel_error(invalid, lambda row: f"image {row} ({ids[row - start]})")
    return write_block(path, index, images, ids)


def _read(source: Source, start: int, stop: int, layout: Layout) -> tuple[Array, Sequence[str]]:
    """Read images, as rows of pixels, and their ids; raise unless they are as promised."""
    ids = source.ids(start, stop)
    images = source.read(start, stop)
    expected = (stop - start, *layout.image_shape)
    if (images.shape, str(images.dtype), len(ids)) != (expected, layout.dtype, stop - start):
        raise IngestError(
            f"images {start} to {stop - 1}: the source gave {len(ids)} ids and {images.dtype} "
            f"pixels of shape {images.shape} where it promised {layout.dtype} of {expected}"
        )
    return images.reshape(stop - start, -1), ids
