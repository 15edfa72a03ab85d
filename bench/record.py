"""Writes benchmark results with what is needed to judge them: machine, versions, commit, date, command."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
LIBRARIES = ("easyanim", "torch", "diffusers", "transformers", "grpcio", "av")


def commit() -> str:
    """The commit that is measured, with a mark where the tree differs from it."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return asked.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name and how many cores there are."""
    import os

    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return platform.processor()


def write(name: str, rows: list[dict[str, Any]], **header: Any) -> Path:
    """Write `bench/results/<name>.json`: a header and flat rows."""
    document = {
        "header": {
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "commit": commit(),
            "cpu": processor(),
            "python": platform.python_version(),
            "versions": {library: version(library) for library in LIBRARIES},
            **header,
        },
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return file
