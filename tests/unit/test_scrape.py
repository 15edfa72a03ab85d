"""The metrics' HTTP server: one path, few connections, none for long."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

from easyanim_server.telemetry import scrape
from tests.e2e.processes import eventually


@pytest.fixture
def port() -> Iterator[int]:
    registry = CollectorRegistry()
    Gauge("answer", "The answer.", registry=registry).set(42)
    server, thread = scrape.serve_metrics("127.0.0.1", 0, registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(10)


def scraped(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read(), "utf-8")


def test_metrics_are_on_their_path(port: int) -> None:
    assert "answer 42.0" in scraped(port)
    assert "answer 42.0" in scraped(port, "/metrics?name[]=answer")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz", "/../etc/passwd", "/favicon.ico"])
def test_nothing_is_anywhere_else(port: int, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        scraped(port, path)
    assert refused.value.code == 404
    assert "/metrics" in refused.value.read().decode()


def test_those_who_only_connect_take_no_place_from_a_scraper_and_few_threads(port: int) -> None:
    others = set(threading.enumerate())  # of servers of other tests

    def answering() -> int:
        return sum("process_request" in thread.name for thread in set(threading.enumerate()) - others)

    with ExitStack() as connections:
        idle = [
            connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(5 * scrape.MOST_CONNECTIONS)
        ]
        assert "answer 42.0" in scraped(port)
        # All but the newest were closed, and their threads have ended.
        for connection in idle[: -scrape.MOST_CONNECTIONS]:
            assert connection.recv(1) == b""
        eventually(lambda: answering() <= scrape.MOST_CONNECTIONS)


def test_a_connection_that_says_a_little_from_time_to_time_is_closed(
    port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scrape, "CONNECTION_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\nX-Slow: ")
        assert connection.recv(1) == b""
    assert capfd.readouterr().err == ""
