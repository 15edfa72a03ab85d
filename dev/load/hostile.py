"""A hundred hostile callers in one process: `python -m dev.load.hostile HOST:PORT SECONDS`, on this machine alone.

Prints as JSON how their calls ended, by kind. All bytes are made before the first call and every kind has a pause, so
that it is the server that works.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from dev.load import payloads

GENERATE = "/easyanim.v1.VideoService/Generate"
LINT = "/easyanim.v1.VideoService/LintPrompt"
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each caller
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
]
LARGE_BUCKET = "96x160x25"
"""As the server is told; a request names it without its frames."""
CONNECTIONS = 15
"""Of each caller that says nothing."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True)
class Kind:
    """What some of the callers do, again and again until the time is over."""

    name: str
    callers: int
    act: Callable[[grpc.aio.Channel], Awaitable[str]]
    """Returns in a word how it ended."""
    pause: float
    """Mean seconds between the end of one and the next."""
    together: bool = False
    """Whether all callers of the kind begin at the same time at first."""


def calling(method: str, data: bytes, *, leave_after: float = 60.0) -> Callable[[grpc.aio.Channel], Awaitable[str]]:
    """Send these bytes, read all answers, and leave after some seconds."""

    async def act(channel: grpc.aio.Channel) -> str:
        ask: Any = channel.unary_stream(method)  # bytes on both sides, which the stubs do not know
        call = ask(data)

        async def read() -> None:
            async for _ in call:
                pass

        try:
            await asyncio.wait_for(read(), leave_after)
        except asyncio.TimeoutError:
            call.cancel()
            return "left"
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    return act


def not_reading(data: bytes, seconds: float) -> Callable[[grpc.aio.Channel], Awaitable[str]]:
    """Ask for a video, read the first event and nothing after it."""

    async def act(channel: grpc.aio.Channel) -> str:
        ask: Any = channel.unary_stream(GENERATE)
        call = ask(data)
        try:
            first = await asyncio.wait_for(call.read(), 60.0)
        except (asyncio.TimeoutError, grpc.aio.AioRpcError) as error:
            call.cancel()
            return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "no answer"
        if first is grpc.aio.EOF:
            code: grpc.StatusCode = await call.code()
            return code.name
        await asyncio.sleep(seconds)
        ended = call.done()
        call.cancel()
        return "ended by the server" if ended else "left"

    return act


def connecting(address: str, said: bytes, seconds: float) -> Callable[[grpc.aio.Channel], Awaitable[str]]:
    """Hold connections that say so much and no more."""
    host, _, port = address.rpartition(":")

    async def act(channel: grpc.aio.Channel) -> str:
        opened = []
        try:
            for _ in range(CONNECTIONS):
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 10.0)
                writer.write(said)
                opened.append(writer)
            await asyncio.sleep(seconds)
        except (OSError, asyncio.TimeoutError) as error:
            return type(error).__name__
        finally:
            for writer in opened:
                writer.close()
        return "left"

    return act


def kinds(address: str) -> list[Kind]:
    """A hundred callers."""
    scans, chunks, large = payloads.many_scans(), payloads.many_chunks(), payloads.large_picture()
    return [
        Kind("many scans, left at once", 6, calling(GENERATE, scans, leave_after=0.5), 8.0),
        Kind("many scans", 6, calling(GENERATE, scans), 8.0),
        Kind("many chunks", 6, calling(GENERATE, chunks), 30.0),
        Kind("long questions", 20, calling(LINT, payloads.long_question()), 0.5),
        Kind("NULs in names", 10, calling(GENERATE, payloads.nothing_in_names()), 30.0),
        Kind("30 MiB at once", 12, calling(GENERATE, large), 40.0, together=True),
        Kind("30 MiB, refused", 8, calling(GENERATE, large), 30.0),
        Kind("results not read", 6, not_reading(payloads.large_result(LARGE_BUCKET.rpartition("x")[0]), 45.0), 2.0),
        Kind("bare connections", 16, connecting(address, b"", 30.0), 1.0),
        Kind("half-open connections", 10, connecting(address, PREFACE[:10], 30.0), 1.0),
    ]


async def run(address: str, seconds: float) -> dict[str, dict[str, int]]:
    """Let all of them act until the time is over."""
    until = time.monotonic() + seconds
    ends: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def caller(kind: Kind) -> None:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            await asyncio.sleep(0.0 if kind.together else random.uniform(0.0, kind.pause))
            while time.monotonic() < until:
                ends[kind.name]["open at the end"] += 1
                try:
                    end = await kind.act(channel)
                except Exception as error:  # a caller's own fault must not end the others
                    end = f"failed: {type(error).__name__}"
                ends[kind.name]["open at the end"] -= 1
                ends[kind.name][end] += 1
                await asyncio.sleep(random.uniform(0.5, 1.5) * kind.pause)

    callers = [asyncio.create_task(caller(kind)) for kind in kinds(address) for _ in range(kind.callers)]
    assert len(callers) == 100
    await asyncio.wait(callers, timeout=max(0.0, until - time.monotonic()))
    return {name: dict(+counts) for name, counts in sorted(ends.items())}


async def main() -> None:
    print(json.dumps(await run(sys.argv[1], float(sys.argv[2]))), flush=True)
    os._exit(0)  # hundreds of calls are open, and need not be ended one by one


if __name__ == "__main__":
    asyncio.run(main())
