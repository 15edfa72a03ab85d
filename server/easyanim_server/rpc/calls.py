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

from easyanim_server.job import Job
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
    """Watches the calls of one service; others, health and reflection, pass unseen."""

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
        serve = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def answer(request: Any, context: Any) -> Any:
            with self._observed(method, metadata, context) as request_id:
                await context.send_initial_metadata(((REQUEST_ID, request_id),))
                return await serve(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._observed(method, metadata, context) as request_id:
                await context.send_initial_metadata(((REQUEST_ID, request_id),))
                async with aclosing(serve(request, context)) as responses:
                    async for response in responses:
                        yield response

        wrap = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        wrapped: Any = stream if handler.response_streaming else answer
        return wrap(wrapped, handler.request_deserializer, handler.response_serializer)

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
