"""Measures what front and worker add to the engine's own time, and how quickly the front answers.

The same job is run by the engine alone, by the engine with the video encoder, and through a client's call, all three
in turn. What front and worker add is taken from each call by itself, as the time the client waits less the time that
the worker measures around the work, so that the machine's moods fall on both alike. Medians of `ROUNDS`.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_server.benchmark import record
from easyanim_server.domain.job import Bucket, Job
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint
from easyanim_server.workers.process import DEFAULT_ENGINE
from easyanim_server.workers.runner import JobRunner
from tests.servers import RunningServer, settings

FILE = Path(__file__).resolve().parents[2] / "bench" / "results" / "overhead.json"
BUCKET = Bucket.parse("96x160x49")
STEPS = 20
ROUNDS = 4
CALLS = 200


def main() -> None:
    engine = Engine(
        EasyAnimatePipeline(checkpoint.load("builtin:tiny", device=torch.device("cpu"), dtype=torch.float32))
    )
    job = Job("bench", "a cat", "ugly", BUCKET, steps=STEPS, guidance=6.0, seed=1)
    configured = settings(model="builtin:tiny", buckets=str(BUCKET))
    with RunningServer(configured, DEFAULT_ENGINE) as server, grpc.insecure_channel(server.address) as channel:
        stub = video_pb2_grpc.VideoServiceStub(channel)
        ask = pb.GenerateRequest(prompt=job.prompt, negative_prompt=job.negative_prompt, step_count=STEPS, seed=1)
        ways: dict[str, Callable[[], Any]] = {
            "engine alone": lambda: alone(engine, job),
            "engine and video encoder": lambda: JobRunner(engine, job, lambda event: None, lambda: None).run(),
            "a client's call": lambda: added.append(beyond_the_work(stub, ask)),
        }
        added: list[float] = []
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_number in range(ROUNDS + 1):
            for name, way in ways.items():
                spent = timed(way)
                if round_number:  # the first one warms up
                    seconds[name].append(spent)
        rows = [row(name, values) for name, values in seconds.items()]
        rows.append(row("front and worker add", added[1:]))
        rows.append(row("first event on an idle server", [first_event(stub) for _ in range(50)]))
        rows.append(row("health while the worker computes", health_while_busy(stub, channel, ask)))
    for item in rows:
        print(
            "  ".join(f"{key}={value:.4f}" if isinstance(value, float) else str(value) for key, value in item.items())
        )
    record.write(FILE, rows, command="make bench-overhead", bucket=str(BUCKET), steps=STEPS, model="builtin:tiny")
    print(f"wrote bench/results/{FILE.name}")


def alone(engine: Engine, job: Job) -> None:
    sampling = engine.begin(job)
    while not sampling.done:
        engine.step(sampling)
    for _ in engine.decode(sampling):
        pass


def beyond_the_work(stub: video_pb2_grpc.VideoServiceStub, ask: pb.GenerateRequest) -> float:
    began = time.perf_counter()
    last = list(stub.Generate(ask))[-1]
    engine: float = last.completed.timings.total_duration.ToNanoseconds() / 1e9
    return time.perf_counter() - began - engine


def first_event(stub: video_pb2_grpc.VideoServiceStub) -> float:
    began = time.perf_counter()
    call = stub.Generate(pb.GenerateRequest(prompt="a cat", step_count=1))
    next(call)
    spent = time.perf_counter() - began
    call.cancel()
    while stub.GetServerInfo(pb.GetServerInfoRequest()).job_count:
        time.sleep(0.01)
    return spent


def health_while_busy(
    stub: video_pb2_grpc.VideoServiceStub, channel: grpc.Channel, ask: pb.GenerateRequest
) -> list[float]:
    health: Any = health_pb2_grpc.HealthStub(channel)
    done = threading.Event()

    def keep_busy() -> None:
        while not done.is_set():
            list(stub.Generate(ask))

    busy = threading.Thread(target=keep_busy)
    busy.start()
    times = []
    for _ in range(CALLS):
        times.append(timed(lambda: health.Check(health_pb2.HealthCheckRequest())))
        time.sleep(0.01)
    done.set()
    busy.join()
    return times


def timed(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def row(what: str, seconds: list[float]) -> dict[str, Any]:
    ordered = sorted(seconds)
    return {
        "what": what,
        "median_s": statistics.median(ordered),
        "min_s": ordered[0],
        "max_s": ordered[-1],
        "p99_s": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "count": len(ordered),
    }


if __name__ == "__main__":
    main()
