"""The front's end of the pipe to a worker process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

from easyanim_server.job import Bucket, Completed, Job, Picture
from easyanim_server.workers.local import LocalWorker
from tests.engines import SIMULATED
from tests.servers import settings

BUCKET = Bucket.parse("64x64x5")


async def test_a_cancel_does_not_cut_into_a_job_that_is_being_sent() -> None:
    worker = LocalWorker(settings(), SIMULATED)
    await worker.start(lambda detail: None)
    over = threading.Event()
    other = Job("other", "instant", "", BUCKET, steps=1, guidance=1.0, seed=0)

    def cancel_without_end() -> None:
        while not over.is_set():
            worker.cancel(other)

    canceller = threading.Thread(target=cancel_without_end)
    canceller.start()
    try:
        for number in range(10):
            large = Picture(64, 64, bytes(8 * 2**20))  # many writes to the pipe
            job = Job(str(number), "instant", "", BUCKET, steps=1, guidance=1.0, seed=0, start=large)
            events = [event async for event in in_time(worker.run(job))]
            assert isinstance(events[-1], Completed)
    finally:
        over.set()
        canceller.join()
        await worker.stop()


async def in_time(events: AsyncIterator[object]) -> AsyncIterator[object]:
    """The events, as long as none takes ten seconds to come."""
    while True:
        try:
            yield await asyncio.wait_for(anext(events), 10)
        except StopAsyncIteration:
            return
