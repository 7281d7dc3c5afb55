"""Schema of the record of a pass.

A record is JSON with a checksum of its own. The checksum reveals accidents, but not a record that
somebody changed on purpose, with a new checksum. Therefore the type and the range of every field
are checked before it is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.storage.checkpoint.spec import NAMES, PARAMETERS, SETTINGS
from dnmf.storage.metadata import brief, is_checksum, is_count, is_shape, record_checksum
from dnmf.storage.store import InvalidObjectError, crc32c

OLD_STATE = ("H", "Y", "Z")
"""Names of the arrays of a state in passes of version 4; with weights also ``checksums``."""

WEIGHTS = re.compile(r"weights-\d{6,}-[0-9a-f]{8}")
"""Pattern of the names of weights: a record can name nothing else in the store."""


def describe_arrays(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return what the record of a pass holds about its arrays: their shapes and checksums."""
    return {
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "crc32c": {name: crc32c(array) for name, array in arrays.items()},
    }


def check_record(record: Any) -> dict[str, Any]:
    """Return a record if it is not altered and all its fields are valid.

    Raises
    ------
    InvalidObjectError
        The message names the field.
    """
    if not isinstance(record, dict) or "record_crc32c" not in record:
        raise InvalidObjectError("has no record of a pass")
    if record["record_crc32c"] != record_checksum(record):
        raise InvalidObjectError("is not what was written")
    _check_fields(record, _RECORD, "")
    fit = record["fit"]
    _check_fit(fit)
    if len(record["energies"]) not in (0, fit["n_components"]):
        raise InvalidObjectError(f"has a record with {len(record['energies'])} energies")
    if record["shapes"] not in _possible_shapes(fit, with_weights=record["weights"] is not None):
        raise InvalidObjectError(f"has a record with arrays of {brief(record['shapes'])}")
    if record["crc32c"].keys() != record["shapes"].keys():
        raise InvalidObjectError("has a record without a checksum of each array")
    return record


def _check_fit(fit: dict[str, Any]) -> None:
    _check_fields(fit, _FIT, "fit.")
    X, parameters, settings = fit["X"], fit["parameters"], fit["settings"]
    _check_fields(X, _X, "fit.X.")
    if NAMES in X and not _is_extent(X[NAMES]):
        raise InvalidObjectError(f"has a record in which fit.X.{NAMES} is {brief(X[NAMES])}")
    if missing := sorted(set(PARAMETERS) - parameters.keys()):
        raise InvalidObjectError(f"has a record without {missing}")
    if unknown := sorted(settings.keys() - set(SETTINGS)):
        raise InvalidObjectError(f"has a record with {brief(unknown)}")
    for name, value in {**parameters, **settings}.items():
        if not (value is None or isinstance(value, str) or _is_number(value)):
            raise InvalidObjectError(f"has a record in which {name} is {brief(value)}")
    if math.prod(X["image_shape"]) != X["shape"][1]:
        raise InvalidObjectError(f"has a record with images of {brief(X['image_shape'])}")


def _possible_shapes(fit: Mapping[str, Any], *, with_weights: bool) -> list[dict[str, list[int]]]:
    """Return the shapes that the arrays of a pass may have, in each version."""
    (n, p), d = fit["X"]["shape"], fit["n_components"]
    blocks = -(-n // fit["X"]["block_rows"]) * with_weights
    old = {name: [d, p] for name in OLD_STATE} | ({"checksums": [blocks]} if with_weights else {})
    return [{"H": [d, p], "state": [2 * d * p + blocks]}, old]


def pack_state(Y: Array, Z: Array, checksums: Array) -> Array:
    """Return Y, Z and the checksums of weights as one array of shape (2 d p + blocks,), float64.

    A crc32c has 32 bits, and float64 holds integers of 53 exactly.
    """
    return np.concatenate([Y.ravel(), Z.ravel(), checksums.astype(np.float64)])


def unpack_state(H: Array, state: Array) -> tuple[Array, Array, Array]:
    """Return Y, Z and the checksums of weights, given what `pack_state` returned and H."""
    # Copies: bits depend on where in memory an array begins.
    Y, Z = (state[i * H.size : (i + 1) * H.size].reshape(H.shape).copy() for i in (0, 1))
    return Y, Z, state[2 * H.size :].astype(np.int64)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63)


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _is_version(item: tuple[str, Any]) -> bool:
    return isinstance(item[1], str) and max(map(len, item)) <= 80


def _is_pair(value: Any) -> bool:
    return _has_length(value, 2) and all(map(_is_number, value))


def _is_weights_name(value: Any) -> bool:
    return isinstance(value, str) and WEIGHTS.fullmatch(value) is not None


def _is_positive(value: Any) -> bool:
    return is_count(value) and value > 0


def _is_shape_of_X(value: Any) -> bool:
    """Check whether a value is the shape of X; of components that were set by hand n is 0."""
    return _has_length(value, 2) and is_count(value[0]) and _is_positive(value[1])


def _is_extent(value: Any) -> bool:
    """Check whether a value is the size of an array and its checksum."""
    return _has_length(value, 2) and _is_positive(value[0]) and is_checksum(value[1])


def _has_length(value: Any, n: int) -> bool:
    return isinstance(value, list) and len(value) == n


Checks = dict[str, Callable[[Any], bool]]

_RECORD: Checks = {
    "dnmf": lambda value: isinstance(value, str),
    "stop_reason": lambda value: value is None or (isinstance(value, str) and len(value) <= 80),
    "weights": lambda value: value is None or _is_weights_name(value),
    "weights_pass": is_count,
    "fit": lambda value: isinstance(value, dict),
    "losses": lambda value: isinstance(value, list) and all(map(_is_number, value)),
    "divergence": lambda value: value is None or _is_number(value),
    "beta": _is_number,
    "beta_max": _is_number,
    "accepted": lambda value: isinstance(value, bool),
    "n_reads": _is_number,
    "xx": _is_number,
    "energies": lambda value: isinstance(value, list) and all(map(_is_number, value)),
    "held_out": lambda value: isinstance(value, list) and all(map(_is_pair, value)),
    "shapes": lambda value: isinstance(value, dict),
    "crc32c": lambda value: isinstance(value, dict) and all(map(is_checksum, value.values())),
    "record_crc32c": is_checksum,
}

_LATER: Checks = {
    "seconds": lambda value: isinstance(value, list) and all(map(_is_duration, value)),
    "memory": is_count,
    "versions": lambda value: isinstance(value, dict) and all(map(_is_version, value.items())),
}
"""Fields of a record and of its fit that those written before lack."""

_FIT: Checks = {
    "n_components": _is_positive,
    "seed": is_count,
    "X": lambda value: isinstance(value, dict),
    "parameters": lambda value: isinstance(value, dict),
    "settings": lambda value: isinstance(value, dict),
    "dnmf": lambda value: isinstance(value, str),
}

_X: Checks = {
    "shape": _is_shape_of_X,
    "block_rows": _is_positive,
    "compute_dtype": lambda value: value in ("float32", "float64"),
    "image_shape": is_shape,
}


def _check_fields(found: dict[str, Any], checks: Checks, where: str) -> None:
    """Raise if fields are missing, invalid or unknown; only X may have unknown ones."""
    later = {name: check for name, check in _LATER.items() if name in found}
    if checks is not _X and (unknown := sorted(found.keys() - {*checks, *later})):
        raise InvalidObjectError(f"has a record with {where}{brief(unknown)}")
    for name, check in {**checks, **later}.items():
        if name not in found or not check(found[name]):
            raise InvalidObjectError(
                f"has a record in which {where}{name} is {brief(found.get(name))}"
            )
