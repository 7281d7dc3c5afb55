"""Ingest images into a corpus: make a plan, write the blocks in parallel, and finish the corpus.

`plan` lists the images and the layout of the corpus, `parts` writes its blocks, `finish` commits
it. One process does all three, with or without a cluster; or the jobs of an array write the parts.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import numpy as np

from dnmf._access import StorageOptions, remember_options
from dnmf._progress import count_bar
from dnmf.engine.executors import each_block
from dnmf.engine.tree_reduce import choose_block_rows
from dnmf.errors import DataError, IngestError, ParameterError
from dnmf.io.append import KnownIds, choices_of, numbered_after, require_alike
from dnmf.io.finish import finish_append, finish_corpus
from dnmf.io.parts import Progress, load, part_of, write_blocks
from dnmf.io.plan import AnySource, Limits, Plan, building_place, done_blocks, read_plan, write_plan
from dnmf.io.sources.arrays import open_array
from dnmf.io.sources.choices import Choices
from dnmf.io.sources.places.place import Reject
from dnmf.io.sources.places.tables import open_frame
from dnmf.io.sources.source import open_source, source_of
from dnmf.storage.append import open_for_append
from dnmf.storage.atomic import (
    check_free,
    discard_building,
    require_space,
    swap_in,
    translate_disk_full,
)
from dnmf.storage.codecs import TRIAL_BYTES, check_codec, default_codec, try_codecs
from dnmf.storage.corpus import Corpus, open_corpus
from dnmf.storage.corpus_writer import FORMAT, Layout, create_corpus
from dnmf.storage.lock import locked
from dnmf.storage.paths import absolute, is_url, normalize_path
from dnmf.storage.store import require_parent

TRIAL_PLACES = 4
"""Number of places in the corpus from which a trial of codecs takes images. One place may be
unlike the rest, such as a first image that is all black."""


def ingest(
    source: Any,
    path: str | os.PathLike[str],
    *,
    block_rows: int | None = None,
    codec: str | None = None,
    strict: bool = False,
    max_rejects: float | None = None,
    storage_options: StorageOptions = None,
    append: bool = False,
    force: bool = False,
    on_progress: Progress = lambda done, total: None,
    verbose: int = 0,
    **choices: Any,
) -> Corpus:
    """Ingest images into a corpus.

    Blocks are read and written in parallel: on the active Dask client if there is one, else on
    threads. The corpus appears at `path` when all of it is written. If an ingest was killed, the
    same call continues it.

    Parameters
    ----------
    source : path, sequence of paths, array, frame, or Source
        Paths or URLs of folders, image files, patterns such as ``*.png``, zip and tar archives,
        tables of files, and array files (``file.h5::/name``). Or a pandas frame with a column of
        paths. Or an array of shape (n, h, w), (n, h, w, channels) or (n, p) of NumPy, Dask, Zarr or
        xarray. Or a list of images.
    path : str or path
        Folder or URL of the new corpus.
    block_rows : int, optional
        Number of images per block. The default is about 16 MiB of images.
    codec : str, optional
        How pixels are compressed: "lz4", "lz4-shuffle", "lz4-bitshuffle", "zstd",
        "zstd-bitshuffle" or "none". By default each codec is tried on 1 MiB of pixels. Of the
        codecs whose time to read a block (at 750 MB/s) and decode it is at most a tenth above the
        shortest, the one with the fewest bytes is taken.
    strict : bool, default False
        Whether a single file that cannot be used ends the ingest. Otherwise such files are left
        out, and ``rejects.jsonl`` in the corpus lists the path and the reason for each.
    max_rejects : int or float, optional
        Largest number of images that may be left out (int), or their largest share (float from 0.0
        to 1.0). By default a tenth may be unreadable, and none may differ from the others in shape
        or dtype.
    storage_options : dict, optional
        Options of fsspec for the file systems behind the URLs of sources and corpus. If there are
        several protocols, ``{"s3": {...}, "https": {...}}`` has the options of each. This process
        uses them for all later access to these buckets; they are not written anywhere.
    append : bool, default False
        Whether to add images to the corpus at `path`, as a new generation of it. Images whose ids
        the corpus has are left out. The `choices` of the corpus apply to the new images, too. A
        process that has the corpus open keeps the images that it had.
    force : bool, default False
        Whether to replace a corpus that is already there, and to start an unfinished ingest again.
    on_progress : callable
        Called after each block with the number of images done and the number of all images.
    verbose : int, default 0
        Show how many images are done, unless it is 0: as a bar in a notebook and on a terminal,
        else as lines.
    **choices
        What is done to the images: `size`, `color`, `alpha`, `crop`, `pad`, `patches`, `scale`,
        `clip`, `dtype`, `nan`, `axis`, `channel`, `level` and `array`, as
        `dnmf.io.sources.choices.Choices` describes them.

    Returns
    -------
    Corpus
        The new corpus, open for reading.

    Raises
    ------
    IngestError
        If there are no images. Its subclass BadImagesError: if too many images are unreadable or
        differ in size or colour.
    DataError
        If an array has a negative, NaN or infinite pixel.
    OutputExistsError
        If something is at `path`.
    SpaceError
        If the disk has no room for all pixels uncompressed, or is full before the end.

    See Also
    --------
    open_corpus : Open a corpus that was ingested before.
    verify : Check a corpus for damage.

    Examples
    --------
    >>> dnmf.ingest("faces/", "faces.zarr", size=(64, 64), color="gray")  # doctest: +SKIP
    <Corpus faces.zarr: 13,233 images of 64 x 64 uint8, 54.2 MB in 16 blocks>
    """
    location = normalize_path(path)
    remember_options(storage_options, location, *(_paths(source) or [""]))
    with locked(location), translate_disk_full(location, "the corpus"):
        plan = plan_ingest(
            source, location, block_rows=block_rows, codec=codec, strict=strict,
            max_rejects=max_rejects, append=append, force=force, **choices,
        )  # fmt: skip
        with _discarded(plan.building, if_killed=plan.request is None):
            with count_bar("images", verbose) as bar:
                write_blocks(plan, range(plan.layout.n_blocks), _both(bar, on_progress))
            return finish_ingest(plan, force=force)


def _both(first: Progress, second: Progress) -> Progress:
    def call(done: int, total: int) -> None:
        first(done, total)
        second(done, total)

    return call


def plan_ingest(
    source: Any,
    path: str | os.PathLike[str],
    *,
    block_rows: int | None = None,
    codec: str | None = None,
    strict: bool = False,
    max_rejects: float | None = None,
    storage_options: StorageOptions = None,
    append: bool = False,
    force: bool = False,
    **choices: Any,
) -> Plan:
    """List the images, and create the unfinished corpus with its plan; see `ingest`.

    If there is an unfinished corpus of the same call, its plan is used again.
    """
    location = normalize_path(path)
    remember_options(storage_options, location, *(_paths(source) or [""]))
    _check(block_rows, codec, max_rejects)
    asked = _choices(choices)
    corpus = open_for_append(location) if append else None
    if corpus is None:
        check_free(location, FORMAT, force=force)
        require_parent(location)
    else:
        asked = choices_of(corpus, asked)
        block_rows, codec = corpus.block_rows, corpus.codec
    limits = Limits(strict, max_rejects)
    request = _request(source, asked, block_rows, codec)
    building = building_place(location, append=append)
    if request is not None:
        plan = _plan_to_continue(location, building, request, force)
        if plan is not None:
            return replace(plan, limits=limits)
    discard_building(building, FORMAT)
    known = None if corpus is None else KnownIds(corpus)
    with TemporaryDirectory(prefix="dnmf-") as scratch, _discarded(building, if_killed=True):
        images, rejects = _as_source(source, asked, scratch, known)
        if corpus is not None:
            images = numbered_after(corpus, images)
            require_alike(corpus, images)
        layout = _layout_of(images, block_rows, codec)
        require_space(location, layout.max_bytes, "the corpus")
        create_corpus(building, layout, getattr(images, "coords", None))
        token = getattr(images, "version", uuid4().hex)
        plan = Plan(location, building, images, layout, limits, rejects, request, token, append)
        return write_plan(plan)


def finish_ingest(plan: Plan, *, force: bool = False) -> Corpus:
    """Finish a corpus whose blocks are all written, and move it to its path."""
    if plan.append:
        finish_append(plan, open_for_append(plan.path))
        discard_building(plan.building, FORMAT)
        return open_corpus(plan.path)
    finish_corpus(plan)
    if not is_url(plan.path):
        check_free(plan.path, FORMAT, force=force)  # the first check may be hours ago
        swap_in(plan.building, plan.path, FORMAT)
    return open_corpus(plan.path)


def ingest_part(
    path: str | os.PathLike[str],
    number: int,
    parts: int,
    *,
    storage_options: StorageOptions = None,
    on_progress: Progress = lambda done, total: None,
) -> int:
    """Read and write one of several parts of an ingest that `plan_ingest` has planned.

    Any number of processes can do this at the same time, each for another part.

    Parameters
    ----------
    path : str or path
        Path of the corpus.
    number, parts : int
        Number of this part, from 1, and number of parts.
    storage_options, on_progress
        See `ingest`.

    Returns
    -------
    int
        Number of blocks in the part.
    """
    if not 1 <= number <= parts:
        raise ParameterError(f"part is {number}/{parts}; the first is 1/{parts}")
    plan = _existing_plan(path, storage_options)
    blocks = part_of(plan.layout.n_blocks, number, parts)
    with translate_disk_full(plan.path, "the corpus"):
        write_blocks(plan, blocks, on_progress)
    return len(blocks)


def finish_parts(
    path: str | os.PathLike[str], *, storage_options: StorageOptions = None, force: bool = False
) -> Corpus:
    """Finish a corpus whose parts are all written; see `ingest_part`.

    Raises
    ------
    IngestError
        If there is no plan, or a part is missing.
    """
    plan = _existing_plan(path, storage_options)
    with locked(plan.path), translate_disk_full(plan.path, "the corpus"):
        return finish_ingest(plan, force=force)


def _existing_plan(path: str | os.PathLike[str], storage_options: StorageOptions) -> Plan:
    location = normalize_path(path)
    remember_options(storage_options, location)
    places = [building_place(location), building_place(location, append=True)]
    plans = (read_plan(location, place) for place in dict.fromkeys(places))
    plan = next((plan for plan in plans if plan is not None), None)
    if plan is None:
        raise IngestError(
            f"{location}: there is no plan of an ingest; make one with `dnmf ingest --plan SOURCE "
            f"{location}`"
        )
    return plan


@contextmanager
def _discarded(building: str, *, if_killed: bool) -> Iterator[None]:
    """Remove the unfinished corpus if images are refused, since the same call would fail again.

    Parameters
    ----------
    building : str
        Path of the unfinished corpus.
    if_killed : bool
        Whether to remove it after any other error, too, because no call can continue it.
    """
    try:
        yield
    except BaseException as error:
        if if_killed or isinstance(error, (IngestError, DataError, ParameterError)):
            discard_building(building, FORMAT)
        raise


def _plan_to_continue(
    location: str,
    building: str,
    request: dict[str, Any],
    force: bool,
) -> Plan | None:
    """Return the plan of an unfinished corpus if it is of the same call."""
    if force or (plan := read_plan(location, building)) is None:
        return None
    if plan.request == request:
        return plan
    asked = {**request, **request["choices"]}
    before = {**(plan.request or {}), **(plan.request or {}).get("choices", {})}
    other = next(name for name in asked if name != "choices" and asked[name] != before.get(name))
    raise IngestError(
        f"{plan.building} holds an unfinished ingest, {len(done_blocks(plan.building)):,} of "
        f"{plan.layout.n_blocks:,} blocks, whose {other} is {before.get(other)} where "
        f"{asked[other]} is asked now: repeat the call as it was, or begin anew with --force "
        "(force=True in Python)"
    )


def _request(
    source: Any, choices: Choices, block_rows: int | None, codec: str | None
) -> dict[str, Any] | None:
    """Return what was asked, in JSON types; None if the source is not of paths."""
    paths = _paths(source)
    if paths is None:
        return None
    return {
        "sources": [absolute(normalize_path(path)) for path in paths],
        "choices": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(choices).items()},
        "block_rows": block_rows,
        "codec": codec,
    }


def _paths(source: Any) -> list[str | os.PathLike[str]] | None:
    """Return the source as a list of paths; None if it is none."""
    if isinstance(source, (str, os.PathLike)):
        return [source]
    if not isinstance(source, (list, tuple)) or not source:
        return None
    return list(source) if all(isinstance(item, (str, os.PathLike)) for item in source) else None


def _as_source(
    source: Any,
    choices: Choices,
    scratch: str,
    known: Container[str] | None,
) -> tuple[AnySource, list[Reject]]:
    if (paths := _paths(source)) is not None:
        return open_source(paths, choices, scratch, known)
    if hasattr(source, "itertuples") and any(kind.kind not in "buif" for kind in source.dtypes):
        return source_of([open_frame(source)], choices, scratch, known)
    if hasattr(source, "read") and hasattr(source, "image_shape"):
        if choices != Choices():
            raise IngestError(
                f"{', '.join(choices.as_dict())}: these are for paths and arrays; a Source gives "
                "its images as they are"
            )
        return source, []
    if hasattr(source, "shape"):
        return open_array(source, choices), []
    items = list(source) if isinstance(source, Iterable) and not hasattr(source, "keys") else []
    if not items:
        raise IngestError(
            f"the source is a {type(source).__name__}, or empty; give paths, an array of images, a "
            "list of either, a frame with a column of paths, or a Source"
        )
    return open_array(items, choices), []


def _choices(choices: dict[str, Any]) -> Choices:
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in choices.items()
    }
    try:
        return Choices(**given)
    except TypeError as error:
        raise ParameterError(f"ingest: {str(error).partition(') ')[2] or error}") from error


def _check(block_rows: int | None, codec: str | None, max_rejects: float | None) -> None:
    """Raise ParameterError for a parameter that is out of its range."""
    if block_rows is not None and block_rows < 1:
        raise ParameterError(f"block_rows is {block_rows}; it must be at least 1")
    if codec is not None:
        check_codec(codec)
    if max_rejects is None:
        return
    valid = max_rejects >= 0 if isinstance(max_rejects, int) else 0 <= max_rejects <= 1
    if not valid:
        raise ParameterError(
            f"max_rejects is {max_rejects}; it must be a number of images, or a share from 0.0 to "
            "1.0"
        )


def _layout_of(source: AnySource, block_rows: int | None, codec: str | None) -> Layout:
    if (n := len(source)) == 0:
        raise IngestError("the source holds no images")
    image_bytes = source.dtype.itemsize
    for length in source.image_shape:
        image_bytes *= length
    rows = min(block_rows or choose_block_rows(n, image_bytes), n)
    layout = Layout(
        n, tuple(source.image_shape), str(source.dtype), rows,
        codec or default_codec(source.dtype.itemsize), getattr(source, "columns", {}),
        tuple(getattr(source, "axes", ())),
    )  # fmt: skip
    if codec is None:
        ((_, best),) = each_block(partial(_try_codecs, layout=layout), source, 1)
        layout = replace(layout, codec=best)
    return layout


def _try_codecs(source: AnySource, _: int, *, layout: Layout) -> str:
    """Return the name of the codec that a trial on some of the images chooses."""
    n, itemsize = layout.n_images, np.dtype(layout.dtype).itemsize
    if n * layout.n_pixels * itemsize < TRIAL_BYTES:
        return layout.codec
    share = TRIAL_BYTES // (TRIAL_PLACES * itemsize)  # pixels of one place
    rows = -(-share // layout.n_pixels)
    starts = range(0, n, max(-(-n // TRIAL_PLACES), rows))
    parts = [load(source, start, min(start + rows, n), layout).images for start in starts]
    pixels = np.concatenate([part.reshape(-1)[:share] for part in parts])
    return try_codecs(pixels) if pixels.size else layout.codec
