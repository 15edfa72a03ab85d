"""The request id and the caller's own metadata: sent, and found again in videos and failures."""

from __future__ import annotations

import asyncio
import pickle
import re
from typing import Any

import pytest

import easyanim_client as ea
from tests.conftest import Stub
from tests.rpc.callers import Caller
from tests.rpc.scripted import ACCEPTED, BROKEN, UNTIL_CANCELLED, ScriptedVideoService, chunks, completed, success
from tests.servers import RunningServer

pytest_plugins = ("tests.rpc.callers",)

DATA = b"a video" * 100
OWN = {"authorization": "Bearer 7", "trace-bin": b"\x00\xff"}


async def test_a_generation_is_named_by_its_caller_and_the_video_has_the_name(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    generation = caller.client.generate("a cat", request_id="order-17/3", metadata=OWN)
    video = await caller.result(generation)

    (sent,) = scripted.metadata
    assert {key: sent[key] for key in ("x-request-id", *OWN)} == {"x-request-id": "order-17/3", **OWN}
    assert video.request_id == generation.request_id == "order-17/3"


async def test_a_call_without_a_name_gets_one_that_the_server_was_told(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)

    videos = [await caller.result(caller.client.generate("a cat")) for _ in range(2)]

    assert [sent["x-request-id"] for sent in scripted.metadata] == [video.request_id for video in videos]
    assert len({video.request_id for video in videos}) == 2
    assert re.fullmatch("[0-9a-f]{32}", videos[0].request_id)


@pytest.mark.parametrize(
    "script",
    [[BROKEN], [ACCEPTED, BROKEN], [*chunks(DATA), completed(b"")]],
    ids=["at once", "later", "found out by the client"],
)
async def test_every_failure_of_a_call_has_its_request_id(
    caller: Caller, scripted: ScriptedVideoService, script: list[object]
) -> None:
    scripted.script = script

    with pytest.raises(ea.EasyAnimError) as caught:
        await caller.result(caller.client.generate("a cat", request_id="order-18"))

    assert caught.value.request_id == "order-18"
    assert pickle.loads(pickle.dumps(caught.value)).request_id == "order-18"


async def test_a_cancelled_call_has_it_too(caller: Caller, scripted: ScriptedVideoService) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    generation = caller.client.generate("a cat", request_id="order-19")
    following = asyncio.create_task(caller.follow(generation))
    while not scripted.requests:
        await asyncio.sleep(0.01)
    generation.cancel()

    with pytest.raises(ea.Cancelled) as caught:
        await following
    assert caught.value.request_id == "order-19"


async def test_inquiries_take_both_and_fail_with_the_id(caller: Caller, scripted: ScriptedVideoService) -> None:
    async def asked(method: str, *words: str, **options: object) -> object:
        called = getattr(caller.client, method)(*words, **options)
        return await called if asyncio.iscoroutine(called) else called

    await asked("info", request_id="q-1", metadata=OWN)
    await asked("lint_prompt", "a cat", request_id="q-2", metadata=OWN)
    await asked("health", metadata=list(OWN.items()))

    assert [sent["x-request-id"] for sent in scripted.metadata[:2]] == ["q-1", "q-2"]
    assert all(OWN.items() <= sent.items() for sent in scripted.metadata)

    scripted.info = BROKEN
    with pytest.raises(ea.ServerFailed) as caught:
        await asked("info", request_id="q-4")
    assert caught.value.request_id == "q-4"


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"request_id": "a b"}, "request_id", "is 'a b'; must be 1 to 128 letters"),
        ({"request_id": "a" * 129}, "request_id", "must be 1 to 128"),
        ({"request_id": ""}, "request_id", "is ''; must be"),
        ({"metadata": {"Authorization": "x"}}, "metadata", "'Authorization' is no key; must be lower-case"),
        ({"metadata": {"grpc-timeout": "x"}}, "metadata", "must not begin with grpc-"),
        ({"metadata": {"x-request-id": "x"}}, "metadata", "is given by request_id"),
        ({"metadata": {"name": "Zoë"}}, "metadata", "must be a string of printable ASCII"),
        ({"metadata": {"name-bin": "x"}}, "metadata", "must be bytes, since its key ends in -bin"),
    ],
)
async def test_what_cannot_be_sent_is_refused_with_what_is_allowed(
    caller: Caller, scripted: ScriptedVideoService, given: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(ea.InvalidRequest) as caught:
        caller.client.generate("a cat", **given)

    (violation,) = caught.value.violations
    assert violation.field == field
    assert said in violation.description
    assert scripted.metadata == []


def test_a_real_server_logs_the_name_that_the_client_gave(simulated: RunningServer, stub: Stub) -> None:
    with ea.Client(simulated.address) as client, pytest.raises(ea.InvalidRequest) as refused:
        client.generate("instant", steps=0, request_id="order-21").result()

    cause = refused.value.__cause__
    assert dict(cause.initial_metadata())["x-request-id"] == refused.value.request_id == "order-21"  # type: ignore[union-attr]
