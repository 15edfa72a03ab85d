"""Requests from friendly arguments, without a channel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from easyanim.v1 import video_pb2 as pb
from easyanim_client.errors import InvalidRequest, MessageTooLarge
from easyanim_client.request import build_request, check_size


def test_a_prompt_alone_leaves_every_choice_but_the_fit_to_the_server() -> None:
    assert build_request("a cat") == pb.GenerateRequest(prompt="a cat", fit_policy=pb.FIT_POLICY_CROP)


@pytest.mark.parametrize("form", ["bytes", "str", "path", "file"])
def test_a_picture_may_be_bytes_a_path_or_a_file(tmp_path: Path, form: str) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(b"picture")
    picture: Any = {"bytes": b"picture", "str": str(path), "path": path, "file": io.BytesIO(b"picture")}[form]

    request = build_request("a cat", start_image=picture, end_image=b"last")

    assert (request.start_image, request.end_image) == (b"picture", b"last")


@pytest.mark.parametrize("picture", [b"", io.BytesIO(b"")], ids=["bytes", "file"])
def test_an_empty_picture_is_refused_because_it_would_mean_none(picture: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build_request("a cat", start_image=picture)

    assert caught.value.violations[0].field == "start_image"


@pytest.mark.parametrize("picture", [io.StringIO("text"), 7], ids=["text-file", "number"])
def test_a_picture_of_another_type_is_refused_with_what_is_allowed(picture: Any) -> None:
    with pytest.raises(TypeError, match="end_image must be bytes, a path or a file opened in binary mode"):
        build_request("a cat", end_image=picture)


def test_a_picture_that_is_not_there_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        build_request("a cat", start_image=tmp_path / "missing.png")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_no_picture(device: str) -> None:
    with pytest.raises(InvalidRequest, match=f"start_image: {device} is a device; must be a file"):
        build_request("a cat", start_image=device)


@pytest.mark.parametrize(("given", "ratio"), [(1.5, 1.5), (2, 2.0), ("1.5", 1.5), ("3:2", 1.5), (" 4 : 3 ", 4 / 3)])
def test_an_aspect_ratio_may_be_a_number_or_two(given: float | int | str, ratio: float) -> None:
    assert build_request("a cat", aspect_ratio=given).aspect_ratio == pytest.approx(ratio)


@pytest.mark.parametrize("given", ["16/9", "wide", "16:", "1:0", ""])
def test_any_other_aspect_ratio_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match=r"must be a number or look like 16:9"):
        build_request("a cat", aspect_ratio=given)


def test_a_bucket_and_an_aspect_ratio_contradict_each_other() -> None:
    with pytest.raises(InvalidRequest, match="together with bucket"):
        build_request("a cat", bucket="384x672", aspect_ratio=1.5)


def test_an_empty_negative_prompt_is_sent_because_it_means_none() -> None:
    assert build_request("a cat", negative_prompt="").HasField("negative_prompt")
    assert not build_request("a cat").HasField("negative_prompt")


@pytest.mark.parametrize(
    ("format", "name", "media_type"),
    [
        (None, "cat.mp4", "video/mp4"),
        (None, "cat.WEBM", "video/webm"),
        (None, "cat.mkv", "video/x-matroska"),
        (None, "cat", ""),
        ("webm", "cat.mp4", "video/webm"),
        ("mkv", None, "video/x-matroska"),
        (None, None, ""),
    ],
)
def test_the_format_is_the_given_one_or_the_suffix(
    tmp_path: Path, format: Literal["mp4", "webm", "mkv"] | None, name: str | None, media_type: str
) -> None:
    save_to = tmp_path / name if name else None

    assert build_request("a cat", format=format, save_to=save_to).output_mime_type == media_type


def test_the_background_goes_out_as_it_is_given() -> None:
    assert build_request("a cat", background_color="#FFEE00").background_color == "#FFEE00"


def test_an_unknown_format_or_suffix_or_fit_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'avi' is none of mp4, webm, mkv"):
        build_request("a cat", save_to=tmp_path / "cat.avi")
    with pytest.raises(InvalidRequest, match="'gif' is none of mp4, webm, mkv"):
        build_request("a cat", format=cast(Any, "gif"))
    with pytest.raises(InvalidRequest, match="'squeeze' is none of crop, pad, stretch"):
        build_request("a cat", fit=cast(Any, "squeeze"))


@pytest.mark.parametrize(
    ("arguments", "field", "said"),
    [
        ({"steps": 2**31}, "step_count", "is 2147483648; must be an integer of at most 32 bits"),
        ({"seed": 2**63}, "seed", "is 9223372036854775808; must be an integer of at most 64 bits"),
        ({"prompt": "\ud800"}, "prompt", "is '\\ud800'; must be Unicode"),
        ({"solver": "\ud800"}, "acceleration.solver", "is '\\ud800'; must be Unicode"),
    ],
)
def test_a_value_that_the_contract_cannot_hold_is_named_with_its_field(
    arguments: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        build_request(**{"prompt": "a cat", **arguments})
    (violation,) = caught.value.violations
    assert violation.field == field
    assert violation.description.startswith(said)
    assert str(caught.value) == f"{field}: {violation.description}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"steps": "many"}, "step_count is 'many'; must be an integer"),
        ({"steps": 2**40, "seed": 1.5}, "seed is 1.5; must be an integer"),
        ({"frames": True}, "frame_count is True; must be an integer"),
        ({"guidance": "high"}, "guidance_scale is 'high'; must be a number"),
        ({"bucket": 384}, "bucket is 384; must be a string"),
        ({"embed_prompt": "yes"}, "embed_prompt is 'yes'; must be True or False"),
        ({"solver": 3}, "acceleration.solver is 3; must be a string"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_field(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError) as caught:
        build_request("a cat", **arguments)
    assert str(caught.value) == said


def test_all_values_that_the_contract_cannot_hold_are_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        build_request("a cat", steps=2**40, fps=-(2**40))
    assert [item.field for item in caught.value.violations] == ["step_count", "frame_rate_fps"]


def test_a_request_of_exactly_the_limit_passes_and_one_byte_more_does_not() -> None:
    request = build_request("a cat", start_image=bytes(100))
    size = request.ByteSize()

    check_size(request, size)
    with pytest.raises(MessageTooLarge) as caught:
        check_size(request, size - 1)
    assert (caught.value.size, caught.value.limit) == (size, size - 1)
