"""Workers without a process, and what tests of the queue do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import (
    WorkerLost,
)
from easyanim_server.domain.events import Chunk, Completed, Progress
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.domain.model import BucketStatus, ModelInfo, PromptTokenizer, WorkerInfo
from easyanim_server.domain.record import JobRecord
from easyanim_server.jobs.manager import JobManager
from easyanim_server.workers.pool import WorkerPool
from easyanim_server.workers.supervisor import Supervisor
from tests.engines import word_tokenizer

BUCKET = Bucket(64, 64, 5)


class SimulatedWorker:
    """Does no work: a job lasts until `finish` is called for it."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[None] = asyncio.Queue()

    up = True
    beats = 0

    async def lost(self) -> WorkerLost:
        return await asyncio.Future()

    async def start(self, report: Callable[[str], None]) -> WorkerInfo:
        model = ModelInfo("simulated", "0" * 64, 0, "original", "float32", "simulated")
        return WorkerInfo(model, PromptTokenizer(word_tokenizer(), "", "", 256), capabilities=EASYANIMATE_V51)

    async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
        await self._jobs.get()
        return
        yield

    def finish(self) -> None:
        self._jobs.put_nowait(None)

    def cancel(self, job: Job) -> None:
        self.finish()

    def kill(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def pool_of(*workers: SimulatedWorker, **options: Any) -> WorkerPool:
    return WorkerPool([Supervisor(worker, **options) for worker in workers])


async def submit(manager: JobManager, number: int) -> JobRecord:
    return await manager.create(Job(str(number), "a cat", "", BUCKET, steps=1, guidance=1.0, seed=0))


class MortalWorker(SimulatedWorker):
    """A simulated worker that can die; killed in a job, it still says that it has left it."""

    def __init__(self) -> None:
        super().__init__()
        self._gone = asyncio.Event()
        self.starts = 0

    async def start(self, report: Callable[[str], None]) -> WorkerInfo:
        self._gone.clear()
        self.starts += 1
        return await super().start(report)

    @property
    def up(self) -> bool:  # type: ignore[override]
        return not self._gone.is_set()

    async def lost(self) -> WorkerLost:
        await self._gone.wait()
        return WorkerLost("the worker process ended")

    async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
        if self._gone.is_set():
            raise WorkerLost("the worker process ended")
        async for event in super().run(job, context):
            yield event

    def cancel(self, job: Job) -> None:
        """Is not heard."""

    def kill(self) -> None:
        self.finish()
        self._gone.set()


async def until(condition: Callable[[], Any]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), 10)


READY = BucketStatus(BUCKET, "eager", "float32", "torch")

DONE = Completed(10, b"", {}, 1.0, 0, ModelInfo("m", "", 0, "original", "float32", "cpu"), READY)
