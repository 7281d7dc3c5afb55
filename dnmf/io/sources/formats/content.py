"""Describe a file by its first bytes, not by its name."""

from __future__ import annotations

HEAD_BYTES = 512
"""Bytes at the start of a file that tell its format."""

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG"),
    (b"\xff\xd8\xff", "a JPEG"),
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a .npy file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PAR1", "a Parquet file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"8BPS", "a Photoshop file"),
    (b"icns", "an Apple icon"),
    (b"BM", "a BMP"),
)
"""First bytes of files, and what they are."""


def describe_content(head: bytes) -> str:
    """Return what a file is by its first bytes, such as ``a PDF``."""
    if not head:
        return "empty"
    for beginning, words in _BEGINNINGS:
        if head.startswith(beginning):
            return words
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP"
    if head[4:8] == b"ftyp":
        return "a HEIF, AVIF or MP4 file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "a PGM or PPM"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps the error of a download"
    if text.startswith((b"<?xml", b"<svg")):
        return "XML or SVG"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "text"
    return "no image that dnmf knows"
