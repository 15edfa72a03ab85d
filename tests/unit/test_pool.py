"""Several workers behind one queue, and how a supervisor starts them again, on a clock that tests step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import ConfigurationError, QueueFull, WorkerLost
from easyanim_server.domain.events import Chunk, Completed, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo
from easyanim_server.domain.record import JobState
from easyanim_server.domain.state import ServerState
from easyanim_server.jobs.manager import JobManager
from easyanim_server.workers.pool import WorkerPool
from tests.fakes.clock import SteppedClock
from tests.fakes.worker import MortalWorker, SimulatedWorker, pool_of, submit, until


@pytest.fixture
async def begun() -> AsyncIterator[Callable[..., Any]]:
    tasks = []

    async def begin(*workers: SimulatedWorker, **options: Any) -> JobManager:
        manager = JobManager(pool_of(*workers), **options)
        tasks.append(asyncio.create_task(manager.run()))
        await until(lambda: manager.state is ServerState.SERVING)
        return manager

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_pool_without_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        WorkerPool([])


async def test_two_workers_run_two_jobs_and_the_third_waits_for_the_first_that_is_free(
    begun: Callable[..., Any],
) -> None:
    workers = SimulatedWorker(), SimulatedWorker()
    manager = await begun(*workers, queue_size=1)
    await until(lambda: manager._pool.ready_count == 2)
    records = [await submit(manager, number) for number in range(3)]
    with pytest.raises(QueueFull):
        await submit(manager, 4)
    await until(lambda: len(manager.running) == 2)

    assert [*manager.running] == records[:2]
    assert [(record, place.ahead) for record, place in manager.waiting()] == [(records[2], 2)]
    assert (manager.workload.waiting, manager.workload.running) == (1, 2)
    workers[1].finish()
    await until(lambda: records[2] in manager.running)
    assert len(manager.running) == 2


async def test_a_lost_worker_costs_the_other_nothing_and_its_job_goes_on_there(begun: Callable[..., Any]) -> None:
    class DyingWorker(MortalWorker):
        async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
            async for event in super().run(job, context):
                yield event
            if not self.up:
                raise WorkerLost("the worker process ended")

    steady, mortal = SimulatedWorker(), DyingWorker()
    manager = await begun(steady, mortal, queue_size=4, attempts=2)
    await until(lambda: manager._pool.ready_count == 2)
    first, second = await submit(manager, 1), await submit(manager, 2)
    await until(lambda: len(manager.running) == 2)
    assert first.state is second.state is JobState.RUNNING

    mortal.kill()
    await until(lambda: mortal.starts == 2)

    assert manager.state is ServerState.SERVING
    await until(lambda: {first.attempt, second.attempt} == {1, 2} and len(manager.running) == 2)


class LateWorker(SimulatedWorker):
    """Comes up at its fourth start after it was ready once."""

    def __init__(self, clock: SteppedClock) -> None:
        super().__init__()
        self.starts: list[float] = []
        self._clock = clock

    async def start(self, report: Callable[[str], None]) -> WorkerInfo:
        self.starts.append(self._clock.now())
        if 1 < len(self.starts) < 8:
            raise WorkerLost("not yet")
        return await super().start(report)

    async def lost(self) -> WorkerLost:
        return await super().lost() if self.up else WorkerLost("gone")

    @property
    def up(self) -> bool:  # type: ignore[override]
        return len(self.starts) > 7


async def test_pauses_between_starts_double_up_to_half_a_minute() -> None:
    clock = SteppedClock()
    worker = LateWorker(clock)
    manager = JobManager(pool_of(worker, clock=clock), queue_size=1, clock=clock)
    running = asyncio.create_task(manager.run())
    await until(lambda: len(worker.starts) > 1)
    assert (manager.state, manager.detail) == (ServerState.STARTING, "not yet; next try in 1 s")

    await clock.advance(200)
    pauses = [later - earlier for earlier, later in zip(worker.starts[1:-1], worker.starts[2:], strict=True)]
    assert pauses == [1, 2, 4, 8, 16, 30]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_worker_that_can_never_start_ends_the_front_and_stops_the_others() -> None:
    class Hopeless(SimulatedWorker):
        async def start(self, report: Callable[[str], None]) -> WorkerInfo:
            raise ConfigurationError("no such model")

    class Stopped(SimulatedWorker):
        stopped = False

        async def stop(self) -> None:
            self.stopped = True

    other = Stopped()
    with pytest.raises(ConfigurationError, match="no such model"):
        await JobManager(pool_of(other, Hopeless()), queue_size=1).run()
    assert other.stopped
