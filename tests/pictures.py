"""Pictures as files, and what the server makes of them."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageCms

from easyanim_server.domain.errors import InvalidArgument
from easyanim_server.media import picture

FORMATS = ("PNG", "JPEG", "WEBP")
COFFEE = Path(__file__).parents[1] / "examples" / "coffee.jpg"
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)

every_form = pytest.mark.parametrize("form", FORMATS)


def quarters(width=64, height=48):
    """Red, green; blue, yellow: no two of the eight orientations look alike."""
    image = Image.new("RGB", (width, height))
    for number, colour in enumerate((RED, GREEN, BLUE, YELLOW)):
        row, column = divmod(number, 2)
        box = (column * width // 2, row * height // 2, (column + 1) * width // 2, (row + 1) * height // 2)
        image.paste(colour, box)
    return image


def grain(width=64, height=48, mode="RGB"):
    return Image.effect_noise((width, height), 60).convert(mode)


def encode(image, form="PNG", **options):
    if form == "JPEG":
        options = {"quality": 95, "subsampling": 0} | options
    elif form == "WEBP":
        options = {"lossless": True} | options
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def load(data, max_pixels=10_000_000):
    return picture.load(data, "start_image", max_pixels=max_pixels)


def refusal(data, **options):
    with pytest.raises(InvalidArgument) as caught:
        load(data, **options)
    (violation,) = caught.value.violations
    assert violation.field == "start_image"
    return violation.description


def largest_difference(one, other):
    assert (one.mode, one.size) == (other.mode, other.size)
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def corners(image):
    width, height = image.size
    return [image.getpixel((x, y)) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]


def swapped_profile():
    """An RGB profile whose red primary is sRGB's green and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def png(width, height, *, depth=8, colour=2, rows=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
