"""A worker process on this machine, seen from the front: spawned, watched, replaced. Imports no torch."""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import structlog

from easyanim_server.config.settings import Settings
from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import WorkerLost
from easyanim_server.domain.events import Chunk, Completed, Progress
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo
from easyanim_server.telemetry.log import coloured
from easyanim_server.workers.messages import (
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
    Waiting,
)

log = structlog.get_logger(__name__)

DEFAULT_ENGINE = "easyanim_server.engine.engine:Engine.from_settings"

MOST_MESSAGES = 64
"""Most of a job's messages that are read from the pipe and not dealt with. Where a disk takes files more slowly than
they are made, the pipe fills up then and the worker waits, instead of the front's memory growing."""

STOP_SECONDS = 5.0
"""How long a worker may take to end before it is killed."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process with its pipe, and the two threads of the front at this end of it."""

    process: BaseProcess
    connection: Connection
    outbox: queue.SimpleQueue[ToWorker]
    """What the writer sends, one after another: two writers' messages would mix in the pipe."""
    writer: threading.Thread
    reader: threading.Thread
    room: threading.Semaphore
    """Of messages that were read from the pipe and are not dealt with."""


class LocalWorker:
    """One spawned process that owns one device. Implements `protocols.Worker`; may be started again after it died."""

    def __init__(self, settings: Settings, engine_path: str = DEFAULT_ENGINE) -> None:
        """Prepare; `start` spawns.

        Args:
            settings: Handed to the process.
            engine_path: ``module:callable`` that makes the engine; another one for tests and other models.
        """
        self._settings = settings
        self._device = settings.device
        self._engine_path = engine_path
        self._spawned: Spawned | None = None
        self._messages: asyncio.Queue[FromWorker | None] = asyncio.Queue()
        self._closed = asyncio.Event()
        self._beats = 0

    @property
    def beats(self) -> int:
        """Signs of life between jobs. See `protocols.Worker`."""
        return self._beats

    @property
    def pid(self) -> int | None:
        """The process's id while there is one."""
        return self._spawned.process.pid if self._spawned else None

    @property
    def up(self) -> bool:
        """Whether the process is there, as far as is known. See `protocols.Worker`."""
        return self._spawned is not None and not self._closed.is_set()

    async def start(self, report: Callable[[str], None]) -> WorkerInfo:
        """Spawn the process and wait until it is warm. See `protocols.Worker`."""
        await self.stop()
        # Not on a thread: a cancel would leave it behind, and the process that it then spawns.
        self._spawn(asyncio.get_running_loop())
        ready = asyncio.create_task(self._await_ready(report))
        limit = self._settings.start_timeout_seconds
        try:
            # Not `wait_for`: before Python 3.12 it swallows a cancel that comes at the same moment as `Ready`.
            done, _ = await asyncio.wait([ready], timeout=limit)
            if not done:
                raise WorkerLost(f"the worker was not ready after {limit:g} s (start_timeout_seconds)")
            served = ready.result()
        except BaseException:
            ready.cancel()
            await self.stop()
            raise
        if self._device == "auto":
            # The next process must not make do with the CPU where the card has been lost.
            self._device = "cuda" if served.device_uuids else "cpu"
        return served

    async def run(self, job: Job, context: CallContext = NO_CALL) -> AsyncIterator[Progress | Chunk | Completed]:
        """Run one job to its end. See `protocols.Worker`."""
        self._send(Run(job, context))
        while True:
            message = await self._messages.get()
            if isinstance(message, Said):
                if self._spawned is not None:
                    self._spawned.room.release()
                yield message.event
            elif isinstance(message, Ended):
                if message.error is not None:
                    raise message.error
                return
            else:
                raise await self._lost("while it worked on the job")

    def cancel(self, job: Job) -> None:
        """Ask the worker to leave this job. See `protocols.Worker`."""
        self._send(Cancel(job.id))

    def kill(self) -> None:
        """End the process at once; its pipe's end tells `run`. See `protocols.Worker`."""
        if self._spawned is not None:
            self._spawned.process.kill()

    async def lost(self) -> WorkerLost:
        """Wait until the process is gone. See `protocols.Worker`."""
        await self._closed.wait()
        return await self._lost("while it waited for a job")

    async def stop(self) -> None:
        """Tell the process to end, kill it if it does not, and reap it."""
        spawned, self._spawned = self._spawned, None
        if spawned is not None:
            await asyncio.to_thread(_end, spawned)

    async def _await_ready(self, report: Callable[[str], None]) -> WorkerInfo:
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
        self._messages, self._closed = asyncio.Queue(), asyncio.Event()
        messages, closed = self._messages, self._closed  # this process's own, also when there is another one

        def on_message(message: FromWorker | None) -> None:
            if isinstance(message, Waiting):
                self._beats += 1
                return
            messages.put_nowait(message)
            if message is None:
                closed.set()

        # Spawned, never forked: a fork would carry over gRPC's threads and could not use CUDA.
        context = multiprocessing.get_context("spawn")
        try:
            ours, theirs = context.Pipe()
            settings = self._settings.model_copy(update={"device": self._device})
            with theirs:
                process = context.Process(
                    target=_run_loop,
                    args=(theirs, settings, self._engine_path, coloured()),
                    name="easyanim-worker",
                    daemon=True,
                )
                process.start()
        except OSError as error:
            raise WorkerLost(f"the worker process cannot be spawned: {error}") from error
        outbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        writer = threading.Thread(target=_write, args=(ours, outbox), name="worker-writer", daemon=True)
        room = threading.Semaphore(MOST_MESSAGES)
        reader = threading.Thread(target=_read, args=(ours, loop, on_message, room), name="worker-reader", daemon=True)
        self._spawned = Spawned(process, ours, outbox, writer, reader, room)
        writer.start()
        reader.start()

    def _send(self, message: ToWorker) -> None:
        # Never waits, for pictures are megabytes. What a lost worker does not get is missed by nobody: `run` and
        # `lost` hear of its end from the reader.
        if self._spawned is not None:
            self._spawned.outbox.put(message)

    async def _lost(self, when: str) -> WorkerLost:
        code = None
        if (spawned := self._spawned) is not None:
            await asyncio.to_thread(spawned.process.join, STOP_SECONDS)  # its pipe is closed, so it is ending
            code = spawned.process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return WorkerLost(f"the worker process ended {when} ({how})")


def _run_loop(connection: Connection, settings: Settings, engine_path: str, colours: bool) -> None:
    # Imported here, in the new process: the loop brings torch, which the front must never load.
    from easyanim_server.workers import main as loop

    loop.main(connection, settings, engine_path, colours)


def _write(connection: Connection, outbox: queue.SimpleQueue[ToWorker]) -> None:
    with suppress(OSError):  # the process is gone, which the reader tells
        while True:
            message = outbox.get()
            connection.send(message)
            if isinstance(message, Stop):
                return


def _read(
    connection: Connection,
    loop: asyncio.AbstractEventLoop,
    on_message: Callable[[FromWorker | None], None],
    room: threading.Semaphore,
) -> None:
    with suppress(RuntimeError):  # the event loop was closed before the worker: nobody is left to tell
        try:
            while True:
                message = connection.recv()
                if isinstance(message, Said):
                    room.acquire()
                loop.call_soon_threadsafe(on_message, message)
        except (EOFError, OSError):
            loop.call_soon_threadsafe(on_message, None)


def _end(spawned: Spawned) -> None:
    # A message, not a closed pipe: a close has no effect on the other end while our reader waits in it.
    spawned.outbox.put(Stop())
    spawned.room.release(10_000)  # more than a pipe holds: the reader waits for nobody any more
    process = spawned.process
    process.join(STOP_SECONDS)
    if process.is_alive():
        log.warning("worker did not end by itself; killing it", pid=process.pid)
        process.kill()
        process.join()
    spawned.writer.join()
    spawned.reader.join()
    spawned.connection.close()
    process.close()
