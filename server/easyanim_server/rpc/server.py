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
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.domain.protocols import Worker
from easyanim_server.domain.state import ServerState
from easyanim_server.jobs.quotas import Limits
from easyanim_server.jobs.scheduler import Scheduler
from easyanim_server.rpc.interceptors import CallObserver
from easyanim_server.rpc.video_service import VideoService
from easyanim_server.telemetry.metrics import Load
from easyanim_server.telemetry.telemetry import Telemetry

log = structlog.get_logger(__name__)

SERVICE = video_pb2.DESCRIPTOR.services_by_name["VideoService"].full_name

LIVENESS = "liveness"
"""Name in health that is SERVING for as long as this process answers, also while it loads and drains."""

GOODBYE_SECONDS = 1.0
"""After the jobs have ended, how long their last events may take to leave."""

KEEPALIVE: tuple[tuple[str, int], ...] = (
    # A caller whose network is gone says nothing, not even that it left: its job must end within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # by default a minute, which the timeout above does not shorten
)


class App:
    """One listening server: `start`, then `run_until_stopped`; or `stop` from elsewhere."""

    def __init__(self, settings: Settings, worker: Worker) -> None:
        """Wire the parts; nothing listens before `start`."""
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._health_tasks: set[asyncio.Task[None]] = set()
        self.telemetry = Telemetry(settings, self._load)
        self.scheduler = Scheduler(
            worker,
            queue_size=settings.queue_size,
            attempts=settings.job_attempts,
            cancel_seconds=settings.cancel_seconds,
            stall_seconds=settings.stall_seconds,
            idle_seconds=settings.idle_stall_seconds,
            limits=result_limits(settings),
            on_state=self._report_health,
            observer=self.telemetry.observer,
        )
        self._server = grpc.aio.server(
            interceptors=[CallObserver(SERVICE, self.telemetry)],
            options=[
                ("grpc.max_receive_message_length", settings.max_request_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share its calls
                # Clients may ping every 20 s through proxies that drop silent connections.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                *KEEPALIVE,
            ],
        )
        service = VideoService(settings, self.scheduler, self.telemetry)
        video_pb2_grpc.add_VideoServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self._jobs: asyncio.Task[None] | None = None
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
            port = self._server.add_insecure_port(self._settings.listen)
        except RuntimeError as error:
            raise ConfigurationError(f"cannot listen on {self._settings.listen!r} (listen): {error}") from error
        self.metrics_port = self.telemetry.start()
        await self._server.start()
        self._jobs = asyncio.create_task(self.scheduler.run(), name="scheduler")
        log.info("listening", address=self._settings.listen, port=port, model=self._settings.model)
        return port

    async def run_until_stopped(self) -> None:
        """Serve until `stop`, then drain; a second `stop` cuts the drain short.

        Raises:
            EasyAnimError: the worker cannot be started with these settings.
        """
        assert self._jobs is not None, "start() comes first"
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([self._jobs, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not self._jobs.done():
                await self._drain()
        finally:
            stopping.cancel()
            await self._close()
        if self._jobs.done() and not self._jobs.cancelled():
            self._jobs.result()  # raises what ended it

    def stop(self) -> None:
        """Begin to drain; called again, end at once."""
        (self._hurry if self._stopping.is_set() else self._stopping).set()

    def hang_up(self) -> None:
        """Begin to drain; called again, nothing more: a terminal that closes may send two signals."""
        self._stopping.set()

    async def _drain(self) -> None:
        log.info("draining", jobs=self.scheduler.job_count, limit_seconds=self._settings.drain_seconds)
        draining = asyncio.create_task(self.scheduler.drain(self._settings.drain_seconds))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            draining.cancel()
            await self.scheduler.drain(0)

    async def _close(self) -> None:
        await self._server.stop(GOODBYE_SECONDS)
        if self._jobs is not None:
            self._jobs.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._jobs
        await asyncio.to_thread(self.telemetry.close)
        log.info("stopped")

    def _load(self) -> Load:
        jobs = self.scheduler
        running = jobs.job_count - jobs.waiting_count
        return Load(
            jobs.state.value,
            jobs.waiting_count,
            running,
            self._settings.queue_size,
            jobs.backlog_seconds,
            jobs.result_bytes,
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
    app = App(settings, worker)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        loop.add_signal_handler(signal.SIGHUP, app.hang_up)
    port = await app.start()
    host = settings.listen.rpartition(":")[0]
    on_address(settings.listen if settings.listen.startswith("unix:") else f"{host}:{port}")
    await app.run_until_stopped()
