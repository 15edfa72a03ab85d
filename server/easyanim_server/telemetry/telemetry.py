"""What a server tells about itself, as its settings say: metrics over HTTP, traces to a collector, its devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

import structlog

from easyanim_server.config.settings import Settings
from easyanim_server.domain.errors import ConfigurationError
from easyanim_server.telemetry.devices import Devices
from easyanim_server.telemetry.metrics import Load, Metrics
from easyanim_server.telemetry.observer import JobObserver, JobObservers
from easyanim_server.telemetry.scrape import serve_metrics

if TYPE_CHECKING:
    from easyanim_server.telemetry.traces import Traces

log = structlog.get_logger(__name__)


class Telemetry:
    """Metrics, traces and devices of one server."""

    def __init__(self, settings: Settings, read_load: Callable[[], Load]) -> None:
        """Prepare; nothing listens before `start`.

        Args:
            settings: `metrics_listen` and `otlp_endpoint` are used.
            read_load: Asked at every scrape, from another thread.

        Raises:
            ConfigurationError: traces are asked for and their libraries are not installed.
        """
        self._address = settings.metrics_listen
        self._http: tuple[WSGIServer, threading.Thread] | None = None
        self.devices = Devices()
        self.metrics = Metrics(read_load, self.devices.read) if self._address else None
        self.traces = _traces(settings.otlp_endpoint) if settings.otlp_endpoint else None
        observers: tuple[JobObserver | None, ...] = (self.devices, self.metrics, self.traces)
        self.observer: JobObserver = JobObservers(*(item for item in observers if item is not None))
        """To be told what happens."""

    def start(self) -> int | None:
        """Serve the metrics from a thread; returns the port, None where they are switched off.

        Raises:
            ConfigurationError: the address is none, or cannot be bound.
        """
        if self.metrics is None:
            return None
        host, _, port = self._address.rpartition(":")
        try:
            server, thread = serve_metrics(host.strip("[]") or "0.0.0.0", int(port), self.metrics.registry)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"cannot listen on {self._address!r} (metrics_listen): {error}") from error
        self._http = server, thread
        log.info("metrics", address=self._address, port=server.server_port)
        return server.server_port

    def close(self) -> None:
        """Send the last traces and stop serving metrics."""
        if self.traces is not None:
            self.traces.close()
        if self._http is not None:
            server, thread = self._http
            server.shutdown()
            server.server_close()
            thread.join()


def _traces(endpoint: str) -> Traces:
    try:
        from easyanim_server.telemetry.traces import Traces
    except ModuleNotFoundError as missing:
        hint = "pip install '.[telemetry]' in a clone of easyanim installs it"
        raise ConfigurationError(f"otlp_endpoint={endpoint!r} needs {missing.name}: {hint}") from missing
    return Traces.to(endpoint)
