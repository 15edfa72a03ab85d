"""The caller's side of a trace: a span around each generation, where the caller's program uses OpenTelemetry.

Without the package `opentelemetry-api` nothing is traced and nothing is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:  # the client needs grpcio and protobuf alone
    TRACING = False
else:
    TRACING = True

Metadata = tuple[tuple[str, str], ...]


@contextmanager
def call_span(method: str) -> Iterator[Metadata]:
    """A span of kind CLIENT while the block runs, a child of the caller's current one.

    It is never made the current span itself: generations are iterated, and the caller's own code runs in between.

    Args:
        method: The rpc's name.

    Yields:
        Metadata that carries the trace to the server; empty where nothing is traced.
    """
    if not TRACING:
        yield ()
        return
    span = trace.get_tracer("easyanim_client").start_span(
        f"easyanim.v1.VideoService/{method}",
        kind=trace.SpanKind.CLIENT,
        attributes={"rpc.system": "grpc", "rpc.service": "easyanim.v1.VideoService", "rpc.method": method},
    )
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    try:
        yield tuple(carrier.items())
    except Exception as error:
        span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()
