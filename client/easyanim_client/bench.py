"""What a caller of a server sees under load, measured event by event over the public client."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from easyanim_client.aio import AsyncClient, AsyncGeneration
from easyanim_client.errors import Cancelled, DeadlineExceeded, EasyAnimError, RetryLater
from easyanim_client.results import Accepted, Chunk, Event, Phase, Progress, Restarted, Video

PERCENTILES = (50, 90, 99)

POLL_SECONDS = 0.002
"""Between two looks at a server that is leaving a cancelled job: the resolution of the cancel latency."""

COMPLETED = "completed"
"""The outcome of a request that brought a video."""


@dataclass(slots=True)
class Sample:
    """One request as its caller saw it. Times in seconds; None where it did not come so far."""

    outcome: str = ""
    """``completed``, else the client's error in snake case: ``queue_full``, ``deadline_exceeded``, ..."""
    expected: bool = True
    """Whether the contract names this outcome for a server under load: a video, a refusal, a deadline, a cancel."""
    message: str = ""
    """What the error said."""
    started: float = 0.0
    """Since the run began."""
    total_seconds: float = 0.0
    """From sending to the last event or the error."""
    first_event_seconds: float | None = None
    """From sending to `accepted`."""
    largest_gap_seconds: float | None = None
    """Longest silence between two events."""
    queue_seconds: float | None = None
    """From `accepted` to the first progress."""
    first_chunk_seconds: float | None = None
    """From the first decoded frame's progress to the first bytes of the file; 0 where the bytes came first."""
    chunk_bytes_per_second: float | None = None
    """Bytes of all chunks but the first, over the time from the first to the last one."""
    restarts: int = 0
    """How often the server lost its worker and began the video anew; chunks are measured of the last run."""
    cancel_seconds: float | None = None
    """From `cancel` until the server counted the job no more: its worker is free then."""
    size: int = 0
    """Bytes of the video that arrived."""


@dataclass
class Report:
    """All samples of a run."""

    wall_seconds: float
    samples: list[Sample]
    deadline: float | None = None

    @property
    def outcomes(self) -> Mapping[str, int]:
        """Requests by outcome, the most frequent first."""
        return dict(Counter(sample.outcome for sample in self.samples).most_common())

    @property
    def unexpected(self) -> list[Sample]:
        """Those that ended in a way that a server under load must not show."""
        return [sample for sample in self.samples if not sample.expected]

    @property
    def goodput_per_minute(self) -> float:
        """Videos a minute that came within the deadline."""
        return 60 * self.outcomes.get(COMPLETED, 0) / self.wall_seconds if self.wall_seconds else 0.0

    def metrics(self) -> dict[str, dict[str, float]]:
        """Count, percentiles and maximum of each measurement that any sample has."""
        found = {}
        for name in MEASUREMENTS:
            if values := sorted(value for sample in self.samples if (value := getattr(sample, name)) is not None):
                spread = {f"p{share}": percentile(values, share) for share in PERCENTILES}
                found[name] = {"count": len(values), **spread, "max": values[-1]}
        return found


MEASUREMENTS = (
    "first_event_seconds",
    "largest_gap_seconds",
    "queue_seconds",
    "first_chunk_seconds",
    "total_seconds",
    "cancel_seconds",
    "chunk_bytes_per_second",
)
"""Fields of `Sample` that have a distribution."""


@dataclass(frozen=True)
class Load:
    """What to send."""

    requests: int = 10
    concurrency: int = 1
    deadline: float | None = None
    """Seconds that each call may take."""
    cancel_after: float | None = None
    """Seconds from a request's first progress to its cancel; requests then go one at a time."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Those of `AsyncClient.generate`."""


async def run(client: AsyncClient, load: Load) -> Report:
    """Send the requests, `concurrency` of them at any time, and wait for them all.

    Raises:
        ValueError: cancels are to be measured among concurrent requests, where no one's end can be told from another's.
    """
    if load.cancel_after is not None and load.concurrency != 1:
        raise ValueError(f"concurrency is {load.concurrency}; cancels are measured one at a time")
    began = time.perf_counter()
    samples: list[Sample] = []
    numbers = iter(range(load.requests))

    async def caller() -> None:
        for _ in numbers:
            samples.append(await _one(client, load, began))

    await asyncio.gather(*(caller() for _ in range(min(load.concurrency, load.requests))))
    return Report(time.perf_counter() - began, samples, load.deadline)


async def _one(client: AsyncClient, load: Load, began: float) -> Sample:
    generation = client.generate(**load.arguments, timeout=load.deadline)
    watch = _Watch(began)
    cancel: asyncio.Task[float] | None = None
    try:
        async for event in generation:
            watch.see(event)
            if load.cancel_after is not None and cancel is None and isinstance(event, Progress):
                cancel = asyncio.create_task(_cancel(client, generation, load.cancel_after))
    except EasyAnimError as error:
        watch.end(error)
    else:
        watch.end(None)
    if cancel is not None and watch.sample.outcome == "cancelled":
        watch.sample.cancel_seconds = await cancel
    elif cancel is not None:
        cancel.cancel()
    return watch.sample


async def _cancel(client: AsyncClient, generation: AsyncGeneration, after: float) -> float:
    await asyncio.sleep(after)
    cancelled = time.perf_counter()
    generation.cancel()
    while (await client.info()).jobs:
        await asyncio.sleep(POLL_SECONDS)
    return time.perf_counter() - cancelled


class _Watch:
    """Turns one request's events into a `Sample`."""

    def __init__(self, began: float) -> None:
        self._sent = self._last = time.perf_counter()
        self._accepted: float | None = None
        self._first_frame: float | None = None
        self._first_chunk: float | None = None
        self._first_size = 0
        self.sample = Sample(started=self._sent - began)

    def see(self, event: Event) -> None:
        now, sample = time.perf_counter(), self.sample
        if isinstance(event, Accepted):
            self._accepted = now
            sample.first_event_seconds = now - self._sent
        else:
            sample.largest_gap_seconds = max(sample.largest_gap_seconds or 0.0, now - self._last)
        self._last = now
        if isinstance(event, Progress):
            if sample.queue_seconds is None and self._accepted is not None:
                sample.queue_seconds = now - self._accepted
            if self._first_frame is None and event.phase is Phase.DECODE and event.completed:
                self._first_frame = now
        elif isinstance(event, Chunk):
            self._see_chunk(event, now)
        elif isinstance(event, Restarted):
            sample.restarts += 1
            self._first_frame = self._first_chunk = None
            sample.first_chunk_seconds = sample.chunk_bytes_per_second = None
        elif isinstance(event, Video):
            sample.size = event.size
        if sample.first_chunk_seconds is None and self._first_frame is not None and self._first_chunk is not None:
            sample.first_chunk_seconds = max(0.0, self._first_chunk - self._first_frame)

    def _see_chunk(self, chunk: Chunk, now: float) -> None:
        size = chunk.offset + len(chunk.data)
        if self._first_chunk is None:
            self._first_chunk, self._first_size = now, size
        elif now > self._first_chunk:
            self.sample.chunk_bytes_per_second = (size - self._first_size) / (now - self._first_chunk)

    def end(self, error: EasyAnimError | None) -> None:
        self.sample.total_seconds = time.perf_counter() - self._sent
        self.sample.outcome = COMPLETED if error is None else _snake(type(error).__name__)
        self.sample.expected = error is None or isinstance(error, RetryLater | DeadlineExceeded | Cancelled)
        self.sample.message = "" if error is None else str(error)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` percent do not exceed; by nearest rank, nothing is made up."""
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
