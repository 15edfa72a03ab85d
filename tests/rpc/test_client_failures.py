"""What callers see when something fails, over a real channel, against a scripted service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc import code_pb2, status_pb2

import easyanim_client as ea
from easyanim.v1 import video_pb2 as pb
from easyanim_client import aio, client
from tests.proxy import Proxy
from tests.rpc.callers import Caller
from tests.rpc.scripted import (
    ACCEPTED,
    BROKEN,
    DRAINING,
    INVALID,
    OUT_OF_MEMORY,
    PATIENCE,
    QUEUE_FULL,
    UNTIL_CANCELLED,
    ScriptedVideoService,
    error_info,
    failure,
    scripted_server,
)

pytest_plugins = ("tests.rpc.callers",)


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (INVALID, ea.InvalidRequest, {"reason": "INVALID_ARGUMENT"}),
        (QUEUE_FULL, ea.QueueFull, {"reason": "QUEUE_FULL", "retry_after": 12.5}),
        (DRAINING, ea.Unavailable, {"reason": "SHUTTING_DOWN", "retry_after": 5.0}),
        (BROKEN, ea.ServerFailed, {"reason": "GENERATION_FAILED", "error_id": "e-77"}),
        (OUT_OF_MEMORY, ea.OutOfDeviceMemory, {"error_id": ""}),
        (failure(code_pb2.DEADLINE_EXCEEDED, "a proxy's limit"), ea.DeadlineExceeded, {"reason": ""}),
        (failure(code_pb2.RESOURCE_EXHAUSTED, "a quota"), ea.RetryLater, {"retry_after": None}),
        (failure(code_pb2.CANCELLED, "an operator"), ea.Cancelled, {"reason": ""}),
        (failure(code_pb2.UNIMPLEMENTED, "another service"), ea.ServerFailed, {"error_id": ""}),
        (failure(code_pb2.UNAVAILABLE, "a proxy", error_info("QUEUE_FULL", "proxy")), ea.Unavailable, {"reason": ""}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_every_failure_has_its_type_and_what_the_server_said(
    caller: Caller,
    scripted: ScriptedVideoService,
    status: status_pb2.Status,
    error: type[ea.EasyAnimError],
    said: dict[str, Any],
) -> None:
    scripted.script = [ACCEPTED, status]

    with pytest.raises(error) as caught:
        await caller.follow(caller.client.generate("a cat"))

    assert type(caught.value) is error
    assert str(caught.value) == status.message
    assert {name: getattr(caught.value, name) for name in said} == said
    cause: Any = caught.value.__cause__
    assert cause.code().value[0] == status.code


async def test_an_invalid_request_lists_every_wrong_field(caller: Caller, scripted: ScriptedVideoService) -> None:
    scripted.script = [INVALID]

    with pytest.raises(ea.InvalidRequest) as caught:
        await caller.follow(caller.client.generate("a cat", frames=50, seed=-1))

    assert caught.value.violations == (
        ea.Violation("frame_count", "50 is not 4k+1"),
        ea.Violation("seed", "-1 is negative"),
    )


async def test_the_timeout_of_the_call_overrides_the_clients(
    kind_of_caller: Callable[..., Caller], scripted: ScriptedVideoService
) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    caller = kind_of_caller(scripted.address, timeout=PATIENCE * 10)

    for timeout in (0.2, 2, PATIENCE):
        with pytest.raises(ea.DeadlineExceeded):
            await caller.result(caller.client.generate("a cat", timeout=timeout))
        if scripted.requests:  # a busy machine may not get it to the server in time
            break

    assert await scripted.was_cancelled()
    await caller.close()


async def test_the_clients_timeout_holds_where_the_call_names_none(
    kind_of_caller: Callable[..., Caller], scripted: ScriptedVideoService
) -> None:
    scripted.script = [UNTIL_CANCELLED]
    caller = kind_of_caller(scripted.address, timeout=0.2)

    with pytest.raises(ea.DeadlineExceeded):
        await caller.result(caller.client.generate("a cat"))

    await caller.close()


async def test_a_request_over_the_default_limit_is_refused_before_it_is_sent(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    with pytest.raises(ea.MessageTooLarge, match="takes 33554432; shrink the picture") as caught:
        caller.client.generate("a cat", start_image=bytes(33 * 2**20))

    assert caught.value.size > caught.value.limit == 32 * 2**20
    assert scripted.requests == []


async def test_the_limit_that_the_server_names_replaces_the_default(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.info = pb.GetServerInfoResponse(limits=pb.Limits(max_request_bytes=100))
    await caller.info()

    with pytest.raises(ea.MessageTooLarge, match="takes 100;"):
        caller.client.generate("a cat", start_image=bytes(200))


async def test_a_request_that_grpc_refuses_as_too_large_is_named_the_same(
    kind_of_caller: Callable[..., Caller],
) -> None:
    with scripted_server(max_request_bytes=1000) as small:
        caller = kind_of_caller(small.address)
        with pytest.raises(ea.MessageTooLarge) as caught:
            await caller.result(caller.client.generate("a cat", start_image=bytes(2000)))
        await caller.close()

    assert caught.value.limit == 1000
    assert caught.value.size > 2000
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert not isinstance(caught.value, ea.RetryLater)


async def test_an_answer_that_is_too_large_is_not_blamed_on_the_request(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = [pb.GenerateResponse(chunk=pb.Chunk(data=bytes(5 * 2**20)))]

    with pytest.raises(ea.ServerFailed, match="the server sent more than this client takes"):
        await caller.result(caller.client.generate("a cat"))


async def test_a_failure_of_info_is_translated_too(caller: Caller, scripted: ScriptedVideoService) -> None:
    scripted.info = DRAINING

    with pytest.raises(ea.Unavailable, match="shutting down"):
        await caller.info()


async def test_a_server_that_is_not_there_is_unavailable(kind_of_caller: Callable[..., Caller]) -> None:
    caller = kind_of_caller("127.0.0.1:1")

    with pytest.raises(ea.Unavailable):
        await caller.result(caller.client.generate("a cat"))
    with pytest.raises(ea.Unavailable):
        await caller.health()

    await caller.close()


async def test_a_server_that_falls_silent_is_noticed_within_the_documented_time(
    kind_of_caller: Callable[..., Caller], scripted: ScriptedVideoService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (client, aio):
        shorter = [(name, value // 20 if name.endswith("_ms") else value) for name, value in module.CHANNEL_OPTIONS]
        monkeypatch.setattr(module, "CHANNEL_OPTIONS", shorter)
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    with Proxy(scripted.address) as proxy:
        caller = kind_of_caller(proxy.address)
        following = asyncio.create_task(caller.result(caller.client.generate("a cat")))
        while not scripted.requests:
            await asyncio.sleep(0.01)
        proxy.fall_silent()

        with pytest.raises(ea.Unavailable):  # 2 s: a twentieth of 30 s between pings and 10 s for an answer
            await asyncio.wait_for(following, PATIENCE)
        await caller.close()


def test_an_async_client_without_an_event_loop_is_refused_at_once() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        ea.AsyncClient("localhost:1")
