"""Checks of metadata: a store may come from anybody, be damaged, or be made to do harm.

Zarr accepts any codec, shape and chunk size that a ``zarr.json`` names. dnmf accepts only what it
writes itself: `read_metadata` reads ``zarr.json`` before Zarr opens the node, and raises if
anything is not on the lists below. Together with `store`, whose reads have a bound, this means that
opening a store runs no code from it, and allocates no more memory than its arrays take.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable
from typing import Any

from dnmf._format import format_bytes
from dnmf.errors import DnmfError
from dnmf.storage.codecs import codec_name
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore

METADATA_BYTES = 2**22
"""Largest ``zarr.json`` that is read: parsed, it may take twenty times as much memory. What grows
with the number of blocks must be stored in an array instead."""

METADATA_PARTS = 10_000
"""Largest number of lists and objects in a ``zarr.json``: the parser uses stack for nested ones."""

CHUNK_BYTES = 2**31 - 1
"""Largest chunk in bytes, uncompressed: Blosc cannot compress more at once."""

CODECS = (["bytes"], ["bytes", "crc32c"], ["bytes", "blosc"], ["bytes", "blosc", "crc32c"])
"""Accepted chains of codecs: the two that dnmf writes, with ``crc32c``, and the same without."""

DTYPES = {
    "bool": 1,
    **{f"{kind}{8 * width}": width for kind in ("int", "uint") for width in (1, 2, 4, 8)},
    **{f"float{8 * width}": width for width in (2, 4, 8)},
}
"""Accepted data types and their sizes in bytes. None has a variable length or holds objects."""

_GROUP = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}

_ARRAY = {
    "zarr_format", "node_type", "attributes", "shape", "data_type", "chunk_grid",
    "chunk_key_encoding", "fill_value", "codecs", "dimension_names", "storage_transformers",
}  # fmt: skip

_EMPTY = ("consolidated_metadata", "storage_transformers")


def read_node_json(store: ObjectStore, name: str = "") -> dict[str, Any]:
    """Read the ``zarr.json`` of a node, and check only that it is Zarr v3 metadata.

    Raises
    ------
    FileNotFoundError, InvalidObjectError
    """
    key = f"{name}/{METADATA}".lstrip("/")
    try:
        stored = store.get(key, METADATA_BYTES)
        if stored.count(b"[") + stored.count(b"{") > METADATA_PARTS:
            raise InvalidObjectError("holds far more lists and objects than metadata does")
        metadata = json.loads(stored)
    except InvalidObjectError as error:
        raise InvalidObjectError(f"{key} {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidObjectError(f"{key} cannot be read ({error})") from error
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        raise InvalidObjectError(f"{key} is no Zarr v3 metadata")
    if not isinstance(metadata.get("attributes", {}), dict):
        raise InvalidObjectError(f"{key} has attributes that are no JSON object")
    return metadata


def read_metadata(store: ObjectStore, name: str = "") -> dict[str, Any]:
    """Read the ``zarr.json`` of a group or an array, and check that dnmf can have written it.

    Call this before Zarr opens the node. Accepted are groups without consolidated metadata, and
    arrays of numbers of a fixed size, in regular chunks of at most 2 GiB under default keys (with
    ``/`` or ``.``), encoded by ``bytes``, ``blosc`` and ``crc32c``, in that order. A shape may be
    of any size: nothing is allocated for it, and the caller compares it with the record.

    Returns
    -------
    dict
        The metadata. For an array also ``shape``, ``dtype``, ``chunks``, ``separator`` (of the keys
        of chunks), ``codecs`` (their names) and ``codec`` (that of the numbers, as in
        `dnmf.storage.codecs`).

    Raises
    ------
    FileNotFoundError
        There is no such node.
    InvalidObjectError
        It is not as dnmf writes it.
    """
    metadata = read_node_json(store, name)
    key = f"{name}/{METADATA}".lstrip("/")
    kind = metadata.get("node_type")
    if kind not in ("group", "array"):
        raise InvalidObjectError(
            f"{key} has node_type {brief(kind)}; it must be 'group' or 'array'"
        )
    unknown = sorted(metadata.keys() - (_GROUP if kind == "group" else _ARRAY))
    unknown += [name for name in _EMPTY if metadata.get(name)]
    if unknown:
        raise InvalidObjectError(f"{key} has {brief(unknown)}, which dnmf never writes")
    return metadata if kind == "group" else {**metadata, **_check_array(metadata, key)}


def _check_array(metadata: dict[str, Any], key: str) -> dict[str, Any]:
    dtype: Any = metadata.get("data_type")
    shape: Any = metadata.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidObjectError(
            f"{key} has data_type {brief(dtype)}; it must be a type of numbers"
        )
    chunks: Any = _configuration(metadata.get("chunk_grid"), "regular", key).get("chunk_shape")
    if not (is_shape(shape) and is_shape(chunks) and len(shape) == len(chunks)):
        raise InvalidObjectError(
            f"{key} has shape {brief(shape)} in chunks of {brief(chunks)}; both must be lists of "
            "positive integers, equally long"
        )
    if (nbytes := math.prod(chunks) * DTYPES[dtype]) > CHUNK_BYTES:
        raise InvalidObjectError(
            f"{key} has chunks of {format_bytes(nbytes)}; the largest are 2 GiB"
        )
    encoding = metadata.get("chunk_key_encoding")
    separator = _configuration(encoding, "default", key).get("separator", "/")
    if separator not in ("/", "."):
        raise InvalidObjectError(f"{key} has chunk keys that dnmf never writes: {brief(encoding)}")
    codecs = _check_codecs(metadata.get("codecs"), DTYPES[dtype], key)
    blosc: Any = next((each for each in metadata["codecs"] if each["name"] == "blosc"), {})
    return {
        "shape": tuple(shape),
        "dtype": dtype,
        "chunks": tuple(chunks),
        "separator": separator,
        "codecs": codecs,
        "codec": codec_name(blosc.get("configuration")),
    }


def _check_codecs(codecs: Any, itemsize: int, key: str) -> list[str]:
    """Return the names of an array's codecs if they and their configurations are accepted."""
    listed = codecs if isinstance(codecs, list) and len(codecs) <= 3 else []
    names = [codec.get("name") if isinstance(codec, dict) else None for codec in listed]
    if names not in CODECS:
        raise InvalidObjectError(
            f"{key} has codecs {brief(names or codecs)}; dnmf reads bytes, blosc and crc32c"
        )
    for codec, name in zip(listed, names, strict=True):
        settings = _configuration(codec, name, key)
        valid = {"bytes": _is_valid_bytes(settings, itemsize), "blosc": _is_valid_blosc(settings)}
        if not valid.get(name, not settings) or codec.keys() - {"name", "configuration"}:
            raise InvalidObjectError(f"{key} has codec {brief(codec)}, which dnmf never writes")
    return names


def _is_valid_bytes(settings: dict[str, Any], itemsize: int) -> bool:
    return settings == {"endian": "little"} or (itemsize == 1 and not settings)


def _is_valid_blosc(settings: dict[str, Any]) -> bool:
    numbers: list[Any] = [settings.get(name) for name in ("typesize", "clevel", "blocksize")]
    return (
        settings.keys() == {"typesize", "cname", "clevel", "shuffle", "blocksize"}
        and all(is_count(number) and number < 2**31 for number in numbers)
        and settings["cname"] in ("lz4", "lz4hc", "blosclz", "zstd", "zlib", "snappy")
        and settings["shuffle"] in ("noshuffle", "shuffle", "bitshuffle")
    )


def _configuration(part: Any, name: str, key: str) -> dict[str, Any]:
    """Return the configuration of a part of the metadata that must have a given name."""
    found = part.get("configuration", {}) if isinstance(part, dict) else None
    if not isinstance(found, dict) or part.get("name") != name:
        raise InvalidObjectError(f"{key} has {brief(part)} where {name!r} belongs")
    return found


def is_shape(value: Any) -> bool:
    """Check whether a JSON value is a list of positive integers."""
    return isinstance(value, list) and bool(value) and all(is_count(n) and n > 0 for n in value)


def is_count(value: Any) -> bool:
    """Check whether a JSON value is an integer from 0 to 2^63 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_checksum(value: Any) -> bool:
    """Check whether a JSON value is a crc32c."""
    return is_count(value) and value < 2**32


def brief(value: Any) -> str:
    """Return a value from a store as text of at most 120 characters, for messages."""
    text = reprlib.repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def check_format(
    record: Any,
    path: str,
    form: str,
    version: int,
    *,
    error: type[DnmfError],
    missing: Callable[[], str],
    outdated: str,
) -> dict[str, Any]:
    """Return the record of a store if it has a format and a version that this dnmf reads.

    Parameters
    ----------
    record : object
        What the attributes of the store's root hold; None if they hold no record.
    path : str
        Path of the store, for the message.
    form, version : str, int
        Name of the format (``"dnmf-corpus"``, say), and its version.
    error : type of DnmfError
        Type of the error to raise.
    missing : callable
        Returns the message, after the path, if the record is missing or of another format.
    outdated : str
        What the user can do about an older version.
    """
    if not isinstance(record, dict) or record.get("format") != form:
        raise error(f"{path} {missing()}")
    found: Any = record.get("version")
    if not is_count(found) or found != version:
        advice = "upgrade dnmf" if is_count(found) and found > version else outdated
        raise error(
            f"{path} has {form.removeprefix('dnmf-')} format {str(found)[:80]}; this dnmf reads "
            f"{version}: {advice}"
        )
    return record
