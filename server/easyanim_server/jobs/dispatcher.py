"""Gives the best waiting job to a free worker, and passes on the events of running jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from easyanim_server.domain.clock import SYSTEM_CLOCK, Clock
from easyanim_server.domain.errors import EasyAnimError, ShuttingDown, WorkerLost
from easyanim_server.domain.events import Chunk, Completed, Progress, Queued, Restarted
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.eta import Estimator
from easyanim_server.jobs.positions import Positions
from easyanim_server.jobs.queue import JobQueue
from easyanim_server.jobs.quotas import Quotas
from easyanim_server.jobs.spool import Spool
from easyanim_server.jobs.store.base import JobStore
from easyanim_server.telemetry.observer import JobObserver
from easyanim_server.workers.pool import WorkerPool
from easyanim_server.workers.supervisor import Supervisor

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Workload:
    """What there is to do, as of one moment."""

    waiting: int = 0
    running: int = 0
    backlog_seconds: float = 0.0
    """Expected time until everything is done that was admitted; what was never measured counts as nothing."""

    @property
    def jobs(self) -> int:
        """Jobs that wait or run."""
        return self.waiting + self.running


@dataclass(eq=False)
class Assignment:
    """A job at its worker, until the worker has left it: a cancelled job stays here for a moment."""

    record: JobRecord
    supervisor: Supervisor
    remaining: float | None
    """Expected seconds, as of the last progress; None where nothing was measured."""


class Dispatcher:
    """Runs waiting jobs on the workers of a pool. Used from one event loop, apart from `workload`."""

    def __init__(
        self,
        queue: JobQueue,
        pool: WorkerPool,
        store: JobStore,
        spools: Mapping[JobRecord, Spool],
        quotas: Quotas,
        estimator: Estimator,
        *,
        attempts: int,
        observer: JobObserver,
        on_free: Callable[[], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare; `serve` does the work.

        Args:
            queue: Waiting jobs; changed here alone.
            pool: The workers, counted here and served by `serve`.
            store: Where changes of records are kept.
            spools: Of the jobs whose callers are there, as they are at each moment.
            quotas: Finds room for bytes.
            estimator: Learns from finished jobs.
            attempts: Runs that a job gets in all where its worker is lost.
            observer: Told what happens to every job.
            on_free: Called when a worker has left a job.
            clock: The one that records' times are on.
        """
        self._queue = queue
        self._pool = pool
        self._store = store
        self._spools = spools
        self._quotas = quotas
        self._estimator = estimator
        self._attempts = attempts
        self._observer = observer
        self._on_free = on_free
        self._clock = clock
        self._running: dict[JobRecord, Assignment] = {}
        self._positions = Positions(self.waiting, self._tell_place, clock)
        self.workload = Workload()
        """Replaced as a whole after every change, so that other threads read numbers of one moment."""

    @property
    def running(self) -> Collection[JobRecord]:
        """The jobs that workers are busy with."""
        return self._running.keys()

    @property
    def free_places(self) -> int:
        """Waiting jobs that are as good as running, since workers are idle."""
        return max(0, self._pool.ready_count - len(self._running))

    @property
    def soonest_seconds(self) -> float:
        """Expected time until one of the running jobs is done; 0 where none runs."""
        return min(map(self._left, self._running.values()), default=0.0)

    def enqueue(self, record: JobRecord) -> Queued:
        """Put a new job into the queue; returns its place."""
        place = self._queue.add(record)
        self.count()
        self._observer.queued(record.job, record.context)
        return self._place(*place)

    def withdraw(self, record: JobRecord) -> bool:
        """Take a job out of the queue; returns False where it does not wait."""
        if record not in self._queue:
            return False
        self._queue.remove(record)
        self.count()
        self._positions.announce()
        return True

    def cancel(self, record: JobRecord) -> bool:
        """Have its worker leave a job; returns False where none is busy with it."""
        if (assignment := self._running.get(record)) is None:
            return False
        assignment.supervisor.cancel(record.job)
        return True

    def waiting(self) -> Iterator[tuple[JobRecord, Queued]]:
        """Who waits now, and where each one stands; who has left since then, while this is iterated, is passed over."""
        number = 0
        before: float | None = 0.0
        for record in tuple(self._queue):
            if record not in self._queue:
                continue
            yield record, self._place(number, before)
            whole = self._estimator.whole(record.job)
            before = None if before is None or whole is None else before + whole
            number += 1

    def count(self) -> None:
        """Make `workload` anew."""
        seconds = self._queue.expected_seconds + sum(map(self._left, self._running.values()))
        workers = max(1, self._pool.ready_count)
        self.workload = Workload(len(self._queue), len(self._running), seconds / workers)

    async def serve(self, supervisor: Supervisor) -> None:
        """Run jobs on one worker, one after another.

        Raises:
            WorkerLost: the worker is gone; its job, if it had one, is in the queue again or has failed.
        """
        try:
            while True:
                await supervisor.wait_for(self._queue.filled, lambda: len(self._queue) > 0)
                record = self._queue.pop()
                assignment = Assignment(record, supervisor, self._estimator.whole(record.job))
                self._running[record] = assignment
                self.count()
                self._positions.announce()
                await self._run(assignment)
                await supervisor.check_alive()
        except WorkerLost:
            self._positions.announce()
            raise

    async def _run(self, assignment: Assignment) -> None:
        record, now = assignment.record, self._clock.now()
        job = record.job
        structlog.contextvars.bind_contextvars(**record.context.log_context)
        waited_since = record.created if record.requeued is None else record.requeued
        record.start(now)
        await self._store.save(record)
        self._observer.started(job, now - waited_since)
        log.info("job started", job_id=job.id, bucket=str(job.bucket), steps=job.steps, attempt=record.attempt)
        try:
            async with aclosing(assignment.supervisor.run_job(job, record.context)) as events:
                async for event in events:
                    await self._take(assignment, event)
        except WorkerLost as lost:
            self._lose(record, lost)
            raise
        except EasyAnimError as error:
            self._fail(record, error)
        finally:
            del self._running[record]
            self.count()
            if record not in self._queue:  # it is not run again
                self._observer.ended(job, record.failure or (None if record.over else ShuttingDown()))
            self._on_free()
            structlog.contextvars.clear_contextvars()
            await self._store.save(record)

    async def _take(self, assignment: Assignment, event: Progress | Chunk | Completed) -> None:
        """Pass on an event of a running job, with what only the front knows."""
        record = assignment.record
        job = record.job
        if isinstance(event, Progress):
            event = replace(event, eta=self._estimator.remaining(job, event))
            assignment.remaining = event.eta
            self.count()
        elif isinstance(event, Completed):
            self._estimator.learn(job, event)
            event = replace(event, queue_seconds=(record.started or 0.0) - record.created)
            log.info("job completed", job_id=job.id, seconds=round(event.total_seconds, 3), bytes=event.size)
        self._observer.said(job, event)
        spool = self._spools.get(record)
        if record.over or spool is None:  # its caller has left, and the worker is about to
            return
        if not isinstance(event, Chunk):
            spool.put(event)
        elif (failure := await self._quotas.keep(record, spool, event)) is not None:
            spool.fail(failure)
            self.cancel(record)

    def _lose(self, record: JobRecord, lost: WorkerLost) -> None:
        """Run a job again whose worker is gone, before all that wait; or fail it where it has no attempts left."""
        spool = self._spools.get(record)
        if record.over or spool is None:
            return
        if record.attempt >= self._attempts:
            times = f"; the job was run {record.attempt} times" if record.attempt > 1 else ""
            self._fail(record, WorkerLost(f"{lost}{times}"))
            return
        spool.restart(Restarted(record.attempt + 1, lost.reason, str(lost)))
        self._queue.add(record)
        spool.put(Queued(0, None))
        self._observer.restarted(record.job, lost)
        log.warning("job will be run again", job_id=record.job.id, attempt=record.attempt, error=str(lost))

    def _fail(self, record: JobRecord, error: EasyAnimError) -> None:
        spool = self._spools.get(record)
        if record.over or spool is None:  # its caller has left, or has the video
            return
        spool.fail(error)
        job, attempt = record.job, record.attempt
        log.warning("job failed", job_id=job.id, reason=error.reason, error=str(error), attempt=attempt)

    def _place(self, number: int, before: float | None) -> Queued:
        """The place of a job with `number` others before it in the queue, which take so many seconds in all."""
        ahead, workers = len(self._running) + number, self._pool.ready_count
        if number == 0 and not self._running:
            return Queued(ahead, 0.0 if workers else None)
        left = [item.remaining for item in self._running.values()]
        if not workers or before is None or None in left:
            return Queued(ahead, None)
        if number < self.free_places:
            return Queued(ahead, 0.0)
        return Queued(ahead, (before + sum(item for item in left if item is not None)) / workers)

    def _left(self, assignment: Assignment) -> float:
        """Expected seconds of a running job that are left."""
        remaining = assignment.remaining
        return self._estimator.expected(assignment.record.job) if remaining is None else remaining

    def _tell_place(self, record: JobRecord, place: Queued) -> None:
        if (spool := self._spools.get(record)) is not None:
            spool.put(place)
