"""How a full-size folder is loaded: seconds, against reading the same files and no more, and the host's peak memory.

    PYTHONPATH=. python dev/bench/loading.py                      # writes the folder first, 28 GB of it
    PYTHONPATH=. python dev/bench/loading.py --folder MODEL       # a folder that is there

Each load is a process of its own, from the disk or with the files in the page cache; see `CASES`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from easyanim_server.benchmark import record
from easyanim_server.benchmark import stopwatch as measure
from easyanim_server.engine.devices import GIB, locked_limit, resolve_device, resolve_dtype
from easyanim_server.engine.engine import Engine
from easyanim_server.engine.families.easyanimate_v51.pipeline import EasyAnimatePipeline
from easyanim_server.engine.weights import checkpoint

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"

CASES = (("full", False), ("full", True), ("model_cpu_offload", True))
"""Placements, and whether the files are in the page cache. From the disk, the disk decides, wherever they go."""

PIECE = 16 * 2**20
"""Bytes that are read at a time where files are only read."""

Row = dict[str, Any]


def measured(model: str, folder: Path, device: torch.device) -> Iterator[Row]:
    """A row for each of `CASES`."""
    files = sorted(folder.rglob("*.safetensors"))
    sizes: dict[str, int] = {}
    for file in files:
        sizes[file.parent.name] = sizes.get(file.parent.name, 0) + file.stat().st_size
    for placement, cached in CASES:
        if not cached:
            evict(files)
        plain = read(files)
        if not cached:
            evict(files)
        asked = [sys.executable, "-W", "ignore", __file__, "--once", "--folder", str(folder),
                 "--placement", placement, "--device", str(device)]  # fmt: skip
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        facts = json.loads(done.stdout.splitlines()[-1])
        yield {
            "model": model,
            "placement": placement,
            "page_cache": cached,
            "folder_gib": sum(sizes.values()) / GIB,
            "largest_gib": max(sizes.values()) / GIB,
            "plain_read_seconds": plain,
            **facts,
        }


def evict(files: Sequence[Path]) -> None:
    """Take files out of the page cache."""
    for file in files:
        number = os.open(file, os.O_RDONLY)
        os.fsync(number)  # pages that are not written yet would stay
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def read(files: Sequence[Path]) -> float:
    """Seconds to read files from beginning to end, by one thread, into memory that is there."""
    piece, began = bytearray(PIECE), time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as stored:
            while stored.readinto(piece):
                pass
    return time.perf_counter() - began


def once(folder: str, placement: str, device: torch.device) -> None:
    """Print what loading took of time and of host memory, beyond what the libraries take."""
    dtype = resolve_dtype("auto", device)
    if device.type == "cuda":
        torch.zeros(1, device=device)
    before, began = measure.HostPeak().nbytes, time.perf_counter()
    host = measure.HostPeak()
    modules = checkpoint.load(folder, device=device, dtype=dtype, on_host=placement != "full")
    loaded = time.perf_counter()
    engine = Engine(EasyAnimatePipeline(modules), placement=placement, locked_limit=locked_limit(None))
    facts = {
        "load_seconds": loaded - began,
        "place_seconds": time.perf_counter() - loaded,
        "host_peak_gib": (host.nbytes - before) / GIB,
        "locked_gib": engine.placement.locked_bytes / GIB,
    }
    print(json.dumps(facts))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="what is written; default: synthetic:7b, on the CPU builtin:tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", help="the folder to load; without, one is written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--commit", default="")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--placement", default="full", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    device = resolve_device(given.device)
    if given.once:
        once(given.folder, given.placement, device)
        return 0
    model = given.model or ("synthetic:7b" if device.type == "cuda" else "builtin:tiny")
    facts = measure.machine(device) | ({"commit": given.commit} if given.commit else {})
    name = record.slug(facts["gpu"] or "cpu")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(given.folder or Path(place) / "model")
        if not given.folder:
            began = time.perf_counter()
            checkpoint.export(model, folder)
            print(f"{folder} written in {time.perf_counter() - began:.0f} s", flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        for row in measured(given.folder or model, folder, device):
            rows.append(record.rounded(row))
            print(rows[-1], flush=True)
            command = "PYTHONPATH=. python dev/bench/loading.py"
            record.write(given.out / f"{name}-loading.json", rows, command=command, **facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
