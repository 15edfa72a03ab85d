"""Files that are no pictures, or too much of one, are refused by what is wrong with them."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from easyanim_server.domain.errors import InvalidArgument
from easyanim_server.media import picture_kinds, picture_scan
from tests.pictures import (
    FORMATS,
    encode,
    every_form,
    grain,
    load,
    png,
    png_chunks,
    quarters,
    refusal,
    scans,
    segments,
    swapped_profile,
    webp_chunks,
)


def test_no_bytes_are_refused() -> None:
    assert refusal(b"") == "is empty; must be a PNG, JPEG, WebP, AVIF or HEIC file"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encode(quarters(), "GIF"), "a GIF"),
        (encode(quarters(), "BMP"), "a BMP"),
        (encode(quarters(), "TIFF"), "a TIFF"),
        (encode(quarters(), "ICO"), "an icon"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "an MP4 or MOV video"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"data:image/png;base64,iVBORw0KGgo", "a data URL, not the file's own bytes"),
        (b"/9j/4AAQSkZJRgABAQ", "base64 text, not the file's own bytes"),
        (b"https://example.com/cat.png", "an address, not the file's own bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_kind_of_file_is_named(data: bytes, name: str) -> None:
    assert refusal(data) == f"is {name}; {picture_kinds.allowed()}"


def test_unknown_bytes_are_shown() -> None:
    assert refusal(b"hello world") == (
        f"starts with the bytes 68 65 6c 6c 6f 20 77 6f, 11 in all; {picture_kinds.allowed()}"
    )


@pytest.mark.parametrize(
    ("data", "name", "what"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC", "a HEIC, which this server reads only with its extra heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC", "a HEIC, which this server reads only with its extra heif"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF", "an AVIF, which this server reads only with a Pillow that has AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF", "an AVIF, which this server reads only with a Pillow"),
    ],
)
def test_a_kind_that_is_not_installed_is_refused_with_what_it_needs(
    data: bytes, name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = tuple(kind for kind in picture_kinds.MEDIA_TYPES if kind != name)
    monkeypatch.setattr(picture_kinds, "readable", lambda: kinds)

    description = refusal(data)

    assert description.startswith(f"is {what}")
    assert description.endswith(picture_kinds.allowed())


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (scans(picture_scan.MAX_SCANS + 1), "is a JPEG that has more than 500 scans; must have at most 500"),
        (segments(picture_scan.MAX_SEGMENTS), "is a JPEG that has more than 10000 segments; must have at most 10000"),
        (png_chunks(picture_scan.MAX_CHUNKS), "is a PNG that has more than 50000 chunks; must have at most 50000"),
        (webp_chunks(picture_scan.MAX_CHUNKS), "is a WebP that has more than 50000 chunks; must have at most 50000"),
    ],
    ids=["scans", "segments", "png", "webp"],
)
def test_a_file_of_more_parts_than_a_picture_needs_is_refused_undecoded(data: bytes, what: str) -> None:
    assert refusal(data) == what


@pytest.mark.parametrize(
    "data",
    [scans(picture_scan.MAX_SCANS), segments(5_000), png_chunks(5_000), webp_chunks(5_000)],
    ids=["scans", "segments", "png", "webp"],
)
def test_a_file_of_many_parts_is_read(data: bytes) -> None:
    assert load(data).size == (64, 48)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@every_form
def test_a_truncated_picture_is_refused_when_it_is_loaded(form: str, part: float) -> None:
    data = encode(grain(), form)

    name = {"WEBP": "WebP", "HEIF": "HEIC"}.get(form, form)
    assert re.fullmatch(
        rf"is a {name} that cannot be decoded \(.+\); must be a whole file", refusal(data[: int(len(data) * part)])
    )


@pytest.mark.parametrize("side", [12_000, 30_000], ids=["where-pillow-warns", "where-pillow-raises"])
def test_too_many_pixels_are_refused_before_decoding(side: int) -> None:
    assert refusal(png(side, side)) == f"is {side}x{side}, {side**2} pixels; must have at most 10000000"


@pytest.mark.parametrize("compressed", [b"VP8X", b"VP8L", b"VP8 "])
def test_too_many_pixels_of_a_webp_are_refused_before_its_canvas_exists(compressed: bytes) -> None:
    width, height = 16_000, 12_000
    content = {
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little"),
        b"VP8 ": b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height),
    }[compressed]
    body = b"WEBP" + compressed + struct.pack("<I", len(content)) + content

    assert refusal(b"RIFF" + struct.pack("<I", len(body)) + body) == (
        "is 16000x12000, 192000000 pixels; must have at most 10000000"
    )


@every_form
def test_the_limit_of_pixels_is_inclusive(form: str) -> None:
    data = encode(quarters(64, 48), form)

    assert load(data, max_pixels=64 * 48).size == (64, 48)
    assert refusal(data, max_pixels=64 * 48 - 1) == "is 64x48, 3072 pixels; must have at most 3071"


@every_form
def test_a_tiny_picture_is_refused(form: str) -> None:
    assert load(encode(Image.new("RGB", (16, 16)), form)).size == (16, 16)
    assert refusal(encode(Image.new("RGB", (64, 15)), form)) == "is 64x15; must have at least 16 pixels on each side"


@pytest.mark.parametrize("size", [(201, 20), (20, 201)])
@every_form
def test_an_extreme_aspect_is_refused(form: str, size: tuple[int, int]) -> None:
    longest = (size[0] // 201 * 180 + 20, size[1] // 201 * 180 + 20)
    assert load(encode(Image.new("RGB", longest), form)).size == longest
    assert refusal(encode(Image.new("RGB", size), form)) == (
        f"is {size[0]}x{size[1]}; one side must be at most 10 times as long as the other"
    )


def refused_or_read(data: bytes) -> None:
    try:
        mode = load(data).mode
    except InvalidArgument:
        mode = "refused"

    assert mode in ("RGB", "refused")


SEEDS = [
    *(encode(grain(), form) for form in FORMATS),
    encode(grain(mode="P"), transparency=3),
    encode(Image.new("I;16", (16, 16), 40000), icc_profile=swapped_profile()),
    encode(
        quarters(), "JPEG", icc_profile=swapped_profile(), exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"
    ),
    encode(quarters(), "WEBP", save_all=True, append_images=[grain()], duration=100),
    encode(quarters(), "PNG", save_all=True, append_images=[grain()], duration=100),
]


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBP"]),
    rest=st.binary(max_size=400),
)
def test_arbitrary_bytes_raise_nothing_else(start: bytes, rest: bytes) -> None:
    refused_or_read(start + rest)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0.1, 1),
)
def test_damaged_files_raise_nothing_else(seed: bytes, changes: list[tuple[float, int]], keep: float) -> None:
    data = bytearray(seed)
    for place, value in changes:
        # Squared: most of what can go wrong stands at the front.
        data[int(place**2 * len(data))] = value

    refused_or_read(bytes(data[: int(keep * len(data))]))
