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

import numpy as np

from dnmf._format import format_bytes
from dnmf.errors import DnmfError
from dnmf.storage.codecs import codec_name
from dnmf.storage.store import METADATA, InvalidObjectError, ObjectStore, crc32c

METADATA_BYTES = 2**22
"""Largest ``zarr.json`` that is read: parsed, it may take twenty times as much memory. What grows
with the number of blocks must be stored in an array instead."""

METADATA_PARTS = 10_000
"""Largest number of lists and objects in a ``zarr.json``: the parser uses stack for nested ones."""

CHUNK_BYTES = 2**31 - 1
"""Largest chunk in bytes, uncompressed: Blosc cannot compress more at once."""

CODECS: tuple[list[str], ...] = ([], ["crc32c"], ["blosc"], ["blosc", "crc32c"])
"""Accepted codecs after the first: the two chains that dnmf writes, and the same without checksum.
The first codec is ``bytes`` for numbers and ``vlen-utf8`` for text."""

TEXT = "string"
"""Data type of text."""

DTYPES = {
    "bool": 1,
    **{f"{kind}{8 * width}": width for kind in ("int", "uint") for width in (1, 2, 4, 8)},
    **{f"float{8 * width}": width for width in (2, 4, 8)},
}
"""Accepted data types of numbers and their sizes in bytes. None holds objects."""

_GROUP = {"zarr_format", "node_type", "attributes", "consolidated_metadata"}

_UNSAFE = frozenset('/\\<>:"|?*[]')
"""Characters that no name of an array has: some file system or URL gives them a meaning."""

_ARRAY = {
    "zarr_format", "node_type", "attributes", "shape", "data_type", "chunk_grid",
    "chunk_key_encoding", "fill_value", "codecs", "dimension_names", "storage_transformers",
}  # fmt: skip

CONSOLIDATED = {"kind": "inline", "must_understand": False}
"""What consolidated metadata say beside the metadata of the arrays."""


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

    Call this before Zarr opens the node. Accepted are groups, and arrays of numbers of a fixed size
    or of text, in regular chunks of at most 2 GiB under default keys (with ``/`` or ``.``), encoded
    by ``bytes`` or ``vlen-utf8``, then ``blosc`` and ``crc32c``. A shape may be of any size:
    nothing is allocated for it, and the caller compares it with the record.

    Returns
    -------
    dict
        The metadata. For an array also ``shape``, ``dtype``, ``chunks``, ``separator`` (of the keys
        of chunks), ``codecs`` (their names) and ``codec`` (that of the numbers, as in
        `dnmf.storage.codecs`). For a group also ``arrays``: the same of the arrays that its
        consolidated metadata describe, by their names.

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
    unknown += ["storage_transformers"] if metadata.get("storage_transformers") else []
    if unknown:
        raise InvalidObjectError(f"{key} has {brief(unknown)}, which dnmf never writes")
    if kind == "group":
        return {**metadata, "arrays": _check_consolidated(metadata, key)}
    return {**metadata, **_check_array(metadata, key)}


def _check_consolidated(metadata: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Return the arrays that the consolidated metadata of a group describe, all checked."""
    found: Any = metadata.get("consolidated_metadata")
    if found is None:
        return {}
    nodes: Any = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(nodes, dict) or found != {**CONSOLIDATED, "metadata": nodes}:
        raise InvalidObjectError(f"{key} has consolidated metadata that dnmf never writes")
    arrays = {}
    for name, node in nodes.items():
        place = f"{key}, of {brief(name)},"
        is_array = isinstance(node, dict) and node.get("node_type") == "array"
        if not is_array or not is_array_name(name) or not _is_plain(node):
            raise InvalidObjectError(f"{place} has {brief(node)}, which dnmf never writes")
        arrays[name] = {**node, **_check_array(node, place)}
    return arrays


def _is_plain(node: dict[str, Any]) -> bool:
    """Check whether what an array says of itself has only parts that dnmf writes."""
    return (
        not node.keys() - _ARRAY
        and node.get("zarr_format") == 3
        and isinstance(node.get("attributes", {}), dict)
        and not node.get("storage_transformers")
    )


def is_array_name(name: str) -> bool:
    """Check whether an array of a corpus or of weights can have a name."""
    return (
        bool(name) and name[0] not in "._" and name.isprintable() and not _UNSAFE.intersection(name)
    )


def _check_array(metadata: dict[str, Any], key: str) -> dict[str, Any]:
    dtype: Any = metadata.get("data_type")
    shape: Any = metadata.get("shape")
    if not isinstance(dtype, str) or dtype not in (*DTYPES, TEXT):
        raise InvalidObjectError(
            f"{key} has data_type {brief(dtype)}; it must be a type of numbers, or text"
        )
    itemsize = DTYPES.get(dtype, 1)  # the least that a text takes
    chunks: Any = _configuration(metadata.get("chunk_grid"), "regular", key).get("chunk_shape")
    if not (is_shape(shape) and is_shape(chunks) and len(shape) == len(chunks)):
        raise InvalidObjectError(
            f"{key} has shape {brief(shape)} in chunks of {brief(chunks)}; both must be lists of "
            "positive integers, equally long"
        )
    if (nbytes := math.prod(chunks) * itemsize) > CHUNK_BYTES:
        raise InvalidObjectError(
            f"{key} has chunks of {format_bytes(nbytes)}; the largest are 2 GiB"
        )
    encoding = metadata.get("chunk_key_encoding")
    separator = _configuration(encoding, "default", key).get("separator", "/")
    if separator not in ("/", "."):
        raise InvalidObjectError(f"{key} has chunk keys that dnmf never writes: {brief(encoding)}")
    codecs = _check_codecs(metadata.get("codecs"), DTYPES.get(dtype), key)
    blosc: Any = next((each for each in metadata["codecs"] if each["name"] == "blosc"), {})
    return {
        "shape": tuple(shape),
        "dtype": dtype,
        "chunks": tuple(chunks),
        "separator": separator,
        "codecs": codecs,
        "codec": codec_name(blosc.get("configuration")),
    }


def _check_codecs(codecs: Any, itemsize: int | None, key: str) -> list[str]:
    """Return the names of an array's codecs if they and their configurations are accepted."""
    listed = codecs if isinstance(codecs, list) and len(codecs) <= 3 else []
    names: list[Any] = [codec.get("name") if isinstance(codec, dict) else None for codec in listed]
    first = "vlen-utf8" if itemsize is None else "bytes"
    if names[:1] != [first] or names[1:] not in CODECS:
        raise InvalidObjectError(
            f"{key} has codecs {brief(names or codecs)}; dnmf reads {first}, blosc and crc32c"
        )
    for codec, name in zip(listed, names, strict=True):
        settings = _configuration(codec, name, key)
        valid = {"bytes": _is_valid_bytes(settings, itemsize), "blosc": _is_valid_blosc(settings)}
        if not valid.get(name, not settings) or codec.keys() - {"name", "configuration"}:
            raise InvalidObjectError(f"{key} has codec {brief(codec)}, which dnmf never writes")
    return names


def _is_valid_bytes(settings: dict[str, Any], itemsize: int | None) -> bool:
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


def with_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its own checksum."""
    return {**record, "record_crc32c": record_checksum(record)}


def record_checksum(record: dict[str, Any]) -> int:
    """Return the crc32c of a record, without its own."""
    plain = {name: value for name, value in record.items() if name != "record_crc32c"}
    return crc32c(np.frombuffer(json.dumps(plain, sort_keys=True).encode(), np.uint8))


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
    oldest: int | None = None,
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
        Name of the format (``"dnmf-corpus"``, say), and its newest version.
    oldest : int, optional
        The oldest version that is read; by default only the newest is.
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
    first = oldest or version
    if not is_count(found) or not first <= found <= version:
        advice = "upgrade dnmf" if is_count(found) and found > version else outdated
        readable = f"{version}" if first == version else f"{first} to {version}"
        raise error(
            f"{path} has {form.removeprefix('dnmf-')} format {str(found)[:80]}; this dnmf reads "
            f"{readable}: {advice}"
        )
    return record
