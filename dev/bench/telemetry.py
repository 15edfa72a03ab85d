"""Measures what telemetry costs: the same calls against two servers, one with everything on and one with it off.

On means: metrics that are scraped every second, traces sent to an OTLP collector, and a trace context in every call.
The calls go to both in turn, so that the machine's moods fall on both alike. Twice: with an engine that is simulated
and sleeps 20 ms for every step, where nothing but the front takes time and differences show; and with `builtin:tiny`.
What a call costs the front is taken from the processor time of its process.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import psutil
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_server.benchmark import record
from easyanim_server.workers.process import DEFAULT_ENGINE
from tests.engines import SIMULATED
from tests.servers import RunningServer, settings

FILE = Path(__file__).resolve().parents[2] / "bench" / "results" / "telemetry.json"
CASES = (
    # engine, its settings, the request's steps, rounds
    ("simulated, 20 ms a step", SIMULATED, {"buckets": "64x96x9"}, 100, 20),
    ("builtin:tiny on the CPU", DEFAULT_ENGINE, {"model": "builtin:tiny", "buckets": "96x160x49"}, 20, 8),
)
SCRAPE_SECONDS = 1.0
LIBRARIES = ("prometheus-client", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def Export(self, request: Any, context: Any) -> Any:
        self.count += sum(len(scope.spans) for of in request.resource_spans for scope in of.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class Server:
    """A server in a process of its own, and its client."""

    def __init__(self, engine: str, values: dict[str, str]) -> None:
        program = f"from bench.telemetry import serve; serve({engine!r}, {values!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        while not (line := self._process.stdout.readline().decode()).startswith("serving "):  # the log comes first
            assert line, "the server ended"
        _, address, self.metrics_port = line.split()
        self._front = psutil.Process(self._process.pid)
        self._channel = grpc.insecure_channel(address)
        self._stub = video_pb2_grpc.VideoServiceStub(self._channel)
        threading.Thread(target=self._process.stdout.read, daemon=True).start()  # its log must not fill the pipe

    def call(self, steps: int, traced: bool) -> tuple[float, float]:
        """Seconds of one call, and of the front's processor time."""
        ask = pb.GenerateRequest(prompt="a cat", step_count=steps, seed=1)
        context = f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01"
        before, began = self._spent(), time.perf_counter()
        last = list(self._stub.Generate(ask, metadata=[("traceparent", context)] if traced else []))[-1]
        assert last.HasField("completed")
        return time.perf_counter() - began, self._spent() - before

    def close(self) -> None:
        """End the server."""
        self._channel.close()
        self._process.communicate(b"\n")

    def _spent(self) -> float:
        times = self._front.cpu_times()
        return float(times.user + times.system)


def serve(engine: str, values: dict[str, str]) -> None:
    with RunningServer(settings(**values), engine) as server:
        print("serving", server.address, server.app.metrics_port, flush=True)
        sys.stdin.readline()


@contextmanager
def collector() -> Iterator[tuple[Collector, str]]:
    server, taken = grpc.server(ThreadPoolExecutor(2)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(taken, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield taken, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def scraper(port: str) -> Iterator[list[int]]:
    """Scrapes as Prometheus does, only more often; yields the sizes of the answers."""
    done, sizes = threading.Event(), []

    def scrape() -> None:
        while not done.wait(SCRAPE_SECONDS):
            sizes.append(len(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    yield sizes
    done.set()
    thread.join()


def measure(what: str, engine: str, values: dict[str, str], steps: int, rounds: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        taken, endpoint = stack.enter_context(collector())
        off = Server(engine, values)
        stack.callback(off.close)
        on = Server(engine, {**values, "metrics_listen": "127.0.0.1:0", "otlp_endpoint": endpoint})
        stack.callback(on.close)
        sizes = stack.enter_context(scraper(on.metrics_port))
        calls: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
        for number in range(rounds + 1):
            order = [("off", off), ("on", on)]
            for name, server in order if number % 2 else reversed(order):
                seconds = server.call(steps, traced=name == "on")
                if number:  # the first one warms up
                    calls[name].append(seconds)
    assert taken.count >= 5 * rounds, "there were no traces"
    assert sizes, "there were no scrapes"
    medians = {name: statistics.median(wall for wall, _ in calls[name]) for name in calls}
    front = {name: statistics.mean(spent for _, spent in calls[name]) for name in calls}
    rows = [
        {
            "what": f"{what}, telemetry {name}",
            "median_s": medians[name],
            "min_s": min(wall for wall, _ in calls[name]),
            "max_s": max(wall for wall, _ in calls[name]),
            "front_cpu_s": front[name],
            "count": len(calls[name]),
        }
        for name in calls
    ]
    rows.append(
        {
            "what": f"{what}, added",
            "median_share": medians["on"] / medians["off"] - 1,
            "front_cpu_share": (front["on"] - front["off"]) / medians["off"],
            "spans": taken.count,
            "scrapes": len(sizes),
            "scrape_bytes": sizes[-1],
        }
    )
    return rows


def main() -> None:
    rows = [row for case in CASES for row in measure(*case)]
    for item in rows:
        facts = (f"{name}={value:.5f}" if isinstance(value, float) else str(value) for name, value in item.items())
        print("  ".join(facts))
    libraries = {name: version(name) for name in LIBRARIES}
    record.write(FILE, rows, command="make bench-telemetry", telemetry=libraries, scrape_seconds=SCRAPE_SECONDS)
    print(f"wrote bench/results/{FILE.name}")


if __name__ == "__main__":
    main()
