"""Text in arrays: Zarr's data type ``string``, whose chunks the codec ``vlen-utf8`` encodes.

A chunk holds the number of its texts, and then the length and the UTF-8 of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dnmf._typing import Array
from dnmf.errors import DataError

TEXT_BYTES = 2**14
"""Largest number of bytes of one text, so that a reader knows how long a chunk can be."""


def to_text(values: Iterable[Any]) -> Array:
    r"""Return values as an array of texts that have a UTF-8 form.

    Names of files may hold bytes that are not UTF-8, which Python keeps as lone surrogates. They
    are written as ``\xff``.

    Raises
    ------
    DataError
        A text is longer than `TEXT_BYTES`.
    """
    texts = [value if type(value) is str else str(value) for value in values]
    for row, text in enumerate(texts):
        if not text.isascii():
            texts[row] = text = _encodable(text)
        if len(text) > TEXT_BYTES or len(text.encode()) > TEXT_BYTES:
            raise DataError(
                f"text {row}, {text[:40]!r}..., is longer than {TEXT_BYTES:,} bytes; shorten it, "
                "or leave its column out"
            )
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def encode_text(texts: Array) -> Array:
    """Encode texts as `to_text` returns them, and return the bytes."""
    from numcodecs.vlen import VLenUTF8

    return np.frombuffer(VLenUTF8().encode(texts), np.uint8)


def decode_text(body: Array, count: int) -> Array:
    """Decode so many texts.

    Raises
    ------
    ValueError
        The bytes are not the encoding of `count` texts.
    """
    from numcodecs.vlen import VLenUTF8

    # Before it is decoded: memory is allocated for as many texts as the bytes say that they are.
    found = int.from_bytes(body[:4], "little")
    if found != count:
        raise ValueError(f"of {found:,} texts where {count:,} belong")
    texts: Array = VLenUTF8().decode(body)
    return texts


def _encodable(text: str) -> str:
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode(errors="backslashreplace").decode()
