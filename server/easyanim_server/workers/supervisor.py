"""Keeps one worker up: starts it, starts it again when it is lost, and knows whether it can take a job."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import structlog

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock
from easyanim_server.domain.errors import EasyAnimError, WorkerLost
from easyanim_server.domain.events import Chunk, Completed, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo
from easyanim_server.domain.protocols import Worker
from easyanim_server.telemetry.observer import JobObserver
from easyanim_server.workers.watchdog import Watchdog

log = structlog.get_logger(__name__)

FIRST_START_TRIES = 3
"""A worker that dies so often before it was ever ready will not recover by itself."""
FIRST_PAUSE_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0


@dataclass(frozen=True)
class Patience:
    """How long a worker may stand still before it is killed, in seconds; see `Settings`."""

    cancel_seconds: float = math.inf
    """To leave a cancelled job."""
    stall_seconds: float = math.inf
    """Without an event in a job."""
    idle_seconds: float = math.inf
    """Without a sign of life between jobs."""


ENDLESS = Patience()


class Supervisor:
    """One worker that is kept alive. Used from one event loop."""

    def __init__(
        self,
        worker: Worker,
        patience: Patience = ENDLESS,
        observer: JobObserver | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare; `run` starts the worker.

        Args:
            worker: The one to keep up; nobody else starts or stops it.
            patience: When it is killed.
            observer: Told when the worker is ready and when it is lost.
            clock: What pauses between starts are measured with.
        """
        self._worker = worker
        self._watchdog = Watchdog(
            worker, patience.cancel_seconds, patience.stall_seconds, patience.idle_seconds, clock=clock
        )
        self._observer = observer or JobObserver()
        self._clock = clock
        self.ready = False
        """Whether the worker can take a job, or is in one."""
        self.detail = "the worker process is being started"
        """One sentence on what happens while it is not ready."""
        self.info: WorkerInfo | None = None
        """What the worker brought along; kept while it restarts, None before it was ever ready."""

    async def run(
        self,
        welcome: Callable[[WorkerInfo], Awaitable[None]],
        serve: Callable[[Supervisor], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        """Keep the worker up until cancelled.

        Args:
            welcome: Awaited with every worker that has started, before it is `ready`.
            serve: Awaited while the worker is ready; gives it jobs until it raises `WorkerLost`.
            on_change: Called after every change of `ready` or `detail`.

        Raises:
            EasyAnimError: the worker cannot be started with these settings.
        """
        while True:
            info = await self._start(on_change)
            await welcome(info)
            self.info, self.ready, self.detail = info, True, ""
            self._observer.worker_ready(info)
            on_change()
            try:
                await serve(self)
            except WorkerLost as error:
                log.error("worker lost", error=str(error))
                self.ready = False
                self._observer.worker_lost(bool(self._watchdog.fired))
                self._watchdog.reset()
                self._change(f"{error}; it is being started again", on_change)

    async def stop(self) -> None:
        """End the worker; after `run` has ended."""
        await self._worker.stop()

    async def wait_for(self, work: asyncio.Event, available: Callable[[], bool]) -> None:
        """Wait until work is available; a worker that dies meanwhile is noticed before it costs a job.

        Args:
            work: Set when there may be work.
            available: Whether there is work. True when this returns: nothing runs in between.

        Raises:
            WorkerLost: the worker died, or gave no sign of life and was killed.
        """
        lost = asyncio.create_task(self._worker.lost())
        lost.add_done_callback(lambda _: work.set())
        self._watchdog.watch_idle()
        try:
            while not available() and not lost.done():
                work.clear()
                await work.wait()
            if not self._worker.up:
                raise self._explained(await lost)
        finally:
            self._watchdog.rest()
            lost.cancel()

    async def run_job(
        self, job: Job, context: CallContext = NO_CALL
    ) -> AsyncGenerator[Progress | Chunk | Completed, None]:
        """Run one job to its end, watched.

        Raises:
            EasyAnimError: why there is no video.
            WorkerLost: the worker died or was killed; it takes no other job before it was started again.
        """
        self._watchdog.watch(job.id, self.info.step_seconds(job.bucket) if self.info else 0.0)
        try:
            async for event in self._worker.run(job, context):
                self._watchdog.heard(event.unit_seconds if isinstance(event, Progress) else None)
                yield event
        except WorkerLost as lost:
            raise self._explained(lost) from lost
        finally:
            self._watchdog.rest()

    async def check_alive(self) -> None:
        """Between two jobs: a worker that was killed in the first may have left it, and is dying.

        Raises:
            WorkerLost: it was killed.
        """
        if self._watchdog.fired:
            await self._worker.lost()
            raise WorkerLost(self._watchdog.fired)

    def cancel(self, job: Job) -> None:
        """Have the worker leave the job that it runs, and kill it where it does not. Never waits."""
        self._worker.cancel(job)
        self._watchdog.give_up()

    async def _start(self, on_change: Callable[[], None]) -> WorkerInfo:
        failures, pause = 0, FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._worker.start(lambda detail: self._change(detail, on_change))
            except EasyAnimError as error:
                failures += 1
                # What was ready once can be again: the card's memory may still be held by the worker that died.
                hopeless = not error.heals or failures == FIRST_START_TRIES
                if self.info is None and hopeless:
                    raise
                log.error("worker did not start", error=str(error), next_try_seconds=pause)
                self._change(f"{error}; next try in {pause:g} s", on_change)
                await self._clock.sleep(pause)
                pause = min(2 * pause, MAX_BACKOFF_SECONDS)

    def _change(self, detail: str, on_change: Callable[[], None]) -> None:
        self.detail = detail
        on_change()

    def _explained(self, lost: WorkerLost) -> WorkerLost:
        """The loss with the watchdog's reason, where it killed the worker."""
        return WorkerLost(self._watchdog.fired) if self._watchdog.fired else lost
