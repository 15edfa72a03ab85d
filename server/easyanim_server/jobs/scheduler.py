"""Admission and order: a bounded queue in front of one worker that is kept alive."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

import structlog

from easyanim_server.domain.errors import EasyAnimError, JobCancelled, NotReady, QueueFull, ShuttingDown, WorkerLost
from easyanim_server.domain.events import Accepted, Chunk, Completed, Progress, Queued, Restarted
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo
from easyanim_server.domain.protocols import Worker
from easyanim_server.domain.state import ServerState
from easyanim_server.jobs.eta import Estimator
from easyanim_server.jobs.positions import Positions
from easyanim_server.jobs.quotas import Limits, Quotas
from easyanim_server.jobs.spool import Spool
from easyanim_server.jobs.ticket import Ticket
from easyanim_server.prompts.tokens import PromptReader, PromptReading
from easyanim_server.telemetry.observer import JobObserver
from easyanim_server.workers.watchdog import Watchdog

log = structlog.get_logger(__name__)

FIRST_START_TRIES = 3
"""A worker that dies so often before it was ever ready will not recover by itself."""
MAX_BACKOFF_SECONDS = 30.0
LATER = 1.25
"""Of the time until a place is free, until when refused callers come again at least."""
NOTHING_READ = PromptReading(0, 0, ())
"""Of a job whose caller is told nothing of its prompt."""
UNLIMITED = Limits()


class Scheduler:
    """Takes jobs, runs them one after another, and says what happens. Used from one event loop."""

    def __init__(
        self,
        worker: Worker,
        *,
        queue_size: int,
        attempts: int = 1,
        cancel_seconds: float = math.inf,
        stall_seconds: float = math.inf,
        idle_seconds: float = math.inf,
        limits: Limits = UNLIMITED,
        on_state: Callable[[ServerState], None] = lambda state: None,
        observer: JobObserver | None = None,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            worker: Where jobs run.
            queue_size: Jobs that may wait beside the running one.
            attempts: Runs that a job gets in all where the worker is lost under it.
            cancel_seconds: How long the worker may take to leave a job before it is killed; see `Settings`.
            stall_seconds: How long nothing may be heard of the worker in a job before it is killed; see `Settings`.
            idle_seconds: How long nothing may be heard of it between jobs; see `Settings`.
            limits: What results may take on disk.
            on_state: Told of every change of `state`.
            observer: Told what happens to every job.
        """
        self._worker = worker
        self._queue_size = queue_size
        self._attempts = attempts
        self._watchdog = Watchdog(worker, cancel_seconds, stall_seconds, idle_seconds)
        self._on_state = on_state
        self._observer = observer or JobObserver()
        self._state = ServerState.STARTING
        self._detail = "the worker process is being started"
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._ready = False
        """Whether the worker can do a job now, also while the server drains."""
        self._open: set[Ticket] = set()
        """Those whose callers are there: they wait, run, or are read."""
        self._quotas = Quotas(limits, self._open, self._drop)
        self._running_eta: float | None = None
        self._announcer = Positions(self.waiting)
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._estimator = Estimator()
        self._began = time.monotonic()
        self.prompts = PromptReader(self._not_ready)
        """Says how prompts will be read."""
        self.served: WorkerInfo | None = None
        """What the worker brought along; kept while it restarts, None before it was ever ready."""

    @property
    def state(self) -> ServerState:
        """Whether requests are served now."""
        return self._state

    @property
    def detail(self) -> str:
        """One sentence on what happens while the state is not SERVING."""
        return self._detail

    @property
    def job_count(self) -> int:
        """Jobs that wait or run."""
        return len(self._waiting) + (self._running is not None)

    @property
    def waiting_count(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def result_bytes(self) -> int:
        """Bytes on disk of results that wait to be read."""
        return self._quotas.held_bytes

    @property
    def running(self) -> Ticket | None:
        """The job that runs."""
        return self._running

    @property
    def backlog_seconds(self) -> float:
        """Expected time until everything is done that was admitted; what was never measured counts as nothing."""
        return sum(self._estimator.expected(ticket.job) for ticket in tuple(self._waiting)) + self._running_seconds

    @property
    def _running_seconds(self) -> float:
        """Expected time until the running job is done."""
        if (running := self._running) is None:
            return 0.0
        return self._estimator.expected(running.job) if self._running_eta is None else self._running_eta

    def _not_ready(self) -> NotReady:
        return NotReady(self._detail, time.monotonic() - self._began)

    def check_room(self) -> None:
        """Refuse where `submit` would refuse any job now; costs nothing, and decides nothing for later.

        Raises:
            ShuttingDown: the server drains.
            QueueFull: all places are taken.
            DiskFull: the disk is nearly full.
        """
        if self._state is ServerState.DRAINING:
            raise ShuttingDown
        idle = self._ready and self._running is None
        if len(self._waiting) >= self._queue_size + idle:  # the first of them is as good as running then
            soonest = max(1.0, self._running_seconds)
            # One place is free then and not more: half of the backlog is when half of those who wait have begun.
            raise QueueFull(self._queue_size, soonest, max(soonest * LATER, self.backlog_seconds / 2))
        self._quotas.check_disk()

    def submit(self, job: Job, reading: PromptReading = NOTHING_READ, caller: str = "") -> Ticket:
        """Give a job a place in the queue; its caller must `release` the ticket.

        Args:
            job: What to do.
            reading: How its prompt will be read, for its `Accepted`.
            caller: With whose results its result is counted.

        Raises:
            ShuttingDown: the server drains.
            NotReady: the model was never ready so far.
            QueueFull: all places are taken; nothing was kept of the job.
            DiskFull: the disk is nearly full; the same.
        """
        self.check_room()
        if self.served is None:
            raise self._not_ready()
        spool = Spool(Accepted(job, reading.tokens, reading.truncated, reading.warnings))
        ticket = Ticket(job, spool, time.monotonic(), caller)
        self._waiting.append(ticket)
        self._open.add(ticket)
        self._idle.clear()
        self._work.set()
        self._observer.queued(job)
        *_, (_, place) = self.waiting()
        ticket.spool.put(place)
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Its caller has left: stop the work if it is not done, and forget the job."""
        if ticket is self._running:
            if not ticket.spool.ended:
                self._cancel(ticket)
                self._observer.cancelling(ticket.job)
                ticket.spool.fail(JobCancelled())
                log.info("job cancelled while it ran", job_id=ticket.job.id)
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
            self._observer.ended(ticket.job, ticket.spool.failure or JobCancelled())
            log.info("job cancelled while it waited", job_id=ticket.job.id)
            self._announcer.announce()
        ticket.spool.close()
        self._open.discard(ticket)
        self._note_idle()

    async def run(self) -> None:
        """Keep the worker up and the jobs going until cancelled.

        Raises:
            EasyAnimError: the worker cannot be started with these settings.
        """
        watching = asyncio.create_task(self._quotas.watch(), name="quotas")
        try:
            while True:
                await self._start_worker()
                try:
                    while True:
                        await self._run_one(await self._next())
                        if self._watchdog.fired:  # it left the job after all, but is dying
                            await self._worker.lost()
                            raise WorkerLost(self._watchdog.fired)
                except WorkerLost as error:
                    log.error("worker lost", error=str(error))
                    stuck, self._watchdog.fired, self._ready = bool(self._watchdog.fired), "", False
                    self._observer.worker_lost(stuck)
                    self._change(ServerState.STARTING, f"{error}; it is being started again")
                    self._announcer.announce()
        finally:
            watching.cancel()
            self._cut_off()
            await self._worker.stop()

    async def drain(self, seconds: float) -> None:
        """Refuse new jobs and wait until the others are done and read, at most so many seconds."""
        self._change(ServerState.DRAINING, "the server is shutting down")
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._cut_off()

    def _cut_off(self) -> None:
        if self._open:
            log.warning("jobs cut off by the shutdown", jobs=len(self._open))
        for ticket in self._open:
            ticket.spool.fail(ShuttingDown())

    async def _start_worker(self) -> None:
        failures, pause = 0, 1.0
        while True:
            try:
                served = await self._worker.start(lambda detail: self._change(self._state, detail))
            except EasyAnimError as error:
                failures += 1
                # What was served once can be again: the card's memory may still be held by the worker that died.
                hopeless = not error.heals or failures == FIRST_START_TRIES
                if self.served is None and hopeless:
                    raise
                log.error("worker did not start", error=str(error), next_try_seconds=pause)
                self._change(ServerState.STARTING, f"{error}; next try in {pause:g} s")
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_BACKOFF_SECONDS)
            else:
                await self.prompts.use(served.tokenizer)
                self.served = served
                self._estimator.prepare(served)
                self._observer.worker_ready(served)
                self._ready = True
                self._change(ServerState.SERVING, "")
                return

    async def _next(self) -> Ticket:
        """Wait for a job; a worker that dies meanwhile is noticed before it costs one."""
        lost = asyncio.create_task(self._worker.lost())
        lost.add_done_callback(lambda _: self._work.set())
        self._watchdog.watch_idle()
        try:
            while not self._waiting and not lost.done():
                self._work.clear()
                await self._work.wait()
            if not self._worker.up:
                error = await lost
                raise WorkerLost(self._watchdog.fired) if self._watchdog.fired else error
        finally:
            self._watchdog.rest()
            lost.cancel()
        self._running = self._waiting.popleft()
        self._running_eta = self._estimator.whole(self._running.job)
        self._announcer.announce()
        return self._running

    async def _run_one(self, ticket: Ticket) -> None:
        job, started = ticket.job, time.monotonic()
        structlog.contextvars.bind_contextvars(**job.log_context)
        self._observer.started(job, started - (ticket.requeued or ticket.admitted))
        log.info("job started", job_id=job.id, bucket=str(job.bucket), steps=job.steps, attempt=ticket.attempt)
        self._watchdog.watch(job.id, self.served.step_seconds(job.bucket) if self.served else 0.0)
        try:
            async for event in self._worker.run(job):
                await self._heard(ticket, event, started)
        except WorkerLost as lost:
            error = WorkerLost(self._watchdog.fired) if self._watchdog.fired else lost
            if not ticket.spool.ended and ticket.attempt < self._attempts:
                self._restart(ticket, error)
            else:
                times = f"; the job was run {ticket.attempt} times" if ticket.attempt > 1 else ""
                self._fail(ticket, WorkerLost(f"{error}{times}"))
            raise error from lost
        except EasyAnimError as error:
            self._fail(ticket, error)
        finally:
            self._watchdog.rest()
            self._running = None
            if ticket not in self._waiting:  # it is not run again
                self._observer.ended(job, ticket.spool.failure or (None if ticket.spool.ended else ShuttingDown()))
            self._note_idle()
            structlog.contextvars.clear_contextvars()

    async def _heard(self, ticket: Ticket, event: Progress | Chunk | Completed, started: float) -> None:
        """Pass on what the worker says of the running job, with what only the queue knows."""
        job = ticket.job
        self._watchdog.heard(event.unit_seconds if isinstance(event, Progress) else None)
        if isinstance(event, Progress):
            event = replace(event, eta=self._estimator.remaining(job, event))
            self._running_eta = event.eta
        elif isinstance(event, Completed):
            self._estimator.learn(job, event)
            event = replace(event, queue_seconds=started - ticket.admitted)
            log.info("job completed", job_id=job.id, seconds=round(event.total_seconds, 3), bytes=event.size)
        await self._say(ticket, event)

    def _restart(self, ticket: Ticket, error: WorkerLost) -> None:
        """Put the job before all that wait; what it has said so far is void."""
        ticket.attempt += 1
        ticket.requeued = time.monotonic()
        self._waiting.appendleft(ticket)
        ticket.spool.restart(Restarted(ticket.attempt, error.reason, str(error)))
        ticket.spool.put(Queued(0, None))
        self._observer.restarted(ticket.job, error)
        log.warning("job will be run again", job_id=ticket.job.id, attempt=ticket.attempt, error=str(error))

    def _fail(self, ticket: Ticket, error: EasyAnimError) -> None:
        if ticket.spool.ended:  # its caller has left, or has the video
            return
        ticket.spool.fail(error)
        job, attempt = ticket.job, ticket.attempt
        log.warning("job failed", job_id=job.id, reason=error.reason, error=str(error), attempt=attempt)

    async def _say(self, ticket: Ticket, event: Progress | Chunk | Completed) -> None:
        self._observer.said(ticket.job, event)
        if ticket.spool.ended:  # its caller has left, and the worker has not heard of it yet
            return
        if not isinstance(event, Chunk):
            ticket.spool.put(event)
        elif (failure := await self._quotas.keep(ticket, event)) is not None:
            ticket.spool.fail(failure)
            self._cancel(ticket)

    def _drop(self, ticket: Ticket, error: EasyAnimError) -> Future[None]:
        """End a job whose caller does not read, and forget it; see `Quotas`."""
        if ticket is self._running and not ticket.spool.ended:
            self._cancel(ticket)
        freed = ticket.spool.drop(error)
        self._observer.dropped(error)
        log.warning("result dropped", job_id=ticket.job.id, reason=error.reason, error=str(error))
        self._open.discard(ticket)  # a shutdown does not wait for it
        self._note_idle()
        return freed

    def _cancel(self, ticket: Ticket) -> None:
        """Have the worker leave the running job."""
        self._worker.cancel(ticket.job)
        self._watchdog.give_up()

    def waiting(self) -> Iterator[tuple[Ticket, Queued]]:
        """Who waits, and where each one stands now."""
        ahead = 0 if self._running is None else 1
        eta = self._running_eta if self._running else (0.0 if self._ready else None)
        for ticket in self._waiting:
            yield ticket, Queued(ahead, eta)
            whole = self._estimator.whole(ticket.job)
            eta = None if eta is None or whole is None else eta + whole
            ahead += 1

    def _note_idle(self) -> None:
        if self._running is None and not self._open:
            self._idle.set()

    def _change(self, state: ServerState, detail: str) -> None:
        if self._state is ServerState.DRAINING:  # nothing leads out of it
            return
        if state is not self._state:
            log.info("state", state=state.value, detail=detail or None)
        self._state, self._detail = state, detail
        self._on_state(state)
