"""The table and the picture of bench/results/load.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from load.servers import ROOT

Row = dict[str, Any]

NEUTRAL = "#7a8088"
"""Legible on white and on black."""
GOOD, LIMIT = "#2f7fd1", "#c0504d"
COLOURS = {
    "OK": GOOD,
    "completed": GOOD,
    "ResourceExhausted": "#f0b07a",
    "Canceled": "#9aa0a6",
    "cancelled": "#9aa0a6",
    "deadline_exceeded": "#d9762b",
}
NAMES = {
    "OK": "served",
    "completed": "served",
    "ResourceExhausted": "refused, queue full",
    "Canceled": "cancelled by the caller",
    "cancelled": "cancelled by the caller",
    "deadline_exceeded": "deadline passed",
}
METRICS = {
    "first_event_seconds": "time to first event",
    "largest_gap_seconds": "largest gap between events",
    "queue_seconds": "queue wait",
    "first_chunk_seconds": "first frames to first chunk",
    "cancel_seconds": "cancel latency",
}
FRONT_SHARE_LIMIT = 0.15
THROUGHPUT_TARGET = 1e9
SHARES = ("p50", "p90", "p99")


def line(row: Row) -> str:
    """One line on what just ended."""
    if row["what"] == "ghz":
        ends = ", ".join(f"{count} {NAMES.get(end, end)}" for end, count in row["ends"].items())
        share = f"front {row['front_share']:.1%} of the server's CPU time"
        return f"ghz {row['scenario']} ({row['says']}): {ends} in {row['seconds']:.1f} s; {share}"
    ends = ", ".join(f"{count} {NAMES.get(end, end)}" for end, count in row["outcomes"].items())
    return f"probe {row['probe']} ({row['says']}): {ends}; goodput {row['goodput_per_minute']:.0f} a minute"


def table(document: dict[str, Any]) -> str:
    """All numbers as Markdown."""
    rows = document["rows"]
    lines = [
        "| ghz | calls | ended | s | served p50 | p90 | p99 | front's CPU |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in _of(rows, "ghz"):
        ends = ", ".join(f"{count} {NAMES.get(end, end)}" for end, count in row["ends"].items())
        spread = " | ".join(_seconds(row[f"served_{share}_s"]) for share in SHARES)
        lines.append(
            f"| {row['scenario']}: {row['says']} | {row['calls']} | {ends} | {row['seconds']:.1f} | {spread} "
            f"| {row['front_share']:.1%} |"
        )
    lines += ["", "| probe | measured | count | p50 | p90 | p99 |", "|---|---|---:|---:|---:|---:|"]
    for row in _of(rows, "probe"):
        if row["metric"] in METRICS:
            spread = " | ".join(_seconds(row[share]) for share in SHARES)
            lines.append(f"| {row['probe']}: {row['says']} | {METRICS[row['metric']]} | {row['count']} | {spread} |")
    lines += ["", "| goodput | ended | videos a minute |", "|---|---|---:|"]
    for row in _of(rows, "goodput"):
        ends = ", ".join(f"{count} {NAMES.get(end, end)}" for end, count in row["outcomes"].items())
        lines.append(f"| {row['probe']}: {row['says']} | {ends} | {row['goodput_per_minute']:.0f} |")
    lines += ["", "| a large result is | MB/s, median | best | CPU s a GB, both sides |", "|---|---:|---:|---:|"]
    for row in _of(rows, "throughput"):
        median, best = row["median_bytes_per_second"] / 1e6, row["best_bytes_per_second"] / 1e6
        lines.append(f"| {row['reader']} | {median:.0f} | {best:.0f} | {row['cpu_seconds_per_gigabyte']:.2f} |")
    return "\n".join(lines)


def plot(document: dict[str, Any], file: Path) -> None:
    """Draw how calls ended, what callers waited for, what the front costs and how fast bytes flow."""
    rows, header = document["rows"], document["header"]
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    grid = figure.subplots(2, 2, width_ratios=(1.15, 1))
    _ends(grid[0][0], _of(rows, "ghz"))
    _waits(grid[0][1], _of(rows, "probe"))
    _front(grid[1][0], _of(rows, "ghz"))
    _throughput(grid[1][1], _of(rows, "throughput"))
    facts = f"{header['cpu']}; {header['model']} {header['bucket']}; ghz {header['ghz']}; {header['date'][:10]}"
    figure.suptitle(f"Load on one server, its callers on the same machine\n{facts}", color=NEUTRAL, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, transparent=True, metadata={"Software": None})


def _ends(axes: Any, rows: Sequence[Row]) -> None:
    names = [f"{row['scenario']}\n{row['says']}" for row in rows]
    left = [0] * len(rows)
    for end in dict.fromkeys(end for row in rows for end in sorted(row["ends"], key=list(COLOURS).index)):
        counts = [row["ends"].get(end, 0) for row in rows]
        drawn = axes.barh(names, counts, left=left, color=COLOURS[end], label=NAMES[end], height=0.6)
        axes.bar_label(
            drawn,
            [str(count) if count >= 20 else "" for count in counts],
            label_type="center",
            color="white",
            fontsize=8,
        )
        left = [before + count for before, count in zip(left, counts, strict=True)]
    _frame(axes, "How ghz's calls ended")
    legend = axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=NEUTRAL)
    legend.set_in_layout(False)


def _waits(axes: Any, rows: Sequence[Row]) -> None:
    # What the deadline and the cancels cut off says nothing of waiting.
    shown = [
        row
        for row in rows
        if row["metric"] == "cancel_seconds" or (row["metric"] in METRICS and row["probe"] in ("alone", "crowd"))
    ]
    names = [f"{METRICS[row['metric']]}\n{row['says']}" for row in shown]
    for share, size, alpha in (("p50", 55, 1.0), ("p90", 35, 0.75), ("p99", 20, 0.5)):
        values = [max(row[share], 1e-4) * 1e3 for row in shown]
        axes.scatter(values, names, s=size, color=GOOD, alpha=alpha, label=share, zorder=3)
    axes.hlines(
        names,
        [max(row["p50"], 1e-4) * 1e3 for row in shown],
        [row["p99"] * 1e3 for row in shown],
        color=GOOD,
        alpha=0.35,
    )
    axes.set_xscale("log")
    _frame(axes, "What callers waited for, ms", ticks=True)
    axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=NEUTRAL)


def _front(axes: Any, rows: Sequence[Row]) -> None:
    shares = [100 * row["front_share"] for row in rows]
    drawn = axes.barh([row["scenario"] for row in rows], shares, color=GOOD, height=0.6)
    axes.bar_label(drawn, fmt="%.1f %%", padding=3, color=NEUTRAL, fontsize=8)
    axes.axvline(100 * FRONT_SHARE_LIMIT, color=LIMIT, linewidth=1, linestyle="--")
    _frame(axes, "CPU time outside the engine's process, % of the server's")
    axes.margins(x=0.15)


def _throughput(axes: Any, rows: Sequence[Row]) -> None:
    names = [row["reader"].replace(" ", "\n", 1) for row in rows]
    best = [row["best_bytes_per_second"] / 1e6 for row in rows]
    median = [row["median_bytes_per_second"] / 1e6 for row in rows]
    axes.barh(names, best, color=GOOD, alpha=0.35, height=0.6, label="best")
    drawn = axes.barh(names, median, color=GOOD, height=0.6, label="median")
    axes.bar_label(drawn, fmt="%.0f", padding=-24, color="white", fontsize=8)
    axes.axvline(THROUGHPUT_TARGET / 1e6, color=LIMIT, linewidth=1, linestyle="--")
    _frame(axes, "A large lossless result to a client beside the server, MB/s", ticks=True)
    axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=NEUTRAL)


def _frame(axes: Any, title: str, ticks: bool = False) -> None:
    axes.set_title(title, color=NEUTRAL, fontsize=10, loc="left")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=NEUTRAL, labelsize=8, left=False, bottom=ticks, labelbottom=ticks)
    if ticks:
        axes.grid(axis="x", color=NEUTRAL, alpha=0.2)


def _of(rows: Sequence[Row], what: str) -> list[Row]:
    return [row for row in rows if row["what"] == what]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.1f} s"


if __name__ == "__main__":
    results = json.loads((ROOT / "bench" / "results" / "load.json").read_text())
    print(table(results))
    plot(results, ROOT / "docs" / "load.png")
