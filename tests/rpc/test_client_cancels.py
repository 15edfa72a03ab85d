"""A generation ends early: by its caller, by its task, by closing the client."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

import easyanim_client as ea
from tests.rpc.callers import Caller
from tests.rpc.scripted import (
    ACCEPTED,
    UNTIL_CANCELLED,
    ScriptedVideoService,
    chunks,
)

DATA = os.urandom(4_321)


async def test_leaving_the_loop_early_cancels_on_the_server_and_leaves_nothing_behind(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path
) -> None:
    scripted.script = [ACCEPTED, chunks(DATA)[0], UNTIL_CANCELLED]

    await caller.follow(caller.client.generate("a cat", save_to=tmp_path / "cat.mp4"), stop_at=ea.Chunk)

    assert await scripted.was_cancelled()
    assert os.listdir(tmp_path) == []


async def test_cancel_from_elsewhere_ends_the_iteration_with_cancelled(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    generation = caller.client.generate("a cat")

    following = asyncio.create_task(caller.follow(generation))
    while not scripted.requests:
        await asyncio.sleep(0.01)
    generation.cancel()

    with pytest.raises(ea.Cancelled):
        await following
    assert await scripted.was_cancelled()


async def test_a_generation_cancelled_before_it_began_ends_at_once(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = [UNTIL_CANCELLED]
    generation = caller.client.generate("a cat")
    generation.cancel()

    with pytest.raises(ea.Cancelled):
        await caller.follow(generation)


async def test_cancelling_the_task_cancels_on_the_server(scripted: ScriptedVideoService, tmp_path: Path) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    async with ea.AsyncClient(scripted.address) as client:
        task = asyncio.create_task(client.generate("a cat", save_to=tmp_path / "cat.mp4").result())
        while not scripted.requests:
            await asyncio.sleep(0.01)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task

        assert await scripted.was_cancelled()
        assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task cannot be asked whether it was cancelled")
@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_a_task_that_is_cancelled_as_its_call_ends_is_cancelled_all_the_same(
    scripted: ScriptedVideoService, end: str
) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    client = ea.AsyncClient(scripted.address)
    generation = client.generate("a cat")
    task = asyncio.create_task(generation.result())
    while not scripted.requests:
        await asyncio.sleep(0.01)

    task.cancel()
    if end == "cancel":
        generation.cancel()
    await client.close()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_closing_the_client_cancels_what_still_runs(scripted: ScriptedVideoService) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    with ea.Client(scripted.address) as client:
        events = iter(client.generate("a cat"))
        assert isinstance(next(events), ea.Accepted)

    with pytest.raises(ea.Cancelled):
        next(events)
    assert await scripted.was_cancelled()


async def test_closing_the_client_while_a_task_waits_ends_its_generation_with_cancelled(
    scripted: ScriptedVideoService,
) -> None:
    scripted.script = [ACCEPTED, UNTIL_CANCELLED]
    client = ea.AsyncClient(scripted.address)
    waiting = asyncio.create_task(client.generate("a cat").result())
    while not scripted.requests:
        await asyncio.sleep(0.01)

    await client.close()

    with pytest.raises(ea.Cancelled):
        await waiting
    assert await scripted.was_cancelled()


async def test_closing_the_client_while_a_task_waits_ends_its_inquiry_with_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = ea.AsyncClient("{}:{}".format(*mute.getsockname()))
        waiting = asyncio.create_task(client.info())
        connected, _ = await asyncio.to_thread(mute.accept)

        await client.close()

        with connected, pytest.raises(ea.Cancelled):
            await waiting
