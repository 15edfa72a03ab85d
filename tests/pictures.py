"""Pictures as files, and what the server makes of them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms

from easyanim_server.domain.errors import InvalidArgument
from easyanim_server.media import picture

FORMATS = ("PNG", "JPEG", "WEBP")
COFFEE = Path(__file__).parents[1] / "examples" / "coffee.jpg"
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)

every_form = pytest.mark.parametrize("form", FORMATS)


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green; blue, yellow: no two of the eight orientations look alike."""
    image = Image.new("RGB", (width, height))
    for number, colour in enumerate((RED, GREEN, BLUE, YELLOW)):
        row, column = divmod(number, 2)
        box = (column * width // 2, row * height // 2, (column + 1) * width // 2, (row + 1) * height // 2)
        image.paste(colour, box)
    return image


def grain(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    return Image.effect_noise((width, height), 60).convert(mode)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    if form == "JPEG":
        options = {"quality": 95, "subsampling": 0} | options
    elif form == "WEBP":
        options = {"lossless": True} | options
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def load(data: bytes, max_pixels: int = 10_000_000, **options: Any) -> Image.Image:
    return picture.load(data, "start_image", max_pixels=max_pixels, **options)


def refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        load(data, **options)
    (violation,) = caught.value.violations
    assert violation.field == "start_image"
    return violation.description


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    assert (one.mode, one.size) == (other.mode, other.size)
    return max(ImageChops.difference(one, other).tobytes())


def corners(image: Image.Image) -> list[Any]:
    width, height = image.size
    return [image.getpixel((x, y)) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]


def swapped_profile() -> bytes:
    """An RGB profile whose red primary is sRGB's green and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def scans(count: int, width: int = 64, height: int = 48) -> bytes:
    """A grey progressive JPEG in which as many scans touch every block, and say nothing of it."""
    blocks = -(-width // 8) * -(-height // 8)
    run = 2**14 + 0b01010101010101
    bits = "0" + "01010101010101"  # the table's one code, and how long the run of empty blocks is
    data = bits * -(-blocks // run)
    data += "1" * (-len(data) % 8)
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + int(data, 2).to_bytes(len(data) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = b"\xff\xc2\0\x0b\x08" + struct.pack(">HH", height, width) + b"\1\1\x11\0"
    tables = b"\xff\xdb\0\x43\0" + b"\1" * 64 + b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\xe0"
    return b"\xff\xd8" + tables + frame + scan * count + b"\xff\xd9"


def segments(count: int) -> bytes:
    """A JPEG with as many empty comments."""
    data = encode(quarters(), "JPEG")
    return data[:2] + b"\xff\xfe\0\2" * count + data[2:]


def png_chunks(count: int) -> bytes:
    """A PNG with as many empty private chunks."""
    data = encode(quarters())
    return data[:33] + chunk(b"prVt", b"") * count + data[33:]


def webp_chunks(count: int) -> bytes:
    """A WebP file with as many empty chunks of an unknown kind."""
    data = encode(quarters(), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    data += b"none\0\0\0\0" * count
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
