"""What those who wait in the queue are told, and what that costs, against a simulated worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import psutil
import pytest

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import ShuttingDown, WorkerLost
from easyanim_server.domain.events import Chunk, Completed, Progress, Queued
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs import manager as managing
from easyanim_server.jobs import positions as announcer
from easyanim_server.jobs.manager import JobManager
from easyanim_server.jobs.spool import Spool
from easyanim_server.rpc.to_proto import activity_of
from easyanim_server.rpc.video_service import SLICE, in_slices
from tests.fakes.clock import SteppedClock
from tests.fakes.worker import BUCKET, SimulatedWorker, pool_of, submit


@pytest.fixture
async def worker() -> SimulatedWorker:
    return SimulatedWorker()


@pytest.fixture
async def manager(worker: SimulatedWorker) -> AsyncIterator[JobManager]:
    manager = JobManager(pool_of(worker), queue_size=1024)
    running = asyncio.create_task(manager.run())
    while manager.info is None:
        await asyncio.sleep(0.001)
    yield manager
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def place(manager: JobManager, record: JobRecord) -> int:
    """Jobs ahead, as the next reader hears it."""
    events = manager.watch(record, heartbeat=5.0)
    await anext(events)  # accepted
    queued = await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    assert isinstance(queued, Queued)
    return queued.ahead


async def test_a_caller_hears_its_place_at_once(manager: JobManager) -> None:
    records = [await submit(manager, number) for number in range(300)]

    assert [await place(manager, record) for record in records[::100]] == [0, 100, 200]


async def test_everybody_moves_up_when_a_job_ends_or_leaves(manager: JobManager, worker: SimulatedWorker) -> None:
    records = [await submit(manager, number) for number in range(5)]
    while [*manager.running] != records[:1]:
        await asyncio.sleep(0)
    await manager.leave(records[2])
    worker.finish()

    async def moved_up() -> None:
        while (await place(manager, records[3]), await place(manager, records[4])) != (1, 2):
            await asyncio.sleep(0.005)

    await asyncio.wait_for(moved_up(), 5)


async def test_a_long_queue_that_moves_fast_does_not_drown_the_front_in_news(
    manager: JobManager, worker: SimulatedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 0

    class CountingSpool(Spool):
        def put(self, event: Queued | Progress | Completed) -> None:
            nonlocal told
            told += isinstance(event, Queued)
            super().put(event)

    monkeypatch.setattr(managing, "Spool", CountingSpool)
    clock = asyncio.get_running_loop().time
    for number in range(400):
        await submit(manager, number)
    began, told = clock(), 0
    for left in range(399, 199, -1):
        worker.finish()
        while manager.workload.jobs > left:
            await asyncio.sleep(0)
    spent = clock() - began

    # Without a limit each of 200 ends would tell all who wait: 60,000 messages. Two rounds may always be due.
    assert told <= 800 + announcer.PER_SECOND * spent


async def test_a_round_of_a_long_queue_leaves_the_loop_to_others_and_passes_over_who_left(
    worker: SimulatedWorker,
) -> None:
    clock, told = SteppedClock(), list[JobRecord]()
    manager = JobManager(pool_of(worker, clock=clock), queue_size=1024, clock=clock)
    dispatcher = manager._dispatcher
    records = [JobRecord(Job(str(number), "a cat", "", BUCKET, 1, 1.0, 0), 0.0) for number in range(450)]
    for record in records:
        dispatcher._queue.add(record)
    positions = announcer.Positions(dispatcher.waiting, lambda record, place: told.append(record), clock)

    positions.announce()
    begin = clock._due.pop()
    begin.function()
    assert len(told) == announcer.SLICE
    dispatcher.withdraw(records[-1])
    positions.announce()  # while the round is under way: another one comes after it
    await clock.advance(0.0)
    assert told == records[:-1]
    await clock.advance(60.0)
    assert told == [*records[:-1], *records[:-1]]


async def test_the_list_of_a_thousand_jobs_is_made_in_slices(manager: JobManager) -> None:
    for number in range(900):
        await submit(manager, number)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(take_turns())
    listed = await in_slices(activity_of(manager))
    others.cancel()

    assert [item.job_id for item in listed] == [str(number) for number in range(900)]
    assert turns >= 900 // SLICE


async def test_when_the_scheduler_breaks_nobody_is_left_waiting() -> None:
    class BrokenWorker(SimulatedWorker):
        async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
            raise RuntimeError("a fault that was asked for")
            yield

    manager = JobManager(pool_of(BrokenWorker()), queue_size=8)
    running = asyncio.create_task(manager.run())
    while manager.info is None:
        await asyncio.sleep(0.001)
    records = [await submit(manager, number) for number in range(3)]
    with pytest.raises(RuntimeError):
        await running

    assert all(isinstance(record.failure, ShuttingDown) for record in records)


async def test_a_worker_that_stays_away_for_hours_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class LateWorker(SimulatedWorker):
        tries = 0

        async def start(self, report: Callable[[str], None]) -> WorkerInfo:
            self.tries += 1
            if 1 < self.tries < 1100:
                raise WorkerLost("not yet")
            return await super().start(report)

        async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
            raise WorkerLost("gone")
            yield

    async def no_pause(seconds: float) -> None:
        await pause(0)

    pause = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", no_pause)
    worker = LateWorker()
    manager = JobManager(pool_of(worker), queue_size=8)
    running = asyncio.create_task(manager.run())
    while manager.info is None:
        await pause(0.001)
    await submit(manager, 1)
    while worker.tries < 1100:
        assert not running.done(), running
        await pause(0.001)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_thousand_waiting_jobs_hold_no_file(manager: JobManager) -> None:
    process = psutil.Process()
    before = process.num_fds()
    records = [await submit(manager, number) for number in range(1000)]

    assert process.num_fds() - before < 10
    for record in records:
        await manager.leave(record)
