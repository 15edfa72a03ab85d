"""Finds the comment in a video file's metadata without libav: MP4, WebM and Matroska, in pure Python.

Files come from anywhere, so nothing is believed: every length is held against what encloses it, the number of elements
and the comment's length are bounded, and whatever does not fit ends the search. Only headers are read; the rest is
stepped over.

Sources: ISO/IEC 14496-12 (boxes) with the `ilst` of iTunes; RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

MAX_COMMENT_BYTES = 2**20
"""Longer comments are passed over."""
MAX_ELEMENTS = 100_000
"""On one level; a file with more before its metadata is given up."""

_EBML, _SEGMENT, _TAGS, _TAG = 0x1A45DFA3, 0x18538067, 0x1254C367, 0x7373
_SIMPLE_TAG, _TAG_NAME, _TAG_STRING = 0x67C8, 0x45A3, 0x4487
_COMMENT_BOX = b"\xa9cmt"
_DATA_HEAD = 8  # type and locale, before the text of an `ilst` entry
_FULL_BOX_HEAD = 4  # version and flags

Span = tuple[int, int]
"""First byte and the one after the last."""


def read_comment(file: str | os.PathLike[str]) -> str | None:
    """The comment of a video; None where the file has none, is damaged before it, or is no such video.

    Raises:
        OSError: the file cannot be read.
    """
    with open(file, "rb") as opened:
        return find_comment(opened)


def find_comment(file: BinaryIO) -> str | None:
    """The comment of a video that is open for reading, with `seek`. See `read_comment`."""
    whole = (0, file.seek(0, os.SEEK_END))
    data = _in_matroska(file, whole) if _at(file, 0, 4) == _EBML.to_bytes(4, "big") else _in_mp4(file, whole)
    try:
        return None if data is None else data.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None


def _in_mp4(file: BinaryIO, whole: Span) -> bytes | None:
    meta = _descend(file, whole, b"moov", b"udta", b"meta")
    if meta is None:
        return None
    entry = _descend(file, (meta[0] + _FULL_BOX_HEAD, meta[1]), b"ilst", _COMMENT_BOX, b"data")
    return None if entry is None else _text(file, (entry[0] + _DATA_HEAD, entry[1]))


def _descend(file: BinaryIO, span: Span, *names: bytes) -> Span | None:
    """The body of the first box of each name within the one before."""
    for name in names:
        found = next((body for kind, body in _boxes(file, span) if kind == name), None)
        if found is None:
            return None
        span = found
    return span


def _boxes(file: BinaryIO, span: Span) -> Iterator[tuple[bytes, Span]]:
    start, end = span
    for _ in range(MAX_ELEMENTS):
        head = _at(file, start, min(16, end - start))
        if len(head) < 8:
            return
        size, body = int.from_bytes(head[:4], "big"), start + 8
        if size == 1:  # the size is behind the name, in 64 bits
            if len(head) < 16:
                return
            size, body = int.from_bytes(head[8:], "big"), start + 16
        after = start + size if size else end  # 0: to the end
        if not body <= after <= end:
            return
        yield head[4:8], (body, after)
        start = after


def _in_matroska(file: BinaryIO, whole: Span) -> bytes | None:
    for tags in _all(file, _all(file, [whole], _SEGMENT), _TAGS):
        for simple in _all(file, _all(file, [tags], _TAG), _SIMPLE_TAG):
            fields = {kind: body for kind, body in _elements(file, simple) if kind in (_TAG_NAME, _TAG_STRING)}
            name = _text(file, fields.get(_TAG_NAME, (0, 0)))
            if name is not None and name.upper() == b"COMMENT" and _TAG_STRING in fields:
                return _text(file, fields[_TAG_STRING])
    return None


def _all(file: BinaryIO, spans: Iterator[Span] | list[Span], kind: int) -> Iterator[Span]:
    return (body for span in spans for found, body in _elements(file, span) if found == kind)


def _elements(file: BinaryIO, span: Span) -> Iterator[tuple[int, Span]]:
    start, end = span
    for _ in range(MAX_ELEMENTS):
        head = _at(file, start, min(12, end - start))
        kind, kind_length = _variable(head, 4, keep_marker=True)
        size, size_length = _variable(head[kind_length:], 8, keep_marker=False)
        if not kind_length or not size_length:
            return
        body = start + kind_length + size_length
        unknown = size == 2 ** (7 * size_length) - 1
        if unknown and kind != _SEGMENT:  # a cluster of a live stream: where it ends only its contents tell
            return
        # A file that was cut short still has what comes before the cut.
        after = end if unknown or (kind == _SEGMENT and body + size > end) else body + size
        if after > end:
            return
        yield kind, (body, after)
        start = after


def _variable(data: bytes, longest: int, *, keep_marker: bool) -> tuple[int, int]:
    """An EBML number and how many bytes it takes; 0 bytes where there is none."""
    length = 9 - data[0].bit_length() if data else 0
    if not 1 <= length <= min(longest, len(data)):
        return 0, 0
    number = int.from_bytes(data[:length], "big")
    return (number if keep_marker else number & ((1 << 7 * length) - 1)), length


def _text(file: BinaryIO, span: Span) -> bytes | None:
    length = span[1] - span[0]
    return _at(file, span[0], length) if 0 <= length <= MAX_COMMENT_BYTES else None


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(max(length, 0))
