"""The gRPC server around the service: options, health, reflection, signals, drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from easyanim.v1 import video_pb2, video_pb2_grpc
from easyanim_server.config import checks as preflight
from easyanim_server.config.settings import SOCKET_SCHEMES, Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.protocols import Worker
from easyanim_server.domain.state import ServerState
from easyanim_server.jobs.manager import JobManager
from easyanim_server.jobs.quotas import Limits
from easyanim_server.media.picture_pool import PicturePool
from easyanim_server.rpc.connections import raise_descriptor_limit, server_options
from easyanim_server.rpc.intake import Intake
from easyanim_server.rpc.interceptors import Calls, Lane
from easyanim_server.rpc.limits import RequestLimits
from easyanim_server.rpc.trim import limit_arenas
from easyanim_server.rpc.video_service import VideoService
from easyanim_server.telemetry.metrics import Load
from easyanim_server.telemetry.telemetry import Telemetry
from easyanim_server.workers.pool import WorkerPool
from easyanim_server.workers.supervisor import Patience, Supervisor

log = structlog.get_logger(__name__)

SERVICE = video_pb2.DESCRIPTOR.services_by_name["VideoService"].full_name

LIVENESS = "liveness"
"""Name in health that is SERVING for as long as this process answers, also while it loads and drains."""

GOODBYE_SECONDS = 1.0
"""After the jobs have ended, how long their last events may take to leave."""

INQUIRY_BYTES, INQUIRY_BYTES_PER_CHARACTER = 64 * 2**10, 8
"""What messages may have that bring no pictures: two texts of up to four bytes a character, and room for the rest."""

GRACE_SECONDS, INQUIRY_GRACE_SECONDS = 3.0, 0.25
"""How long a message may take to arrive while others wait for its place: pictures, and what fits into one packet."""


class App:
    """One listening server: `start`, then `run_until_stopped`; or `stop` from elsewhere."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        """Wire the parts; nothing listens before `start`."""
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._health_tasks: set[asyncio.Task[None]] = set()
        self.telemetry = Telemetry(settings, self._load)
        patience = Patience(settings.cancel_seconds, settings.stall_seconds, settings.idle_stall_seconds)
        self.jobs = JobManager(
            WorkerPool([Supervisor(worker, patience, self.telemetry.observer)]),
            queue_size=settings.queue_size,
            attempts=settings.job_attempts,
            limits=result_limits(settings),
            on_state=self._report_health,
            observer=self.telemetry.observer,
        )
        self._server = grpc.aio.server(
            interceptors=[
                Calls(SERVICE, self.telemetry, self._lanes()),
                RequestLimits(SERVICE, settings.max_prompt_chars),  # parses, for the one before
            ],
            options=server_options(settings),
        )
        self.decoders = PicturePool(
            settings.picture_decoders, max_pixels=settings.max_image_pixels, max_file_bytes=settings.max_request_bytes
        )
        service = VideoService(settings, self.jobs, self.telemetry, self.decoders)
        video_pb2_grpc.add_VideoServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._running: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self.metrics_port: int | None = None
        """Where metrics are, once started; None where they are switched off."""

    async def start(self) -> int:
        """Listen and begin to load the model; returns the port.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)  # it would say SERVING by itself
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        try:
            with preflight.alone_at(self._settings.listen):
                port = self._server.add_insecure_port(self._settings.listen)
        except RuntimeError as error:
            raise ConfigurationError(f"cannot listen on {self._settings.listen!r} (listen): {error}") from error
        self.metrics_port = self.telemetry.start()
        await self._server.start()
        self._running = asyncio.create_task(self.jobs.run(), name="jobs")
        log.info("listening", address=self._settings.listen, port=port, model=self._settings.model)
        return port

    async def run_until_stopped(self) -> None:
        """Serve until `stop`, then drain; a second `stop` cuts the drain short.

        Raises:
            EasyAnimError: the worker cannot be started with these settings.
        """
        assert self._running is not None, "start() comes first"
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([self._running, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not self._running.done():
                await self._drain()
        finally:
            stopping.cancel()
            await self._close()
        if self._running.done() and not self._running.cancelled():
            self._running.result()  # raises what ended it

    def stop(self) -> None:
        """Begin to drain; called again, end at once."""
        (self._hurry if self._stopping.is_set() else self._stopping).set()

    def hang_up(self) -> None:
        """Begin to drain; called again, nothing more: a terminal that closes may send two signals."""
        self._stopping.set()

    async def _drain(self) -> None:
        log.info("draining", jobs=self.jobs.workload.jobs, limit_seconds=self._settings.drain_seconds)
        draining = asyncio.create_task(self.jobs.drain(self._settings.drain_seconds))
        await asyncio.sleep(0)  # from now on jobs are refused, so no picture is worth its decoder's time
        await self.decoders.close()
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            draining.cancel()
            await self.jobs.drain(0)

    async def _close(self) -> None:
        await self.decoders.close()
        await self._server.stop(GOODBYE_SECONDS)
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._running
        await asyncio.to_thread(self.telemetry.close)
        log.info("stopped")

    def _lanes(self) -> Callable[[str], Lane]:
        """How each method's messages are received: jobs' pictures are no reason to refuse a health check."""
        largest, patience = self._settings.max_request_bytes, self._settings.receive_seconds
        limit = self._settings.max_pending_bytes or 2 * largest
        few = min(largest, INQUIRY_BYTES + INQUIRY_BYTES_PER_CHARACTER * self._settings.max_prompt_chars)
        jobs = Lane(
            Intake(limit, largest, patience=patience, grace=GRACE_SECONDS),
            largest,
            admit=self.jobs.check_room,
            accepted=lambda response: bool(response.HasField("accepted")),
            turns=Intake(1, 1, full="other requests that are as large are being read"),
        )
        others = {
            service: Lane(Intake(largest, largest, patience=patience, grace=grace), few)
            for service, grace in (
                (SERVICE, INQUIRY_GRACE_SECONDS),
                (health.SERVICE_NAME, INQUIRY_GRACE_SECONDS),
                (reflection.SERVICE_NAME, GRACE_SECONDS),  # its callers may think between one message and the next
            )
        }
        return lambda path: jobs if path == f"/{SERVICE}/Generate" else others[path.split("/")[1]]

    def _load(self) -> Load:
        work = self.jobs.workload
        return Load(
            self.jobs.state.value,
            work.waiting,
            work.running,
            self._settings.queue_size,
            work.backlog_seconds,
            self.jobs.result_bytes,
        )

    def _report_health(self, state: ServerState) -> None:
        serving = state is ServerState.SERVING
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        task = asyncio.create_task(self._set_health(status))
        self._health_tasks.add(task)
        task.add_done_callback(self._health_tasks.discard)

    async def _set_health(self, status: int) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)


def result_limits(settings: Settings) -> Limits:
    """What results may take on disk."""
    return Limits(
        caller_bytes=settings.result_caller_bytes,
        total_bytes=settings.result_total_bytes,
        unread_seconds=settings.result_unread_seconds,
        reserve_bytes=settings.disk_reserve_bytes,
    )


async def serve(settings: Settings, worker: Worker, on_address: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second one of the first two cuts the drain short.

    Args:
        settings: How to serve.
        worker: Where jobs run.
        on_address: Told where the server listens, once it does.

    Raises:
        EasyAnimError: it cannot serve with these settings.
    """
    limit_arenas()
    raise_descriptor_limit()
    app = App(settings, worker)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        loop.add_signal_handler(signal.SIGHUP, app.hang_up)
    port = await app.start()
    host = settings.listen.rpartition(":")[0]
    on_socket = settings.listen.partition(":")[0] in SOCKET_SCHEMES
    on_address(settings.listen if on_socket else f"{host}:{port}")
    await app.run_until_stopped()
