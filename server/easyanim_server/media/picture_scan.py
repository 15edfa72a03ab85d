"""The structure of picture files, read without decoding: how many parts there are, and which of them matter."""

from __future__ import annotations

import re
import zlib

MAX_SCANS = 500
"""Scans of a JPEG, each of which may touch every block of the picture. Encoders write about ten, at most a hundred;
libjpeg-turbo's own fuzzers stop at this number."""
MAX_SEGMENTS = 10_000
"""Segments of a JPEG. The largest request has 512 of full size."""
MAX_CHUNKS = 50_000
"""Chunks of a PNG or WebP file. The largest request has 4096 of the size that PNG encoders write."""
MAX_PROFILE_BYTES = 16 * 2**20
"""Colour profile of a PNG, decompressed: what a JPEG can hold at most. Profiles of printers have a few MiB."""
MAX_TEXT_BYTES = 2**20
"""Text of a PNG, decompressed, that may say which way is up: what Pillow takes."""

_PNG_SIGNATURE_BYTES = 8
_CHUNK_FRAME_BYTES = 12
"""Of a PNG: length, name and checksum."""
_PNG_KEPT = frozenset((b"tRNS", b"eXIf"))
"""Ancillary chunks that change what is seen, beside the profile and the texts below."""
_PNG_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_PNG_CANDIDATES = _PNG_KEPT | _PNG_TEXTS
_PNG_KEYWORDS = frozenset((b"Raw profile type exif", b"XML:com.adobe.xmp"))
"""Texts in which older programs keep the orientation."""

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""What may follow a segment or a scan's data, in which 0xFF is always followed by 0 or a restart marker."""
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9


class TooManyParts(Exception):
    """A file has more parts than any picture needs; says how many are allowed."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"has more than {most} {what}; must have at most {most}")


def check_jpeg(data: bytes) -> None:
    """Count segments and scans up to the end of the picture.

    Raises:
        TooManyParts: there are more than `MAX_SEGMENTS` or `MAX_SCANS`.
    """
    scans = segments = 0
    place = 2
    while (found := _JPEG_MARKER.search(data, place)) is not None:
        place = found.end()
        marker = data[place - 1]
        if marker == _JPEG_END:
            return
        segments += 1
        scans += marker == _JPEG_SCAN
        if scans > MAX_SCANS:
            raise TooManyParts("scans", MAX_SCANS)
        if segments > MAX_SEGMENTS:
            raise TooManyParts("segments", MAX_SEGMENTS)
        place += max(2, int.from_bytes(data[place : place + 2], "big"))


def check_webp(data: bytes) -> None:
    """Count the chunks of a RIFF file.

    Raises:
        TooManyParts: there are more than `MAX_CHUNKS`.
    """
    place, chunks = 12, 0
    while place + 8 <= len(data):
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise TooManyParts("chunks", MAX_CHUNKS)
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8 + size + size % 2


def png_essentials(data: bytes) -> tuple[bytes, bytes | None]:
    """Leave out of a PNG what is not needed to show its first picture.

    Ancillary chunks are passed over, however large or damaged they are: texts, times, gamma, animations, private
    ones. Transparency and orientation stay where their checksums are right. What cannot be followed stays as it is.

    Returns:
        The file with the other chunks, and the colour profile, decompressed; None where there is none that can be
        used.

    Raises:
        TooManyParts: there are more than `MAX_CHUNKS`.
    """
    view = memoryview(data)
    kept, profile = [view[:_PNG_SIGNATURE_BYTES]], None
    place, chunks = _PNG_SIGNATURE_BYTES, 0
    while place + 8 <= len(data):
        end = place + _CHUNK_FRAME_BYTES + int.from_bytes(data[place : place + 4], "big")
        name, chunk = data[place + 4 : place + 8], view[place:end]
        if not name.isalpha():
            kept.append(view[place:])
            break
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise TooManyParts("chunks", MAX_CHUNKS)
        if name[:1].isupper() or (name in _PNG_CANDIDATES and _is_whole(chunk) and _matters(name, chunk)):
            kept.append(chunk)
        elif name == b"iCCP" and _is_whole(chunk):
            profile = _profile(bytes(chunk[8:-4]))
        place = end
        if name == b"IEND":
            break
    else:
        kept.append(view[place:])
    return b"".join(kept), profile


def _is_whole(chunk: memoryview) -> bool:
    """Whether all of a chunk is there and its checksum is right."""
    length = int.from_bytes(chunk[:4], "big")
    return len(chunk) == length + _CHUNK_FRAME_BYTES and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _matters(name: bytes, chunk: memoryview) -> bool:
    """Whether an ancillary chunk is needed; of texts, those that may hold the orientation."""
    if name not in _PNG_TEXTS:
        return True
    keyword = bytes(chunk[8 : 8 + 80]).partition(b"\0")[0]
    if keyword not in _PNG_KEYWORDS or len(chunk) > MAX_TEXT_BYTES:
        return False
    content = bytes(chunk[8 + len(keyword) + 1 : -4])
    if name == b"iTXt":
        text = content[2:].split(b"\0", 2)[-1]  # behind a language and a translated keyword
        return content[:1] != b"\1" or _inflated(text, MAX_TEXT_BYTES) is not None
    return name == b"tEXt" or _inflated(content[1:], MAX_TEXT_BYTES) is not None


def _profile(content: bytes) -> bytes | None:
    """The profile of an iCCP chunk: a name, a zero, the method 0, and then the compressed profile."""
    _, _, rest = content.partition(b"\0")
    return _inflated(rest[1:], MAX_PROFILE_BYTES) if rest[:1] == b"\0" else None


def _inflated(data: bytes, most: int) -> bytes | None:
    """What was compressed; None where it is damaged or larger than `most` bytes."""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(data, most)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else found
