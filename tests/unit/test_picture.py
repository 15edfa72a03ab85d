"""What is read of a picture: its colours, upright, on black, in sRGB."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, ImageCms, ImageOps

from tests.pictures import (
    BLUE,
    COFFEE,
    FORMATS,
    GREEN,
    RED,
    YELLOW,
    chunk,
    corners,
    encode,
    every_form,
    grain,
    largest_difference,
    load,
    png,
    quarters,
    swapped_profile,
)


@every_form
def test_a_picture_is_read_as_rgb(form: str) -> None:
    image = load(encode(quarters(), form))

    assert largest_difference(image, quarters()) <= (8 if form == "JPEG" else 0)


def test_the_example_photograph_is_read() -> None:
    image = load(COFFEE.read_bytes())

    assert (image.mode, image.size) == ("RGB", (600, 400))


@pytest.mark.parametrize("orientation", range(1, 9))
@every_form
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    undone = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose's numbers
    stored = quarters() if undone is None else quarters().transpose(Image.Transpose(undone))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, form, exif=exif)

    image = load(data)

    assert largest_difference(image, quarters()) <= (8 if form == "JPEG" else 0)
    assert largest_difference(image, ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")) == 0


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_unknown_orientation_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation

    assert largest_difference(load(encode(quarters(), exif=exif)), quarters()) == 0


def test_a_broken_exif_block_is_passed_over() -> None:
    assert largest_difference(load(encode(quarters(), exif=b"Exif\0\0II*\0\xff\xff")), quarters()) == 0


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_fewer_colours_become_rgb(mode: str) -> None:
    stored = quarters().convert(mode)

    assert largest_difference(load(encode(stored)), stored.convert("RGB")) == 0


def test_a_grey_jpeg_becomes_rgb() -> None:
    image = load(encode(Image.new("L", (32, 32), 77), "JPEG"))

    assert image.getextrema() == ((77, 77),) * 3


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (128, 0), (129, 1), (257, 1), (32768, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(level: int, expected: int) -> None:
    image = load(encode(Image.new("I;16", (16, 16), level)))

    assert image.getpixel((8, 8)) == (expected,) * 3


def test_16_bit_grey_that_is_transparent_becomes_black() -> None:
    data = bytearray(encode(Image.new("I;16", (16, 16), 40000)))
    data[33:33] = chunk(b"tRNS", struct.pack(">H", 40000))

    assert load(bytes(data)).getpixel((8, 8)) == (0, 0, 0)


def test_16_bit_colours_lose_their_lower_half() -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x12FF, 0x8000, 0xFF00) * 16 for _ in range(16))

    assert load(png(16, 16, depth=16, colour=2, rows=rows)).getpixel((8, 8)) == (0x12, 0x80, 0xFF)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparency_is_laid_on_black(form: str) -> None:
    stored = quarters().convert("RGBA")
    stored.putalpha(Image.linear_gradient("L").resize(stored.size))
    black = Image.new("RGBA", stored.size, "black")

    image = load(encode(stored, form, **({"exact": True} if form == "WEBP" else {})))

    assert largest_difference(image, Image.alpha_composite(black, stored).convert("RGB")) <= 1


def test_grey_with_transparency_is_laid_on_black() -> None:
    stored = Image.merge("LA", [Image.new("L", (16, 16), 200), Image.new("L", (16, 16), 64)])

    assert load(encode(stored)).getpixel((8, 8)) == (50, 50, 50)


@pytest.mark.parametrize("levels", [b"\0\x80\xff\xff", 0], ids=["levels", "one-colour"])
def test_a_palette_with_transparency_is_laid_on_black(levels: bytes | int) -> None:
    stored = Image.new("P", (64, 48))
    stored.putpalette([*RED, *GREEN, *BLUE, *YELLOW])
    stored.paste(1, (32, 0, 64, 24))
    stored.paste(2, (0, 24, 32, 48))
    stored.paste(3, (32, 24, 64, 48))

    found = corners(load(encode(stored, transparency=levels)))

    assert found == [(0, 0, 0), (0, 128, 0) if levels else GREEN, BLUE, YELLOW]


@pytest.mark.parametrize(("mode", "key"), [("1", 255), ("L", 255), ("RGB", (255, 255, 255))])
def test_a_transparent_colour_becomes_black(mode: str, key: int | tuple[int, int, int]) -> None:
    stored = Image.new(mode, (16, 16), "white")

    assert load(encode(stored, transparency=key)).getpixel((8, 8)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ink", "expected"), [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), RED), ((0, 0, 0, 255), (0, 0, 0))]
)
def test_a_cmyk_jpeg_has_its_colours(ink: tuple[int, int, int, int], expected: tuple[int, int, int]) -> None:
    found = load(encode(Image.new("CMYK", (32, 32), ink), "JPEG")).getpixel((16, 16))

    assert isinstance(found, tuple)
    assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) <= 2


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(form: str) -> None:
    data = encode(quarters(), form, save_all=True, append_images=[Image.new("RGB", (64, 48), "white")], duration=100)

    assert largest_difference(load(data), quarters()) == 0


@every_form
def test_an_embedded_profile_is_converted_to_srgb(form: str) -> None:
    image = load(encode(quarters(), form, icc_profile=swapped_profile()))

    expected = [GREEN, RED, BLUE, YELLOW]
    assert all(
        abs(one - other) <= 10
        for colour, wanted in zip(corners(image), expected, strict=True)
        for one, other in zip(colour, wanted, strict=True)
    )


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert largest_difference(load(encode(quarters(), icc_profile=profile)), quarters()) == 0


@pytest.mark.parametrize("profile", [b"nonsense", swapped_profile()[:300]], ids=["nonsense", "cut"])
@every_form
def test_a_broken_profile_is_passed_over(form: str, profile: bytes) -> None:
    image = load(encode(quarters(), form, icc_profile=profile))

    assert largest_difference(image, quarters()) <= (8 if form == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_profile_for_other_colours_is_passed_over(mode: str) -> None:
    stored = Image.new(mode, (32, 32))

    with_profile, without = (load(encode(stored, "JPEG", icc_profile=profile)) for profile in (swapped_profile(), None))

    assert largest_difference(with_profile, without) == 0


def test_threads_do_not_disturb_each_other() -> None:
    data = [encode(grain(), form, icc_profile=swapped_profile()) for form in FORMATS] * 20
    expected = [load(item).tobytes() for item in data]

    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(load, data)] == expected


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_pillows_own_limit_is_neither_asked_nor_changed(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    assert load(encode(quarters(), form)).size == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_module_is_light() -> None:
    code = "import sys, easyanim_server.media.picture; print({'numpy', 'torch', 'av'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
