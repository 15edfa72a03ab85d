"""Both clients behind the same words, so that one test holds for both; the fixtures that give them, and the shell's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from typer.testing import CliRunner, Result

import easyanim_client as ea
from easyanim_client.commands import app
from tests.rpc.command import Command
from tests.rpc.scripted import ScriptedVideoService, scripted_server


class Blocking:
    """Drives Client from asyncio tests, in a thread."""

    def __init__(self, address: str, **options: Any) -> None:
        self.client = ea.Client(address, **options)

    async def follow(self, generation: ea.Generation, stop_at: type | None = None) -> list[ea.Event]:
        def run() -> list[ea.Event]:
            seen: list[ea.Event] = []
            for event in generation:
                seen.append(event)
                if stop_at and isinstance(event, stop_at):
                    break
            return seen

        return await asyncio.to_thread(run)

    async def result(self, generation: ea.Generation) -> ea.Video:
        return await asyncio.to_thread(generation.result)

    async def info(self) -> ea.ServerInfo:
        return await asyncio.to_thread(self.client.info)

    async def health(self) -> bool:
        return await asyncio.to_thread(self.client.health)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


class Asynchronous:
    """Drives AsyncClient with the same words."""

    def __init__(self, address: str, **options: Any) -> None:
        self.client = ea.AsyncClient(address, **options)

    async def follow(self, generation: ea.AsyncGeneration, stop_at: type | None = None) -> list[ea.Event]:
        seen: list[ea.Event] = []
        async for event in generation:
            seen.append(event)
            if stop_at and isinstance(event, stop_at):
                break
        return seen

    async def result(self, generation: ea.AsyncGeneration) -> ea.Video:
        return await generation.result()

    async def info(self) -> ea.ServerInfo:
        return await self.client.info()

    async def health(self) -> bool:
        return await self.client.health()

    async def close(self) -> None:
        await self.client.close()


class Caller(Protocol):
    """What both have in common; their generations are of different types."""

    client: Any

    async def follow(self, generation: Any, stop_at: type | None = None) -> list[ea.Event]: ...

    async def result(self, generation: Any) -> ea.Video: ...

    async def info(self) -> ea.ServerInfo: ...

    async def health(self) -> bool: ...

    async def close(self) -> None: ...


@pytest.fixture
def scripted() -> Iterator[ScriptedVideoService]:
    """A running scripted service."""
    with scripted_server() as service:
        yield service


@pytest.fixture(params=[Blocking, Asynchronous], ids=["sync", "async"])
def kind_of_caller(request: pytest.FixtureRequest) -> Callable[..., Caller]:
    """The way to call, for tests that choose the client's own options."""
    kind: Callable[..., Caller] = request.param
    return kind


@pytest.fixture
async def caller(kind_of_caller: Callable[..., Caller], scripted: ScriptedVideoService) -> AsyncIterator[Caller]:
    """A caller of the scripted service."""
    caller = kind_of_caller(scripted.address)
    yield caller
    await caller.close()


@pytest.fixture
def run(scripted: ScriptedVideoService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command of `easyanim-client` against the scripted service, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str, **environment: str) -> Result:
        return CliRunner().invoke(app, [*words, "--address", scripted.address], env=environment)

    return invoke
