"""Whatever a caller sends, the answer is a documented status and the server stays healthy."""

from __future__ import annotations

from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easyanim.v1 import video_pb2 as pb
from tests.conftest import Stub, encode_picture
from tests.servers import RunningServer

REQUESTS = 1000
DOCUMENTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

numbers32 = st.one_of(st.none(), st.integers(-2, 100), st.integers(-(2**31), 2**31 - 1))
floats = st.one_of(st.none(), st.floats(0, 22), st.floats())
good_picture = st.sampled_from(
    [encode_picture(form, size) for form in ("PNG", "JPEG", "WEBP") for size in ((64, 48), (90, 160))]
)


@st.composite
def mutated_pictures(draw: st.DrawFn) -> bytes:
    picture = bytearray(draw(good_picture))
    for _ in range(draw(st.integers(1, 4))):
        picture[draw(st.integers(0, len(picture) - 1))] = draw(st.integers(0, 255))
    return bytes(picture[: draw(st.integers(1, len(picture)))])


pictures = st.one_of(st.just(b""), good_picture, mutated_pictures(), st.binary(max_size=200))
prompts = st.one_of(st.just("instant"), st.text(max_size=50).map("instant ".__add__), st.text(max_size=5))


@st.composite
def requests(draw: st.DrawFn) -> pb.GenerateRequest:
    made = pb.GenerateRequest(
        prompt=draw(prompts),
        start_image=draw(pictures),
        end_image=draw(pictures),
        fit_policy=cast(Any, draw(st.integers(0, 4))),
        step_count=draw(st.one_of(st.integers(1, 3), numbers32)),
        guidance_scale=draw(floats),
        seed=draw(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
        frame_rate_fps=draw(numbers32),
        frame_count=draw(st.one_of(st.none(), st.just(5), numbers32)),
        output_mime_type=draw(st.one_of(st.sampled_from(["", "video/mp4", "video/webm"]), st.text(max_size=10))),
    )
    size = draw(st.sampled_from(["", "bucket", "aspect_ratio"]))
    if size == "bucket":
        made.bucket = draw(st.one_of(st.sampled_from(["64x64", "64x96"]), st.text(max_size=10)))
    elif size == "aspect_ratio":
        made.aspect_ratio = draw(st.floats())
    return made


def test_arbitrary_requests_get_documented_answers(simulated: RunningServer, stub: Stub) -> None:
    worker = simulated.worker.pid
    seen: dict[grpc.StatusCode, int] = {}

    @settings(max_examples=REQUESTS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(requests())
    def send(made: pb.GenerateRequest) -> None:
        call = stub.Generate(made, timeout=30)
        try:
            events = list(call)
        except grpc.RpcError:
            pass
        else:
            assert events[-1].HasField("completed")
        seen[call.code()] = seen.get(call.code(), 0) + 1
        assert call.code() in DOCUMENTED, call.details()

    send()
    assert sum(seen.values()) >= REQUESTS
    assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= set(seen), "both kinds were tried"
    assert simulated.worker.pid == worker, "no request brought the worker down"
    with grpc.insecure_channel(simulated.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
