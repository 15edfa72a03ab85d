"""The length of a fragmented MP4, which libav leaves out of the header, as a box that players read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction

_BOX = struct.Struct(">I4s")
_DURATION_BOX = struct.Struct(">I4sII")


def with_duration(header: bytes, seconds: Fraction) -> bytes:
    """Add a movie's length to the header of its fragmented file.

    A fragmented file's header has no samples, so players that have not seen all fragments yet take its length from
    the `mehd` box (ISO/IEC 14496-12, 8.8.2). It goes first into `moov/mvex`; nothing in such a header is addressed by
    offset, so nothing else moves.

    Args:
        header: The boxes up to and with `moov`, as libav writes them with `empty_moov`.
        seconds: Length of the whole movie.

    Returns:
        The header, 16 bytes longer.
    """
    moov = _find(header, b"moov", 0, len(header))
    end = moov + _size(header, moov)
    mvex = _find(header, b"mvex", moov + _BOX.size, end)
    mvhd = _find(header, b"mvhd", moov + _BOX.size, end)
    # After the box's head: version and flags, creation and modification time, then units per second, 4 bytes each.
    (timescale,) = struct.unpack_from(">I", header, mvhd + _BOX.size + 12)
    duration = _DURATION_BOX.pack(_DURATION_BOX.size, b"mehd", 0, round(seconds * timescale))

    longer = bytearray(header)
    for box in (moov, mvex):
        struct.pack_into(">I", longer, box, _size(header, box) + len(duration))
    inside = mvex + _BOX.size
    longer[inside:inside] = duration
    return bytes(longer)


def _find(data: bytes, name: bytes, start: int, end: int) -> int:
    return next(offset for offset, found in _boxes(data, start, end) if found == name)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end:
        size, name = _BOX.unpack_from(data, start)
        yield start, name
        start += size


def _size(data: bytes, box: int) -> int:
    size, _ = _BOX.unpack_from(data, box)
    return int(size)
