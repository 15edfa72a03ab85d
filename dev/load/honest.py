"""Honest callers in one process: `python -m dev.load.honest HOST:PORT SECONDS CALLERS`, on this machine alone.

Each asks for one video after another, reads all of it, compares it with its SHA-256, and comes back when it is told to.
Prints as JSON what they met with.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc

PICTURE = Path(__file__).resolve().parents[2] / "examples" / "coffee.jpg"
BUCKET = "32x32x5"
"""As the server is told; a request names it without its frames."""
WITH_PICTURE = 0.3
"""Share of the requests."""
THINKING = 3.0
"""Mean seconds between a video and the next request."""
FINISHING = 60.0
"""Seconds after the time is over in which what was begun must be done."""
FEWEST_KEPT = 20
"""Failures that are told in words."""


@dataclass
class Met:
    """What the callers met with."""

    videos: int = 0
    refusals: int = 0
    """Of those that said when to come back."""
    retry_seconds: list[float] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    """The longest one of every call, from its request on, in seconds."""
    failures: list[str] = field(default_factory=list)
    failed: int = 0

    def fail(self, why: str) -> None:
        """Note what must not happen."""
        self.failed += 1
        if len(self.failures) < FEWEST_KEPT:
            self.failures.append(why)


async def one_video(stub: video_pb2_grpc.VideoServiceStub, request: pb.GenerateRequest, met: Met) -> float | None:
    """Ask for a video; returns the seconds after which to come back where it was refused so."""
    heard, silence = time.monotonic(), 0.0
    digest, size, completed = hashlib.sha256(), 0, None
    try:
        async for event in stub.Generate(request):
            now = time.monotonic()
            heard, silence = now, max(silence, now - heard)
            kind = event.WhichOneof("event")
            if kind == "restarted":
                digest, size = hashlib.sha256(), 0
            elif kind == "chunk":
                digest.update(event.chunk.data)
                size += len(event.chunk.data)
            elif kind == "completed":
                completed = event.completed
    except grpc.aio.AioRpcError as error:
        delay = told_to_come_back(error)
        if delay is None:
            met.fail(f"{error.code().name}: {error.details()}")
        return delay
    finally:
        met.silences.append(max(silence, time.monotonic() - heard))
    if completed is None or (size, digest.digest()) != (completed.size_bytes, completed.sha256):
        met.fail(f"{size} bytes arrived, completed is {completed}")
    else:
        met.videos += 1
    return None


def told_to_come_back(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds of the RetryInfo; None where there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    return float(info.retry_delay.ToNanoseconds()) / 1e9
    return None


async def caller(address: str, until: float, met: Met) -> None:
    """One honest caller."""
    picture = PICTURE.read_bytes()
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = video_pb2_grpc.VideoServiceStub(channel)
        await asyncio.sleep(random.uniform(0, THINKING))
        while time.monotonic() < until:
            request = pb.GenerateRequest(
                prompt="steam rises from the cup", bucket=BUCKET.rpartition("x")[0], step_count=2
            )
            if random.random() < WITH_PICTURE:
                request.start_image = picture
            delay = await one_video(stub, request, met)
            if delay is not None:
                met.refusals += 1
                met.retry_seconds.append(delay)
            pause = random.uniform(0.5, 1.5) * THINKING if delay is None else delay
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))


async def main() -> None:
    """Let them ask until the time is over, and finish what they have begun."""
    address, seconds, callers = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    met, until = Met(), time.monotonic() + seconds
    running = [asyncio.create_task(caller(address, until, met)) for _ in range(callers)]
    done, late = await asyncio.wait(running, timeout=seconds + FINISHING)
    for task in done:
        if (error := task.exception()) is not None:
            met.fail(f"the caller itself failed: {error!r}")
    for task in late:
        task.cancel()
        met.fail(f"was not done {FINISHING:g} s after the end")
    await asyncio.gather(*late, return_exceptions=True)  # each notes for how long it has heard nothing
    print(json.dumps(asdict(met)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
