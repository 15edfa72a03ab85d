"""What files may have or lack and are read all the same: large chunks, no end; phones' formats; what lies behind."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from easyanim_server.domain.job import Bucket, FitPolicy
from easyanim_server.media import picture, picture_kinds
from tests.pictures import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    chunk,
    corners,
    encode,
    grain,
    largest_difference,
    load,
    png,
    quarters,
    refusal,
    swapped_profile,
)

LARGE = 20 * 2**20
WHITE = (255, 255, 255)


def with_chunk(name: bytes, content: bytes, data: bytes | None = None, *, at_end: bool = False) -> bytes:
    """A PNG with one more chunk, before its pixels or behind them."""
    data = encode(quarters()) if data is None else data
    place = len(data) - 12 if at_end else 33
    return data[:place] + chunk(name, content) + data[place:]


@pytest.mark.parametrize("at_end", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"tEXt", b"prompt\0" + bytes(LARGE)),
        (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(LARGE))),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(LARGE))),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(LARGE))),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(LARGE))),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(LARGE))),
        (b"iCCP", b"profile\0\7" + zlib.compress(b"another method")),
        (b"gAMA", b"\0"),
        (b"pHYs", b"\0"),
        (b"acTL", b"\0"),
        (b"prVt", bytes(LARGE)),
    ],
)
def test_chunks_that_are_not_needed_are_passed_over(name: bytes, content: bytes, at_end: bool) -> None:
    assert largest_difference(load(with_chunk(name, content, at_end=at_end)), quarters()) == 0


def test_an_ancillary_chunk_with_a_wrong_checksum_is_passed_over() -> None:
    for name in (b"tEXt", b"tRNS", b"iCCP"):
        data = bytearray(with_chunk(name, b"name\0text"))
        data[33 + 8] ^= 1

        assert largest_difference(load(bytes(data)), quarters()) == 0


def test_a_large_profile_that_is_whole_is_used() -> None:
    profile = bytearray(swapped_profile()) + bytes(2 * 2**20)
    profile[:4] = struct.pack(">I", len(profile))

    found = corners(load(with_chunk(b"iCCP", b"large\0\0" + zlib.compress(bytes(profile)))))

    near = zip(found, (GREEN, RED, BLUE, YELLOW), strict=True)
    assert all(abs(one - other) <= 10 for colours in near for one, other in zip(*colours, strict=True))


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
def test_an_orientation_in_a_text_is_applied(name: bytes) -> None:
    exif = "\nexif\n      26\n" + b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0".hex() + "\n"
    xmp = '<rdf:Description tiff:Orientation="3"/>'
    content = {
        b"tEXt": b"Raw profile type exif\0" + exif.encode(),
        b"zTXt": b"Raw profile type exif\0\0" + zlib.compress(exif.encode()),
        b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp.encode()),
    }[name]

    assert corners(load(with_chunk(name, content))) == [YELLOW, BLUE, GREEN, RED]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}], ids=["", "progressive", "4:2:0"])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_end_is_read(lost: int, options: dict[str, Any]) -> None:
    data = encode(grain(), "JPEG", **options)

    assert largest_difference(load(data[:-lost]), load(data)) == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}], ids=["", "progressive", "4:2:0"])
@pytest.mark.parametrize("lost", [4, 10, 500])
def test_a_jpeg_without_its_last_pixels_is_refused(lost: int, options: dict[str, Any]) -> None:
    assert refusal(encode(grain(), "JPEG", **options)[:-lost]).endswith("must be a whole file")


def heic(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


def test_what_is_installed_here_is_readable() -> None:
    assert picture_kinds.readable() == ("PNG", "JPEG", "WebP", "AVIF", "HEIC")


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_phones_pictures_are_read(kind: str) -> None:
    data = heic(quarters()) if kind == "HEIC" else encode(quarters(), "AVIF", quality=100, subsampling="4:4:4")

    assert largest_difference(load(data), quarters()) <= 3
    assert refusal(data, max_pixels=64 * 48 - 1) == "is 64x48, 3072 pixels; must have at most 3071"
    assert refusal(data[: len(data) // 2]).startswith(f"is a {kind} that cannot be decoded")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_phones_pictures_are_turned_upright_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = (
        quarters() if orientation == 1 else quarters().transpose(Image.Transpose({3: 3, 6: 2, 8: 4}[orientation]))
    )  # Transpose's
    if kind == "HEIC":
        heif = pillow_heif.from_pillow(stored)
        heif.info["exif"] = exif.tobytes()
        file = io.BytesIO()
        heif.save(file, quality=-1, chroma=444)
        data = file.getvalue()
    else:
        data = encode(stored, "AVIF", quality=100, subsampling="4:4:4", exif=exif.tobytes())

    assert largest_difference(load(data), quarters()) <= 3


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_transparency_of_phones_pictures_is_laid_on_the_background(kind: str) -> None:
    stored = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    data = heic(stored) if kind == "HEIC" else encode(stored, "AVIF")

    assert corners(load(data, background="#ff0000")) == [RED] * 4


def half_clear(mode: str = "RGBA") -> Image.Image:
    """White, transparent on its left."""
    image = Image.new("RGBA", (64, 48), WHITE)
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    return image.convert(mode)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_the_background(form: str, mode: str) -> None:
    found = corners(load(encode(half_clear(mode), form), background="#ff0000"))

    assert found == [RED, WHITE, RED, WHITE]


@pytest.mark.parametrize(("mode", "key"), [("1", 255), ("L", 255), ("RGB", WHITE), ("P", 0)])
def test_a_transparent_colour_shows_the_background(mode: str, key: int | tuple[int, int, int]) -> None:
    stored = Image.new(mode, (16, 16), 0 if mode == "P" else "white")

    assert load(encode(stored, transparency=key), background="#00ff00").getpixel((8, 8)) == GREEN


def test_16_bit_grey_that_is_transparent_shows_the_background() -> None:
    data = with_chunk(b"tRNS", struct.pack(">H", 40000), encode(Image.new("I;16", (16, 16), 40000)))

    assert load(data, background="#0000ff").getpixel((8, 8)) == BLUE


def test_the_background_is_a_colour_of_srgb_whatever_the_pictures_profile() -> None:
    data = encode(half_clear(), icc_profile=swapped_profile())

    assert corners(load(data, background="#ff0000"))[0] == RED
    assert corners(load(data))[0] == (0, 0, 0)


def test_half_transparent_pixels_are_mixed_with_the_background() -> None:
    stored = Image.new("RGBA", (16, 16), (0, 0, 255, 51))

    assert load(encode(stored), background="#ff0000").getpixel((8, 8)) == (204, 0, 51)


def test_padding_has_the_background() -> None:
    fitted = picture.fit(Image.new("RGB", (400, 100), "white"), Bucket.parse("128x128x49"), FitPolicy.PAD, "#00ff00")

    image = Image.frombytes("RGB", (128, 128), fitted.rgb)
    assert sorted(image.getcolors() or []) == [(32 * 128, WHITE), (96 * 128, GREEN)]


def test_an_opaque_picture_does_not_show_the_background() -> None:
    for form in ("PNG", "JPEG", "WEBP"):
        data = encode(grain(), form)
        assert largest_difference(load(data), load(data, background="#ff0000")) == 0
    assert load(png(16, 16, rows=bytes(16 * 49)), background="#ff0000").getpixel((8, 8)) == (0, 0, 0)
