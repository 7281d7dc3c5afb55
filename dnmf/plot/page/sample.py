"""Images of a corpus that a report looks at: their weights, and how well they are reconstructed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._typing import Array
from dnmf.plot.images import relative_errors

if TYPE_CHECKING:
    from dnmf.estimators.nmf import NMF
    from dnmf.storage.corpus import Corpus

MOST_IMAGES, MOST_BYTES = 2000, 2**26
"""Largest number of images that are looked at, and of bytes of their pixels."""

MOST_BLOCKS = 8
"""Largest number of blocks that are read of a corpus with more images than that."""


@dataclass(frozen=True)
class Sample:
    """Some images of a corpus.

    Attributes
    ----------
    rows : ndarray of shape (m,), int
        Their rows in the corpus.
    W : ndarray of shape (m, d)
        Their weights.
    errors : ndarray of shape (m,)
        ``||x - x'|| / ||x||`` of each, over the pixels that are not NaN.
    is_blank : ndarray of shape (m,), bool
        Whether an image has no pixel that is not 0.
    """

    rows: Array
    W: Array
    errors: Array
    is_blank: Array

    def best(self, n: int) -> Array:
        """Return the numbers of the images that are reconstructed best, blank ones left out."""
        lit = np.flatnonzero(~self.is_blank)
        order = lit[np.argsort(self.errors[lit], kind="stable")]
        return order[: min(n, (len(order) + 1) // 2)]

    def worst(self, n: int) -> Array:
        """Return the numbers of the images that are reconstructed worst, the worst first."""
        lit = np.flatnonzero(~self.is_blank)
        order = lit[np.argsort(-self.errors[lit], kind="stable")]
        return order[: min(n, len(order) // 2)]


def look_at(model: NMF, corpus: Corpus) -> Sample:
    """Read images at even distances, of a few blocks, and reconstruct them."""
    rows = _choose_rows(corpus)
    images = _read(corpus, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a corpus has no names of pixels to compare
        W = model.transform(images)
    errors = relative_errors(images, model.inverse_transform(W))
    return Sample(rows, W, np.array(errors), ~np.nan_to_num(images).any(axis=1))


def reconstruct(model: NMF, corpus: Corpus, sample: Sample, chosen: Array) -> tuple[Array, Array]:
    """Return some of the images of a sample, and their reconstructions, each of shape (m, p)."""
    return _read(corpus, sample.rows[chosen]), model.inverse_transform(sample.W[chosen])


def _choose_rows(corpus: Corpus) -> Any:
    n, p = corpus.shape
    count = int(np.clip(MOST_BYTES // (4 * p), 8, MOST_IMAGES))
    most = corpus.n_blocks if count >= n else MOST_BLOCKS
    blocks = np.unique(np.linspace(0, corpus.n_blocks - 1, most).astype(int))
    starts = blocks * corpus.block_rows
    rows = np.concatenate([np.arange(i, min(i + corpus.block_rows, n)) for i in starts])
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def _read(corpus: Corpus, rows: Array) -> Any:
    return corpus.images(rows).reshape(len(rows), -1)
