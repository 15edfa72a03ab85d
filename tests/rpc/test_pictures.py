"""Pictures that were made to be slow, their callers, and everybody else's."""

from __future__ import annotations

import collections
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2

from easyanim.v1 import video_pb2 as pb
from easyanim_server.media import picture_pool, picture_scan
from tests.conftest import Stub, encode_picture, request
from tests.e2e.processes import eventually
from tests.engines import SIMULATED
from tests.pictures import png_chunks, scans
from tests.rpc.calls import detail
from tests.rpc.scripted import PATIENCE
from tests.servers import RunningServer, settings

PNG = encode_picture("PNG")
SLOW = scans(picture_scan.MAX_SCANS, 7000, 7000)
"""Small, allowed by every count, and some ten seconds of work."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(settings(picture_decoders="2", queue_size="4"), SIMULATED) as server:
        yield server


@pytest.fixture
def stub(server: RunningServer, connect: Callable[[str], Stub]) -> Stub:
    return connect(server.address)


def slow_callers(server: RunningServer, stub: Stub, count: int) -> tuple[list[Any], list[int]]:
    """Callers with slow pictures, and the processes that decode some of them by now."""
    calls = [stub.Generate(request(start_image=SLOW)) for _ in range(count)]
    decoders = min(count, server.settings.picture_decoders)
    eventually(lambda: len(server.app.decoders.working) == decoders)
    return calls, server.app.decoders.working


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def test_files_of_too_many_parts_are_refused(stub: Stub) -> None:
    for data, what in ((scans(60_000), "500 scans"), (png_chunks(1_000_000), "50000 chunks")):
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Generate(request(start_image=data)))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"must have at most {what.split()[0]}" in str(refused.value.details())


def test_a_caller_with_text_alone_does_not_stand_behind_pictures(server: RunningServer, stub: Stub) -> None:
    calls, _ = slow_callers(server, stub, 4)

    assert next(iter(stub.Generate(request()))).HasField("accepted")
    assert stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE).job_count <= 1
    assert stub.LintPrompt(pb.LintPromptRequest(prompt="a cat"), timeout=PATIENCE).prompt_token_count == 2
    assert any(call.is_active() for call in calls), "the pictures were still being decoded"
    for call in calls:
        call.cancel()


def test_who_leaves_takes_the_decoding_along(server: RunningServer, stub: Stub) -> None:
    calls, pids = slow_callers(server, stub, 2)
    for call in calls:
        call.cancel()

    eventually(lambda: all(map(gone, pids)), 5)
    assert list(stub.Generate(request(start_image=PNG)))[-1].HasField("completed")


def test_a_decoder_that_is_killed_costs_its_own_caller_alone(server: RunningServer, stub: Stub) -> None:
    (slow,), (pid,) = slow_callers(server, stub, 1)
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(grpc.RpcError) as refused:
        next(slow)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "start_image: ended the process that decoded it (killed by signal 9)" in str(refused.value.details())
    assert list(stub.Generate(request(start_image=PNG)))[-1].HasField("completed")


def test_who_cannot_be_served_hears_it_within_five_seconds(
    server: RunningServer, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert picture_pool.WAIT_SECONDS < picture_pool.ANSWER_SECONDS < 5
    monkeypatch.setattr(picture_pool, "WAIT_SECONDS", 0.2)
    calls, _ = slow_callers(server, stub, 2)
    with pytest.raises(grpc.RpcError) as refused:
        next(stub.Generate(request(start_image=PNG)))
    assert all(call.is_active() for call in calls)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(refused.value, error_details_pb2.ErrorInfo).reason == "PICTURES_BUSY"
    assert detail(refused.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    for call in calls:
        call.cancel()


def test_of_many_callers_at_once_those_without_a_place_are_refused_undecoded(
    connect: Callable[[str], Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_pool, "WAIT_SECONDS", PATIENCE)
    monkeypatch.setattr(picture_pool, "ANSWER_SECONDS", PATIENCE)
    with RunningServer(settings(picture_decoders="1", queue_size="4"), SIMULATED) as server:
        stub = connect(server.address)
        running = stub.Generate(request("slow", step_count=200, start_image=PNG))
        assert any(event.HasField("progress") for event in running)
        (pid,) = server.app.decoders.pids
        os.kill(pid, signal.SIGSTOP)
        calls = [stub.Generate(request("slow", start_image=PNG)) for _ in range(20)]
        texts = [stub.Generate(request("slow")) for _ in range(4)]
        assert [first_word(call) for call in texts] == ["accepted"] * 4
        os.kill(pid, signal.SIGCONT)

        assert collections.Counter(map(first_word, calls)) == {"RESOURCE_EXHAUSTED": 20}
        for call in [running, *texts]:
            call.cancel()


def first_word(call: Any) -> str:
    """The kind of a call's first event, or the code that it ends with instead."""
    try:
        return str(next(call).WhichOneof("event"))
    except grpc.RpcError as error:
        return str(error.code().name)


def test_a_drain_ends_in_time_whatever_decoders_do(connect: Callable[[str], Stub]) -> None:
    with RunningServer(settings(picture_decoders="1"), SIMULATED) as server:
        stub = connect(server.address)
        assert list(stub.Generate(request(start_image=PNG)))[-1].HasField("completed")
        (pid,) = server.app.decoders.pids
        os.kill(pid, signal.SIGSTOP)
        calls = [stub.Generate(request(start_image=PNG)) for _ in range(3)]
        eventually(lambda: server.app.decoders.waiting == 2)
        server.stop()

        for call in calls:
            with pytest.raises(grpc.RpcError) as refused:
                next(call)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert detail(refused.value, error_details_pb2.ErrorInfo).reason == "SHUTTING_DOWN"
        eventually(lambda: gone(pid), 5)
        assert server.app.jobs.state.value == "DRAINING"


def test_the_background_is_checked_echoed_and_in_the_receipt(stub: Stub) -> None:
    clear = encode_picture("PNG", mode="RGBA")
    events = list(stub.Generate(request(start_image=clear, background_color="#FFEE00")))
    assert events[0].accepted.parameters.background_color == "#ffee00"
    assert events[-1].completed.receipt.parameters.background_color == "#ffee00"
    assert next(iter(stub.Generate(request()))).accepted.parameters.background_color == "#000000"

    for wrong, said in (
        ("white", "is 'white'"),
        ("#fff", "is '#fff'"),
        ("#12345g", "is '#12345g'"),
        ("#" * 99, "has 99"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.Generate(request(start_image=clear, background_color=wrong)))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"background_color: {said}" in str(refused.value.details())
        assert "must look like #ffffff" in str(refused.value.details())


def test_what_is_readable_is_said(stub: Stub) -> None:
    info = stub.GetServerInfo(pb.GetServerInfoRequest())

    assert list(info.picture_mime_types) == ["image/png", "image/jpeg", "image/webp", "image/avif", "image/heic"]
