"""Measures a server's start: from the command to the first healthy answer, with empty caches and with full ones.

Every start is `easyanim-server serve` in a process of its own, and ends with one video over gRPC, so what is measured
is what an operator waits for. Model weights are made on the device (`synthetic:*`) or read from the page cache.
With `--profiles` the first server makes a video by each profile too, and diffusers' own pipeline makes one before:
`--what profiles --profiles fast,draft --also fp8 --steps 2`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import torch

from dev.bench import stock
from easyanim.v1 import video_pb2 as pb
from easyanim.v1 import video_pb2_grpc
from easyanim_client import Client, State
from easyanim_server import catalog
from easyanim_server.benchmark import record
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.engine.devices import resolve_device

Row = dict[str, Any]

PRECISION = "bf16"

STOCK_STEPS = 50
"""Of the pipeline's own default."""

PICTURE = Path(__file__).resolve().parents[2] / "examples" / "coffee.jpg"


def main() -> None:
    options = parsed()
    device = resolve_device(options.device)
    facts = measure.machine(device)
    name = record.slug(facts["gpu"] or "cpu")
    file = options.out / f"{name}-{options.what}.json"
    header = facts | ({"commit": options.commit} if options.commit else {})
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        print(row, flush=True)
        record.write(file, rows, command=repeated(), **header)

    profiles = [name for name in options.profiles.split(",") if name]
    if profiles:
        bucket = catalog.parse_bucket(options.buckets.split(",")[0], options.model)
        add(stock.generation(options.model, device, bucket, STOCK_STEPS, PICTURE))
    for backend in options.backends.split(","):
        with tempfile.TemporaryDirectory(prefix="easyanim-start-") as folder:
            for cache in options.caches.split(","):
                for row in start(options, backend, cache, Path(folder), profiles, PRECISION, options.buckets):
                    add(row)
                if profiles and options.also:
                    one = options.buckets.split(",")[0]
                    for row in start(options, backend, cache, Path(folder) / "also", profiles, options.also, one):
                        add(row)
                profiles = []
    print(f"wrote {file}")


def repeated() -> str:
    """The command, without what is this run's alone."""
    return re.sub(r" --(out|commit)[ =]\S+", "", " ".join(["PYTHONPATH=. python dev/bench/start.py", *sys.argv[1:]]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    gpu = torch.cuda.is_available()
    parser.add_argument("--model", default="synthetic:7b" if gpu else "builtin:tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--buckets", default="384x672,576x1008,768x1344" if gpu else "96x160x13")
    parser.add_argument("--backends", default="inductor")
    parser.add_argument("--caches", default="empty,full", help="in order; the second start finds what the first left")
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--profiles", default="", help="a video by each, and one in diffusers' own pipeline")
    parser.add_argument("--also", help="a precision in which a second server makes them too, in the first bucket")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "bench" / "results")
    parser.add_argument("--what", default="start", help="names the file: GPU-WHAT.json")
    parser.add_argument("--commit", default="")
    return parser.parse_args()


def start(
    options: argparse.Namespace,
    backend: str,
    cache: str,
    folder: Path,
    profiles: list[str],
    precision: str,
    buckets: str,
) -> list[Row]:
    """Rows of the start, of a video, and of one by each profile."""
    command = [
        sys.executable, "-m", "easyanim_server", "serve", "--listen", "127.0.0.1:0", "--model", options.model,
        "--device", options.device, "--buckets", buckets, "--backend", backend, "--cache-dir", str(folder),
        "--precision", precision,
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    named = {"model": options.model, "backend": backend, "precision": precision, "cache": cache, "buckets": buckets}
    log = folder / f"{cache}.log"
    clock, began = time.time(), time.perf_counter()
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().removeprefix("listening on ").strip()
            assert address, log.read_text()[-3000:]
            with Client(address, timeout=None) as client, grpc.insecure_channel(address) as channel:
                while client.info().state is not State.SERVING:
                    assert server.poll() is None, log.read_text()[-3000:]
                    time.sleep(0.05)
                seconds = time.perf_counter() - began
                info = video_pb2_grpc.VideoServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())
                videos = [generate(client, options, steps=options.steps)]
                videos += [generate(client, options, profile=name) for name in profiles]
        finally:
            server.terminate()
            server.wait(timeout=60)
    text = log.read_text()
    found = re.search(r"(\d+) graphs found in the cache, (\d+) made", text)
    loaded = re.search(r"load_seconds\D+([\d.]+)", text)
    plans = {
        f"{bucket.name}x{plan.frame_count}": {
            "backend": plan.backend, "attention": plan.attention, "guidance_batch": plan.guidance_batch,
            "build_seconds": plan.build_duration.ToNanoseconds() / 1e9, "relative_l2": plan.relative_l2,
            "rounding_l2": plan.rounding_l2, "fallback": plan.fallback_reason,
        }
        for bucket in info.buckets for plan in bucket.plans
    }  # fmt: skip
    return [
        {
            "what": "start", **named, "seconds": round(seconds, 2), "served_by": plans,
            "load_seconds": float(loaded[1]) if loaded else None, "timeline": timeline(text, clock),
            "found": int(found[1]) if found else None, "made": int(found[2]) if found else None,
        },
        *({"what": "generation", **named, **video} for video in videos),
    ]  # fmt: skip


def timeline(log: str, began: float) -> list[tuple[float, str]]:
    """When the worker began with what, in seconds since the command."""
    lines = re.findall(r"^(\S+)Z \[info *\] (starting|worker ready) .*?(?:detail=(.+))?$", log, re.MULTILINE)
    return [
        (round(datetime.fromisoformat(f"{stamp}+00:00").timestamp() - began, 2), detail.strip(" '\"") or event)
        for stamp, event, detail in lines
    ]


def generate(client: Client, options: argparse.Namespace, **how: Any) -> Row:
    bucket = options.buckets.split(",")[0].split("x")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        video = client.generate(
            "steam rises from a cup of coffee", start_image=PICTURE, bucket="x".join(bucket[:2]), seed=1,
            save_to=Path(folder) / "video.mp4", overwrite=True, **how,
        ).result()  # fmt: skip
        seconds = time.perf_counter() - began
    return {
        "bucket": video.receipt.parameters.bucket, "frames": video.receipt.parameters.frames,
        "profile": how.get("profile"), "steps": video.receipt.parameters.steps,
        "predictions": video.receipt.predictions, "reused_steps": video.receipt.reused_steps,
        "seconds": round(seconds, 3), "size_bytes": video.size,
        "phases": {name: round(value, 3) for name, value in asdict(video.timings).items()},
        "backend_of_receipt": video.receipt.backend, "peak_gib": round(video.peak_device_bytes / 2**30, 2),
    }  # fmt: skip


if __name__ == "__main__":
    main()
