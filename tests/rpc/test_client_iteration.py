"""`result` after some events were read: it goes on with the same iteration, as long as somebody holds it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import easyanim_client as ea
from tests.rpc.callers import Caller
from tests.rpc.scripted import ACCEPTED, BROKEN, UNTIL_CANCELLED, ScriptedVideoService, chunks, success

pytest_plugins = ("tests.rpc.callers",)

DATA = os.urandom(4_321)


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "in memory"])
def test_after_some_events_result_reads_the_rest(scripted: ScriptedVideoService, tmp_path: Path, saved: bool) -> None:
    scripted.script = success(DATA)
    with ea.Client(scripted.address) as client:
        generation = client.generate("a cat", save_to=tmp_path / "cat.mp4" if saved else None)
        events = iter(generation)
        assert isinstance(next(events), ea.Accepted)

        video = generation.result()

        assert video.read() == DATA
        assert (list(events), generation.result()) == ([], video)
    assert len(scripted.requests) == 1
    assert os.listdir(tmp_path) == (["cat.mp4"] if saved else [])


async def test_after_some_events_an_awaited_result_reads_the_rest(scripted: ScriptedVideoService) -> None:
    scripted.script = success(DATA)
    async with ea.AsyncClient(scripted.address) as client:
        generation = client.generate("a cat")
        events = aiter(generation)
        assert isinstance(await anext(events), ea.Accepted)

        video = await generation.result()

        assert video.read() == DATA
        assert [event async for event in events] == []
        assert await generation.result() is video
    assert len(scripted.requests) == 1


async def test_within_the_loop_result_reads_the_rest_and_ends_it(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = success(DATA)
    generation = caller.client.generate("a cat")

    seen = []
    if isinstance(generation, ea.Generation):
        for event in generation:
            seen.append(event)
            assert (await caller.result(generation)).read() == DATA
    else:
        async for event in generation:
            seen.append(event)
            assert (await caller.result(generation)).read() == DATA

    assert [type(event) for event in seen] == [ea.Accepted]


async def closed(events: Any) -> None:
    """Read one event and close the iterator."""
    if hasattr(events, "aclose"):
        await anext(events)
        await events.aclose()
    else:
        await asyncio.to_thread(next, events)
        events.close()


async def test_after_the_iterator_was_closed_there_is_no_result(
    caller: Caller, scripted: ScriptedVideoService, tmp_path: Path
) -> None:
    scripted.script = [ACCEPTED, *chunks(DATA), UNTIL_CANCELLED]
    generation = caller.client.generate("a cat", save_to=tmp_path / "cat.mp4")
    events = iter(generation) if isinstance(generation, ea.Generation) else aiter(generation)

    await closed(events)

    with pytest.raises(RuntimeError, match="iterated once, and leaving the loop cancels it"):
        await caller.result(generation)
    assert await scripted.was_cancelled()
    assert len(scripted.requests) == 1
    assert os.listdir(tmp_path) == []


async def test_after_the_iteration_has_failed_there_is_no_result(
    caller: Caller, scripted: ScriptedVideoService
) -> None:
    scripted.script = [ACCEPTED, BROKEN]
    generation = caller.client.generate("a cat")
    events: Any = iter(generation) if isinstance(generation, ea.Generation) else aiter(generation)
    with pytest.raises(ea.ServerFailed):
        if hasattr(events, "aclose"):
            await anext(events)
            await anext(events)
        else:
            next(events)
            next(events)

    with pytest.raises(RuntimeError, match="iterated once"):
        await caller.result(generation)


async def test_a_failure_in_the_rest_is_raised_by_result(caller: Caller, scripted: ScriptedVideoService) -> None:
    scripted.script = [ACCEPTED, BROKEN]
    generation = caller.client.generate("a cat")
    events = iter(generation) if isinstance(generation, ea.Generation) else aiter(generation)
    assert isinstance(await anext(events) if isinstance(events, AsyncIterator) else next(events), ea.Accepted)

    with pytest.raises(ea.ServerFailed, match="generation failed"):
        await caller.result(generation)
