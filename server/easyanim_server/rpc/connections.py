"""Bounds on connections: how many there are, what each may do, how long one stays; and the file descriptors for it."""

from __future__ import annotations

import resource

import structlog

from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.rpc.intake import WINDOW_BYTES

log = structlog.get_logger(__name__)

RESERVED_DESCRIPTORS = 96
"""Files that the server opens for itself beside one for each job: its libraries, event loop, listeners and metrics take
about 40, and the rest is for a worker that is spawned, children that read pictures, and what a library opens once."""

FEWEST_CONNECTIONS = 8
"""A server that could take fewer does not start."""

HANDSHAKE_MS = 10_000
"""From a connection's beginning to the first frames of HTTP/2; by default two minutes."""

MAX_PENDING_CALLS = 1024
"""Calls that gRPC holds before the event loop takes them. gRPC itself ends those beyond, some from here on and all from
twice as many, with CANCELLED and no reason: far above a burst of callers. Each holds at most `WINDOW_BYTES`."""

KEEPALIVE: tuple[tuple[str, int], ...] = (
    # A caller whose network is gone says nothing, not even that it left: its job must end within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # by default a minute, which the timeout above does not shorten
)

MAX_MS = 2**31 - 1
"""Which gRPC takes for ever."""


def raise_descriptor_limit() -> None:
    """Let this process and its children have as many open files as the system allows them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # a system may have a lower one of its own
            log.warning("cannot raise the limit of open files", limit=soft, error=str(error))


def connection_limit(settings: Settings) -> int:
    """Connections that there may be at once: `max_connections`, or what the limit of open files leaves for them.

    Raises:
        ConfigurationError: that are too few to serve anybody.
    """
    reserved = RESERVED_DESCRIPTORS + settings.queue_size
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = settings.max_connections if files == resource.RLIM_INFINITY else files - reserved
    if left < FEWEST_CONNECTIONS:
        raise ConfigurationError(
            f"this process may have {files} open files, of which {reserved} are the server's own; "
            f"it must have at least {reserved + FEWEST_CONNECTIONS} (ulimit -n)"
        )
    return min(settings.max_connections, left)


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """The options of the gRPC server.

    Raises:
        ConfigurationError: the limit of open files leaves too few connections.
    """
    calls = settings.max_connection_calls or settings.queue_size + 64
    return [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share its calls
        ("grpc.max_allowed_incoming_connections", connection_limit(settings)),
        ("grpc.max_concurrent_streams", calls),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.connection_idle_seconds)),
        # Its calls are finished, however long they take: the grace is without end by default.
        ("grpc.max_connection_age_ms", _milliseconds(settings.connection_age_seconds)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
        # Windows do not grow by themselves: `Intake` counts on what a stream may hold before it is read.
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
        # Clients may ping every 20 s through proxies that drop silent connections.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        *KEEPALIVE,
    ]


def _milliseconds(seconds: float) -> int:
    return round(min(seconds * 1000, MAX_MS))
