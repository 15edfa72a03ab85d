import io
import re
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageOps

from easyanim_server.errors import InvalidArgument
from easyanim_server.job import Bucket, FitPolicy
from easyanim_server.rpc import picture

FORMATS = ("PNG", "JPEG", "WEBP")
COFFEE = Path(__file__).parents[2] / "examples" / "coffee.jpg"
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


# What is read


@every_form
def test_a_picture_is_read_as_rgb(form):
    image = load(encode(quarters(), form))

    assert largest_difference(image, quarters()) <= (8 if form == "JPEG" else 0)


def test_the_example_photograph_is_read():
    image = load(COFFEE.read_bytes())

    assert (image.mode, image.size) == ("RGB", (600, 400))


@pytest.mark.parametrize("orientation", range(1, 9))
@every_form
def test_exif_orientation_is_applied(form, orientation):
    undone = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose's numbers
    stored = quarters() if undone is None else quarters().transpose(undone)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, form, exif=exif)

    image = load(data)

    assert largest_difference(image, quarters()) <= (8 if form == "JPEG" else 0)
    assert largest_difference(image, ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")) == 0


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_unknown_orientation_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation

    assert largest_difference(load(encode(quarters(), exif=exif)), quarters()) == 0


def test_a_broken_exif_block_is_passed_over():
    assert largest_difference(load(encode(quarters(), exif=b"Exif\0\0II*\0\xff\xff")), quarters()) == 0


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_fewer_colours_become_rgb(mode):
    stored = quarters().convert(mode)

    assert largest_difference(load(encode(stored)), stored.convert("RGB")) == 0


def test_a_grey_jpeg_becomes_rgb():
    image = load(encode(Image.new("L", (32, 32), 77), "JPEG"))

    assert image.getextrema() == ((77, 77),) * 3


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (128, 0), (129, 1), (257, 1), (32768, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(level, expected):
    image = load(encode(Image.new("I;16", (16, 16), level)))

    assert image.getpixel((8, 8)) == (expected,) * 3


def test_16_bit_grey_that_is_transparent_becomes_black():
    data = bytearray(encode(Image.new("I;16", (16, 16), 40000)))
    data[33:33] = chunk(b"tRNS", struct.pack(">H", 40000))

    assert load(bytes(data)).getpixel((8, 8)) == (0, 0, 0)


def test_16_bit_colours_lose_their_lower_half():
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x12FF, 0x8000, 0xFF00) * 16 for _ in range(16))

    assert load(png(16, 16, depth=16, colour=2, rows=rows)).getpixel((8, 8)) == (0x12, 0x80, 0xFF)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparency_is_laid_on_black(form):
    stored = quarters().convert("RGBA")
    stored.putalpha(Image.linear_gradient("L").resize(stored.size))
    black = Image.new("RGBA", stored.size, "black")

    image = load(encode(stored, form, **({"exact": True} if form == "WEBP" else {})))

    assert largest_difference(image, Image.alpha_composite(black, stored).convert("RGB")) <= 1


def test_grey_with_transparency_is_laid_on_black():
    stored = Image.merge("LA", [Image.new("L", (16, 16), 200), Image.new("L", (16, 16), 64)])

    assert load(encode(stored)).getpixel((8, 8)) == (50, 50, 50)


@pytest.mark.parametrize("levels", [b"\0\x80\xff\xff", 0], ids=["levels", "one-colour"])
def test_a_palette_with_transparency_is_laid_on_black(levels):
    stored = Image.new("P", (64, 48))
    stored.putpalette([*RED, *GREEN, *BLUE, *YELLOW])
    stored.paste(1, (32, 0, 64, 24))
    stored.paste(2, (0, 24, 32, 48))
    stored.paste(3, (32, 24, 64, 48))

    found = corners(load(encode(stored, transparency=levels)))

    assert found == [(0, 0, 0), (0, 128, 0) if levels else GREEN, BLUE, YELLOW]


@pytest.mark.parametrize(("mode", "key"), [("1", 255), ("L", 255), ("RGB", (255, 255, 255))])
def test_a_transparent_colour_becomes_black(mode, key):
    stored = Image.new(mode, (16, 16), "white")

    assert load(encode(stored, transparency=key)).getpixel((8, 8)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ink", "expected"), [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), RED), ((0, 0, 0, 255), (0, 0, 0))]
)
def test_a_cmyk_jpeg_has_its_colours(ink, expected):
    found = load(encode(Image.new("CMYK", (32, 32), ink), "JPEG")).getpixel((16, 16))

    assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) <= 2


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(form):
    data = encode(quarters(), form, save_all=True, append_images=[Image.new("RGB", (64, 48), "white")], duration=100)

    assert largest_difference(load(data), quarters()) == 0


def swapped_profile():
    """An RGB profile whose red primary is sRGB's green and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@every_form
def test_an_embedded_profile_is_converted_to_srgb(form):
    image = load(encode(quarters(), form, icc_profile=swapped_profile()))

    expected = [GREEN, RED, BLUE, YELLOW]
    assert all(
        abs(one - other) <= 10
        for colour, wanted in zip(corners(image), expected, strict=True)
        for one, other in zip(colour, wanted, strict=True)
    )


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert largest_difference(load(encode(quarters(), icc_profile=profile)), quarters()) == 0


@pytest.mark.parametrize("profile", [b"nonsense", swapped_profile()[:300]], ids=["nonsense", "cut"])
@every_form
def test_a_broken_profile_is_passed_over(form, profile):
    image = load(encode(quarters(), form, icc_profile=profile))

    assert largest_difference(image, quarters()) <= (8 if form == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_profile_for_other_colours_is_passed_over(mode):
    stored = Image.new(mode, (32, 32))

    with_profile, without = (load(encode(stored, "JPEG", icc_profile=profile)) for profile in (swapped_profile(), None))

    assert largest_difference(with_profile, without) == 0


def test_threads_do_not_disturb_each_other():
    data = [encode(grain(), form, icc_profile=swapped_profile()) for form in FORMATS] * 20
    expected = [load(item).tobytes() for item in data]

    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(load, data)] == expected


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_pillows_own_limit_is_neither_asked_nor_changed(form, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    assert load(encode(quarters(), form)).size == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 100


# What is refused


def png(width, height, *, depth=8, colour=2, rows=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_no_bytes_are_refused():
    assert refusal(b"") == "is empty; must be a PNG, JPEG or WebP file"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encode(quarters(), "GIF"), "a GIF"),
        (encode(quarters(), "BMP"), "a BMP"),
        (encode(quarters(), "TIFF"), "a TIFF"),
        (encode(quarters(), "ICO"), "an icon"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF"),
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
def test_another_kind_of_file_is_named(data, name):
    assert refusal(data) == f"is {name}; must be a PNG, JPEG or WebP file"


def test_unknown_bytes_are_shown():
    assert refusal(b"hello world") == (
        "starts with the bytes 68 65 6c 6c 6f 20 77 6f, 11 in all; must be a PNG, JPEG or WebP file"
    )


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@every_form
def test_a_truncated_picture_is_refused_when_it_is_loaded(form, part):
    data = encode(grain(), form)

    name = {"WEBP": "WebP"}.get(form, form)
    assert re.fullmatch(
        rf"is a {name} that cannot be decoded \(.+\); must be a whole file", refusal(data[: int(len(data) * part)])
    )


@pytest.mark.parametrize("side", [12_000, 30_000], ids=["where-pillow-warns", "where-pillow-raises"])
def test_too_many_pixels_are_refused_before_decoding(side):
    assert refusal(png(side, side)) == f"is {side}x{side}, {side**2} pixels; must have at most 10000000"


@pytest.mark.parametrize("compressed", [b"VP8X", b"VP8L", b"VP8 "])
def test_too_many_pixels_of_a_webp_are_refused_before_its_canvas_exists(compressed):
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
def test_the_limit_of_pixels_is_inclusive(form):
    data = encode(quarters(64, 48), form)

    assert load(data, max_pixels=64 * 48).size == (64, 48)
    assert refusal(data, max_pixels=64 * 48 - 1) == "is 64x48, 3072 pixels; must have at most 3071"


@every_form
def test_a_tiny_picture_is_refused(form):
    assert load(encode(Image.new("RGB", (16, 16)), form)).size == (16, 16)
    assert refusal(encode(Image.new("RGB", (64, 15)), form)) == "is 64x15; must have at least 16 pixels on each side"


@pytest.mark.parametrize("size", [(201, 20), (20, 201)])
@every_form
def test_an_extreme_aspect_is_refused(form, size):
    longest = (size[0] // 201 * 180 + 20, size[1] // 201 * 180 + 20)
    assert load(encode(Image.new("RGB", longest), form)).size == longest
    assert refusal(encode(Image.new("RGB", size), form)) == (
        f"is {size[0]}x{size[1]}; one side must be at most 10 times as long as the other"
    )


def refused_or_read(data):
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
def test_arbitrary_bytes_raise_nothing_else(start, rest):
    refused_or_read(start + rest)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.floats(0.1, 1),
)
def test_damaged_files_raise_nothing_else(seed, changes, keep):
    data = bytearray(seed)
    for place, value in changes:
        # Squared: most of what can go wrong stands at the front.
        data[int(place**2 * len(data))] = value

    refused_or_read(bytes(data[: int(keep * len(data))]))


# How it is fitted


@pytest.mark.parametrize("bucket", ["96x160", "160x96", "384x672", "128x128"])
def test_stretching_is_pillows_plain_resize(bucket):
    image, bucket = grain(300, 200), Bucket.parse(bucket)

    fitted = picture.fit(image, bucket, FitPolicy.STRETCH)

    assert (fitted.width, fitted.height) == (bucket.width, bucket.height)
    assert fitted.rgb == image.resize((bucket.width, bucket.height)).tobytes()


@pytest.mark.parametrize("size", [(160, 96), (80, 48), (1600, 960)])
@pytest.mark.parametrize("policy", FitPolicy)
def test_every_policy_gives_the_same_where_the_aspect_fits(policy, size):
    image, bucket = grain(*size), Bucket.parse("96x160")

    assert picture.fit(image, bucket, policy).rgb == image.resize((160, 96)).tobytes()


def fitted(image, bucket, policy):
    result = picture.fit(image, Bucket.parse(bucket), policy)
    return Image.frombytes("RGB", (result.width, result.height), result.rgb)


def test_cropping_covers_the_frame_and_keeps_the_centre():
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("white", (150, 0, 250, 100))

    assert fitted(wide, "128x128", FitPolicy.CROP).resize((1, 1), box=(8, 8, 120, 120)).getpixel((0, 0)) == (255,) * 3
    assert fitted(wide.transpose(Image.Transpose.ROTATE_90), "128x128", FitPolicy.CROP).getpixel((64, 8)) == (255,) * 3


def test_padding_shows_everything_on_black():
    wide = fitted(Image.new("RGB", (400, 100), "white"), "128x128", FitPolicy.PAD)
    tall = fitted(Image.new("RGB", (100, 400), "white"), "128x128", FitPolicy.PAD)

    assert wide.getbbox() == (0, 48, 128, 80)
    assert tall.getbbox() == (48, 0, 80, 128)
    assert sorted(wide.getcolors()) == [(32 * 128, (255, 255, 255)), (96 * 128, (0, 0, 0))]


@pytest.mark.parametrize("policy", FitPolicy)
def test_shrinking_is_antialiased(policy):
    board = Image.new("L", (1680, 960))
    board.putdata([255 * ((x + y) % 2) for y in range(960) for x in range(1680)])

    levels = fitted(board.convert("RGB"), "96x160", policy).crop((20, 20, 140, 76)).getextrema()

    assert all(120 <= low <= high <= 135 for low, high in levels)


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(16, 300),
    height=st.integers(16, 300),
    bucket=st.sampled_from([Bucket(96, 160, 1), Bucket(160, 96, 1), Bucket(48, 336, 1), Bucket(16, 16, 1)]),
    policy=st.sampled_from(FitPolicy),
)
def test_every_size_fits_every_bucket(width, height, bucket, policy):
    fitted = picture.fit(Image.new("RGB", (width, height), "white"), bucket, policy)

    assert len(fitted.rgb) == bucket.width * bucket.height * 3
    assert fitted.rgb.count(b"\xff") >= (0.02 if policy is FitPolicy.PAD else 1) * len(fitted.rgb)


def test_fitting_leaves_the_picture_as_it_is():
    image = grain()
    before = image.tobytes()

    for policy in FitPolicy:
        picture.fit(image, Bucket(96, 160, 1), policy)

    assert (image.size, image.tobytes()) == ((64, 48), before)


def test_the_module_is_light():
    code = "import sys, easyanim_server.rpc.picture; print({'numpy', 'torch', 'av'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
