"""Check for damage: read all of a corpus, of weights, of a model or of a sweep."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from dnmf._access import StorageOptions, remember_options
from dnmf.engine.executors import each_block
from dnmf.errors import CorpusError
from dnmf.model_selection.sweep_store import FORMAT as SWEEP
from dnmf.model_selection.sweep_store import list_models
from dnmf.storage.atomic import format_at, is_absent
from dnmf.storage.checkpoint.checkpoint import verify_checkpoint
from dnmf.storage.checkpoint.commit import FORMAT as MODEL
from dnmf.storage.corpus import open_corpus
from dnmf.storage.corpus_writer import FORMAT as CORPUS
from dnmf.storage.paths import normalize_path
from dnmf.storage.verified_matrix import Address, reopen_matrix
from dnmf.storage.weights import FORMAT as WEIGHTS
from dnmf.storage.weights import open_weights


@dataclass(frozen=True)
class Finding:
    """Damage to a block or to the metadata.

    Attributes
    ----------
    what : str
        Description of the damage, and what to do about it.
    block : int or None
        Number of the damaged block; None if something other than a block is damaged.
    first, last : int or None
        First and last image of the block.
    """

    what: str
    block: int | None = None
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True)
class Verification:
    """Result of `verify`.

    Attributes
    ----------
    kind : str
        ``"corpus"``, ``"weights"``, ``"model"`` or ``"sweep"``.
    path : str
        Path or URL that was checked.
    blocks : int
        Number of blocks that were checked.
    findings : list of Finding
        One entry per damage; empty if nothing is damaged.
    """

    kind: str
    path: str
    blocks: int
    findings: list[Finding]

    def as_dict(self) -> dict[str, Any]:
        """Return the result in JSON types."""
        return {**asdict(self), "intact": not self.findings}

    def __str__(self) -> str:
        found = f"{len(self.findings)} damaged" if self.findings else "all as written"
        checked = f", {self.blocks:,} blocks checked" if self.blocks else ""
        lines = [f"{self.path}: {self.kind}{checked}, {found}"]
        return "\n".join([*lines, *(finding.what for finding in self.findings)])


def verify(
    path: str | os.PathLike[str],
    *,
    storage_options: StorageOptions = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Check a corpus, weights, a model or a sweep for damage, block by block.

    Blocks of a corpus and of weights are checked in parallel: on the active Dask client if there is
    one, else on threads. Passes of a model are checked from the oldest to the newest. The models of
    a sweep are checked one after the other.

    Parameters
    ----------
    path : str or path
        Folder or URL of what dnmf has written.
    storage_options : dict, optional
        Options of the file systems behind URLs, as in `dnmf.open_corpus`.
    on_block : callable
        Called after each block with the number of blocks done and the number of all blocks.

    Returns
    -------
    Verification
        Its `findings` list each damage.

    Raises
    ------
    CorpusError
        If dnmf has written nothing at the path, or the ``zarr.json`` that says so is damaged.

    Examples
    --------
    >>> dnmf.verify("faces.zarr").findings  # doctest: +SKIP
    []
    """
    remember_options(storage_options, path)
    location = normalize_path(path)
    kind = format_at(location)
    if kind == MODEL:
        return Verification("model", location, 0, list(map(Finding, verify_checkpoint(location))))
    if kind == SWEEP:
        damage = chain.from_iterable(map(verify_checkpoint, list_models(location)))
        return Verification("sweep", location, 0, list(map(Finding, damage)))
    if kind not in (CORPUS, WEIGHTS):
        raise _unknown(location, kind)
    name = kind.removeprefix("dnmf-")
    try:
        store = open_corpus(location) if kind == CORPUS else open_weights(location)
    except CorpusError as error:
        return Verification(name, location, 0, [Finding(str(error))])
    findings: list[Finding] = list(map(Finding, store.check_rest()))
    for done, (_, found) in enumerate(each_block(_check_block, store.address, store.n_blocks), 1):
        findings += found
        on_block(done, store.n_blocks)
    findings.sort(
        key=lambda finding: (-1 if finding.block is None else finding.block, finding.what)
    )
    return Verification(name, location, store.n_blocks, findings)


def _check_block(address: Address, index: int) -> list[Finding]:
    store = reopen_matrix(*address)
    first, stop = store.block_range(index)
    return [Finding(str(error), index, first, stop - 1) for error in store.check_block(index)]


def _unknown(path: str, kind: str | None) -> CorpusError:
    if is_absent(path, error=CorpusError):
        return CorpusError(f"{path}: nothing is there")
    found = f" ({kind})" if kind else ""
    return CorpusError(
        f"{path} is neither a corpus nor weights, a model or a sweep of dnmf's{found}, or its "
        "zarr.json is lost: restore that from a copy"
    )
