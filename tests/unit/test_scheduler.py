"""Admission, and whom a lost worker is laid to, against simulated workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import LogCapture

from easyanim_server.domain.call import CallContext
from easyanim_server.domain.errors import (
    EasyAnimError,
    NotReady,
    OutOfDeviceMemory,
    QueueFull,
    ShuttingDown,
    WorkerLost,
)
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import BucketStatus, WorkerInfo
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.manager import JobManager
from easyanim_server.rpc.status import to_status
from easyanim_server.workers.supervisor import ENDLESS, Patience
from tests.fakes.worker import BUCKET, MortalWorker, SimulatedWorker, pool_of, until

CANCEL_SECONDS = 0.05


async def submit(manager: JobManager, number: int, **log_context: str) -> JobRecord:
    return await manager.create(
        Job(str(number), "a cat", "", BUCKET, steps=1, guidance=1.0, seed=0), context=CallContext(log_context)
    )


@pytest.fixture
async def begun() -> AsyncIterator[Callable[..., Any]]:
    tasks = []

    async def begin(worker: SimulatedWorker, patience: Patience = ENDLESS, **options: Any) -> JobManager:
        manager = JobManager(pool_of(worker, patience=patience), **options)
        tasks.append(asyncio.create_task(manager.run()))
        await until(lambda: manager.info)
        await asyncio.sleep(0.02)  # it waits for a job
        return manager

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_first_job_of_an_idle_server_takes_no_place_in_the_queue(begun: Callable[..., Any]) -> None:
    manager = await begun(SimulatedWorker(), queue_size=1)
    await submit(manager, 1)
    await submit(manager, 2)
    with pytest.raises(QueueFull):
        await submit(manager, 3)

    await until(lambda: manager.running)
    with pytest.raises(QueueFull):
        await submit(manager, 3)


async def test_a_worker_that_is_killed_while_it_leaves_a_job_does_not_get_the_next_one(
    begun: Callable[..., Any],
) -> None:
    worker = MortalWorker()
    manager = await begun(worker, queue_size=4, attempts=1, patience=Patience(cancel_seconds=CANCEL_SECONDS))
    first, second = await submit(manager, 1), await submit(manager, 2)
    await until(lambda: [*manager.running] == [first])

    await manager.leave(first)
    await until(lambda: [*manager.running] == [second])

    assert worker.starts == 2
    assert second.failure is None
    assert second.attempt == 1


async def test_a_worker_that_dies_idle_is_not_laid_to_the_last_caller(begun: Callable[..., Any]) -> None:
    worker = MortalWorker()
    manager = await begun(worker, queue_size=4)
    said = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, said])
    record = await submit(manager, 1, request_id="REQ-1")
    await until(lambda: manager.running)
    worker.finish()
    await until(lambda: not manager.running)
    await manager.leave(record)

    worker.kill()
    await until(lambda: worker.starts == 2)

    context = {line["event"]: line.get("request_id") for line in said.entries}
    assert context["job started"] == "REQ-1"
    assert "worker lost" in context
    assert context["worker lost"] is None


class MeasuredWorker(SimulatedWorker):
    """A simulated worker whose predictions took ten seconds each when it was made ready."""

    async def start(self, report: Callable[[str], None]) -> WorkerInfo:
        ready = BucketStatus(BUCKET, "eager", "float32", "torch", prediction_seconds=10.0)
        return replace(await super().start(report), buckets=(ready,))


async def test_refused_callers_are_told_to_come_back_as_the_backlog_ends(begun: Callable[..., Any]) -> None:
    manager = await begun(MeasuredWorker(), queue_size=8)
    for number in range(9):
        await submit(manager, number)
    await until(lambda: manager.running)
    assert manager.workload.backlog_seconds == pytest.approx(90.0)

    delays = []
    for _ in range(50):
        with pytest.raises(QueueFull) as refused:
            manager.check_room()
        delays.append(retry_seconds(refused.value))
    assert 10.0 <= min(delays) < 20.0, "when the running job ends"
    assert 30.0 < max(delays) <= 45.0, "when half of the others have begun"
    assert len(set(delays)) > 40, "not all at once"


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (NotReady("loading"), 2.0, 2.5),
        (NotReady("loading", loading_seconds=60), 15.0, 18.75),
        (NotReady("loading", loading_seconds=4000), 30.0, 37.5),
        (ShuttingDown(), 5.0, 10.0),
        (WorkerLost("gone"), 1.0, 3.0),
    ],
)
def test_no_two_callers_are_told_the_same_time(error: EasyAnimError, least: float, most: float) -> None:
    delays = [retry_seconds(error) for _ in range(50)]

    assert least <= min(delays) < max(delays) <= most
    assert len(set(delays)) > 20


def test_who_asks_for_more_than_the_device_has_is_not_told_to_come_again() -> None:
    details = to_status(OutOfDeviceMemory("too large")).trailing_metadata[0][1]
    assert b"RetryInfo" not in details


def retry_seconds(error: EasyAnimError) -> float:
    status = status_pb2.Status.FromString(to_status(error).trailing_metadata[0][1])
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return float(info.retry_delay.ToMilliseconds() / 1000)
