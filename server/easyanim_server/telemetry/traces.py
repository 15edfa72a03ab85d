"""OpenTelemetry traces of a job: queue, phases and video encoding as children of the caller's span.

Spans are built in the front from the times that the worker measured, so the worker needs no tracing of its own.
Needs the extra "telemetry"; attributes never hold a prompt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from easyanim_server import __version__
from easyanim_server.domain.call import NO_CALL, CallContext
from easyanim_server.domain.errors import EasyAnimError
from easyanim_server.domain.events import Chunk, Completed, Phase, Progress
from easyanim_server.domain.job import Job
from easyanim_server.telemetry.observer import JobObserver

log = structlog.get_logger(__name__)

ATTRIBUTE = "easyanim."
NANOSECONDS = 1_000_000_000
GOODBYE_SECONDS = 2.0
"""How long a collector may take for the last spans; without a limit, one that is away would hold up the end."""
W3C = TraceContextTextMapPropagator()
"""Between a call and its job; callers may use whatever OTEL_PROPAGATORS names."""


@dataclass
class Course:
    """When a job did what, in seconds since the epoch."""

    queued: float
    context: CallContext = NO_CALL
    started: float | None = None
    phases: dict[Phase, float] = field(default_factory=dict)
    """The beginning of each."""
    heard: float = 0.0
    """Of the last news, in seconds since `started`."""
    completed: Completed | None = None


class Traces(JobObserver):
    """Makes spans and sends them to a collector, in batches, from a thread of its own."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Prepare; nothing global is touched, so several servers may trace in one process."""
        resource = Resource.create({SERVICE_NAME: "easyanim", SERVICE_VERSION: __version__})
        self._exporter = exporter
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `close` does it
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("easyanim", __version__)
        self._courses: dict[str, Course] = {}

    @classmethod
    def to(cls, endpoint: str) -> Traces:
        """Send to an OTLP collector over gRPC: ``http://host:4317``, or ``https`` for TLS."""
        return cls(OTLPSpanExporter(endpoint=endpoint))

    def begin_call(self, method: str, metadata: Mapping[str, str]) -> tuple[Span, str]:
        """Begin the server's span of one call, a child of the one in the caller's context, if there is one.

        Returns:
            The span, and its W3C `traceparent` for spans of the call's job.
        """
        attributes = {"rpc.system": "grpc", "rpc.service": "easyanim.v1.VideoService", "rpc.method": method}
        span = self._tracer.start_span(
            f"easyanim.v1.VideoService/{method}",
            context=propagate.extract(metadata),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        carrier: dict[str, str] = {}
        W3C.inject(carrier, trace.set_span_in_context(span))
        return span, carrier.get("traceparent", "")

    def end_call(self, span: Span, code: str, number: int) -> None:
        """End a call's span with its gRPC code by name and number."""
        span.set_attribute("rpc.grpc.status_code", number)
        if code not in ("OK", "CANCELLED"):
            span.set_status(Status(StatusCode.ERROR, code))
        span.end()

    def queued(self, job: Job, context: CallContext) -> None:
        """The queue's span begins."""
        self._courses[job.id] = Course(time.time(), context)

    def started(self, job: Job, waited: float) -> None:
        """The queue's span ends."""
        now = time.time()
        self._courses.setdefault(job.id, Course(now - waited)).started = now

    def said(self, job: Job, event: Progress | Chunk | Completed) -> None:
        """A phase begins with the last news of the one before: what was prepared for it is part of it."""
        course = self._courses.get(job.id, Course(0.0))
        if isinstance(event, Progress) and course.started is not None:
            course.phases.setdefault(event.phase, course.started + course.heard)
            course.heard = event.elapsed
        elif isinstance(event, Completed):
            course.completed = event

    def restarted(self, job: Job, failure: EasyAnimError) -> None:
        """The spans of the run that was lost are sent, and the queue's begins once more."""
        context = self._courses[job.id].context
        self.ended(job, failure)
        self.queued(job, context)

    def ended(self, job: Job, failure: EasyAnimError | None) -> None:
        """Send the spans of a job that is over, in whatever way."""
        course, now = self._courses.pop(job.id), time.time()
        waiting = course.started is None
        self._span(job, "queue", course.queued, course.started or now, failure if waiting else None, course)
        end = now
        if course.completed is not None and course.started is not None:
            end = course.started + course.completed.total_seconds
        begins = [*course.phases.values(), end]
        for number, (phase, begin) in enumerate(course.phases.items()):
            last = number == len(course.phases) - 1
            span = self._span(
                job, phase.value.lower(), begin, begins[number + 1], failure if last else None, course, True
            )
            if phase is Phase.DECODE and course.completed is not None and course.started is not None:
                self._encoding_span(job, span, course.started, course.completed, end)

    def close(self) -> None:
        """Send what is left, as far as the collector takes it in `GOODBYE_SECONDS`."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(GOODBYE_SECONDS)
        if ending.is_alive():
            log.warning("the collector does not take the last traces", waited_seconds=GOODBYE_SECONDS)
            self._exporter.shutdown()  # ends its retries
            ending.join(GOODBYE_SECONDS)

    def _encoding_span(self, job: Job, decode: Span, started: float, completed: Completed, end: float) -> None:
        """The encoder works between decoded frames; the span is from its first frame to the last byte."""
        span = self._tracer.start_span(
            "video_encode",
            context=trace.set_span_in_context(decode),
            start_time=_nanoseconds(started + completed.encoding.began),
            attributes={
                f"{ATTRIBUTE}busy_seconds": completed.encoding.busy,
                f"{ATTRIBUTE}format": job.output.value,
                f"{ATTRIBUTE}size_bytes": completed.size,
            },
        )
        span.end(_nanoseconds(end))

    def _span(
        self,
        job: Job,
        name: str,
        begin: float,
        end: float,
        failure: EasyAnimError | None,
        course: Course,
        of_run: bool = False,
    ) -> Span:
        attributes: dict[str, str | int] = {f"{ATTRIBUTE}job_id": job.id, f"{ATTRIBUTE}bucket": str(job.bucket)}
        if request := course.context.log_context.get("request_id"):
            attributes[f"{ATTRIBUTE}request_id"] = request
        if of_run:
            attributes[f"{ATTRIBUTE}steps"] = job.steps
            if course.completed is not None:
                attributes[f"{ATTRIBUTE}backend"] = course.completed.readiness.backend
                attributes[f"{ATTRIBUTE}precision"] = course.completed.readiness.precision
        span = self._tracer.start_span(
            name,
            context=W3C.extract({"traceparent": course.context.traceparent}),
            start_time=_nanoseconds(begin),
            attributes=attributes,
        )
        if failure is not None:
            span.set_attribute(f"{ATTRIBUTE}reason", failure.reason)
            if failure.reason != "CANCELLED":
                span.set_status(Status(StatusCode.ERROR, failure.reason))
        span.end(_nanoseconds(max(begin, end)))
        return span


def _nanoseconds(seconds: float) -> int:
    return round(seconds * NANOSECONDS)
