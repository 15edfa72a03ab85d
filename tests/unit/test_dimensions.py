"""A picture's size from its header, held against Pillow's."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from easyanim_client.dimensions import picture_size
from tests.e2e.processes import ROOT

SIZES = [(96, 64), (17, 300), (640, 16)]


def picture(form: str, size: tuple[int, int], **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA" if options.pop("alpha", False) else "RGB", size, "teal").save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("PNG", {"alpha": True}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "comment": b"x" * 500}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"alpha": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
    ],
    ids=str,
)
def test_the_size_is_pillows(form: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    assert picture_size(picture(form, size, **options)) == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_turned_photograph_has_the_size_that_is_seen(orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    data = picture("JPEG", (96, 64), exif=exif)

    with Image.open(io.BytesIO(data)) as image:
        assert picture_size(data) == ImageOps.exif_transpose(image).size


def test_the_example_photograph_has_its_size() -> None:
    file = ROOT / "examples" / "coffee.jpg"
    with Image.open(file) as image:
        assert picture_size(file.read_bytes()) == image.size


@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF....WEBPVP8X"]), st.binary(max_size=80))
def test_a_damaged_header_has_a_positive_size_or_none(start: bytes, rest: bytes) -> None:
    size = picture_size(start + rest)

    assert size is None or min(size) > 0
