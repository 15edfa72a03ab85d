"""What runs inside a worker process: one engine, one job at a time, until the pipe closes."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import uuid
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection

import structlog

from easyanim_server.config.settings import Settings
from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import ConfigurationError, EasyAnimError, GenerationFailed, JobCancelled
from easyanim_server.domain.job import Job
from easyanim_server.domain.model import WorkerInfo
from easyanim_server.domain.protocols import Engine
from easyanim_server.telemetry.log import configure_logging
from easyanim_server.workers.messages import Cancel, Ended, Ready, Run, Said, StartFailed, Starting, Stop, Waiting
from easyanim_server.workers.runner import JobRunner

log = structlog.get_logger(__name__)

BEAT_SECONDS = 1.0
"""How often the front is told that this process waits for a job."""


def main(connection: Connection, settings: Settings, engine_path: str, colours: bool = False) -> None:
    """Load the engine, say `Ready`, then do jobs until the pipe closes.

    Args:
        connection: The worker's end of the pipe; its closing is the order to end.
        settings: The server's settings.
        engine_path: ``module:attribute`` of a callable that makes an engine from settings.
        colours: Whether the front's log is read on a terminal; this process's stderr is a pipe to the front.
    """
    # Ctrl-C, a terminal's end and a service manager's SIGTERM reach the whole process group; the front decides what
    # they mean here.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    configure_logging(settings.log_format, settings.log_level, colours)
    inbox = Inbox(connection)
    # Watched from the start: a front that dies while gigabytes load must not leave this process behind.
    threading.Thread(target=inbox.receive, name="inbox", daemon=True).start()
    try:
        engine = start(connection, settings, engine_path)
    except EasyAnimError as error:
        connection.send(StartFailed(error))
        return
    except OSError as error:
        if error.filename is None:
            raise
        # A file or folder that cannot be used is no better at the next try.
        connection.send(StartFailed(ConfigurationError(f"{error.filename}: {error.strerror}")))
        return
    while True:
        try:
            order = inbox.orders.get(timeout=BEAT_SECONDS)
        except queue.Empty:
            connection.send(Waiting())
            continue
        connection.send(Ended(order.job.id, run(engine, order.job, inbox, connection, order.context)))


def start(connection: Connection, settings: Settings, engine_path: str) -> Engine:
    """Load the engine and make every bucket ready, so that no request pays for a first time."""

    def report(detail: str) -> None:
        log.info("starting", detail=detail)
        connection.send(Starting(detail))

    report(f"loading {settings.model}")
    module, _, attribute = engine_path.partition(":")
    make_engine = import_module(module)
    for name in attribute.split("."):
        make_engine = getattr(make_engine, name)
    began = time.perf_counter()
    engine: Engine = make_engine(settings)  # type: ignore[operator]
    loaded = time.perf_counter()
    buckets = engine.prepare(settings.buckets_of(engine.capabilities), report)
    for bucket in buckets:
        note = log.warning if bucket.fallback else log.info
        note("bucket ready", **bucket.facts())
    log.info(
        "worker ready",
        model=engine.model.name,
        device=engine.model.device,
        dtype=engine.model.dtype,
        buckets=len(buckets),
        load_seconds=round(loaded - began, 3),
        prepare_seconds=round(time.perf_counter() - loaded, 3),
    )
    info = WorkerInfo(
        engine.model, engine.tokenizer, buckets, engine.device_uuids, engine.lookups(), capabilities=engine.capabilities
    )
    connection.send(Ready(info))
    return engine


def run(
    engine: Engine, job: Job, inbox: Inbox, connection: Connection, context: CallContext = NO_CALL
) -> EasyAnimError | None:
    """Do one job, sending what happens; returns why there is no video, or None."""
    generation = JobRunner(
        engine,
        job,
        say=lambda event: connection.send(Said(job.id, event)),
        check=lambda: inbox.check(job),
    )
    with structlog.contextvars.bound_contextvars(job_id=job.id, **context.log_context):
        try:
            generation.run()
        except EasyAnimError as error:
            return error
        except Exception as error:
            failure = GenerationFailed(uuid.uuid4().hex[:12])
            log.exception("generation failed", error_id=failure.error_id, error=repr(error))
            end_if_broken(engine)
            return failure
    return None


def end_if_broken(engine: Engine) -> None:
    """End the process where its device is lost to it: the next jobs would all fail, and a new process may do them."""
    try:
        engine.probe()
    except Exception as error:
        log.critical("the device is broken for this process; it ends", error=repr(error))
        os._exit(1)  # at once: an orderly end would ask the device


class Inbox:
    """Receives orders on a thread of its own, so that a cancel is seen while the device works."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cancelled: str | None = None
        self.orders: queue.SimpleQueue[Run] = queue.SimpleQueue()

    def receive(self) -> None:
        """Take messages until `Stop`, or until the pipe closes because the front died; then end the process."""
        code = 1  # a worker that cannot hear any more must not stay: the front would wait for it for ever
        try:
            with suppress(EOFError, OSError):
                while not isinstance(message := self._connection.recv(), Stop):
                    if isinstance(message, Run):
                        self.orders.put(message)
                    elif isinstance(message, Cancel):
                        self._cancelled = message.job_id
            code = 0
        finally:
            # At once, in the middle of a step too: a normal exit would wait for the main thread.
            os._exit(code)

    def check(self, job: Job) -> None:
        """Raise `JobCancelled` where the front has asked for it."""
        if self._cancelled == job.id:
            raise JobCancelled
