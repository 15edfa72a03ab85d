"""Load tests: ghz against a real server on builtin:tiny, and what ghz cannot see with `easyanim-client bench`.

It fails where a call ends in a way that its scenario does not name, where a server keeps a job that nobody waits for,
logs an error or does not stop, and where `report.missed` finds a target missed. Writes bench/results/load.json and
docs/load.png; with ``--short``, the scenarios of a CI run, into out/.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dev.load import report
from dev.load.servers import ROOT, LoadedServer, LoadFailed
from dev.load.throughput import throughput_rows
from easyanim.v1 import video_pb2 as pb
from easyanim_client.bench import percentile
from easyanim_server.benchmark import record

CLIENT = Path(sys.executable).parent / "easyanim-client"
BUCKET = "32x32x5"
"""The engine's work is as small as it can be, so that the front is what is loaded."""
LONG_QUEUE = ("--queue-size", "256")

REFUSED = "ResourceExhausted"

Row = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One run of ghz."""

    name: str
    """Of its file dev/load/NAME.toml."""
    says: str
    ends: frozenset[str]
    """The statuses that its calls may end with, all documented in the contract."""
    server: tuple[str, ...] = ()
    """Its flags; those with the same ones share it."""
    short: bool = False
    """Whether CI runs it."""


SCENARIOS = (
    Scenario("steady", "200 streams, all served", frozenset({"OK"}), LONG_QUEUE),
    Scenario("step", "from 1 to 15 calls a second", frozenset({"OK", REFUSED})),
    Scenario("burst", "200 calls at once, queue of 8", frozenset({"OK", REFUSED}), short=True),
    Scenario("cancels", "streams cancelled after 1 s", frozenset({"Canceled"}), LONG_QUEUE, short=True),
    Scenario("images", "12-megapixel pictures, which the front decodes", frozenset({"OK"}), LONG_QUEUE),
)


@dataclass(frozen=True)
class Probe:
    """One run of `easyanim-client bench`."""

    name: str
    says: str
    flags: tuple[str, ...]
    server: tuple[str, ...] = ()
    """Its flags; those with the same ones share it."""
    short: bool = False


PROBES = (
    Probe("alone", "one caller", ("--requests", "30", "--steps", "10"), short=True),
    Probe("crowd", "32 callers", ("--requests", "160", "--concurrency", "32", "--steps", "2"), LONG_QUEUE),
    Probe(
        "deadline",
        "32 callers, 3 s each",
        ("--requests", "160", "--concurrency", "32", "--steps", "2", "--deadline", "3"),
        LONG_QUEUE,
    ),
    Probe(
        "cancel",
        "cancelled after 0.2 s of work",
        ("--requests", "30", "--steps", "100", "--cancel-after", "0.2"),
        short=True,
    ),
)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--ghz", type=Path, required=True, help="the program")
    options.add_argument("--short", action="store_true", help="what CI runs")
    chosen = options.parse_args()
    rows: list[Row] = []
    try:
        with ExitStack() as running:
            servers: dict[tuple[str, ...], LoadedServer] = {
                flags: running.enter_context(LoadedServer("--buckets", BUCKET, *flags)) for flags in ((), LONG_QUEUE)
            }
            for scenario in SCENARIOS:
                if scenario.short or not chosen.short:
                    rows.append(run_ghz(chosen.ghz, scenario, servers[scenario.server]))
                    print(report.line(rows[-1]), flush=True)
            for probe in PROBES:
                if probe.short or not chosen.short:
                    rows += run_probe(probe, servers[probe.server])
                    print(report.line(rows[-1]), flush=True)
        rows += throughput_rows(megabytes=50 if chosen.short else 500, rounds=2 if chosen.short else 7)
    except LoadFailed as failed:
        print(f"load test failed: {failed}", file=sys.stderr)
        return 1
    missed = [] if chosen.short else report.missed(rows)
    file = ROOT / ("out" if chosen.short else "bench/results") / "load.json"
    record.write(
        file,
        rows,
        command="make load" + (" LOAD=--short" if chosen.short else ""),
        model="builtin:tiny",
        bucket=BUCKET,
        ghz=ghz_version(chosen.ghz),
    )
    document = json.loads(file.read_text())
    print("\n" + report.table(document))
    if chosen.short:
        report.plot(document, ROOT / "out" / "load.png")
    else:
        report.publish(document)
    print(f"\nwrote {file.relative_to(ROOT)} and the picture {'out' if chosen.short else 'docs'}/load.png")
    for target in missed:
        print(f"missed: {target}", file=sys.stderr)
    return 1 if missed else 0


def run_ghz(ghz: Path, scenario: Scenario, server: LoadedServer) -> Row:
    """Run one scenario; returns its row.

    Raises:
        LoadFailed: a call ended with a status that the scenario does not name, or the server misbehaved.
    """
    config = ROOT / "dev" / "load" / f"{scenario.name}.toml"
    with tempfile.TemporaryDirectory() as folder:
        command: list[str | Path] = [ghz, "--config", config, "--format", "json"]
        if scenario.name == "images":
            request = Path(folder, "request.bin")
            request.write_bytes(large_request())
            command += ["--binary-file", request]
        before = server.cpu
        ended = subprocess.run([*command, server.address], cwd=ROOT, capture_output=True, text=True)
        server.wait_until_idle()
        cpu = server.cpu.since(before)
    if ended.returncode:
        raise LoadFailed(f"{scenario.name}: ghz ended with {ended.returncode}: {ended.stderr or ended.stdout}")
    answer = json.loads(ended.stdout)
    ends = answer["statusCodeDistribution"]
    if strange := set(ends) - scenario.ends:
        raise LoadFailed(f"{scenario.name}: calls ended with {', '.join(strange)}: {answer.get('errorDistribution')}")
    if sum(ends.values()) != answer["count"] or answer["count"] != answer["options"]["total"]:
        raise LoadFailed(f"{scenario.name}: of {answer['options']['total']} calls {ends} have ended")
    served = sorted(call["latency"] / 1e9 for call in answer["details"] if call["status"] == "OK")
    return {
        "what": "ghz",
        "scenario": scenario.name,
        "says": scenario.says,
        "concurrency": answer["options"]["concurrency"],
        "calls": answer["count"],
        "seconds": answer["total"] / 1e9,
        "ends": ends,
        **{f"served_p{share}_s": percentile(served, share) if served else None for share in (50, 90, 99)},
        "front_cpu_s": cpu.front,
        "worker_cpu_s": cpu.worker,
        "front_share": cpu.front_share,
    }


def run_probe(probe: Probe, server: LoadedServer) -> list[Row]:
    """Run `easyanim-client bench`; returns a row for each thing that it measured and one for the goodput."""
    command: list[str | Path] = [CLIENT, "bench", "--json", "--address", server.address, *probe.flags]
    ended = subprocess.run(command, capture_output=True, text=True)
    server.wait_until_idle()
    if ended.returncode:
        raise LoadFailed(f"{probe.name}: easyanim-client bench ended with {ended.returncode}: {ended.stderr}")
    answer = json.loads(ended.stdout)
    same = {"probe": probe.name, "says": probe.says}
    goodput = {name: answer[name] for name in ("outcomes", "wall_seconds", "deadline_seconds", "goodput_per_minute")}
    return [
        *({"what": "probe", **same, "metric": metric, **spread} for metric, spread in answer["metrics"].items()),
        {"what": "goodput", **same, **goodput},
    ]


def large_request() -> bytes:
    """A serialised request with a picture of 12 megapixels, noise, so that it cannot be compressed away."""
    picture = io.BytesIO()
    Image.effect_noise((4000, 3000), 100).convert("RGB").save(picture, "JPEG", quality=90)
    return pb.GenerateRequest(prompt="steam", start_image=picture.getvalue(), step_count=2).SerializeToString()


def ghz_version(ghz: Path) -> str:
    """As Go noted it; ghz itself says "dev" unless its own makers built it."""
    notes = subprocess.run(["go", "version", "-m", ghz], capture_output=True, text=True, check=True).stdout
    return next(line.split()[2] for line in notes.splitlines() if line.split()[0] == "mod")


if __name__ == "__main__":
    raise SystemExit(main())
