"""What of a store is used at all: it may come from anybody, and be damaged or made to do harm.

Zarr takes any codec, shape and chunk that a ``zarr.json`` names, and follows links. dnmf takes what
dnmf writes: `read_metadata` reads ``zarr.json`` itself, before Zarr opens anything, and refuses
what is not on the lists here; `store` reads with a bound, only regular files, and only those inside
the store. So loading a store runs no code of its, and takes memory for what it says it holds
and no more.
"""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any

from dnmf._format import format_bytes
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore

METADATA_BYTES = 2**22
"""Longest ``zarr.json`` that is read: as JSON it may take twenty times as much memory. What grows
with the number of blocks belongs into an array."""

METADATA_PARTS = 10_000
"""Lists and objects in it: a parser takes stack for each that lies in another."""

CHUNK_BYTES = 2**31 - 1
"""Largest chunk in memory: Blosc takes no more in one piece."""

CODECS = (["bytes"], ["bytes", "crc32c"], ["bytes", "blosc"], ["bytes", "blosc", "crc32c"])
"""What dnmf writes, with the first alone as what is left without the others."""

DTYPES = {
    "bool": 1,
    **{f"{kind}{8 * width}": width for kind in ("int", "uint") for width in (1, 2, 4, 8)},
    **{f"float{8 * width}": width for width in (2, 4, 8)},
}
"""Types of numbers, and their bytes. None has a variable length or holds objects."""

_GROUP = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}

_ARRAY = {
    "zarr_format", "node_type", "attributes", "shape", "data_type", "chunk_grid",
    "chunk_key_encoding", "fill_value", "codecs", "dimension_names", "storage_transformers",
}  # fmt: skip

_EMPTY = ("consolidated_metadata", "storage_transformers")


def read_node_json(store: ObjectStore, name: str = "") -> dict[str, Any]:
    """Read the ``zarr.json`` of a node as JSON, with nothing checked but that it is a Zarr v3 node.

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
    except InvalidObjectError as refused:
        raise InvalidObjectError(f"{key} {refused}") from refused
    except (ValueError, RecursionError) as error:
        raise InvalidObjectError(f"{key} cannot be read ({error})") from error
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        raise InvalidObjectError(f"{key} is no Zarr v3 metadata")
    if not isinstance(metadata.get("attributes", {}), dict):
        raise InvalidObjectError(f"{key} has attributes that are no JSON object")
    return metadata


def read_metadata(store: ObjectStore, name: str = "") -> dict[str, Any]:
    """Read the ``zarr.json`` of a group or an array, and refuse what dnmf does not write.

    To be called before Zarr opens the node. Allowed are groups without consolidated metadata, and
    arrays of numbers of a fixed size, in regular chunks of at most 2 GiB under their default keys
    (with ``/`` or ``.``), encoded by ``bytes``, ``blosc`` and ``crc32c``, in that order. A shape
    may be of any size: it costs nothing, and the record must agree with it.

    Returns
    -------
    dict
        The metadata; of an array with ``shape``, ``dtype``, ``chunks``, ``separator`` (of keys) and
        ``codecs`` (names).

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
    return metadata if kind == "group" else {**metadata, **_array(metadata, key)}


def _array(metadata: dict[str, Any], key: str) -> dict[str, Any]:
    dtype: Any = metadata.get("data_type")
    shape: Any = metadata.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidObjectError(
            f"{key} has data_type {brief(dtype)}; it must be a type of numbers"
        )
    chunks: Any = _configured(metadata.get("chunk_grid"), "regular", key).get("chunk_shape")
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
    separator = _configured(encoding, "default", key).get("separator", "/")
    if separator not in ("/", "."):
        raise InvalidObjectError(f"{key} has chunk keys that dnmf never writes: {brief(encoding)}")
    codecs = _codecs(metadata.get("codecs"), DTYPES[dtype], key)
    return {
        "shape": tuple(shape),
        "dtype": dtype,
        "chunks": tuple(chunks),
        "separator": separator,
        "codecs": codecs,
    }


def _codecs(codecs: Any, itemsize: int, key: str) -> list[str]:
    """Give the names of an array's codecs if they are dnmf's, and each is set as it may be."""
    listed = codecs if isinstance(codecs, list) and len(codecs) <= 3 else []
    names = [codec.get("name") if isinstance(codec, dict) else None for codec in listed]
    if names not in CODECS:
        raise InvalidObjectError(
            f"{key} has codecs {brief(names or codecs)}; dnmf reads bytes, blosc and crc32c"
        )
    for codec, name in zip(listed, names, strict=True):
        settings = _configured(codec, name, key)
        valid = {"bytes": _is_bytes(settings, itemsize), "blosc": _is_blosc(settings)}
        if not valid.get(name, not settings) or codec.keys() - {"name", "configuration"}:
            raise InvalidObjectError(f"{key} has codec {brief(codec)}, which dnmf never writes")
    return names


def _is_bytes(settings: dict[str, Any], itemsize: int) -> bool:
    return settings == {"endian": "little"} or (itemsize == 1 and not settings)


def _is_blosc(settings: dict[str, Any]) -> bool:
    numbers: list[Any] = [settings.get(name) for name in ("typesize", "clevel", "blocksize")]
    return (
        settings.keys() == {"typesize", "cname", "clevel", "shuffle", "blocksize"}
        and all(is_count(number) and number < 2**31 for number in numbers)
        and settings["cname"] in ("lz4", "lz4hc", "blosclz", "zstd", "zlib", "snappy")
        and settings["shuffle"] in ("noshuffle", "shuffle", "bitshuffle")
    )


def _configured(part: Any, name: str, key: str) -> dict[str, Any]:
    """Give the configuration of a part of the metadata that must have a name; it may be empty."""
    found = part.get("configuration", {}) if isinstance(part, dict) else None
    if not isinstance(found, dict) or part.get("name") != name:
        raise InvalidObjectError(f"{key} has {brief(part)} where {name!r} belongs")
    return found


def is_shape(value: Any) -> bool:
    """Tell whether a JSON value is a list of positive integers."""
    return isinstance(value, list) and bool(value) and all(is_count(n) and n > 0 for n in value)


def is_count(value: Any) -> bool:
    """Tell whether a JSON value is an integer from 0 to 2^63 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_checksum(value: Any) -> bool:
    """Tell whether a JSON value is a crc32c."""
    return is_count(value) and value < 2**32


def brief(value: Any) -> str:
    """Quote a value from a store, which may be of any length."""
    text = reprlib.repr(value)  # of a value that is long, the beginning
    return text if len(text) <= 120 else f"{text[:117]}..."
