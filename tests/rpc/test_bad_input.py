"""Everything that a caller can get wrong: refused by field, value and what is allowed, before any work."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from PIL import Image

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc as pb_grpc
from tests.conftest import Stub, encode_picture, request
from tests.servers import RunningServer

PNG = encode_picture("PNG")
JPEG = encode_picture("JPEG")


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few bytes whose header promises 900 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


BAD: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    # name: fields, the field that is named, words of its description
    "empty prompt": ({"prompt": ""}, "prompt", ["empty", "1 to 4000"]),
    "blank prompt": ({"prompt": " \n\t　"}, "prompt", ["empty"]),
    "long prompt": ({"prompt": "x" * 4001}, "prompt", ["4001", "at most 4000"]),
    "long negative prompt": ({"negative_prompt": "x" * 4001}, "negative_prompt", ["4001", "at most 4000"]),
    "text for a picture": ({"start_image": b"not a picture"}, "start_image", ["PNG", "JPEG", "WebP"]),
    "a GIF": ({"start_image": encode_picture("GIF")}, "start_image", ["GIF", "PNG"]),
    "truncated PNG": ({"start_image": PNG[: len(PNG) // 2]}, "start_image", ["must be a whole file"]),
    "truncated JPEG": ({"start_image": JPEG[: len(JPEG) // 2]}, "start_image", ["must be a whole file"]),
    "bad end picture": ({"start_image": PNG, "end_image": b"?"}, "end_image", ["PNG"]),
    "decompression bomb": ({"start_image": bomb()}, "start_image", ["30000", "50000000"]),
    "end without start": ({"end_image": PNG}, "end_image", ["start_image"]),
    "unknown bucket": ({"bucket": "384x672"}, "bucket", ["384x672", "nearest", "64x96"]),
    "garbled bucket": ({"bucket": "large"}, "bucket", ["large", "64x96"]),
    "bucket beyond all numbers": ({"bucket": "9" * 400 + "x16"}, "bucket", ["999"]),
    "aspect of zero": ({"aspect_ratio": 0.0}, "aspect_ratio", ["0.0", "0.1 to 10"]),
    "aspect NaN": ({"aspect_ratio": float("nan")}, "aspect_ratio", ["nan", "0.1 to 10"]),
    "frames not 4k+1": ({"frame_count": 10}, "frame_count", ["10", "4k+1", "offers 5, 9"]),
    "no frames": ({"frame_count": 0}, "frame_count", ["0", "4k+1"]),
    "too many frames": ({"frame_count": 53}, "frame_count", ["53", "49"]),
    "frames not offered": ({"frame_count": 49}, "frame_count", ["49", "5, 9"]),
    "frames not offered for the bucket": ({"bucket": "64x64", "frame_count": 9}, "frame_count", ["9", "64x64", "5"]),
    "no steps": ({"step_count": 0}, "step_count", ["0", "from 1 to 200"]),
    "too many steps": ({"step_count": 201}, "step_count", ["201", "from 1 to 200"]),
    "unknown profile": ({"profile": "turbo"}, "profile", ["turbo", "exact, balanced, fast, draft"]),
    "unknown solver": (
        {"acceleration": pb.Acceleration(solver="heun")},
        "acceleration.solver",
        ["heun", "euler, unipc, dpmpp_2m"],
    ),
    "negative cache threshold": (
        {"acceleration": pb.Acceleration(cache_threshold=-0.1)},
        "acceleration.cache_threshold",
        ["-0.1", "from 0 to 10"],
    ),
    "cache threshold NaN": (
        {"acceleration": pb.Acceleration(cache_threshold=float("nan"))},
        "acceleration.cache_threshold",
        ["nan", "from 0 to 10"],
    ),
    "guidance end beyond the steps": (
        {"acceleration": pb.Acceleration(guidance_end=1.5)},
        "acceleration.guidance_end",
        ["1.5", "from 0 to 1"],
    ),
    "guidance that ends before it starts": (
        {"profile": "fast", "acceleration": pb.Acceleration(guidance_start=0.8, guidance_end=0.75)},
        "acceleration.guidance_start",
        ["0.8", "at most guidance_end, which is 0.75"],
    ),
    "guidance under 1": ({"guidance_scale": 0.5}, "guidance_scale", ["0.5", "from 1.0 to 20.0"]),
    "guidance NaN": ({"guidance_scale": float("nan")}, "guidance_scale", ["nan", "from 1.0 to 20.0"]),
    "guidance infinite": ({"guidance_scale": float("inf")}, "guidance_scale", ["inf"]),
    "no frames a second": ({"frame_rate_fps": 0}, "frame_rate_fps", ["0", "from 1 to 60"]),
    "too many frames a second": ({"frame_rate_fps": 61}, "frame_rate_fps", ["61", "from 1 to 60"]),
    "NUL in the prompt": ({"prompt": "a\0 \0c\0a\0t\0"}, "prompt", ["U+0000 as character 2", "UTF-16"]),
    "escape in the negative prompt": (
        {"negative_prompt": "blurry\x1b[31m"},
        "negative_prompt",
        ["U+001B as character 7", "without control characters"],
    ),
    "negative seed": ({"seed": -1}, "seed", ["-1", "from 0 to 9223372036854775807; leave it out for a random one"]),
    "unknown format": ({"output_mime_type": "video/avi"}, "output_mime_type", ["video/avi", "video/mp4"]),
    "unknown fit": ({"fit_policy": 9}, "fit_policy", ["9", "FIT_POLICY_PAD"]),
}

ALL_WRONG: dict[str, Any] = {
    "prompt": " ",
    "negative_prompt": "x" * 4001,
    "bucket": "9x9",
    "frame_count": 50,
    "step_count": 0,
    "guidance_scale": 99,
    "frame_rate_fps": 0,
    "seed": -1,
    "output_mime_type": "video/avi",
    "fit_policy": 9,
    "profile": "turbo",
    "start_image": b"GIF8",
    "end_image": b"GIF8",
    "acceleration": pb.Acceleration(solver="heun", cache_threshold=-1, guidance_start=5, guidance_end=-2),
}
"""Every field of a request that can be wrong at the same time as the others."""


def violations(error: grpc.RpcError) -> dict[str, str]:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    found = error_details_pb2.BadRequest()
    assert isinstance(error, grpc.Call)
    assert any(item.Unpack(found) for item in rpc_status.from_call(error).details)
    return {item.field: item.description for item in found.field_violations}


@pytest.mark.parametrize(("fields", "field", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_by_field_value_and_what_is_allowed(
    simulated: RunningServer, stub: Stub, fields: dict[str, Any], field: str, words: list[str]
) -> None:
    worker = simulated.worker.pid
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(**fields)))

    found = violations(refused.value)
    assert list(found) == [field]
    for word in words:
        assert word in found[field]
    assert list(stub.Generate(request()))[-1].HasField("completed"), "the next good request works"
    assert simulated.worker.pid == worker


@pytest.mark.parametrize("message", [b"\x1a\x02\xff\xfe", b"\x1a\x7f"], ids=["prompt not in UTF-8", "cut short"])
def test_bytes_that_are_no_request_are_refused_as_such(simulated: RunningServer, message: bytes) -> None:
    with grpc.insecure_channel(simulated.address) as channel, pytest.raises(grpc.RpcError) as refused:
        generate: Any = channel.unary_stream("/easyanim.v1.VideoService/Generate")  # bytes, not a message
        list(generate(message))
    assert "UTF-8" in violations(refused.value)["request"]


def test_all_wrong_fields_are_named_at_once(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request("", step_count=0, seed=-1, start_image=b"?")))
    assert set(violations(refused.value)) == {"prompt", "step_count", "seed", "start_image"}


@pytest.mark.parametrize("size", [{"bucket": "9x9"}, {"aspect_ratio": 0.0}], ids=["bucket", "aspect"])
@pytest.mark.parametrize("frames", [50, 49])
def test_a_wrong_size_hides_no_wrong_frame_count(stub: Stub, size: dict[str, Any], frames: int) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(**size, frame_count=frames)))
    assert set(violations(refused.value)) == {*size, "frame_count"}


def test_however_many_fields_are_wrong_each_one_is_named_with_what_is_allowed(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(pb.GenerateRequest(**ALL_WRONG)))
    nested = [f"acceleration.{name}" for name in ("solver", "cache_threshold", "guidance_start", "guidance_end")]
    found = violations(refused.value)
    assert set(found) == {*ALL_WRONG, *nested} - {"acceleration"}
    assert not [field for field, description in found.items() if description.endswith("…")]


def test_where_every_value_is_huge_each_one_gets_its_share(stub: Stub) -> None:
    wide = "\N{CLAPPER BOARD}" * 25_000
    huge = {"bucket": wide, "output_mime_type": wide, "profile": wide, "acceleration": pb.Acceleration(solver=wide)}
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(pb.GenerateRequest(**{**ALL_WRONG, **huge})))
    found = violations(refused.value)
    assert found["seed"].endswith(f"must be from 0 to {2**63 - 1}; leave it out for a random one")
    assert all(len(found[field].encode()) > 100 for field in ("bucket", "output_mime_type", "profile"))


def test_an_unknown_profile_hides_no_other_wrong_field(stub: Stub) -> None:
    wrong = pb.Acceleration(solver="heun", cache_threshold=-1, guidance_start=0.8, guidance_end=0.2)
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(profile="turbo", acceleration=wrong)))
    named = {"profile", *(f"acceleration.{name}" for name in ("solver", "cache_threshold", "guidance_start"))}
    assert set(violations(refused.value)) == named


def test_an_unknown_profile_does_not_make_right_fields_wrong(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(profile="turbo", acceleration=pb.Acceleration(guidance_end=0.0))))
    assert set(violations(refused.value)) == {"profile"}


def test_a_huge_wrong_value_does_not_make_the_status_too_large_for_trailers(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(bucket="x" * 100_000, output_mime_type="y" * 100_000)))
    assert set(violations(refused.value)) == {"bucket", "output_mime_type"}


def test_a_huge_wrong_value_of_wide_characters_does_not_either(stub: Stub) -> None:
    wide = "\N{CLAPPER BOARD}" * 25_000
    fields: dict[str, Any] = {
        "bucket": wide,
        "output_mime_type": wide,
        "profile": wide,
        "step_count": 0,
        "frame_rate_fps": 0,
    }
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(**fields, seed=-1, guidance_scale=0.0, fit_policy=9)))
    assert set(violations(refused.value)) == {*fields, "seed", "guidance_scale", "fit_policy"}


def test_a_message_over_the_limit_is_refused_by_grpc_itself(stub: Stub) -> None:
    limit = stub.GetServerInfo(pb.GetServerInfoRequest()).limits.max_request_bytes
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(start_image=bytes(limit))))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def animated_webp() -> bytes:
    pictures = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], lossless=True)
    return file.getvalue()


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 64 x 96 as seen
    file = io.BytesIO()
    Image.new("RGB", (96, 64), "green").save(file, "JPEG", exif=exif)
    return file.getvalue()


UNUSUAL = {
    "grayscale": (encode_picture("PNG", mode="L"), "64x96"),
    "palette": (encode_picture("PNG", mode="P"), "64x96"),
    "RGBA": (encode_picture("PNG", mode="RGBA"), "64x96"),
    "CMYK": (encode_picture("JPEG", mode="CMYK"), "64x96"),
    "WebP": (encode_picture("WEBP"), "64x96"),
    "animated": (animated_webp(), "64x96"),
    "EXIF-rotated": (rotated_jpeg(), "96x64"),
    "square": (encode_picture("PNG", (80, 80)), "64x64"),
}


@pytest.mark.parametrize(("picture", "bucket"), UNUSUAL.values(), ids=UNUSUAL.keys())
def test_unusual_pictures_are_taken_and_their_aspect_picks_the_bucket(stub: Stub, picture: bytes, bucket: str) -> None:
    events = list(stub.Generate(request(start_image=picture)))
    assert events[0].accepted.parameters.bucket == bucket
    assert events[-1].HasField("completed")


def test_thirty_megabytes_in_a_name_are_refused_by_their_length(stub: Stub) -> None:
    nothing = "\0" * 15_000_000
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(request(bucket=nothing, output_mime_type=nothing, seed=-1)))
    found = violations(refused.value)
    assert set(found) == {"bucket", "output_mime_type", "seed"}
    for field in ("bucket", "output_mime_type"):
        assert found[field].startswith("has 15000000 bytes and begins with")
        assert found[field].endswith("must have at most 256 bytes")


def test_a_name_that_is_too_long_for_health_is_none_that_it_knows(simulated: RunningServer) -> None:
    with grpc.insecure_channel(simulated.address) as channel, pytest.raises(grpc.RpcError) as refused:
        health: Any = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest(service="s" * 10_000))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_request_of_ten_thousand_fields_is_refused_by_their_number(simulated: RunningServer) -> None:
    with grpc.insecure_channel(simulated.address) as channel, pytest.raises(grpc.RpcError) as refused:
        lint: Any = channel.unary_unary("/easyanim.v1.VideoService/LintPrompt")  # bytes, not a message
        lint(b"\x12\x01a" * 10_000)
    assert "more than 1000 fields" in violations(refused.value)["request"]


def test_questions_on_prompts_do_not_hold_up_what_others_ask(simulated: RunningServer) -> None:
    slow = pb.LintPromptRequest(
        prompt="n" + "n".join(str(number) for number in range(950)),
        negative_prompt=", ".join(f"n{number}" for number in range(650)),
    )
    with grpc.insecure_channel(simulated.address) as channel:
        callers = pb_grpc.VideoServiceStub(channel)
        questions = [callers.LintPrompt.future(slow) for _ in range(40)]
        health: Any = health_pb2_grpc.HealthStub(channel)
        began, waits = time.monotonic(), []
        while not all(question.done() for question in questions):
            asked = time.monotonic()
            health.Check(health_pb2.HealthCheckRequest())
            waits.append(time.monotonic() - asked)
        took = time.monotonic() - began
        assert all(question.result().prompt_token_count for question in questions)
    # On the event loop the first answer to anybody else comes after most of the questions'.
    assert max(waits) < max(0.5 * took, 0.5)
