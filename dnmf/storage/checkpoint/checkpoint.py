"""A checkpoint, which is also a model: H, the state of the solver and the weights, as plain Zarr.

On disk it is a Zarr v3 group:

    attributes             format and version
    feature-names          (1, n) uint8, the names of pixels as JSON, if X has names; written once
    pass-000012-1          a committed pass: H, its state and its record, see `commit`
    weights-000012-3f29..  (n, d), one chunk per block of X, written by the tasks of the pass

Every pass is committed, with its weights if they are due. A commit makes new groups and changes no
old one; older passes are removed only after the new one would survive a power failure. Remains of
passes that were not committed, or were being removed, are ignored. They are removed when the fit is
resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dnmf._typing import Array
from dnmf._version import __version__
from dnmf.errors import CheckpointError
from dnmf.numerics.state import State, WeightSink, Written
from dnmf.storage.atomic import clear_place, new_store, remove_partial_stores, unfinished
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
    read_spec,
    read_weights_names,
    require_model,
    translate_write_errors,
    write_array,
)
from dnmf.storage.checkpoint.schema import OLD_STATE, describe_arrays, pack_state, unpack_state
from dnmf.storage.checkpoint.spec import NAMES, FitSpec
from dnmf.storage.checkpoint.weights import (
    create_weights_array,
    open_weights_array,
    read_weights,
)
from dnmf.storage.lease import require_lease
from dnmf.storage.lock import locked
from dnmf.storage.paths import absolute, for_zarr, is_url, normalize_path
from dnmf.storage.store import METADATA, ObjectStore
from dnmf.storage.verified_array import VerifiedArray

if TYPE_CHECKING:
    import zarr

NO_RECORD = "has no record: the fit was killed as it was about to commit it, or zarr.json was lost"
"""What `verify_checkpoint` reports of a pass that has everything but its record."""


@dataclass
class Checkpoint:
    """A model on disk, made by `create_checkpoint` or `open_checkpoint`.

    Attributes
    ----------
    path : str
    spec : FitSpec
        Fit that the checkpoint belongs to.
    state : State
        State of the fit after the newest pass.
    stop_reason : str or None
        Reason why no pass follows; None while the fit is unfinished.
    name : str
        Name of the pass that was committed last; empty before the first.
    weights_name : str or None
        Name of the weights that belong to ``state.H``; None if there are none.
    weights_pass : int
        Number of the last pass whose weights were kept; 0 before the first.
    checksums : ndarray of shape (blocks,), int64
        crc32c of each block of these weights; empty if there are none.
    keep_passes : int
        Number of newest passes to keep, beside the newest that has weights.
    version : int
        Version of the format that the model says it has.
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
    version: int = VERSION
    _new_weights: str | None = None
    _passes: dict[str, str | None] = field(default_factory=dict)
    _names: set[str] | None = None

    @property
    def has_weights(self) -> bool:
        """Whether there are weights that belong to ``state.H``."""
        return self.weights_name is not None

    def weight_sink(self) -> WeightSink:
        """Create the array for the weights of the next pass, and return what writes to it."""
        n_iter = self.state.n_iter + 1
        store = ObjectStore(absolute(self.path))  # workers have folders of their own
        with translate_write_errors(self.path, f"pass {n_iter}"):
            require_lease(store.path)
            names = self._known_names()
            self._new_weights, writer = create_weights_array(store, n_iter, *self._weights_layout)
            names.add(self._new_weights)
        return writer

    def keep(self, state: State, written: Written | None) -> None:
        """Commit a pass.

        Parameters
        ----------
        state : State
            State after the pass.
        written : sequence of (int, int), optional
            First row and checksum of each block of weights, if the sink was given the weights that
            belong to ``state.H``. Without them, a state that was rejected has the H of the one
            before, and so its weights; any other state has no weights.
        """
        if written is not None:
            self.checksums = self._order_checksums(written)
            self.weights_name, self.weights_pass = self._new_weights, state.n_iter
        elif state.accepted:
            self.checksums, self.weights_name = self.checksums[:0], None
        self._commit(state, None)

    def finish(self, stop_reason: str) -> None:
        """Commit the reason why no pass follows, unless it is committed already."""
        if stop_reason != self.stop_reason:
            self._commit(self.state, stop_reason)

    def _order_checksums(self, written: Written) -> Array:
        block_rows = self.spec.X["block_rows"]
        blocks = sorted(written)
        if [start for start, _ in blocks] != list(range(0, self.spec.X["shape"][0], block_rows)):
            raise CheckpointError(
                f"{self.path}: {len(written)} blocks of weights were written, not all"
            )
        return np.array([checksum for _, checksum in blocks], np.int64)

    def _commit(self, state: State, stop_reason: str | None) -> None:
        self.state, self.stop_reason = state, stop_reason
        checksums = self.checksums if self.weights_name is not None else self.checksums[:0]
        arrays = {"H": state.H, "state": pack_state(state.Y, state.Z, checksums)}
        store = ObjectStore(self.path)
        with translate_write_errors(self.path, f"pass {state.n_iter}"):
            require_lease(store.path)
            names = self._known_names()
            self._become_newest_version(store)
            name = new_pass_name(names, state.n_iter)
            names.add(name)
            try:
                commit(store, name, arrays, self._record(arrays), self.weights_name)
            except BaseException:
                self._names = None
                with suppress(OSError):
                    require_lease(store.path)  # or it may be another's by now
                    store.delete_dir(name)
                raise
            self.name = name
            self._prune(store, {**self._passes, name: self.weights_name}, names)

    def _known_names(self) -> set[str]:
        """Return what lies in the model, from memory once it has been listed."""
        if self._names is None:
            self.resume()
        assert self._names is not None
        return self._names

    def _become_newest_version(self, store: ObjectStore) -> None:
        """Say that the model has the newest version, before it gets a pass of that version."""
        if self.version != VERSION:
            store.set(METADATA, group_json({"format": FORMAT, "version": VERSION}))
            self.version = VERSION

    def _prune(self, store: ObjectStore, passes: dict[str, str | None], names: set[str]) -> None:
        self._passes, self._names = passes, names  # so that they are right even if a removal fails
        self._passes = prune(store, passes, names, self.keep_passes)

    def _record(self, arrays: dict[str, Array]) -> dict[str, Any]:
        state = self.state
        return {
            "dnmf": __version__,
            "stop_reason": self.stop_reason,
            "weights": self.weights_name,
            "weights_pass": self.weights_pass,
            "fit": self.spec.as_record(),
            "losses": list(state.losses),
            "divergence": state.divergence if state.losses else None,
            "beta": state.beta,
            "beta_max": state.beta_max,
            "accepted": state.accepted,
            "n_reads": state.n_reads,
            "xx": state.xx,
            "energies": list(state.energies),
            "held_out": state.held_out.tolist(),
            "seconds": list(state.seconds),
            "memory": state.memory,
            **describe_arrays(arrays),
        }

    def resume(self) -> None:
        """Prepare for more passes: remove later ones, newest first, and remains of killed fits."""
        store = ObjectStore(self.path)
        with translate_write_errors(self.path, "what a fit goes on from"):
            require_lease(store.path)
            passes, names = read_weights_names(store), {*store.list_dir()}
            committed = list(passes)
            for name in reversed(committed[committed.index(self.name) + 1 :]):
                store.delete_dir(name)
                del passes[name]
            self._prune(store, passes, names)

    def discard_uncommitted(self) -> None:
        """Remove what a failed fit has written and not committed, if the disk allows it."""
        store = ObjectStore(self.path)
        with suppress(OSError):
            require_lease(store.path)
            self._prune(store, self._passes, {*store.list_dir()})

    @property
    def weights(self) -> zarr.Array[Any] | None:
        """Weights that belong to H, as an unverified Zarr array (n, d); None if there are none."""
        if self.weights_name is None:
            return None
        import zarr

        self._open_weights()  # raises before Zarr sees metadata that dnmf does not write
        return zarr.open_array(for_zarr(self.path), path=self.weights_name, mode="r", zarr_format=3)

    def read_weights(self, block: int) -> Array:
        """Read a block of the weights that belong to H, and check it.

        Raises
        ------
        CheckpointError
            There are no weights, or the block is missing, altered or swapped with another; the
            message names its images.
        """
        return read_weights(self._open_weights(), block, int(self.checksums[block]))

    def check_weights(self) -> Iterator[str]:
        """Read all blocks of the weights that belong to H, and yield what is damaged."""
        try:
            array = self._open_weights()
        except CheckpointError as error:
            yield str(error)
            return
        for index, checksum in enumerate(self.checksums.tolist()):
            try:
                read_weights(array, index, checksum)
            except CheckpointError as error:
                yield str(error)

    def _open_weights(self) -> VerifiedArray:
        if self.weights_name is None:
            raise CheckpointError(f"{self.path} has no weights; `dnmf transform` makes some")
        store = ObjectStore(self.path)
        return open_weights_array(store, self.weights_name, *self._weights_layout)

    @property
    def _weights_layout(self) -> tuple[tuple[int, int], int, str]:
        """Shape, rows per block and dtype of the weights."""
        X = self.spec.X
        return (X["shape"][0], self.spec.n_components), X["block_rows"], X["compute_dtype"]


def create_checkpoint(
    path: str | os.PathLike[str], spec: FitSpec, state: State, keep: int = KEEP
) -> Checkpoint:
    """Create a checkpoint at a free path with the first state of a fit.

    The path must be locked, see `dnmf.storage.lock.locked`.
    """
    location = normalize_path(path)
    remove_partial_stores(location, FORMAT)
    with new_store(location, FORMAT) as building:
        checkpoint = _write_model(building, spec, state)
    return replace(checkpoint, path=location, keep_passes=keep)


def save_model(
    path: str | os.PathLike[str], spec: FitSpec, state: State, stop_reason: str, *, force: bool
) -> None:
    """Write a model without weights."""
    location = normalize_path(path)
    with locked(location), new_store(location, FORMAT, force=force) as building:
        _write_model(building, spec, state, stop_reason)


def _write_model(
    path: str, spec: FitSpec, state: State, stop_reason: str | None = None
) -> Checkpoint:
    with translate_write_errors(path, "a model"):
        if is_url(path):
            clear_place(path, FORMAT)
            ObjectStore(path).set(METADATA, group_json(unfinished(FORMAT)))
        if spec.feature_names is not None:
            write_array(ObjectStore(path), NAMES, spec.encode_names())
        checkpoint = Checkpoint(path, spec, state, _names=set())
        checkpoint._commit(state, stop_reason)
        ObjectStore(path).set(METADATA, group_json({"format": FORMAT, "version": VERSION}))
    return checkpoint


def open_checkpoint(
    path: str | os.PathLike[str], resume_from: int | None = None, keep: int = KEEP
) -> Checkpoint:
    """Open a model, and check its newest pass, or another, against its checksums.

    Parameters
    ----------
    path : str or path
    resume_from : int, optional
        Number of the pass; the newest by default.
    keep : int
        Number of newest passes to keep if more are committed.

    Raises
    ------
    CheckpointError
        There is no model, its format is another, or the pass is damaged; the message names the
        newest pass that is intact.
    """
    location = normalize_path(path)
    try:
        return replace(_open_pass(location, resume_from), keep_passes=keep)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{location} cannot be read ({error}): see to the disk") from error


def _open_pass(location: str, resume_from: int | None) -> Checkpoint:
    version = require_model(location)
    store = ObjectStore(location)
    names = list_committed(store)
    candidates = [name for name in names if resume_from in (None, pass_number(name))]
    if not candidates:
        which = "no pass" if resume_from is None else f"no pass {resume_from}"
        found = ", ".join(str(n) for n in sorted({pass_number(name) for name in names})) or "none"
        raise CheckpointError(
            f"{location} holds {which}; those there are: {found}. Take one of them, or fit again "
            "with --force"
        )
    try:
        return replace(_read_pass(store, candidates[-1]), version=version)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_advise(store, names)}") from error


def _advise(store: ObjectStore, names: list[str]) -> str:
    """Return what the user can do about a damaged pass: resume from the newest intact one."""
    for name in reversed(names):
        with suppress(CheckpointError):
            _read_pass(store, name)
            n = pass_number(name)
            return (
                f"pass {n} is intact: `dnmf fit --resume-from {n}` (resume_from={n} in Python) "
                "goes on from it"
            )
    return "no other pass is intact: restore it from a copy, or fit again with --force"


def _read_pass(store: ObjectStore, name: str) -> Checkpoint:
    record, nodes = read_record(store, name)
    arrays = {
        key: read_array(
            store,
            f"{name}/{key}",
            tuple(record["shapes"][key]),
            "int64" if key == "checksums" else "float64",
            checksum,
            nodes.get(key),
        )
        for key, checksum in record["crc32c"].items()
    }
    none = np.zeros(0, np.int64)
    H, weights = arrays["H"], record["weights"]
    if "state" in arrays:
        Y, Z, checksums = unpack_state(H, arrays["state"])
    else:
        Y, Z, checksums = arrays["Y"], arrays["Z"], arrays.get("checksums", none)
    if weights is not None and not store.list_dir(weights):
        checksums, weights = none, None  # removed by the user; a fit writes them again
    state = State(
        H,
        Y,
        Z,
        beta=record["beta"],
        beta_max=record["beta_max"],
        losses=tuple(record["losses"]),
        divergence=float("nan") if record["divergence"] is None else record["divergence"],
        accepted=record["accepted"],
        n_reads=record["n_reads"],
        xx=record["xx"],
        energies=tuple(record["energies"]),
        held_out=np.array(record["held_out"], np.float64).reshape(-1, 2),
        seconds=tuple(record.get("seconds", ())),
        memory=record.get("memory", 0),
    )
    return Checkpoint(
        store.path,
        read_spec(store, record["fit"]),
        state,
        record["stop_reason"],
        name,
        weights,
        record["weights_pass"],
        checksums,
    )


def _is_whole(store: ObjectStore, name: str) -> bool:
    """Check whether a pass has all of its arrays, as far as that can be seen without its record."""
    old = (f"{name}/{key}" for key in OLD_STATE)
    return all(store.list_dir(f"{name}/{key}") for key in ("H", "state")) or all(
        METADATA in store.list_dir(key) for key in old
    )


def verify_checkpoint(path: str | os.PathLike[str]) -> Iterator[str]:
    """Read all of a model, and yield a sentence for each damaged object.

    Parameters
    ----------
    path : str or path

    Yields
    ------
    str
        Key of the object and what is wrong with it; for a block of weights also its number and
        images.

    Raises
    ------
    CheckpointError
        There is no model.
    """
    location = normalize_path(path)
    require_model(location)
    store = ObjectStore(location)
    if not (names := list_committed(store)):
        yield f"{location}: no pass is there"
    passes = list_passes(store)
    for name in passes[passes.index(names[-1]) + 1 :] if names else passes:
        if _is_whole(store, name):
            yield f"{location}: {name} is whole and {NO_RECORD}"
    checked: set[str] = set()
    for name in names:
        try:
            checkpoint = _read_pass(store, name)
        except CheckpointError as error:
            yield str(error)
            continue
        except OSError as error:  # from the disk
            yield f"{location}: {name} {error}"
            continue
        weights = checkpoint.weights_name
        if weights is not None and weights not in checked:
            checked.add(weights)
            yield from checkpoint.check_weights()
