"""Every call: its message is received within bounds; of our service it gets ids, and a place in log and metrics."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import EasyAnimError, InvalidArgument, Violation
from easyanim_server.rpc.intake import EndOfMessages, Intake
from easyanim_server.rpc.status import to_status
from easyanim_server.telemetry.telemetry import Telemetry

REQUEST_ID = "x-request-id"
"""Metadata with which a caller may name its call; the answer's initial metadata has it in any case."""
REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
"""What is kept of callers' own; others are replaced, since they go into logs."""
TRACEPARENT_FORM = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")

_current: ContextVar[CallContext] = ContextVar("call", default=NO_CALL)


def current_call() -> CallContext:
    """The call that is answered here."""
    return _current.get()


HUGE_SHARE = 0.25
"""Of the largest message; see `Lane.turns`."""


@dataclass(frozen=True)
class Lane:
    """How messages of some methods are received."""

    intake: Intake
    most: int
    """Bytes that a message may have."""
    admit: Callable[[], None] = lambda: None
    """Raises an `EasyAnimError` where a call would be refused whatever its message says; asked before that is read."""
    accepted: Callable[[Any], bool] | None = None
    """Whether a response says that the request is a job now: its bytes count until then. None is of requests that are
    done with as soon as they are read."""
    turns: Intake | None = None
    """Where those wait that have more than `HUGE_SHARE` of the most bytes: what is parsed is there twice, so they are
    worked on one after another."""


class Calls(grpc.aio.ServerInterceptor):
    """Receives the message of every call, of health and reflection too, and observes those of one service.

    Every method is served as if both sides streamed, which is the same on the wire: of one with a single request, gRPC
    reads the message before anyone is asked, and keeps it for as long as the call lasts.
    """

    def __init__(self, service: str, telemetry: Telemetry, lanes: Callable[[str], Lane]) -> None:
        """Prepare.

        Args:
            service: The one that is observed, by its full name.
            telemetry: Told of its calls.
            lanes: By a method's path, such as ``/grpc.health.v1.Health/Check``, how its messages are received.
        """
        self._prefix = f"/{service}/"
        self._telemetry = telemetry
        self._lanes = lanes

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Wrap the handler of a method that exists."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = handler_call_details.method
        lane = self._lanes(path)
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}

        async def answer(_: object, context: Any) -> None:
            try:
                if not path.startswith(self._prefix):
                    await self._serve(handler, lane, context)
                    return
                with self._observed(path.removeprefix(self._prefix), metadata, context) as request_id:
                    await context.send_initial_metadata(((REQUEST_ID, request_id),))
                    await self._serve(handler, lane, context)
            except grpc.aio.AbortError as error:
                # gRPC keeps the error with the call, and raises it once more after this: with its traceback it would
                # keep the frames, and in them the request, in a cycle until the collector finds it.
                forget_frames(error)

        return grpc.stream_stream_rpc_method_handler(answer, None, handler.response_serializer)

    async def _serve(self, handler: Any, lane: Lane, context: Any) -> None:
        try:
            await self._serve_or_refuse(handler, lane, context)
        except grpc.aio.InternalError:
            # The caller left while it was written to, and gRPC has not said so yet; it would log a traceback.
            raise asyncio.CancelledError from None

    async def _serve_or_refuse(self, handler: Any, lane: Lane, context: Any) -> None:
        try:
            if handler.request_streaming:
                messages = _messages(handler.request_deserializer, lane, context)
                await _respond(handler.stream_stream(messages, context), context)
            else:
                await self._serve_one(handler, lane, context)
        except EasyAnimError as error:
            await context.abort_with_status(to_status(error))

    async def _serve_one(self, handler: Any, lane: Lane, context: Any) -> None:
        with ExitStack() as places:
            request = await self._receive(handler.request_deserializer, lane, context, places)
            if lane.accepted is None:
                places.close()
            if not handler.response_streaming:
                await context.write(await handler.unary_unary(request, context))
            elif not inspect.isasyncgenfunction(handler.unary_stream):
                await handler.unary_stream(request, context)  # it writes by itself
            else:
                responses = handler.unary_stream(request, context)
                del request  # whose memory is the handler's to keep or to give back
                await _respond(responses, context, lane.accepted, places)

    async def _receive(self, deserialize: Any, lane: Lane, context: Any, places: ExitStack) -> Any:
        """The request of a call, which its places count until they are closed."""
        try:
            lane.admit()
            place = await lane.intake.place()
            places.callback(place.release)
            try:
                data = await lane.intake.read(place, context, lane.most)
            except EndOfMessages:
                raise InvalidArgument([Violation("request", "is missing; a call has one message")]) from None
            if lane.turns is not None and len(data) > lane.most * HUGE_SHARE:
                places.callback((await lane.turns.place()).release)
            return _parsed(deserialize, data)
        except EasyAnimError as error:
            if lane.accepted is not None:
                self._telemetry.observer.refused(error)
            raise

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
        _current.set(CallContext(log_context, traceparent))
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


def _parsed(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return deserialize(data)
    except DecodeError as error:
        violation = Violation("request", f"cannot be read, strings must be UTF-8 ({error})")
        raise InvalidArgument([violation]) from None


async def _messages(deserialize: Callable[[bytes], Any], lane: Lane, context: Any) -> AsyncIterator[Any]:
    """The messages of a caller that streams them, each with a place of its own while it is received."""
    while True:
        place = await lane.intake.place()
        try:
            data = await lane.intake.read(place, context, lane.most)
        except EndOfMessages:
            return
        finally:
            place.release()
        yield _parsed(deserialize, data)


async def _respond(
    responses: Any, context: Any, accepted: Callable[[Any], bool] | None = None, places: ExitStack | None = None
) -> None:
    async with aclosing(responses):
        async for response in responses:
            if accepted is not None and places is not None and accepted(response):
                places.close()
            await context.write(response)


def forget_frames(error: BaseException) -> None:
    """Take their tracebacks, and with them the frames' variables, from an error and those that led to it."""
    led_to: BaseException | None = error
    while led_to is not None:
        led_to.__traceback__ = None
        led_to = led_to.__cause__ or led_to.__context__
