"""The front's end of the pipe to a worker process."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import psutil
import pytest

from easyanim_server.domain.errors import WorkerLost
from easyanim_server.domain.events import Completed
from easyanim_server.domain.job import Bucket, Job, Picture
from easyanim_server.workers import process as local
from easyanim_server.workers.messages import Ready
from easyanim_server.workers.process import LocalWorker
from tests.engines import CARD, SIMULATED
from tests.servers import settings

BUCKET = Bucket.parse("64x64x5")
PATIENCE = 10.0
"""Seconds after which a test that waits for the other side has failed."""


def large_job(name: str) -> Job:
    """A job of many writes to the pipe: more than it holds."""
    picture = Picture(64, 64, bytes(8 * 2**20))
    return Job(name, "instant", "", BUCKET, steps=1, guidance=1.0, seed=0, start=picture)


def stop_listening(pid: int | None) -> None:
    """Have a process stand still, as one does whose driver hangs."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)


async def test_a_cancel_does_not_cut_into_a_job_that_is_being_sent() -> None:
    worker = LocalWorker(settings(), SIMULATED)
    await worker.start(lambda detail: None)
    over = threading.Event()
    other = Job("other", "instant", "", BUCKET, steps=1, guidance=1.0, seed=0)

    def cancel_without_end() -> None:
        while not over.wait(0.0001):
            worker.cancel(other)

    canceller = threading.Thread(target=cancel_without_end)
    canceller.start()
    try:
        for number in range(10):
            events = [event async for event in in_time(worker.run(large_job(str(number))))]
            assert isinstance(events[-1], Completed)
    finally:
        over.set()
        canceller.join()
        await worker.stop()


async def test_a_cancel_does_not_wait_for_a_worker_that_hears_nothing() -> None:
    worker = LocalWorker(settings(), SIMULATED)
    await worker.start(lambda detail: None)
    job, pid = large_job("1"), worker.pid
    stop_listening(pid)
    running = asyncio.ensure_future(anext(worker.run(job)))
    try:
        await asyncio.sleep(0.2)  # until the pipe is full
        await asyncio.wait_for(asyncio.to_thread(worker.cancel, job), 2)
    finally:
        os.kill(pid or 0, signal.SIGCONT)
        with suppress(Exception):
            await asyncio.wait_for(running, PATIENCE)
        await worker.stop()


async def test_a_worker_that_hears_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STOP_SECONDS", 0.2)
    worker = LocalWorker(settings(), SIMULATED)
    await worker.start(lambda detail: None)
    process = psutil.Process(worker.pid)
    stop_listening(worker.pid)
    running = asyncio.ensure_future(anext(worker.run(large_job("1"))))
    try:
        await asyncio.sleep(0.2)  # until the pipe is full
        await asyncio.wait_for(worker.stop(), 3)
        assert not process.is_running()
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()
        running.cancel()


async def test_a_start_that_is_cut_off_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    worker = LocalWorker(settings(), SIMULATED)
    starting = asyncio.create_task(worker.start(lambda detail: None))
    await asyncio.sleep(0)
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
    await worker.stop()

    await asyncio.sleep(0.5)  # what a thread had still begun would be there now
    assert set(multiprocessing.active_children()) == before


async def test_a_start_that_is_cut_off_as_the_worker_gets_ready_is_cut_off() -> None:
    worker = LocalWorker(settings(), SIMULATED)
    served = await worker.start(lambda detail: None)
    starting = asyncio.create_task(worker.start(lambda detail: None))
    before = worker.pid
    while worker.pid in (None, before):
        await asyncio.sleep(0.001)
    worker._messages.put_nowait(Ready(served))
    starting.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await starting
    finally:
        await worker.stop()


async def test_a_process_that_cannot_be_spawned_is_a_lost_worker() -> None:
    worker = LocalWorker(settings(), SIMULATED)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, files[1]))  # what is open stays so, and nothing can be added
    try:
        with pytest.raises(WorkerLost, match="Too many open files"):
            await worker.start(lambda detail: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        await worker.stop()


async def test_a_worker_that_had_a_card_does_not_come_back_on_the_cpu() -> None:
    worker = LocalWorker(settings(device="auto"), CARD)
    try:
        first = await worker.start(lambda detail: None)
        worker.kill()
        await worker.lost()
        second = await worker.start(lambda detail: None)
    finally:
        await worker.stop()

    assert (first.model.device, second.model.device) == ("auto", "cuda")


async def test_a_death_in_idle_time_is_noticed() -> None:
    worker = LocalWorker(settings(), SIMULATED)
    await worker.start(lambda detail: None)
    lost = asyncio.create_task(worker.lost())
    try:
        await asyncio.sleep(0.05)
        assert worker.up
        assert not lost.done()
        os.kill(worker.pid or 0, signal.SIGKILL)
        assert "killed by signal 9" in str(await asyncio.wait_for(lost, PATIENCE))
        assert not worker.up
    finally:
        lost.cancel()
        await worker.stop()


async def in_time(events: AsyncIterator[object]) -> AsyncIterator[object]:
    """The events, as long as none takes ten seconds to come."""
    while True:
        try:
            yield await asyncio.wait_for(anext(events), PATIENCE)
        except StopAsyncIteration:
            return
