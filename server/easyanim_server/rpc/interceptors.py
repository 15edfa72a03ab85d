"""Every call of our service gets a request id, a trace context, a name in the log and a place in the metrics."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from easyanim_server.domain.errors import InvalidArgument, Violation
from easyanim_server.domain.job import Job
from easyanim_server.rpc.status import to_status
from easyanim_server.telemetry.telemetry import Telemetry

REQUEST_ID = "x-request-id"
"""Metadata with which a caller may name its call; the answer's initial metadata has it in any case."""
REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
"""What is kept of callers' own; others are replaced, since they go into logs."""
TRACEPARENT_FORM = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")

_current: ContextVar[tuple[dict[str, str], str]] = ContextVar("call", default=({}, ""))


def in_this_call(job: Job) -> Job:
    """The job with the ids of the call that it came in."""
    log_context, traceparent = _current.get()
    return replace(job, log_context=log_context, traceparent=traceparent)


class CallObserver(grpc.aio.ServerInterceptor):
    """Watches the calls of one service, none of which streams requests; others, health and reflection, pass unseen."""

    def __init__(self, service: str, telemetry: Telemetry) -> None:
        self._prefix = f"/{service}/"
        self._telemetry = telemetry

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Wrap the handler of a method that exists."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefix):
            return handler
        method = handler_call_details.method.removeprefix(self._prefix)
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        serve = handler.unary_unary or handler.unary_stream

        async def parsed(data: bytes, context: Any) -> Any:
            # Here, since gRPC itself would answer UNKNOWN and log a traceback.
            try:
                return handler.request_deserializer(data)
            except DecodeError as error:
                refusal = InvalidArgument([Violation("request", f"cannot be read, strings must be UTF-8 ({error})")])
                await context.abort_with_status(to_status(refusal))
            except InvalidArgument as refusal:
                await context.abort_with_status(to_status(refusal))

        async def answer(data: bytes, context: Any) -> Any:
            with self._observed(method, metadata, context) as request_id:
                await context.send_initial_metadata(((REQUEST_ID, request_id),))
                return await serve(await parsed(data, context), context)

        async def stream(data: bytes, context: Any) -> AsyncIterator[Any]:
            with self._observed(method, metadata, context) as request_id:
                await context.send_initial_metadata(((REQUEST_ID, request_id),))
                async with aclosing(serve(await parsed(data, context), context)) as responses:
                    async for response in responses:
                        yield response

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, None, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(answer, None, handler.response_serializer)

    @contextmanager
    def _observed(self, method: str, metadata: Mapping[str, str], context: Any) -> Iterator[str]:
        request_id = metadata.get(REQUEST_ID, "")
        if not REQUEST_ID_FORM.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        span = None
        traceparent = metadata.get("traceparent", "")
        if (traces := self._telemetry.traces) is not None:
            span, traceparent = traces.begin_call(method, metadata)
        log_context = {"request_id": request_id}
        if found := TRACEPARENT_FORM.fullmatch(traceparent):
            log_context["trace_id"] = found["trace"]
        _current.set((log_context, traceparent))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**log_context)
        began, code = time.perf_counter(), grpc.StatusCode.OK
        try:
            yield request_id
        except (asyncio.CancelledError, GeneratorExit):
            left = context.time_remaining()
            late = left is not None and left <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            set_by_handler = context.code()
            code = set_by_handler if isinstance(set_by_handler, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
            raise
        finally:
            self._telemetry.observer.answered(method, code.name, time.perf_counter() - began)
            if traces is not None and span is not None:
                traces.end_call(span, code.name, code.value[0])
