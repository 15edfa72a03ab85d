"""A server among 100 hostile callers and 20 honest ones: what the honest ones notice, and what the front takes.

Starts `easyanim-server serve --model builtin:tiny` on two cores, with a stderr that nobody reads; the callers are two
processes of their own, on this machine alone. Writes bench/results/soak.json; with ``--short``, the form of a CI run,
into out/. Ends with 1 where a figure is beyond its limit; but for milliseconds in the short form, since a machine that
runs other tests as well has them for reasons of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dev.load import honest as honest_callers
from dev.load import hostile as hostile_callers
from dev.load.honest import BUCKET, FINISHING
from dev.load.hostile import LARGE_BUCKET
from dev.load.servers import ROOT, SERVER, START_SECONDS
from easyanim_client.bench import percentile
from easyanim_server.benchmark import record

CORES = 2
HONEST = 20
SECONDS, SHORT_SECONDS, MOST_SECONDS = 600, 60, 600
"""The whole run, with start and end, must take 15 minutes at most."""
DRAIN_SECONDS = 10
STOP_SECONDS = DRAIN_SECONDS + 5.0
PROBE_SECONDS, MEMORY_SECONDS = 0.05, 0.25
"""Between one look and the next."""
HEALTH = "health p99, ms"
PATIENCE = 10.0
"""Seconds for one answer of health; one that does not come counts as so long."""
MEBIBYTE = 2**20

Row = dict[str, Any]


@dataclass
class Samples:
    """What was seen from outside while it ran."""

    health_seconds: list[float] = field(default_factory=list)
    not_serving: int = 0
    front_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=int, default=SECONDS, help=f"of load, {SHORT_SECONDS} to {MOST_SECONDS}")
    options.add_argument("--short", action="store_true", help=f"what CI runs: {SHORT_SECONDS} s")
    chosen = options.parse_args()
    seconds = SHORT_SECONDS if chosen.short else chosen.seconds
    if not SHORT_SECONDS <= seconds <= MOST_SECONDS:
        options.error(f"--seconds is {seconds}; must be from {SHORT_SECONDS} to {MOST_SECONDS}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no process is left behind
    with server() as (process, address):
        wait_until_serving(process, address)
        samples, met, ends = load(process, address, seconds)
        alive = process.poll() is None
        stopped = stop(process)
    rows = [*figures(samples, met, alive, stopped), *counts(met, ends)]
    file = ROOT / ("out" if chosen.short else "bench/results") / "soak.json"
    command = "make soak" + (" SOAK=--short" if chosen.short else f" SOAK='--seconds {seconds}'")
    record.write(
        file, rows, command=command, gpu="none", model="builtin:tiny", seconds=seconds, hostile=100, honest=HONEST
    )
    print(table(rows))
    print(f"\nwrote {file.relative_to(ROOT)}")
    for failure, count in Counter[str](met["failures"]).items():
        print(f"honest callers, {count} times: {failure}", file=sys.stderr)
    beyond = [row for row in rows if row["what"] == "figure" and not row["kept"]]
    if chosen.short:
        beyond = [row for row in beyond if row["figure"] != HEALTH]
    for row in beyond:
        print(f"beyond its limit: {row['figure']}", file=sys.stderr)
    return 1 if beyond else 0


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server on two cores, with its address; killed on exit if it is still there."""
    command = [SERVER, "serve", "--model", "builtin:tiny", "--listen", "127.0.0.1:0"]
    command += ["--buckets", f"{BUCKET},{LARGE_BUCKET}", "--drain-seconds", str(DRAIN_SECONDS)]
    with tempfile.TemporaryDirectory() as cache:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # nobody reads it
            text=True,
            env={**os.environ, "EASYANIM_CACHE_DIR": cache},
        )
        try:
            with suppress(AttributeError, psutil.NoSuchProcess):  # not on every system
                psutil.Process(process.pid).cpu_affinity(sorted(os.sched_getaffinity(0))[:CORES])
            assert process.stdout is not None
            yield process, process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            for child in children(process.pid):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()


def children(pid: int) -> list[psutil.Process]:
    """All processes below one."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def wait_until_serving(process: subprocess.Popen[str], address: str) -> None:
    """Wait for the first SERVING."""
    until = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(address or "none") as channel:
        while ask_health(channel) != health_pb2.HealthCheckResponse.SERVING:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the server did not start within {START_SECONDS:g} s")
            time.sleep(0.2)


def ask_health(channel: grpc.Channel) -> int | None:
    """The state of the server; None where it does not answer."""
    try:
        health: Any = health_pb2_grpc.HealthStub(channel)  # its methods are not typed
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    except grpc.RpcError:
        return None
    return int(answer.status)


def load(process: subprocess.Popen[str], address: str, seconds: float) -> tuple[Samples, Row, Row]:
    """Let the callers loose and look at the server; returns what was seen, and what both kinds of callers say."""
    call = [sys.executable, "-m"]
    honest = subprocess.Popen(
        [*call, honest_callers.__name__, address, str(seconds), str(HONEST)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    hostile = subprocess.Popen(
        [*call, hostile_callers.__name__, address, str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        samples = watch(process, address, seconds)
        ends = answer(hostile, FINISHING) or {"all": {"ended without a word": 100}}
        silent = {"videos": 0, "refusals": 0, "retry_seconds": [], "silences": [], "failed": HONEST}
        met = answer(honest, 2 * FINISHING) or {**silent, "failures": ["the process of the honest callers failed"]}
    finally:
        for process_of_callers in (honest, hostile):
            process_of_callers.kill()
            process_of_callers.wait()
    return samples, met, ends


def answer(process: subprocess.Popen[str], seconds: float) -> Row | None:
    """What a process of callers prints at its end."""
    try:
        said, _ = process.communicate(timeout=seconds)
        return dict(json.loads(said))
    except (subprocess.TimeoutExpired, ValueError):
        return None


def watch(process: subprocess.Popen[str], address: str, seconds: float) -> Samples:
    """Ask for health and look at the front's memory until the time is over or the server has gone."""
    samples, front = Samples(), psutil.Process(process.pid)
    until, next_look = time.monotonic() + seconds, 0.0
    with grpc.insecure_channel(address) as channel:
        while (now := time.monotonic()) < until and process.poll() is None:
            state = ask_health(channel)
            samples.health_seconds.append(PATIENCE if state is None else time.monotonic() - now)
            samples.not_serving += state != health_pb2.HealthCheckResponse.SERVING
            if now >= next_look:
                next_look = now + MEMORY_SECONDS
                with suppress(psutil.Error):
                    samples.front_bytes.append(front.memory_info().rss)
                    samples.descriptors.append(front.num_fds())
            time.sleep(PROBE_SECONDS)
    return samples


def stop(process: subprocess.Popen[str]) -> float:
    """End the server as its operator does; returns the seconds that it took."""
    began = time.monotonic()
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(3 * STOP_SECONDS)
    return time.monotonic() - began


def figures(samples: Samples, met: Row, alive: bool, stopped: float) -> list[Row]:
    """Each figure with its limit."""
    health = sorted(samples.health_seconds) or [PATIENCE]
    silences = met["silences"] or [float("inf")]
    front = max(samples.front_bytes, default=0) / MEBIBYTE
    return [
        figure("front's memory, MiB", front, 400.0, strictly=True),
        figure(HEALTH, 1e3 * percentile(health, 99), 50.0, strictly=True),
        figure("longest silence of an honest stream, s", max(silences), 5.5, strictly=True),
        figure("honest jobs that failed", met["failed"], 0),
        figure("no honest caller got a video", 0 if met["videos"] else 1, 0),
        figure("server ended under the load", 0 if alive else 1, 0),
        figure("seconds from SIGTERM to the end", stopped, STOP_SECONDS),
    ]


def figure(name: str, value: float, limit: float, *, strictly: bool = False) -> Row:
    """One row; `strictly` where the limit itself is beyond."""
    shown = value if value != float("inf") else None
    kept = value < limit if strictly else value <= limit
    return {"what": "figure", "figure": name, "value": record.rounded(shown), "limit": limit, "kept": kept}


def counts(met: Row, ends: Row) -> list[Row]:
    """What there was of load, without limits."""
    honest = {"videos": met["videos"], "told to come back": met["refusals"], "failed": met["failed"]}
    rows = [{"what": "callers", "kind": "honest", "ends": honest}]
    return rows + [{"what": "callers", "kind": kind, "ends": ended} for kind, ended in ends.items()]


def table(rows: list[Row]) -> str:
    """For people."""
    lines = [f"{'figure':<42}{'value':>12}{'limit':>10}"]
    for row in rows:
        if row["what"] == "figure":
            mark = "" if row["kept"] else "   beyond"
            value = "none" if row["value"] is None else f"{row['value']:g}"
            lines.append(f"{row['figure']:<42}{value:>12}{row['limit']:>10g}{mark}")
    lines.append("")
    for row in rows:
        if row["what"] == "callers":
            lines.append(f"{row['kind']}: " + ", ".join(f"{count} {end}" for end, count in row["ends"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
