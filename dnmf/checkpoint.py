"""A checkpoint, which is also a model: H, the solver's state and the weights, as plain Zarr.

On disk, a Zarr v3 group with two slots of each kind, so that nothing in use is ever overwritten:

    state-0, state-1      groups of H, Y and Z, (d, p) float64
    weights-0, weights-1  (n, d), one chunk per block of X, written by the tasks of the pass
    attributes: the record, JSON: which slots count, losses, parameters, what X was; written last

The record is one small object and it is replaced in one step (a rename, or a PUT): a process
killed at any instant leaves the old record with the old slots, or the new with the new.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
import zarr.errors
from zarr.codecs import BloscCodec, Crc32cCodec

from dnmf.errors import CheckpointError
from dnmf.layout import crc32c
from dnmf.output import RECORD, absolute, is_absent, new_store, read_record
from dnmf.solver import State, WeightSink
from dnmf.trust import check_metadata
from dnmf.version import __version__

Array = np.ndarray[Any, np.dtype[Any]]

FORMAT = "dnmf-model"
VERSION = 2
STATE = ("H", "Y", "Z")


@dataclass(frozen=True)
class Fit:
    """What makes two fits the same fit: a checkpoint continues only the fit it belongs to.

    Attributes
    ----------
    n_components : int
    seed : int
    X : dict
        Shape, dtype, rows per block, image shape and, for a corpus, its fingerprint.
    parameters : dict
        Those of `NMF` that say what is minimised and where it starts.
    settings : dict
        Other parameters of `NMF`, which may differ.
    """

    n_components: int
    seed: int
    X: dict[str, Any]
    parameters: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def differences(self, other: Fit) -> list[str]:
        """List what differs from another fit, in words."""
        mine, theirs = ({**vars(fit), **fit.X, **fit.parameters} for fit in (self, other))
        groups = ("X", "parameters", "settings")
        names = [name for name in mine if name not in groups and mine[name] != theirs.get(name)]
        return [f"{name} was {mine[name]}, is {theirs.get(name)}" for name in names]


@dataclass
class Checkpoint:
    """A model on disk; made by `create`, `open_checkpoint` or `save_model`.

    Attributes
    ----------
    path : str
    fit : Fit
    state : State
    stop_reason : str or None
        None while the fit goes on.
    state_slot : int
    weights_slot : int or None
        Which weights belong to ``state.H``; None without any.
    """

    path: str
    fit: Fit
    state: State
    stop_reason: str | None = None
    state_slot: int = 0
    weights_slot: int | None = None
    has_weights: bool = field(init=False)

    def __post_init__(self) -> None:
        self.has_weights = self.weights_slot is not None

    def weight_sink(self) -> WeightSink:
        """Make the array for the next weights, in the slot that is not in use."""
        slot = _other(self.weights_slot)
        group = zarr.open_group(self.path, mode="r+")
        n, d = self.fit.X["shape"][0], self.fit.n_components
        group.create_array(
            f"weights-{slot}",
            shape=(n, d),
            chunks=(min(self.fit.X["block_rows"], n), d),
            dtype=self.fit.X["compute_dtype"],
            fill_value=np.nan,  # a lost chunk must not read as weights of zero
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
            overwrite=True,
        )
        return ArraySink(absolute(self.path), f"weights-{slot}")

    def keep(self, state: State, *, weights: bool) -> None:
        """Commit a state, unless that would part H from its weights.

        Parameters
        ----------
        state : State
        weights : bool
            Whether the sink holds the weights that belong to ``state.H``. Without them an accepted
            state waits for a pass that has them; a rejected one has the H, and so the weights, of
            the commit before it.
        """
        slot = _other(self.weights_slot) if weights else self.weights_slot
        self.has_weights = weights or (self.has_weights and not state.accepted)
        if self.has_weights or state.n_iter == 0:
            self._commit(state, slot, None)

    def finish(self, stop_reason: str) -> None:
        """Commit the reason why no pass follows, where it is not known yet."""
        if stop_reason != self.stop_reason:
            self._commit(self.state, self.weights_slot, stop_reason)

    def _commit(self, state: State, weights_slot: int | None, stop_reason: str | None) -> None:
        slot = _other(self.state_slot)
        group = zarr.open_group(self.path, mode="r+")
        arrays = group.create_group(f"state-{slot}", overwrite=True)
        for name in STATE:
            arrays.create_array(
                name, data=getattr(state, name), compressors=[BloscCodec(), Crc32cCodec()]
            )
        self.state, self.state_slot, self.weights_slot = state, slot, weights_slot
        self.stop_reason = stop_reason
        group.attrs.put({RECORD: self._record()})

    def _record(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "dnmf": __version__,
            "state_slot": self.state_slot,
            "weights_slot": self.weights_slot,
            "stop_reason": self.stop_reason,
            "fit": vars(self.fit),
            "losses": list(self.state.losses),
            "divergence": self.state.divergence if self.state.losses else None,
            "beta": self.state.beta,
            "beta_max": self.state.beta_max,
            "accepted": self.state.accepted,
            "n_reads": self.state.n_reads,
            "xx": self.state.xx,
            "crc32c": {name: crc32c(getattr(self.state, name)) for name in STATE},
        }

    @property
    def weights(self) -> zarr.Array[Any] | None:
        """The weights that belong to H, as a Zarr array of shape (n, d); None without any."""
        if self.weights_slot is None:
            return None
        array = zarr.open_group(self.path, mode="r")[f"weights-{self.weights_slot}"]
        assert isinstance(array, zarr.Array)
        return array


@dataclass(frozen=True)
class ArraySink:
    """Writes rows to a Zarr array from inside a task; the array is opened where the task runs."""

    path: str
    name: str = ""

    def __call__(self, rows: Array, start: int) -> None:
        """Write rows from `start` on: whole chunks, so safe to repeat."""
        array = zarr.open_array(
            self.path, path=self.name, mode="r+", config={"write_empty_chunks": True}
        )
        array[start : start + len(rows)] = rows


def create_checkpoint(path: str | os.PathLike[str], fit: Fit, state: State) -> Checkpoint:
    """Begin a checkpoint at a free place with the first state of a fit."""
    location = os.fspath(path)
    checkpoint = Checkpoint(location, fit, state)
    with new_store(location, FORMAT) as building:
        zarr.open_group(building, mode="w", zarr_format=3)
        checkpoint.path = building
        checkpoint.keep(state, weights=False)
    checkpoint.path = location
    return checkpoint


def save_model(
    path: str | os.PathLike[str], fit: Fit, state: State, stop_reason: str, *, force: bool
) -> None:
    """Write a model without weights."""
    with new_store(path, FORMAT, force=force) as building:
        zarr.open_group(building, mode="w", zarr_format=3)
        Checkpoint(building, fit, state)._commit(state, None, stop_reason)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a model and check H against its checksum.

    Raises
    ------
    CheckpointError
        There is none, it is damaged, or of a newer format.
    """
    location = os.fspath(path)
    record = read_record(location)
    if record is None or record.get("format") != FORMAT:
        what = "nothing is there" if is_absent(location) else "it holds something else"
        if record is not None:
            what = f"it is a {record.get('format')}"
        raise CheckpointError(
            f"{location} is not a dnmf model: {what}; make one with `dnmf fit CORPUS {location}`"
        )
    if record["version"] != VERSION:
        advice = "upgrade dnmf" if record["version"] > VERSION else "fit again with --force"
        raise CheckpointError(
            f"{location} has model format {record['version']}; this dnmf reads {VERSION}: {advice}"
        )
    arrays = {name: _read_state(location, record, name) for name in STATE}
    state = State(
        **arrays,
        beta=record["beta"],
        beta_max=record["beta_max"],
        losses=tuple(record["losses"]),
        divergence=float("nan") if record["divergence"] is None else record["divergence"],
        accepted=record["accepted"],
        n_reads=record["n_reads"],
        xx=record["xx"],
    )
    weights_slot = record["weights_slot"]
    if f"weights-{weights_slot}" not in zarr.open_group(location, mode="r"):
        weights_slot = None  # removed to save space, say; a further fit writes them again
    return Checkpoint(
        location,
        Fit(**record["fit"]),
        state,
        record["stop_reason"],
        record["state_slot"],
        weights_slot,
    )


def _read_state(path: str, record: dict[str, Any], name: str) -> Array:
    key = f"state-{record['state_slot']}/{name}"
    try:
        check_metadata(path, key, error=CheckpointError)
        array = np.asarray(zarr.open_array(path, path=key, mode="r")[:])
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, zarr.errors.NodeNotFoundError) as error:
        raise CheckpointError(
            f"{path}: {key} cannot be read ({error}); fit again with --force"
        ) from error
    if crc32c(array) != record["crc32c"][name]:
        raise CheckpointError(f"{path}: {key} is not what was written; fit again with --force")
    return array


def _other(slot: int | None) -> int:
    return 1 - slot if slot is not None else 0
