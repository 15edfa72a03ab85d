"""One measurement of a candidate, and its description in reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from easyanim_server.domain.job import Bucket
from easyanim_server.domain.wording import counted
from easyanim_server.tune.journal import Row

PROBE, GENERATION = "probe", "generation"
"""Kinds of rows: what `Measure.probe` and `Measure.whole` return."""

AGAIN = "again"
"""A probe whose row exists: of both the faster one stays."""


@dataclass(frozen=True)
class Task:
    """One measurement of a candidate."""

    what: str
    bucket: Bucket
    steps: int
    within: float = math.inf
    """Left for later where it is expected to take more seconds."""


def sentence(row: Row) -> str:
    """Describe a row's result in one line."""
    if "error" in row:
        return f"{row['bucket']}: {row['error']}"
    sign = "≈ " if row["what"] == PROBE else ""
    peak = f", peak {row['peak_gib']:.1f} GiB" if row["peak_gib"] else ""
    return f"{row['bucket']}: {sign}{row['seconds']:.3g} s for {counted(row['steps'], 'step')}{peak}"


def named(tasks: Sequence[Task]) -> str:
    """List tasks by bucket and steps, separated by commas."""
    kinds = {PROBE: "{bucket}", AGAIN: "{bucket} a second time", GENERATION: "{steps} of {bucket} as a whole"}
    return ", ".join(kinds[task.what].format(bucket=task.bucket, steps=counted(task.steps, "step")) for task in tasks)
