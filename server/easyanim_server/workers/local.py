"""A worker process on this machine, seen from the front: spawned, watched, replaced. Imports no torch."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import structlog

from easyanim_server.errors import WorkerLost
from easyanim_server.job import Chunk, Completed, Job, Progress, Served
from easyanim_server.settings import Settings
from easyanim_server.workers.protocol import (
    Cancel,
    Ended,
    FromWorker,
    Ready,
    Run,
    Said,
    StartFailed,
    Starting,
    Stop,
    ToWorker,
)

log = structlog.get_logger(__name__)

DEFAULT_ENGINE = "easyanim_server.engine.engine:Engine.load"

STOP_SECONDS = 5.0
"""How long a worker may take to end before it is killed."""


class LocalWorker:
    """One spawned process that owns one device. Implements `job.Worker`; may be started again after it died."""

    def __init__(self, settings: Settings, engine_path: str = DEFAULT_ENGINE) -> None:
        """Prepare; `start` spawns.

        Args:
            settings: Handed to the process.
            engine_path: ``module:callable`` that makes the engine; another one for tests and other models.
        """
        self._settings = settings
        self._engine_path = engine_path
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._sending = threading.Lock()
        self._reader: threading.Thread | None = None
        self._messages: asyncio.Queue[FromWorker | None] = asyncio.Queue()

    @property
    def pid(self) -> int | None:
        """The process's id while there is one."""
        return self._process.pid if self._process else None

    async def start(self, report: Callable[[str], None]) -> Served:
        """Spawn the process and wait until it is warm. See `job.Worker`."""
        await self.stop()
        self._messages = asyncio.Queue()
        await asyncio.to_thread(self._spawn, asyncio.get_running_loop())
        try:
            return await asyncio.wait_for(self._await_ready(report), self._settings.start_timeout_seconds)
        except asyncio.TimeoutError:
            await self.stop()
            raise WorkerLost(
                f"the worker was not ready after {self._settings.start_timeout_seconds:g} s (start_timeout_seconds)"
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def run(self, job: Job) -> AsyncIterator[Progress | Chunk | Completed]:
        """Run one job to its end. See `job.Worker`."""
        try:
            await asyncio.to_thread(self._send, Run(job))  # pictures are megabytes: not on the event loop
        except OSError:
            raise await self._lost("before it took the job") from None
        while True:
            message = await self._messages.get()
            if isinstance(message, Said):
                yield message.event
            elif isinstance(message, Ended):
                if message.error is not None:
                    raise message.error
                return
            else:
                raise await self._lost("while it worked on the job")

    def cancel(self, job: Job) -> None:
        """Ask the worker to leave this job. See `job.Worker`."""
        with suppress(OSError):  # a worker that is gone has left the job already; `run` says so
            self._send(Cancel(job.id))

    async def stop(self) -> None:
        """Tell the process to end, kill it if it does not, and reap it."""
        process, connection, reader = self._process, self._connection, self._reader
        self._process = self._connection = self._reader = None
        if process is not None and connection is not None and reader is not None:
            await asyncio.to_thread(_end, process, connection, reader)

    async def _await_ready(self, report: Callable[[str], None]) -> Served:
        while True:
            message = await self._messages.get()
            if isinstance(message, Starting):
                report(message.detail)
            elif isinstance(message, Ready):
                return message.served
            elif isinstance(message, StartFailed):
                raise message.error
            else:
                raise await self._lost("while it was starting")

    def _spawn(self, loop: asyncio.AbstractEventLoop) -> None:
        # Spawned, never forked: a fork would carry over gRPC's threads and could not use CUDA.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_run_loop, args=(theirs, self._settings, self._engine_path), name="easyanim-worker", daemon=True
        )
        process.start()
        theirs.close()
        reader = threading.Thread(target=_receive, args=(ours, loop, self._messages), name="worker-reader", daemon=True)
        reader.start()
        self._process, self._connection, self._reader = process, ours, reader

    def _send(self, message: ToWorker) -> None:
        if self._connection is None:
            raise OSError("there is no worker process")
        # A job is sent from a thread and its cancel from the event loop: two messages must not mix in the pipe.
        with self._sending:
            self._connection.send(message)

    async def _lost(self, when: str) -> WorkerLost:
        code = None
        if (process := self._process) is not None:
            await asyncio.to_thread(process.join, STOP_SECONDS)  # its pipe is closed, so it is ending
            code = process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerLost(f"the worker process ended {when} ({how})")


def _run_loop(connection: Connection, settings: Settings, engine_path: str) -> None:
    # Imported here, in the new process: the loop brings torch, which the front must never load.
    from easyanim_server.workers import loop

    loop.main(connection, settings, engine_path)


def _receive(
    connection: Connection, loop: asyncio.AbstractEventLoop, messages: asyncio.Queue[FromWorker | None]
) -> None:
    with suppress(RuntimeError):  # the event loop was closed before the worker: nobody is left to tell
        try:
            while True:
                loop.call_soon_threadsafe(messages.put_nowait, connection.recv())
        except (EOFError, OSError):
            loop.call_soon_threadsafe(messages.put_nowait, None)


def _end(process: BaseProcess, connection: Connection, reader: threading.Thread) -> None:
    # A message, not a closed pipe: a close has no effect on the other end while our reader waits in it.
    with suppress(OSError):
        connection.send(Stop())
    process.join(STOP_SECONDS)
    if process.is_alive():
        log.warning("worker did not end by itself; killing it", pid=process.pid)
        process.kill()
        process.join()
    reader.join()
    connection.close()
    process.close()
