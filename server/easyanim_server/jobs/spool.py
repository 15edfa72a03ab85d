"""The events and bytes of one job, kept so that no reader can hold up the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock
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
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.artifacts import Artifacts, DirectoryArtifacts

READ_AHEAD_BYTES = 2 * CHUNK_BYTES
"""What a reader takes from the disk at once, which costs a change of threads; held while it stands still."""


@dataclass(frozen=True, slots=True)
class News:
    """Where the job stood at one moment."""

    number: int
    event: Queued | Progress
    time: float
    """On the clock of the front."""

    def at(self, now: float) -> Queued | Progress:
        """The same news as of `now`: what is left shrinks, what has passed grows."""
        age = now - self.time
        eta = None if self.event.eta is None else max(0.0, self.event.eta - age)
        if isinstance(self.event, Queued):
            return replace(self.event, eta=eta)
        return replace(self.event, eta=eta, elapsed=self.event.elapsed + age)


class Spool:
    """One job's events: the file's bytes in an artifact, the news coalesced to the latest of each phase.

    The state is the record's; what changes it here also wakes the readers. A reader that stops costs the file's size on
    disk and a handful of `Progress` in memory. Used from one event loop.
    """

    def __init__(
        self, record: JobRecord, accepted: Accepted, artifacts: Artifacts | None = None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Prepare; a job that waits costs no file handle, of which a process may have as few as 1024.

        Args:
            record: The job's; `put`, `fail`, `drop` and `restart` change its state.
            accepted: The first event of every reader.
            artifacts: Where the bytes are kept; by default in the directory for temporary files.
            clock: The one that the record's times are on.
        """
        self._record = record
        self._accepted = accepted
        self._artifacts = artifacts or DirectoryArtifacts()
        self._clock = clock
        self._news: dict[Phase | None, News] = {}
        self._file = self._artifacts.create()
        self._size = 0
        self._taken = 0
        self._unread_since: float | None = None
        self._restarted: Restarted | None = None
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._size

    @property
    def unread_since(self) -> float | None:
        """When the reader last took a byte, or there first was one for it, on the clock of the front.

        None where no byte waits to be read.
        """
        return self._unread_since

    @property
    def latest(self) -> Queued | Progress | None:
        """The newest news as of now; None before any."""
        return max(self._news.values(), key=lambda news: news.number).at(self._clock.now()) if self._news else None

    def put(self, event: Queued | Progress | Completed) -> None:
        """Take the next event; a `Completed` is the last one."""
        if isinstance(event, Completed):
            self._record.succeed(event, self._clock.now())
        else:
            if isinstance(event, Progress) and isinstance(latest := self.latest, Progress):
                # A message that was long under way: what was repeated meanwhile has counted on.
                event = replace(event, elapsed=max(event.elapsed, latest.elapsed))
            self._record.events += 1
            phase = event.phase if isinstance(event, Progress) else None
            self._news[phase] = News(self._record.events, event, self._clock.now())
        self._changed.set()

    async def write(self, chunk: Chunk) -> None:
        """Take the next bytes; what comes after the end, or while the job is begun anew, is dropped.

        Raises:
            OSError: the disk is full. The same chunk may be tried again.
        """
        file = self._file
        await file.write(chunk.data, chunk.offset)
        if file is self._file and not self._record.over:
            self._size = chunk.offset + len(chunk.data)
            if self._unread_since is None:
                self._unread_since = self._clock.now()
            self._changed.set()

    def restart(self, event: Restarted) -> None:
        """Forget news and bytes: the job, which is not over, waits for its next attempt."""
        self._record.restart(self._clock.now())
        self._restarted = event
        self._news.clear()
        self._empty()
        self._changed.set()

    def drop(self, error: EasyAnimError) -> Future[None]:
        """Give up the bytes, also where they are complete; readers get `error` instead of the rest.

        Returns a future that is done when the disk space is free.
        """
        self._record.lose(error, self._clock.now())
        freed = self._empty()
        self._changed.set()
        return freed

    def fail(self, error: EasyAnimError) -> None:
        """End the job with an error, unless it is over already."""
        if self._record.fail(error, self._clock.now()):
            self._changed.set()

    def close(self) -> None:
        """Give the disk space back; readers must have left."""
        self._empty()

    def _empty(self) -> Future[None]:
        file, self._file = self._file, self._artifacts.create()
        self._size, self._taken, self._unread_since = 0, 0, None
        return file.close()

    def _took(self, offset: int) -> None:
        """The reader has asked for more than the bytes up to `offset`."""
        if self._taken < offset <= self._size:
            self._taken = offset
            self._unread_since = self._clock.now() if offset < self._size else None

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
        ahead = memoryview(b"")  # read from the disk, and not yet taken
        while True:
            self._changed.clear()
            if self._restarted is not None and self._restarted is not restarted:
                # Before all else: news and bytes are those of the new run.
                offset, repeating, restarted, ahead = 0, False, self._restarted, memoryview(b"")
                yield restarted
            elif fresh := [news for news in self._news.values() if news.number > seen]:
                oldest = min(fresh, key=lambda news: news.number)
                seen = oldest.number
                yield oldest.at(self._clock.now()) if repeating else oldest.event
                repeating = False
            elif offset < self._size and not ahead:
                count = min(READ_AHEAD_BYTES, self._size - offset)
                ahead = memoryview(await self._file.read(count, offset))  # meanwhile all may have changed
            elif offset < self._size:
                yield Chunk(offset, bytes(ahead[:CHUNK_BYTES]))
                offset += len(ahead[:CHUNK_BYTES])
                ahead = ahead[CHUNK_BYTES:]
                if self._restarted is restarted:
                    self._took(offset)
            elif self._record.failure is not None:
                raise self._record.failure
            elif self._record.completed is not None:
                yield self._record.completed
                return
            elif not await self._changes_within(heartbeat):
                seen, repeating = max(0, self._record.events - 1), True  # the latest news counts as not seen, once more

    async def _changes_within(self, seconds: float) -> bool:
        # Not `wait_for`: before Python 3.12 it swallows a cancel that comes at the same moment as the change.
        change = asyncio.create_task(self._changed.wait())
        try:
            done, _ = await asyncio.wait([change], timeout=seconds)
        finally:
            change.cancel()
        return bool(done)
