"""A checkpoint, which is also a model: H, the solver's state and the weights, as plain Zarr.

On disk, a Zarr v3 group:

    attributes             what this is and its version; written once
    pass-000012-1          a committed pass: H, Y, Z, its record, see `commit`
    weights-000012-3f29..  (n, d), one chunk per block of X, written by the tasks of the pass

Every pass is committed, with its weights where they are due. A commit makes new groups and touches
no old one; only when it will outlast a power failure do older passes go. What is left of those that
were not committed, or were being removed, counts for nothing and goes when the fit goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr

from dnmf._typing import Array
from dnmf._version import __version__
from dnmf.errors import CheckpointError
from dnmf.numerics.state import State, WeightSink, Written
from dnmf.storage.atomic import absolute, is_url, new_store, remove_partial_stores
from dnmf.storage.checkpoint.commit import (
    FORMAT,
    KEEP,
    VERSION,
    commit,
    group_json,
    list_committed,
    list_passes,
    new_pass_name,
    pass_number,
    prune,
    read_array,
    read_record,
    read_weights_names,
    require_model,
    translate_write_errors,
)
from dnmf.storage.checkpoint.schema import STATE, describe_arrays, fit_of
from dnmf.storage.checkpoint.spec import FitSpec
from dnmf.storage.checkpoint.weights import ArraySink, find_weights, new_weights, read_weights
from dnmf.storage.lock import locked
from dnmf.storage.store import METADATA, ObjectStore
from dnmf.storage.verified_array import VerifiedArray

NO_RECORD = "has no record: the fit was killed as it was about to commit it, or zarr.json was lost"


@dataclass
class Checkpoint:
    """A model on disk; made by `create_checkpoint` or `open_checkpoint`.

    Attributes
    ----------
    path : str
    spec : FitSpec
    state : State
    stop_reason : str or None
        None while the fit goes on.
    name : str
        Of the pass that was committed last; "" before the first.
    weights_name : str or None
        Which weights belong to ``state.H``; None without any.
    weights_pass : int
        The last pass whose weights were kept.
    checksums : ndarray of shape (blocks,), int64
        Of the blocks of weights that belong to ``state.H``; empty without any.
    keep_passes : int
        How many to keep, and beside them the newest that has weights.
    """

    path: str
    spec: FitSpec
    state: State
    stop_reason: str | None = None
    name: str = ""
    weights_name: str | None = None
    weights_pass: int = 0
    checksums: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    keep_passes: int = KEEP
    _sink: str | None = None
    _passes: dict[str, str | None] | None = None

    @property
    def has_weights(self) -> bool:
        """Whether weights are kept that belong to ``state.H``."""
        return self.weights_name is not None

    def weight_sink(self) -> WeightSink:
        """Make the array for the next weights."""
        n_iter = self.state.n_iter + 1
        with translate_write_errors(self.path, f"pass {n_iter}"):
            self._sink = new_weights(ObjectStore(self.path), n_iter, *self._form_of_weights)
        return ArraySink(f"{absolute(self.path)}/{self._sink}")

    def keep(self, state: State, written: Written | None) -> None:
        """Commit a state.

        Parameters
        ----------
        state : State
        written : sequence of (int, int), optional
            What the sink took of the weights that belong to ``state.H``. Without them, a state that
            was rejected has the H, and so the weights, of the one before; another has none.
        """
        if written is not None:
            self.checksums = self._checksums(written)
            self.weights_name, self.weights_pass = self._sink, state.n_iter
        elif state.accepted:
            self.checksums, self.weights_name = self.checksums[:0], None
        self._commit(state, None)

    def finish(self, stop_reason: str) -> None:
        """Commit the reason why no pass follows, where it is not known yet."""
        if stop_reason != self.stop_reason:
            self._commit(self.state, stop_reason)

    def _checksums(self, written: Written) -> Array:
        rows = self.spec.X["block_rows"]
        starts = sorted(written)
        if [start for start, _ in starts] != list(range(0, self.spec.X["shape"][0], rows)):
            raise CheckpointError(
                f"{self.path}: {len(written)} blocks of weights were written, not all"
            )
        return np.array([checksum for _, checksum in starts], np.int64)

    def _commit(self, state: State, stop_reason: str | None) -> None:
        self.state, self.stop_reason = state, stop_reason
        arrays = {name: getattr(state, name) for name in STATE}
        if self.weights_name is not None:
            arrays["checksums"] = self.checksums
        store = ObjectStore(self.path)
        with translate_write_errors(self.path, f"pass {state.n_iter}"):
            passes = self._read_passes(store)
            name = new_pass_name(store, state.n_iter)
            try:
                commit(store, name, arrays, self._record(arrays), self.weights_name)
            except BaseException:
                with suppress(OSError):
                    store.delete_dir(name)
                raise
            self.name = name
            self._prune(store, {**passes, name: self.weights_name})

    def _read_passes(self, store: ObjectStore) -> dict[str, str | None]:
        """Return the committed passes and the weights of each; read them where not yet known."""
        return read_weights_names(store) if self._passes is None else self._passes

    def _prune(self, store: ObjectStore, passes: dict[str, str | None]) -> None:
        self._passes = passes
        self._passes = prune(store, passes, self.keep_passes)

    def _record(self, arrays: dict[str, Array]) -> dict[str, Any]:
        return {
            "dnmf": __version__,
            "stop_reason": self.stop_reason,
            "weights": self.weights_name,
            "weights_pass": self.weights_pass,
            "fit": vars(self.spec),
            "losses": list(self.state.losses),
            "divergence": self.state.divergence if self.state.losses else None,
            "beta": self.state.beta,
            "beta_max": self.state.beta_max,
            "accepted": self.state.accepted,
            "n_reads": self.state.n_reads,
            "xx": self.state.xx,
            "energies": list(self.state.energies),
            "held_out": self.state.held_out.tolist(),
            **describe_arrays(arrays),
        }

    @property
    def weights(self) -> zarr.Array[Any] | None:
        """The weights that belong to H, a Zarr array (n, d), not checked; None without any."""
        if self.weights_name is None:
            return None
        self._stored_weights()  # refuses metadata that is not dnmf's before Zarr sees it
        return zarr.open_array(self.path, path=self.weights_name, mode="r", zarr_format=3)

    def _stored_weights(self) -> VerifiedArray:
        if self.weights_name is None:
            raise CheckpointError(f"{self.path} has no weights; `dnmf transform` makes some")
        return find_weights(ObjectStore(self.path), self.weights_name, *self._form_of_weights)

    @property
    def _form_of_weights(self) -> tuple[tuple[int, int], int, str]:
        X = self.spec.X
        return (X["shape"][0], self.spec.n_components), X["block_rows"], X["compute_dtype"]

    def read_weights(self, block: int) -> Array:
        """Read a block of the weights that belong to H.

        Raises
        ------
        CheckpointError
            It is missing, altered or in another's place; says which images it is of. Or there are
            no weights.
        """
        return read_weights(self._stored_weights(), block, int(self.checksums[block]))

    def check_weights(self) -> Iterator[str]:
        """Read all blocks of the weights that belong to H, and say what is wrong with them."""
        try:
            array = self._stored_weights()
        except CheckpointError as error:
            yield str(error)
            return
        for index, expected in enumerate(self.checksums.tolist()):
            try:
                read_weights(array, index, expected)
            except CheckpointError as error:
                yield str(error)

    def resume(self) -> None:
        """Remove the passes after this one, newest first, and what killed fits left behind."""
        store = ObjectStore(self.path)
        with translate_write_errors(self.path, "what a fit goes on from"):
            passes = read_weights_names(store)
            names = list(passes)
            for name in reversed(names[names.index(self.name) + 1 :]):
                store.delete_dir(name)
                del passes[name]
            self._prune(store, passes)

    def discard_uncommitted(self) -> None:
        """Remove what a fit that failed was about to commit, where that is possible."""
        with suppress(OSError):
            store = ObjectStore(self.path)
            self._prune(store, self._read_passes(store))


def create_checkpoint(
    path: str | os.PathLike[str], spec: FitSpec, state: State, keep: int = KEEP
) -> Checkpoint:
    """Begin a checkpoint at a free place, which is claimed, with the first state of a fit."""
    location = os.fspath(path)
    remove_partial_stores(location)
    with new_store(location, FORMAT) as building:
        checkpoint = _begin(building, spec, state)
    return replace(checkpoint, path=location, keep_passes=keep)


def save_model(
    path: str | os.PathLike[str], spec: FitSpec, state: State, stop_reason: str, *, force: bool
) -> None:
    """Write a model without weights."""
    with locked(path), new_store(path, FORMAT, force=force) as building:
        _begin(building, spec, state, stop_reason)


def _begin(path: str, spec: FitSpec, state: State, stop_reason: str | None = None) -> Checkpoint:
    with translate_write_errors(path, "a model"):
        if is_url(path):
            zarr.open_group(path, mode="w", zarr_format=3)  # without what an unfinished one left
        checkpoint = Checkpoint(path, spec, state, _passes={})
        checkpoint._commit(state, stop_reason)
        ObjectStore(path).set(METADATA, group_json({"format": FORMAT, "version": VERSION}))
    return checkpoint


def open_checkpoint(
    path: str | os.PathLike[str], resume_from: int | None = None, keep: int = KEEP
) -> Checkpoint:
    """Open a model and check its newest pass, or another, against its checksums.

    Parameters
    ----------
    path : str or path
    resume_from : int, optional
        Number of the pass; the newest by default.
    keep : int
        Passes to keep, if it is written to.

    Raises
    ------
    CheckpointError
        There is none, it is damaged, or of another format; names the newest that is intact.
    """
    location = os.fspath(path)
    try:
        return replace(_open(location, resume_from), keep_passes=keep)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{location} cannot be read ({error}): see to the disk") from error


def _open(location: str, resume_from: int | None) -> Checkpoint:
    require_model(location)
    store = ObjectStore(location)
    names = list_committed(store)
    wanted = [name for name in names if resume_from in (None, pass_number(name))]
    if not wanted:
        which = "no pass" if resume_from is None else f"no pass {resume_from}"
        there = ", ".join(str(n) for n in sorted({pass_number(name) for name in names})) or "none"
        raise CheckpointError(
            f"{location} holds {which}; those there are: {there}. Take one of them, or fit again "
            "with --force"
        )
    try:
        return _read(store, wanted[-1])
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_advice(store, names)}") from error


def _advice(store: ObjectStore, names: list[str]) -> str:
    for name in reversed(names):
        with suppress(CheckpointError):
            _read(store, name)
            return (
                f"pass {pass_number(name)} is intact: `dnmf fit --resume-from {pass_number(name)}` "
                f"(resume_from={pass_number(name)} in Python) goes on from it"
            )
    return "no other pass is intact: restore it from a copy, or fit again with --force"


def _read(store: ObjectStore, name: str) -> Checkpoint:
    record = read_record(store, name)
    arrays = {
        key: read_array(
            store,
            f"{name}/{key}",
            tuple(record["shapes"][key]),
            "int64" if key == "checksums" else "float64",
            expected,
        )
        for key, expected in record["crc32c"].items()
    }
    none = np.zeros(0, np.int64)
    checksums, weights = arrays.pop("checksums", none), record["weights"]
    if weights is not None and not store.list_dir(weights):
        checksums, weights = none, None  # removed to save space, say; a fit writes them again
    state = State(
        **arrays,
        beta=record["beta"],
        beta_max=record["beta_max"],
        losses=tuple(record["losses"]),
        divergence=float("nan") if record["divergence"] is None else record["divergence"],
        accepted=record["accepted"],
        n_reads=record["n_reads"],
        xx=record["xx"],
        energies=tuple(record["energies"]),
        held_out=np.array(record["held_out"], np.float64).reshape(-1, 2),
    )
    return Checkpoint(
        store.path,
        fit_of(record),
        state,
        record["stop_reason"],
        name,
        weights,
        record["weights_pass"],
        checksums,
    )


def verify_checkpoint(path: str | os.PathLike[str]) -> Iterator[str]:
    """Read all of a model and say what is damaged: a sentence for each object.

    Parameters
    ----------
    path : str or path

    Yields
    ------
    str
        Names the object and, of a block of weights, its number and images.

    Raises
    ------
    CheckpointError
        There is no model.
    """
    location = os.fspath(path)
    require_model(location)
    store = ObjectStore(location)
    if not (names := list_committed(store)):
        yield f"{location}: no pass is there"
    passes = list_passes(store)
    for name in passes[passes.index(names[-1]) + 1 :] if names else passes:
        if all(METADATA in store.list_dir(f"{name}/{key}") for key in STATE):
            yield f"{location}: {name} is whole and {NO_RECORD}"
    checked: set[str] = set()
    for name in names:
        try:
            checkpoint = _read(store, name)
        except OSError as error:  # CheckpointError, or the disk's own
            yield (
                str(error) if isinstance(error, CheckpointError) else f"{location}: {name} {error}"
            )
            continue
        weights = checkpoint.weights_name
        if weights is not None and weights not in checked:
            checked.add(weights)
            yield from checkpoint.check_weights()
