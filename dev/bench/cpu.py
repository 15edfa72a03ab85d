"""Measures a server on a CPU, with a model of the demo's sizes and random weights: its start, and videos over gRPC.

Every round starts `easyanim-server serve` in a process of its own, with empty caches, and makes each video twice. Of
several rounds the fastest counts, since other programs can only add to it; the server's CPU time, of all its
processes and threads, shows what they added.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from dev.bench import demo_model
from easyanim_client import Client, State
from easyanim_server.benchmark import record

Row = dict[str, Any]

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"
PICTURE = Path(__file__).resolve().parents[2] / "examples" / "coffee.jpg"
BUCKETS = ("128x128x25", "128x224x25")
STEPS = 35
GUIDANCE = 6.0
VIDEOS = 2
"""Of each size in a round: the first one also meets its prompt for the first time."""


def main() -> None:
    options = _parsed()
    with tempfile.TemporaryDirectory(prefix="easyanim-cpu-") as folder:
        model = Path(folder) / "demo"
        demo_model.write(model)
        rounds = []
        for number in range(options.rounds):
            rounds.append(measure(model, Path(folder) / f"cache{number}", options.serve))
            for row in rounds[-1]:
                print(row, flush=True)
    rows = [min(same, key=lambda row: float(row["seconds"])) for same in zip(*rounds, strict=True)]
    command = "PYTHONPATH=. python dev/bench/cpu.py " + " ".join(sys.argv[1:])
    header = {"model": "demo sizes, random weights", "rounds": options.rounds, "threads": torch.get_num_threads()}
    record.write(options.file, rows, command=command.strip(), steps=STEPS, guidance=GUIDANCE, **header)
    print(f"wrote {options.file}")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="more flags of easyanim-server serve")
    return parser.parse_args()


def measure(model: Path, cache: Path, flags: list[str]) -> list[Row]:
    """One server's life: its start, then the videos."""
    command = [
        sys.executable, "-m", "easyanim_server", "serve", "--listen", "127.0.0.1:0", "--model", str(model),
        "--device", "cpu", "--buckets", ",".join(BUCKETS), "--cache-dir", str(cache), *flags,
    ]  # fmt: skip
    cache.mkdir()
    log = cache / "server.log"
    began = time.perf_counter()
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("listening on ").strip()
            assert address, log.read_text()[-3000:]
            listening = time.perf_counter() - began
            with Client(address, timeout=None) as client:
                while client.info().state is not State.SERVING:
                    assert server.poll() is None, log.read_text()[-3000:]
                    time.sleep(0.02)
                serving = time.perf_counter() - began
                spent = cpu_seconds(server.pid)
                numbers = range(1, VIDEOS + 1)
                rows = [generate(client, bucket, number, server.pid) for bucket in BUCKETS for number in numbers]
        finally:
            server.terminate()
            server.wait(timeout=60)
    text = log.read_text()
    parts = {name: _seconds(text, name) for name in ("load_seconds", "prepare_seconds")}
    start = {"what": "start", "seconds": round(serving, 3), "cpu_seconds": round(spent, 3)}
    return [{**start, "listening_seconds": round(listening, 3), **parts}, *rows]


def cpu_seconds(pid: int) -> float:
    """What a process and those that it started have computed so far, on all cores together."""
    server = psutil.Process(pid)
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return float(sum(item.user + item.system for item in times))


def _seconds(log: str, name: str) -> float | None:
    found = re.search(name + r"\D+([\d.]+)", re.sub(r"\x1b\[[\d;]*m", "", log))
    return float(found[1]) if found else None


def generate(client: Client, bucket: str, number: int, pid: int) -> Row:
    """A video of the example's picture, as a client waits for it."""
    height, width, _ = bucket.split("x")
    with tempfile.TemporaryDirectory() as folder:
        before, began = cpu_seconds(pid), time.perf_counter()
        video = client.generate(
            "steam rises from a cup of coffee", start_image=PICTURE, bucket=f"{height}x{width}", seed=number,
            steps=STEPS, guidance=GUIDANCE, save_to=Path(folder) / "video.mp4", overwrite=True,
        ).result()  # fmt: skip
        seconds = time.perf_counter() - began
    return {
        "what": "video", "bucket": bucket, "number": number, "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds(pid) - before, 3),
        "phases": {name: round(value, 3) for name, value in asdict(video.timings).items()},
        "frames": video.receipt.parameters.frames, "size_bytes": video.size, "backend": video.receipt.backend,
    }  # fmt: skip


if __name__ == "__main__":
    main()
