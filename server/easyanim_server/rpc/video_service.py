"""VideoService: a request's whole way through the server, on one screen."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import grpc
import structlog

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import EasyAnimError, GenerationFailed
from easyanim_server.domain.events import Chunk
from easyanim_server.domain.model import Capabilities
from easyanim_server.jobs.manager import JobManager
from easyanim_server.jobs.quotas import caller_of
from easyanim_server.media.picture_pool import PicturePool
from easyanim_server.rpc.from_proto import check_prompts, to_job, without_mark
from easyanim_server.rpc.interceptors import current_call
from easyanim_server.rpc.limits import naming_what_is_too_long, taken_files
from easyanim_server.rpc.status import to_status
from easyanim_server.rpc.to_proto import activity_of, to_lint_response, to_response, to_server_info
from easyanim_server.telemetry.telemetry import Telemetry

log = structlog.get_logger(__name__)

MOST_LOGGED = 1000
"""Characters of an unexpected error's text, which may hold whatever a caller has sent."""

SLICE = 100
"""Jobs that `GetServerInfo` describes at a stretch, which takes about two milliseconds of the event loop."""

Context = grpc.aio.ServicerContext[Any, Any]


class VideoService(video_pb2_grpc.VideoServiceServicer):
    """Serves the contract of `proto/easyanim/v1/video.proto`."""

    def __init__(self, settings: Settings, jobs: JobManager, telemetry: Telemetry, decoders: PicturePool) -> None:
        self._settings = settings
        self._jobs = jobs
        self._telemetry = telemetry
        self._decoders = decoders
        self._info: asyncio.Task[pb.GetServerInfoResponse] | None = None
        """The answer that callers wait for now, and that is not begun."""
        self._answering = asyncio.Lock()

    @property
    def _capabilities(self) -> Capabilities:
        """Of the model that is loaded; until then, what its name and its folder say."""
        info = self._jobs.info
        return info.capabilities if info else self._settings.expected

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        """Create a job, watch it, and cancel it if the caller leaves; see the contract for the order of events."""
        record = None
        try:
            pictures = {field: file for field, file in taken_files().items() if file}
            self._jobs.check_room()  # before pictures are decoded, which costs most
            async with self._decoders.claim() if pictures else nullcontext() as decoder:
                self._jobs.check_room()  # those before may have taken the last place
                with naming_what_is_too_long():
                    job = await to_job(request, self._settings, self._capabilities, pictures, decoder)
                reading = await self._jobs.prompts.read_for(job)
                record = await self._jobs.create(job, reading, caller_of(context.peer()), current_call())
            del request, pictures  # as large as the pictures' files, while the job waits and runs
            async for event in self._jobs.watch(record, self._settings.heartbeat_seconds):
                yield to_response(event, job)
                if isinstance(event, Chunk):
                    self._telemetry.observer.sent(len(event.data))
        except EasyAnimError as error:
            if record is None:
                self._telemetry.observer.refused(error)
            await context.abort_with_status(to_status(error))
        except Exception as error:
            failure = GenerationFailed(uuid.uuid4().hex[:12])
            log.exception("request failed", error_id=failure.error_id, error=repr(error)[:MOST_LOGGED])
            await context.abort_with_status(to_status(failure))
        finally:  # the caller's cancel and deadline arrive here too
            if record is not None:
                await self._jobs.leave(record)

    async def LintPrompt(self, request: pb.LintPromptRequest, context: Context) -> pb.LintPromptResponse:
        """Say how a prompt would be read."""
        try:
            with naming_what_is_too_long():
                negative = check_prompts(request, self._settings)
            return to_lint_response(await self._jobs.prompts.read(without_mark(request.prompt), negative), negative)
        except EasyAnimError as error:
            await context.abort_with_status(to_status(error))
            raise  # for type checkers: abort never returns

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """Return what this server serves; callers who ask while another answer is made share the next one.

        So every answer is as of a moment after its callers have asked, and one is made at a time, in slices: with a
        thousand jobs it takes 20 ms.
        """
        if self._info is None:
            self._info = asyncio.create_task(self._read_info())
        return await asyncio.shield(self._info)  # one caller who leaves does not end it for the others

    async def _read_info(self) -> pb.GetServerInfoResponse:
        async with self._answering:
            try:
                devices = await asyncio.to_thread(self._telemetry.devices.read)
            finally:
                self._info = None
            activity = await in_slices(activity_of(self._jobs))
            return to_server_info(self._settings, self._jobs, devices, activity)


async def in_slices(items: Iterator[pb.Activity]) -> list[pb.Activity]:
    """All items, with room for others on the event loop after every `SLICE`."""
    taken: list[pb.Activity] = []
    while part := list(islice(items, SLICE)):
        taken += part
        await asyncio.sleep(0)
    return taken
