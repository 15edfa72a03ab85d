"""What one job has said so far, kept so that no reader can hold up the worker."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import cache
from typing import IO

from easyanim_server.domain.errors import EasyAnimError
from easyanim_server.domain.events import (
    CHUNK_BYTES,
    Accepted,
    Chunk,
    Completed,
    Event,
    Phase,
    Progress,
    Queued,
    Restarted,
)


@cache
def keep_freed_memory() -> None:
    """Have glibc keep a few megabytes that it frees, for the rest of the process.

    Otherwise it returns every chunk's memory to the system and faults it in again for the next one, which halves the
    throughput of a large file. Its thresholds follow the largest block that was ever freed, see mallopt(3).
    """
    bytearray(16 * 2**20)


@dataclass(frozen=True, slots=True)
class News:
    """Where the job stood at one moment."""

    number: int
    event: Queued | Progress
    time: float
    """On the monotonic clock."""

    def now(self) -> Queued | Progress:
        """The same news as of now: what is left shrinks, what has passed grows."""
        age = time.monotonic() - self.time
        eta = None if self.event.eta is None else max(0.0, self.event.eta - age)
        if isinstance(self.event, Queued):
            return replace(self.event, eta=eta)
        return replace(self.event, eta=eta, elapsed=self.event.elapsed + age)


class Spool:
    """One job's events: the file's bytes on disk, the news coalesced to the latest of each phase.

    A reader that stops costs the file's size on disk and a handful of `Progress` in memory. Used from one event loop.
    """

    def __init__(self, accepted: Accepted) -> None:
        """Prepare; a job that waits costs no file handle, of which a process may have as few as 1024."""
        self._accepted = accepted
        self._news: dict[Phase | None, News] = {}
        self._news_count = 0
        self._file: IO[bytes] | None = None
        self._size = 0
        self._restarted: Restarted | None = None
        self._end: Completed | EasyAnimError | None = None
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the last word is known."""
        return self._end is not None

    @property
    def failure(self) -> EasyAnimError | None:
        """Why there is no video, once that is known."""
        return self._end if isinstance(self._end, EasyAnimError) else None

    @property
    def latest(self) -> Queued | Progress | None:
        """The newest news as of now; None before any."""
        return max(self._news.values(), key=lambda news: news.number).now() if self._news else None

    def put(self, event: Queued | Progress | Chunk | Completed) -> None:
        """Take the next event; a `Completed` is the last one.

        Raises:
            OSError: the disk is full.
        """
        if isinstance(event, Chunk):
            if self._file is None:  # unnamed: the system removes it with its last handle, after a crash too
                keep_freed_memory()
                self._file = tempfile.TemporaryFile(prefix="easyanim-")  # noqa: SIM115 - `close` ends it
            rest, self._size = memoryview(event.data), event.offset
            while rest:  # a disk that fills up takes a part, and is an error with the next byte
                written = os.pwrite(self._file.fileno(), rest, self._size)
                rest, self._size = rest[written:], self._size + written
        elif isinstance(event, Completed):
            self._end = event
        else:
            if isinstance(event, Progress) and isinstance(latest := self.latest, Progress):
                # A message that was long under way: what was repeated meanwhile has counted on.
                event = replace(event, elapsed=max(event.elapsed, latest.elapsed))
            self._news_count += 1
            phase = event.phase if isinstance(event, Progress) else None
            self._news[phase] = News(self._news_count, event, time.monotonic())
        self._changed.set()

    def restart(self, event: Restarted) -> None:
        """Forget news and bytes: the job, which has not ended, begins anew."""
        self._restarted = event
        self._news.clear()
        self._size = 0
        if self._file is not None:
            os.ftruncate(self._file.fileno(), 0)
        self._changed.set()

    def fail(self, error: EasyAnimError) -> None:
        """End the job with an error, unless it has ended already."""
        if self._end is None:
            self._end = error
            self._changed.set()

    def close(self) -> None:
        """Give the disk space back; readers must have left."""
        if self._file is not None:
            self._file.close()

    async def read(self, heartbeat: float) -> AsyncIterator[Event]:
        """Yield everything from the beginning, then wait for more until the job ends.

        Of a job that was restarted that is the latest `Restarted` and what came after it, whatever was read before.

        Args:
            heartbeat: Seconds of silence after which the latest news is repeated.

        Raises:
            EasyAnimError: the job ended without a video.
        """
        yield self._accepted
        seen, offset, repeating = 0, 0, False  # the number of the last news, bytes so far, whether news are old ones
        restarted: Restarted | None = None
        while True:
            self._changed.clear()
            if self._restarted is not None and self._restarted is not restarted:
                # Before all else: news and bytes are those of the new run.
                offset, repeating, restarted = 0, False, self._restarted
                yield restarted
            elif fresh := [news for news in self._news.values() if news.number > seen]:
                oldest = min(fresh, key=lambda news: news.number)
                seen = oldest.number
                yield oldest.now() if repeating else oldest.event
                repeating = False
            elif self._file is not None and offset < self._size:
                data = os.pread(self._file.fileno(), min(CHUNK_BYTES, self._size - offset), offset)
                yield Chunk(offset, data)
                offset += len(data)
            elif isinstance(self._end, EasyAnimError):
                raise self._end
            elif self._end is not None:
                yield self._end
                return
            elif not await self._changes_within(heartbeat):
                seen, repeating = max(0, self._news_count - 1), True  # the latest news counts as not seen, once more

    async def _changes_within(self, seconds: float) -> bool:
        # Not `wait_for`: before Python 3.12 it swallows a cancel that comes at the same moment as the change.
        change = asyncio.create_task(self._changed.wait())
        try:
            done, _ = await asyncio.wait([change], timeout=seconds)
        finally:
            change.cancel()
        return bool(done)
