"""What this machine is, as far as that can be said without torch."""

from __future__ import annotations

from pathlib import Path


def processor() -> str:
    """Name of the processor as its maker calls it; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8-sig").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
