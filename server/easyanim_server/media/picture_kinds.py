"""Which kinds of picture files there are, and which of them this server reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import NoReturn

from PIL import ImageFile

Refuse = Callable[[str], NoReturn]
"""Ends with a sentence on what is wrong with a file."""

MEDIA_TYPES: Mapping[str, str] = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WebP": "image/webp",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
}
"""Of every kind that a server may read."""

_LACKS = {
    "AVIF": "with a Pillow that has AVIF, which the wheels of 11.3 and newer have",
    "HEIC": "with its extra heif (the package pillow-heif)",
}
"""What a server needs to read the others."""

_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_COMMON_BRANDS = frozenset((b"mif1", b"msf1"))
"""Of files that may be either; the compatible brands tell."""
_MAX_BRANDS_BYTES = 256

_OTHER_FILES = (
    # Offset, bytes, name. More telling signatures come first.
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (4, b"ftyp", "an MP4 or MOV video"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "XML text"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"data:image/", "a data URL, not the file's own bytes"),
    (0, b"iVBORw0KGgo", "base64 text, not the file's own bytes"),
    (0, b"/9j/", "base64 text, not the file's own bytes"),
    (0, b"UklGR", "base64 text, not the file's own bytes"),
    (0, b"http", "an address, not the file's own bytes"),
)


@cache
def readable() -> tuple[str, ...]:
    """The kinds that this installation reads, by the names of `MEDIA_TYPES`."""
    missing = set()
    try:
        from PIL import AvifImagePlugin

        if not AvifImagePlugin.SUPPORTED:
            missing.add("AVIF")
    except ImportError:
        missing.add("AVIF")
    if find_spec("pillow_heif") is None:
        missing.add("HEIC")
    return tuple(name for name in MEDIA_TYPES if name not in missing)


def allowed() -> str:
    """What a picture must be, for the end of a refusal."""
    *some, last = readable()
    return f"must be a {', '.join(some)} or {last} file"


def recognise(data: bytes, refuse: Refuse) -> str:
    """The kind of a file by its first bytes, one of `readable`; refuses others by their name."""
    name = _kind(data)
    if name in readable():
        return name
    if name:
        refuse(f"is {'an' if name == 'AVIF' else 'a'} {name}, which this server reads only {_LACKS[name]}; {allowed()}")
    if not data:
        refuse(f"is empty; {allowed()}")
    for offset, signature, other in _OTHER_FILES:
        if data.startswith(signature, offset):
            refuse(f"is {other}; {allowed()}")
    refuse(f"starts with the bytes {data[:8].hex(' ')}, {len(data)} in all; {allowed()}")


def heif_reader(name: str) -> type[ImageFile.ImageFile]:
    """Pillow's class for AVIF or HEIC files, which has one thread and leaves out what is not shown."""
    if name == "AVIF":
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        return AvifImagePlugin.AvifImageFile
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False
    reader: type[ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return reader


def _kind(data: bytes) -> str:
    """A name of `MEDIA_TYPES`; empty for other files."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), _MAX_BRANDS_BYTES)
        brand, compatible = data[8:12], {data[place : place + 4] for place in range(16, size, 4)}
        if brand in _AVIF_BRANDS or (brand in _COMMON_BRANDS and compatible & _AVIF_BRANDS):
            return "AVIF"
        if brand in _HEIC_BRANDS | _COMMON_BRANDS:
            return "HEIC"
    return ""
