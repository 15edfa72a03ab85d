"""VideoService: a request's whole way through the server, on one screen."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_server.catalog import expected
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import EasyAnimError, GenerationFailed
from easyanim_server.domain.events import Chunk
from easyanim_server.domain.model import Capabilities
from easyanim_server.jobs.scheduler import Scheduler
from easyanim_server.rpc.from_proto import CONVERSIONS, check_prompts, to_job
from easyanim_server.rpc.interceptors import in_this_call
from easyanim_server.rpc.status import to_status
from easyanim_server.rpc.to_proto import to_lint_response, to_response, to_server_info
from easyanim_server.telemetry.telemetry import Telemetry

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class VideoService(video_pb2_grpc.VideoServiceServicer):
    """Serves the contract of `proto/easyanim/v1/video.proto`."""

    def __init__(self, settings: Settings, scheduler: Scheduler, telemetry: Telemetry) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self._telemetry = telemetry
        self._conversions = asyncio.Semaphore(CONVERSIONS)

    @property
    def _capabilities(self) -> Capabilities:
        """Of the model that is loaded; until then, and of workers that do not say, what its name lets expect."""
        served = self._scheduler.served
        return (served and served.capabilities) or expected(self._settings.model)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        """Generate one video; see the contract for the order of events."""
        ticket = None
        try:
            self._scheduler.check_room()  # before pictures are decoded, which costs most
            async with self._conversions:
                self._scheduler.check_room()  # those before may have taken the last place
                job = in_this_call(await to_job(request, self._settings, self._capabilities))
                ticket = self._scheduler.submit(job)
            del request  # as large as its pictures' files, while the job waits and runs
            async for event in ticket.spool.read(self._settings.heartbeat_seconds):
                yield to_response(event, job)
                if isinstance(event, Chunk):
                    self._telemetry.observer.sent(len(event.data))
        except EasyAnimError as error:
            if ticket is None:
                self._telemetry.observer.refused(error)
            await context.abort_with_status(to_status(error))
        except Exception as error:
            failure = GenerationFailed(uuid.uuid4().hex[:12])
            log.exception("request failed", error_id=failure.error_id, error=repr(error))
            await context.abort_with_status(to_status(failure))
        finally:  # the caller's cancel and deadline arrive here too
            if ticket is not None:
                self._scheduler.release(ticket)

    async def LintPrompt(self, request: pb.LintPromptRequest, context: Context) -> pb.LintPromptResponse:
        """Say how a prompt would be read."""
        try:
            negative = check_prompts(request, self._settings)
            return to_lint_response(self._scheduler.read(request.prompt, negative), negative)
        except EasyAnimError as error:
            await context.abort_with_status(to_status(error))
            raise  # for type checkers: abort never returns

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """Return what this server serves."""
        devices = await asyncio.to_thread(self._telemetry.devices.read)
        return to_server_info(self._settings, self._scheduler, self._capabilities, devices)
