"""A scripted video service on a real port: it plays back what a test wrote down and generates nothing."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc

UNTIL_CANCELLED = object()
"""A step of a script: say nothing more until the caller has gone."""

UNKNOWN_EVENT = pb.GenerateResponse.FromString(b"\x7a\x00")
"""An empty event in field 15, as a newer server may send."""

PATIENCE = 10.0
"""Seconds after which a test that waits for the other side has failed."""


class ObservedHealth(health.HealthServicer):
    """The health service, which notes what comes with calls."""

    def __init__(self, metadata: list[dict[str, str | bytes]]) -> None:
        super().__init__()
        self._metadata = metadata

    def Check(self, request: Any, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        self._metadata.append(dict(context.invocation_metadata()))
        return super().Check(request, context)


class ScriptedVideoService(video_pb2_grpc.VideoServiceServicer):
    """Answers every call from `script` and `info`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.address = ""
        """Host and port, once it runs."""
        self.script: list[object] = []
        """Messages to send, a failure to end with, `UNTIL_CANCELLED`, or a barrier where calls wait for each other."""
        self.first_scripts: list[list[object]] = []
        """The same for the first calls, one each; `script` comes after them."""
        self.info: pb.GetServerInfoResponse | status_pb2.Status = pb.GetServerInfoResponse()
        self.requests: list[pb.GenerateRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        """What came with each call, of health too."""
        self.most_at_once = 0
        """The largest number of calls that were generating at the same time."""
        self._running = 0
        self._counting = threading.Lock()
        self.cancelled = threading.Event()
        """Set once a call was given up by its caller."""
        self.health = ObservedHealth(self.metadata)

    def Generate(self, request: Any, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        with self._counting:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            yield from self._played(request, context)
        finally:
            with self._counting:
                self._running -= 1

    def _played(self, request: Any, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        self.requests.append(request)
        gone, played = threading.Event(), threading.Event()

        def on_end() -> None:
            gone.set()
            if not played.is_set():
                self.cancelled.set()

        # At the start: gRPC drops this generator without another word once the caller has gone.
        if not context.add_callback(on_end):
            on_end()
        for step in self.first_scripts.pop(0) if self.first_scripts else self.script:
            if step is UNTIL_CANCELLED:
                gone.wait(PATIENCE)
            elif isinstance(step, threading.Barrier):
                step.wait(PATIENCE)
            elif isinstance(step, status_pb2.Status):
                played.set()
                context.abort_with_status(rpc_status.to_status(step))
            else:
                assert isinstance(step, pb.GenerateResponse)
                yield step
        if not gone.is_set():
            played.set()

    def LintPrompt(self, request: Any, context: grpc.ServicerContext) -> pb.LintPromptResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        return pb.LintPromptResponse()

    def GetServerInfo(self, request: Any, context: grpc.ServicerContext) -> pb.GetServerInfoResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        if isinstance(self.info, status_pb2.Status):
            context.abort_with_status(rpc_status.to_status(self.info))
        return self.info

    async def was_cancelled(self) -> bool:
        """Whether a caller gives up within `PATIENCE`; for tests that are in an event loop."""
        return await asyncio.to_thread(self.cancelled.wait, PATIENCE)

    def report_health(self, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        self.health.set("", states.SERVING if serving else states.NOT_SERVING)


@contextmanager
def scripted_server(max_request_bytes: int = 32 * 2**20) -> Iterator[ScriptedVideoService]:
    """The service on a free port."""
    service = ScriptedVideoService()
    server = grpc.server(
        ThreadPoolExecutor(8),
        options=[("grpc.max_receive_message_length", max_request_bytes), ("grpc.so_reuseport", 0)],
    )
    video_pb2_grpc.add_VideoServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()


def seconds(value: float) -> Duration:
    return Duration(seconds=int(value), nanos=round(value % 1 * 1e9))


PARAMETERS = pb.Parameters(
    prompt="a cat turns its head",
    negative_prompt="blurry",
    bucket="384x672",
    width_px=672,
    height_px=384,
    frame_count=49,
    step_count=35,
    guidance_scale=6.0,
    seed=42,
    frame_rate_fps=8,
    output_mime_type="video/mp4",
    fit_policy=pb.FIT_POLICY_PAD,
    conditioning=pb.CONDITIONING_START,
)

ACCEPTED = pb.GenerateResponse(
    accepted=pb.Accepted(job_id="job-1", parameters=PARAMETERS, prompt_token_count=31, prompt_truncated=False)
)
QUEUED = pb.GenerateResponse(queued=pb.Queued(jobs_ahead_count=2, eta_duration=seconds(61.5)))
DENOISE = pb.GenerateResponse(
    progress=pb.Progress(
        phase=pb.PHASE_DENOISE,
        completed_count=12,
        total_count=35,
        unit_duration=seconds(1.25),
        elapsed_duration=seconds(15.5),
        eta_duration=seconds(30.25),
    )
)
RESTARTED = pb.GenerateResponse(
    restarted=pb.Restarted(attempt=2, reason="WORKER_LOST", detail="the worker process ended (killed by signal 9)")
)


def chunks(data: bytes, size: int = 1000) -> list[pb.GenerateResponse]:
    """A file in parts."""
    return [
        pb.GenerateResponse(chunk=pb.Chunk(offset_bytes=offset, data=data[offset : offset + size]))
        for offset in range(0, len(data), size)
    ]


def completed(data: bytes) -> pb.GenerateResponse:
    """The end of the generation of a file."""
    return pb.GenerateResponse(
        completed=pb.Completed(
            size_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
            timings=pb.Timings(queue_duration=seconds(2), denoise_duration=seconds(43.75), total_duration=seconds(50)),
            peak_device_memory_bytes=12_345,
            receipt=pb.Receipt(
                parameters=PARAMETERS,
                model="builtin:tiny",
                model_fingerprint="ab" * 32,
                attention_mode="original",
                dtype="bfloat16",
                device="a card",
                backend="eager",
                profile="exact",
                versions={"easyanim": "0.1.0"},
            ),
        )
    )


def success(data: bytes) -> list[object]:
    """A whole generation of a file."""
    return [ACCEPTED, QUEUED, DENOISE, *chunks(data), completed(data)]


def failure(code: int, message: str, *details: Message) -> status_pb2.Status:
    """A status as the server ends a failed call with."""
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


def error_info(reason: str, domain: str = "easyanim", **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)


def retry_info(delay: float) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=seconds(delay))


def bad_request(**violations: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[violation(field=field, description=text) for field, text in violations.items()]
    )


QUEUE_FULL = failure(
    code_pb2.RESOURCE_EXHAUSTED, "8 jobs are waiting already", error_info("QUEUE_FULL"), retry_info(12.5)
)
INVALID = failure(
    code_pb2.INVALID_ARGUMENT,
    "frame_count: 50 is not 4k+1; seed: -1 is negative",
    bad_request(frame_count="50 is not 4k+1", seed="-1 is negative"),
    error_info("INVALID_ARGUMENT"),
)
DRAINING = failure(code_pb2.UNAVAILABLE, "the server is shutting down", retry_info(5), error_info("SHUTTING_DOWN"))
BROKEN = failure(code_pb2.INTERNAL, "the generation failed", error_info("GENERATION_FAILED", error_id="e-77"))
OUT_OF_MEMORY = failure(code_pb2.RESOURCE_EXHAUSTED, "the card is too small", error_info("OUT_OF_DEVICE_MEMORY"))
