"""Images added to a corpus, as a new generation; earlier generations stay as they are.

Data that an open reader has verified do not change. New images fill up the last block, whose chunk
is replaced by one that begins with the same images; all other blocks are new. Then a manifest is
added, and last the record names it. An append that is killed before that has changed nothing, and
can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from dnmf._typing import Array
from dnmf.errors import CorpusError
from dnmf.storage.atomic import RECORD
from dnmf.storage.corpus import Corpus, open_corpus
from dnmf.storage.manifest import MANIFESTS, write_manifest
from dnmf.storage.metadata import read_metadata, with_checksum
from dnmf.storage.store import ObjectStore
from dnmf.storage.table_writer import (
    grow_table,
    read_table_block,
    write_block,
    write_root,
)

Rows = tuple[Array, list[str], Mapping[str, Array]]
"""Images, their ids and their columns of metadata."""


def open_for_append(path: str) -> Corpus:
    """Open a corpus to which images can be added.

    Raises
    ------
    CorpusError
        There is no corpus, or it is one that cannot grow.
    """
    corpus = open_corpus(path)
    if corpus.version == 1:
        raise CorpusError(f"{path} has corpus format 1, which cannot grow: ingest its images again")
    if corpus.rows is not None:
        axes = " x ".join(corpus.rows["axes"])
        raise CorpusError(
            f"{path} is a map of {axes}, which cannot grow: ingest the other images into a corpus "
            "of their own"
        )
    return corpus


def append_rows(corpus: Corpus, parts: Iterator[Rows], token: str, n_rejects: int) -> None:
    """Add images to a corpus, as a new generation.

    Parameters
    ----------
    corpus : Corpus
        Its newest generation; nobody else may be adding to it.
    parts : iterator of (images, ids, columns)
    token : str
        Name of this append: if the corpus has it already, nothing is done.
    n_rejects : int
        Number of images that were left out, which the record counts.
    """
    store = ObjectStore(corpus.path)
    record = dict(read_metadata(store)["attributes"][RECORD])
    if token in record.get("appends", []):
        return
    full, rest = divmod(len(corpus), corpus.block_rows)
    lines = [tuple(map(int, line)) for line in corpus.manifest]
    last = [read_table_block(corpus.path, full, lines[full])] if rest else []
    blocks = in_blocks(chain(last, parts), corpus.block_rows)
    lines[full:] = [write_block(corpus.path, i, *rows) for i, rows in enumerate(blocks, full)]
    number = len(corpus.generations) + 1
    n_images = sum(line[0] for line in lines)
    checksum = write_manifest(corpus.path, f"{MANIFESTS}/{number}", np.array(lines, np.int64))
    found = record["generations"]
    record |= {
        "appends": [*record.get("appends", []), token],
        "rejects": record.get("rejects", 0) + n_rejects,
        "generations": {
            "images": [*found["images"], n_images],
            "manifest_crc32c": [*found["manifest_crc32c"], checksum],
        },
    }
    record.pop("record_crc32c", None)
    write_root(store, with_checksum(record), grow_table(store, n_images))


def in_blocks(parts: Iterable[Rows], block_rows: int) -> Iterator[Rows]:
    """Yield the images of parts of any length in whole blocks, and at last the rest."""
    waiting: list[Rows] = []
    for part in parts:
        waiting.append(part)
        while sum(len(ids) for _, ids, _ in waiting) >= block_rows:
            whole = _join(waiting)
            yield _cut(whole, 0, block_rows)
            waiting = [_cut(whole, block_rows, len(whole[1]))]
    if any(ids for _, ids, _ in waiting):
        yield _join(waiting)


def _join(parts: Sequence[Rows]) -> Rows:
    """Return images one after the other."""
    images = np.concatenate([part[0] for part in parts])
    columns = {name: np.concatenate([part[2][name] for part in parts]) for name in parts[0][2]}
    return images, [name for part in parts for name in part[1]], columns


def _cut(rows: Rows, start: int, stop: int) -> Rows:
    """Return images `start` to `stop - 1`."""
    images, ids, columns = rows
    cut = {name: column[start:stop] for name, column in columns.items()}
    return images[start:stop], ids[start:stop], cut
