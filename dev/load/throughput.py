"""How fast a large lossless result reaches a client on the same machine, through readers that do more and more."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from dev.load.servers import LargeResultServer
from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_client import Chunk, Client


def throughput_rows(megabytes: int, rounds: int) -> list[dict[str, Any]]:
    """Measure each reader `rounds` times, in turn, after one round that warms up.

    The clock runs from the first chunk to the last one, and for the client until the file is verified.

    Args:
        megabytes: Size of the result.
        rounds: Measurements of each reader.
    """
    with LargeResultServer(megabytes) as server, tempfile.TemporaryDirectory() as folder:
        readers: dict[str, Callable[[], tuple[int, float]]] = {
            "received and dropped": lambda: _drop(server.address),
            "verified in memory": lambda: _receive(server.address, None),
            "verified in a file": lambda: _receive(server.address, Path(folder, "large.mkv")),
        }
        rates: dict[str, list[float]] = {name: [] for name in readers}
        cpu: dict[str, list[float]] = {name: [] for name in readers}
        for number in range(rounds + 1):
            for name, read in readers.items():
                before = server.cpu, time.process_time()
                size, seconds = read()
                if number:
                    rates[name].append(size / seconds)
                    both = server.cpu.since(before[0]).front + time.process_time() - before[1]
                    cpu[name].append(both / (size / 1e9))
    return [
        {
            "what": "throughput",
            "reader": name,
            "megabytes": megabytes,
            "count": rounds,
            "median_bytes_per_second": sorted(values)[rounds // 2],
            "best_bytes_per_second": max(values),
            "cpu_seconds_per_gigabyte": sorted(cpu[name])[rounds // 2],
        }
        for name, values in rates.items()
    ]


def _drop(address: str) -> tuple[int, float]:
    """Bytes and seconds of a reader that looks at nothing: what the server and gRPC can do."""
    size, first = 0, 0.0
    with grpc.insecure_channel(address) as channel:
        for message in video_pb2_grpc.VideoServiceStub(channel).Generate(pb.GenerateRequest(prompt="large")):
            if message.HasField("chunk"):
                first = first or time.perf_counter()
                size += len(message.chunk.data)
    return size, time.perf_counter() - first


def _receive(address: str, save_to: Path | None) -> tuple[int, float]:
    """Bytes and seconds of the real client, which checks offsets and SHA-256 and keeps the file."""
    first = 0.0
    with Client(address) as client:
        generation = client.generate("large", format="mkv", save_to=save_to, overwrite=True)
        for event in generation:
            if isinstance(event, Chunk):
                first = first or time.perf_counter()
        seconds = time.perf_counter() - first
        return generation.result().size, seconds
