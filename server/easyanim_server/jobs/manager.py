"""Creates, watches and cancels jobs; what the doors of the server call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import suppress

import structlog

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock
from easyanim_server.domain.errors import EasyAnimError, JobCancelled, NotReady, QueueFull, ShuttingDown
from easyanim_server.domain.events import Accepted, Event, Progress, Queued
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo
from easyanim_server.domain.record import JobRecord
from easyanim_server.domain.state import ServerState
from easyanim_server.jobs.artifacts import Artifacts, DirectoryArtifacts
from easyanim_server.jobs.dispatcher import Dispatcher, Workload
from easyanim_server.jobs.eta import Estimator
from easyanim_server.jobs.queue import IN_ORDER, JobQueue, QueuePolicy
from easyanim_server.jobs.quotas import Limits, Quotas
from easyanim_server.jobs.spool import Spool
from easyanim_server.jobs.store.base import JobStore
from easyanim_server.jobs.store.memory import MemoryStore
from easyanim_server.prompts.tokens import PromptReader, PromptReading
from easyanim_server.telemetry.observer import JobObserver
from easyanim_server.workers.pool import WorkerPool

log = structlog.get_logger(__name__)

LATER = 1.25
"""Of the time until a place is free, until when refused callers come again at least."""
NOTHING_READ = PromptReading(0, 0, ())
"""Of a job whose caller is told nothing of its prompt."""
UNLIMITED = Limits()


class JobManager:
    """Jobs of one front. Used from one event loop, apart from `workload` and `result_bytes`."""

    def __init__(
        self,
        pool: WorkerPool,
        *,
        queue_size: int,
        attempts: int = 1,
        limits: Limits = UNLIMITED,
        on_state: Callable[[ServerState], None] = lambda state: None,
        observer: JobObserver | None = None,
        store: JobStore | None = None,
        artifacts: Artifacts | None = None,
        policy: QueuePolicy = IN_ORDER,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            pool: Where jobs run.
            queue_size: Jobs that may wait beside the running ones.
            attempts: Runs that a job gets in all where the worker is lost under it.
            limits: What results may take on disk.
            on_state: Told of every change of `state` and `detail`.
            observer: Told what happens to every job.
            store: Where records are kept; by default in memory.
            artifacts: Where results are kept; by default in the directory for temporary files.
            policy: The order of waiting jobs.
            clock: What all times are measured with; the same as the pool's.
        """
        self._pool = pool
        self._queue_size = queue_size
        self._on_state = on_state
        self._observer = observer or JobObserver()
        self._store: JobStore = store or MemoryStore()
        self._artifacts: Artifacts = artifacts or DirectoryArtifacts()
        self._clock = clock
        self._state = ServerState.STARTING
        self._detail = pool.detail
        self._spools: dict[JobRecord, Spool] = {}
        """Of the jobs whose callers are there: they wait, run, or are read."""
        self._quotas = Quotas(limits, self._spools, self._artifacts, self._drop, clock)
        self._estimator = Estimator()
        self._queue = JobQueue(self._estimator, policy, clock)
        self._dispatcher = Dispatcher(
            self._queue,
            pool,
            self._store,
            self._spools,
            self._quotas,
            self._estimator,
            attempts=attempts,
            observer=self._observer,
            on_free=self._note_idle,
            clock=clock,
        )
        self._idle = asyncio.Event()
        self._idle.set()
        self._began = clock.now()
        self.prompts = PromptReader(self._not_ready)
        """Says how prompts will be read."""

    @property
    def state(self) -> ServerState:
        """Whether requests are served now."""
        return self._state

    @property
    def detail(self) -> str:
        """One sentence on what happens while the state is not SERVING."""
        return self._detail

    @property
    def info(self) -> WorkerInfo | None:
        """What the workers brought along; kept while they restart, None before one was ever ready."""
        return self._pool.info

    @property
    def workload(self) -> Workload:
        """What there is to do, as of one moment. May be read from any thread."""
        return self._dispatcher.workload

    @property
    def result_bytes(self) -> int:
        """Bytes on disk of results that wait to be read. May be read from any thread."""
        return self._quotas.held_bytes

    @property
    def records(self) -> Collection[JobRecord]:
        """All jobs of this front that were not forgotten."""
        return self._store.records

    @property
    def running(self) -> Collection[JobRecord]:
        """The jobs that workers are busy with."""
        return self._dispatcher.running

    def waiting(self) -> Iterator[tuple[JobRecord, Queued]]:
        """Who waits, and where each one stands now."""
        return self._dispatcher.waiting()

    def latest(self, record: JobRecord) -> Queued | Progress | None:
        """The newest position or progress of a job as of now; None before any, and of a job that was left."""
        spool = self._spools.get(record)
        return None if spool is None else spool.latest

    def check_room(self) -> None:
        """Refuse where `create` would refuse any job now; costs nothing, and decides nothing for later.

        Raises:
            ShuttingDown: the server drains.
            QueueFull: all places are taken.
            DiskFull: the disk is nearly full.
        """
        if self._state is ServerState.DRAINING:
            raise ShuttingDown
        if len(self._queue) >= self._queue_size + self._dispatcher.free_places:  # the first are as good as running then
            soonest = max(1.0, self._dispatcher.soonest_seconds)
            # One place is free then and not more: half of the backlog is when half of those who wait have begun.
            raise QueueFull(self._queue_size, soonest, max(soonest * LATER, self.workload.backlog_seconds / 2))
        self._quotas.check_disk()

    async def create(
        self, job: Job, reading: PromptReading = NOTHING_READ, caller: str = "", context: CallContext = NO_CALL
    ) -> JobRecord:
        """Give a job a place in the queue; its caller must `leave` it.

        Args:
            job: What to do.
            reading: How its prompt will be read, for its `Accepted`.
            caller: With whose results its result is counted.
            context: The call that it comes in.

        Raises:
            ShuttingDown: the server drains.
            NotReady: the model was never ready so far.
            QueueFull: all places are taken; nothing was kept of the job.
            DiskFull: the disk is nearly full; the same.
        """
        self.check_room()
        if self.info is None:
            raise self._not_ready()
        record = JobRecord(job, self._clock.now(), caller, context)
        accepted = Accepted(job, reading.tokens, reading.truncated, reading.warnings)
        await self._store.add(record)
        self._spools[record] = spool = Spool(record, accepted, self._artifacts, self._clock)
        self._idle.clear()
        spool.put(self._dispatcher.enqueue(record))
        return record

    def watch(self, record: JobRecord, heartbeat: float) -> AsyncIterator[Event]:
        """The events of a job from its beginning to its end; see `Spool.read`.

        Args:
            record: As `create` returned it, and not left.
            heartbeat: Seconds of silence after which the latest news is repeated.
        """
        return self._spools[record].read(heartbeat)

    async def cancel(self, record: JobRecord) -> None:
        """End a job that waits or runs; of no effect for one that is over."""
        if record in self._dispatcher.running:
            if not record.over:
                self._dispatcher.cancel(record)
                self._observer.cancelling(record.job)
                self._end(record, JobCancelled())
                log.info("job cancelled while it ran", job_id=record.job.id)
        elif self._dispatcher.withdraw(record):
            self._observer.ended(record.job, record.failure or JobCancelled())
            self._end(record, JobCancelled())
            log.info("job cancelled while it waited", job_id=record.job.id)
        await self._store.save(record)

    async def leave(self, record: JobRecord) -> None:
        """Its caller has gone: cancel the job if it is not over, and forget it with its bytes."""
        try:
            await self.cancel(record)
        finally:
            if (spool := self._spools.pop(record, None)) is not None:
                spool.close()
            self._note_idle()
            await self._store.remove(record)

    async def run(self) -> None:
        """Keep the workers up and the jobs going until cancelled.

        Raises:
            EasyAnimError: a worker cannot be started with these settings.
        """
        watching = asyncio.create_task(self._quotas.watch(), name="quotas")
        try:
            await self._pool.run(self._welcome, self._dispatcher.serve, self._refresh)
        finally:
            watching.cancel()
            await self._cut_off()
            await self._pool.stop()

    async def drain(self, seconds: float) -> None:
        """Refuse new jobs and wait until the others are done and read, at most so many seconds."""
        self._change(ServerState.DRAINING, "the server is shutting down")
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        await self._cut_off()

    async def _cut_off(self) -> None:
        if self._spools:
            log.warning("jobs cut off by the shutdown", jobs=len(self._spools))
        for record in tuple(self._spools):
            self._end(record, ShuttingDown())
            await self._store.save(record)

    async def _drop(self, record: JobRecord, error: EasyAnimError) -> Future[None]:
        """End a job whose caller does not read, and give up its bytes; see `Quotas`."""
        if not record.over:
            self._dispatcher.cancel(record)
        spool = self._spools[record]
        freed = spool.drop(error)
        self._observer.dropped(error)
        log.warning("result dropped", job_id=record.job.id, reason=error.reason, error=str(error))
        del self._spools[record]  # a shutdown does not wait for it
        self._note_idle()
        await self._store.save(record)
        return freed

    def _end(self, record: JobRecord, error: EasyAnimError) -> None:
        """Fail a job that is not over, and wake its readers."""
        if (spool := self._spools.get(record)) is not None:
            spool.fail(error)
        else:
            record.fail(error, self._clock.now())

    async def _welcome(self, info: WorkerInfo) -> None:
        await self.prompts.use(info.tokenizer)
        self._estimator.prepare(info)

    def _refresh(self) -> None:
        """Take over what the pool says of its workers."""
        ready = self._pool.ready_count > 0
        self._change(ServerState.SERVING if ready else ServerState.STARTING, "" if ready else self._pool.detail)
        self._dispatcher.count()

    def _change(self, state: ServerState, detail: str) -> None:
        if self._state is ServerState.DRAINING:  # nothing leads out of it
            return
        if state is not self._state:
            log.info("state", state=state.value, detail=detail or None)
        self._state, self._detail = state, detail
        self._on_state(state)

    def _not_ready(self) -> NotReady:
        return NotReady(self._detail, self._clock.now() - self._began)

    def _note_idle(self) -> None:
        if not self._dispatcher.running and not self._spools:
            self._idle.set()
