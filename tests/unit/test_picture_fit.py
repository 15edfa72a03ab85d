"""How a picture becomes the bucket's size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from easyanim_server.domain.job import Bucket, FitPolicy
from easyanim_server.media import picture
from tests.pictures import grain


def fitted(image: Image.Image, bucket: str, policy: FitPolicy) -> Image.Image:
    result = picture.fit(image, Bucket.parse(f"{bucket}x49"), policy)
    return Image.frombytes("RGB", (result.width, result.height), result.rgb)


@pytest.mark.parametrize("bucket", ["96x160", "160x96", "384x672", "128x128"])
def test_stretching_is_pillows_plain_resize(bucket: str) -> None:
    image, shape = grain(300, 200), Bucket.parse(f"{bucket}x49")

    fitted = picture.fit(image, shape, FitPolicy.STRETCH)

    assert (fitted.width, fitted.height) == (shape.width, shape.height)
    assert fitted.rgb == image.resize((shape.width, shape.height)).tobytes()


@pytest.mark.parametrize("size", [(160, 96), (80, 48), (1600, 960)])
@pytest.mark.parametrize("policy", FitPolicy)
def test_every_policy_gives_the_same_where_the_aspect_fits(policy: FitPolicy, size: tuple[int, int]) -> None:
    image, bucket = grain(*size), Bucket.parse("96x160x49")

    assert picture.fit(image, bucket, policy).rgb == image.resize((160, 96)).tobytes()


def test_cropping_covers_the_frame_and_keeps_the_centre() -> None:
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("white", (150, 0, 250, 100))

    assert fitted(wide, "128x128", FitPolicy.CROP).resize((1, 1), box=(8, 8, 120, 120)).getpixel((0, 0)) == (255,) * 3
    assert fitted(wide.transpose(Image.Transpose.ROTATE_90), "128x128", FitPolicy.CROP).getpixel((64, 8)) == (255,) * 3


def test_padding_shows_everything_on_black() -> None:
    wide = fitted(Image.new("RGB", (400, 100), "white"), "128x128", FitPolicy.PAD)
    tall = fitted(Image.new("RGB", (100, 400), "white"), "128x128", FitPolicy.PAD)

    assert wide.getbbox() == (0, 48, 128, 80)
    assert tall.getbbox() == (48, 0, 80, 128)
    assert sorted(wide.getcolors() or []) == [(32 * 128, (255, 255, 255)), (96 * 128, (0, 0, 0))]


@pytest.mark.parametrize("policy", FitPolicy)
def test_shrinking_is_antialiased(policy: FitPolicy) -> None:
    board = Image.new("L", (1680, 960))
    board.putdata([255 * ((x + y) % 2) for y in range(960) for x in range(1680)])

    levels = fitted(board.convert("RGB"), "96x160", policy).crop((20, 20, 140, 76)).tobytes()

    assert 120 <= min(levels) <= max(levels) <= 135


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(16, 300),
    height=st.integers(16, 300),
    bucket=st.sampled_from([Bucket(96, 160, 1), Bucket(160, 96, 1), Bucket(48, 336, 1), Bucket(16, 16, 1)]),
    policy=st.sampled_from(FitPolicy),
)
def test_every_size_fits_every_bucket(width: int, height: int, bucket: Bucket, policy: FitPolicy) -> None:
    fitted = picture.fit(Image.new("RGB", (width, height), "white"), bucket, policy)

    assert len(fitted.rgb) == bucket.width * bucket.height * 3
    scale = min(bucket.width / width, bucket.height / height)
    shown = 3 * round(width * scale) * round(height * scale)
    assert fitted.rgb.count(b"\xff") == (shown if policy is FitPolicy.PAD else len(fitted.rgb))


def test_fitting_leaves_the_picture_as_it_is() -> None:
    image = grain()
    before = image.tobytes()

    for policy in FitPolicy:
        picture.fit(image, Bucket(96, 160, 1), policy)

    assert (image.size, image.tobytes()) == ((64, 48), before)
