"""The HTTP server of the metrics: one path, few connections, none for long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

PATH = "/metrics"

MOST_CONNECTIONS = 8
"""Each has a thread and a file descriptor; a new one takes the place of the oldest."""
CONNECTION_SECONDS = 5.0
"""How long one may take in all, from its first byte to its last: a scrape takes some milliseconds."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing, a scraper comes every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each connection from a thread of its own, and closes those that take long or are too many."""

    daemon_threads = True  # and none is waited for at the end

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MOST_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                _end(oldest)
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called by the listening thread twice a second."""
        super().service_actions()
        with self._lock:
            for request, began in self._open.items():
                if time.monotonic() - began > CONNECTION_SECONDS:
                    _end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing: a scraper that went away is no event."""


def _end(request: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        request.shutdown(socket.SHUT_RDWR)


def _on_one_path(application: Application) -> Application:
    def answer(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environment["PATH_INFO"] == PATH:
            return application(environment, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"nothing is here; metrics are at {PATH}\n".encode()]

    return answer


def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> tuple[WSGIServer, threading.Thread]:
    """Listen and answer from a thread; the caller shuts the server down, closes it and joins the thread.

    Raises:
        OSError: the address cannot be bound.
    """

    class Server(_Server):
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]

    server = make_server(host, port, _on_one_path(make_wsgi_app(registry)), Server, handler_class=_Handler)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread
