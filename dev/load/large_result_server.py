"""A server whose worker is simulated: every job's result is so many random megabytes, there at once.

What is measured against it is the way of a finished file through spool, service, gRPC and client, and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable

from easyanim_server.catalog import EASYANIMATE_V51
from easyanim_server.config.settings import Settings
from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import WorkerLost
from easyanim_server.domain.events import CHUNK_BYTES, Chunk, Completed, Phase, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import BucketStatus, ModelInfo, PromptTokenizer, WorkerInfo
from easyanim_server.rpc.server import serve
from easyanim_server.telemetry.log import configure_logging
from tests.engines import word_tokenizer


class SimulatedWorker:
    """Generates nothing. Implements `protocols.Worker`."""

    def __init__(self, megabytes: int) -> None:
        self._chunk = os.urandom(CHUNK_BYTES)
        self._count = megabytes * 10**6 // CHUNK_BYTES
        digest = hashlib.sha256()
        for _ in range(self._count):
            digest.update(self._chunk)
        self._digest = digest.digest()
        self._model = ModelInfo("simulated", "0" * 64, 0, "original", "float32", "simulated")

    up = True

    @property
    def beats(self) -> int:
        return time.monotonic_ns()

    async def lost(self) -> WorkerLost:
        return await asyncio.Future()

    async def start(self, report: Callable[[str], None]) -> WorkerInfo:
        return WorkerInfo(
            self._model, PromptTokenizer(word_tokenizer(), "", "", max_tokens=256), capabilities=EASYANIMATE_V51
        )

    async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
        # As fast as the disk takes it.
        for number in range(self._count):
            yield Chunk(number * CHUNK_BYTES, self._chunk)
        yield Completed(
            size=self._count * CHUNK_BYTES,
            sha256=self._digest,
            seconds=dict.fromkeys(Phase, 0.0),
            total_seconds=0.0,
            peak_device_bytes=0,
            model=self._model,
            readiness=BucketStatus(job.bucket, "simulated", "float32", "none"),
        )

    def cancel(self, job: Job) -> None:
        pass

    def kill(self) -> None:
        pass

    async def stop(self) -> None:
        pass


if __name__ == "__main__":
    configure_logging("console", "error")
    settings = Settings.load({"listen": "127.0.0.1:0", "model": "simulated:large"})
    asyncio.run(
        serve(
            settings,
            SimulatedWorker(int(sys.argv[1])),
            lambda address: print(f"listening on {address}", flush=True),
        )
    )
