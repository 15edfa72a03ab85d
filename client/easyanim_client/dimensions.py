"""A picture's size as it will be seen, read from its header in pure Python: PNG, JPEG and WebP.

Sources: PNG third edition 11.2.2; ITU T.81 B.2 and Exif 2.32 4.5 (JPEG); RFC 9649 2.5 to 2.7 (WebP).
"""

from __future__ import annotations

from typing import Literal

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SIDEWAYS = range(5, 9)
"""EXIF orientations that exchange width and height."""
_ORIENTATION_TAG = 0x0112


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a picture, upright; None where the header cannot be read.

    Args:
        data: The file; the server decides whether the rest of it is good.
    """
    size = None
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        size = _webp(data)
    return size if size and min(size) > 0 else None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    offset, sideways = 2, False
    while offset + 4 <= len(data) and data[offset] == 0xFF:
        marker, length = data[offset + 1], int.from_bytes(data[offset + 2 : offset + 4], "big")
        body = data[offset + 4 : offset + 2 + length]
        if marker in _FRAME_HEADERS:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            return (height, width) if sideways else (width, height)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            sideways = _orientation(body[6:]) in _SIDEWAYS
        if marker == 0xFF:  # fill bytes may stand before any marker
            offset += 1
        else:
            offset += 2 + max(length, 2)
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _orientation(tiff: bytes) -> int:
    order: Literal["little", "big"] = "little" if tiff.startswith(b"II") else "big"

    def number(offset: int, length: int) -> int:
        return int.from_bytes(tiff[offset : offset + length], order)

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), 1000)):
        at = directory + 2 + 12 * entry
        if number(at, 2) == _ORIENTATION_TAG:
            return number(at + 8, 2)
    return 1
