"""Writes what was measured, with what is needed to judge it: machine, versions, commit, date, command."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from easyanim_server import __version__
from easyanim_server.config import processor as machine

LIBRARIES = ("torch", "triton", "diffusers", "transformers", "flash-attn-4", "grpcio", "av")
"""Whose versions are noted, as far as they are installed."""


def write(file: Path, rows: Sequence[dict[str, Any]], *, command: str, **header: Any) -> None:
    """Write a JSON document of a header and flat rows.

    Args:
        file: Where to; its folder is made if absent.
        rows: What was measured.
        command: What repeats the measurement.
        header: Further facts, which go before those found here.
    """
    document = {"header": header_of(command, **header), "rows": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def rounded(value: Any) -> Any:
    """Four significant digits: more than one run can tell."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def slug(gpu: str) -> str:
    """A file's name from a card's: ``NVIDIA H200`` to ``h200``."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().replace("nvidia", "").replace("geforce", "")).strip("-")


def header_of(command: str, **more: Any) -> dict[str, Any]:
    """What is needed to judge measurements; `more` goes before what is found here."""
    return {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": processor(),
        "python": platform.python_version(),
        "versions": versions(),
        **more,
    }


def commit() -> str:
    """The commit that is measured, with a mark where the tree differs from it; ``unknown`` outside a clone."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git
        return "unknown"
    return answer.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name and how many cores there are."""
    return f"{machine.processor() or platform.processor()}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of the server and of the installed ones among `LIBRARIES`."""
    found = {"easyanim": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
