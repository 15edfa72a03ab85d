"""The table and the picture of bench/results/load.json."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dev.load.servers import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "load.png"
MARKERS = re.compile(r"(<!-- bench:load -->\n).*?(<!-- /bench -->)", re.DOTALL)

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
FIRST_CHUNK_LIMIT = 0.1
THROUGHPUT_TARGET = 1e9
SHARES = ("p50", "p90", "p99")
SHORTEST_MS = 0.1
"""Less is drawn as this: the axis is logarithmic."""


def line(row: Row) -> str:
    """One line on what just ended."""
    if row["what"] == "ghz":
        ends = ", ".join(f"{count} {NAMES.get(end, end)}" for end, count in row["ends"].items())
        share = f"front {row['front_share']:.1%} of the server's CPU time"
        return f"ghz {row['scenario']} ({row['says']}): {ends} in {row['seconds']:.1f} s; {share}"
    ends = ", ".join(f"{count} {NAMES.get(end, end)}" for end, count in row["outcomes"].items())
    return f"probe {row['probe']} ({row['says']}): {ends}; goodput {row['goodput_per_minute']:.0f} a minute"


def missed(rows: Sequence[Row]) -> list[str]:
    """The targets that were not reached, in words. Throughput has none: it is what two shared cores leave."""
    problems = []
    for row in _of(rows, "ghz"):
        if row["scenario"] == "steady" and row["front_share"] > FRONT_SHARE_LIMIT:
            problems.append(f"the front took {row['front_share']:.1%} of CPU time, more than {FRONT_SHARE_LIMIT:.0%}")
    for row in _of(rows, "probe"):
        if row["metric"] == "first_chunk_seconds" and row["p90"] > FIRST_CHUNK_LIMIT:
            problems.append(f"{row['probe']}: {row['p90']:.3f} s from the first frames to the first chunk")
    return problems


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
    figure = Figure(figsize=(11.5, 8), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    grid = figure.subplots(2, 2, height_ratios=(1.15, 1))
    _ends(grid[0][0], _of(rows, "ghz"))
    _waits(grid[0][1], _of(rows, "probe"))
    _front(grid[1][0], _of(rows, "ghz"))
    _throughput(grid[1][1], _of(rows, "throughput"))
    facts = f"{header['cpu']}; {header['model']}, {header['bucket']}; ghz {header['ghz']}; {header['date'][:10]}"
    figure.suptitle(f"One server under load, its callers on the same machine\n{facts}", color=NEUTRAL, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, transparent=True, metadata={"Software": None})


def _ends(axes: Any, rows: Sequence[Row]) -> None:
    names = [f"{row['scenario']}\n{row['says']}" for row in rows]
    left = [0] * len(rows)
    for end in (end for end in COLOURS if any(end in row["ends"] for row in rows)):
        counts = [row["ends"].get(end, 0) for row in rows]
        drawn = axes.barh(names, counts, left=left, color=COLOURS[end], label=NAMES[end], height=0.55)
        legible = [str(count) if count >= 15 else "" for count in counts]
        axes.bar_label(drawn, legible, label_type="center", color="white", fontsize=8)
        left = [before + count for before, count in zip(left, counts, strict=True)]
    _frame(axes, "How ghz's calls ended")
    _legend(axes)


def _waits(axes: Any, rows: Sequence[Row]) -> None:
    # What a deadline or a cancel cut off says nothing of waiting.
    shown = [
        row
        for row in rows
        if row["metric"] == "cancel_seconds" or (row["metric"] in METRICS and row["probe"] in ("alone", "crowd"))
    ]
    shown.sort(key=lambda row: list(METRICS).index(row["metric"]))
    names = [f"{METRICS[row['metric']]}\n{row['says']}" for row in shown]
    spreads = {share: [max(1e3 * row[share], SHORTEST_MS) for row in shown] for share in SHARES}
    axes.hlines(names, spreads["p50"], spreads["p99"], color=GOOD, alpha=0.35)
    for share, size, alpha in zip(SHARES, (55, 35, 20), (1.0, 0.75, 0.5), strict=True):
        axes.scatter(spreads[share], names, s=size, color=GOOD, alpha=alpha, label=share, zorder=3, linewidths=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{'≤ ' if value == SHORTEST_MS else ''}{value:,g}")
    _frame(axes, "What callers waited for, ms", ticks=True)
    axes.tick_params(which="minor", bottom=False)
    _legend(axes)


def _front(axes: Any, rows: Sequence[Row]) -> None:
    shares = [100 * row["front_share"] for row in rows]
    drawn = axes.barh([row["scenario"] for row in rows], shares, color=GOOD, height=0.55)
    axes.bar_label(drawn, fmt="%.1f %%", label_type="center", color="white", fontsize=8)
    _mark(axes, 100 * FRONT_SHARE_LIMIT, f"{100 * FRONT_SHARE_LIMIT:.0f} %")
    _frame(axes, "CPU time outside the engine's process, share of the server's")


def _throughput(axes: Any, rows: Sequence[Row]) -> None:
    names = [row["reader"].replace(" ", "\n", 1) for row in rows]
    best = [row["best_bytes_per_second"] / 1e6 for row in rows]
    median = [row["median_bytes_per_second"] / 1e6 for row in rows]
    drawn = axes.barh(names, median, color=GOOD, height=0.55, label="median")
    axes.bar_label(drawn, fmt="%.0f", label_type="center", color="white", fontsize=8)
    more = [most - usual for most, usual in zip(best, median, strict=True)]
    axes.barh(names, more, left=median, color=GOOD, alpha=0.35, height=0.55, label="best")
    _mark(axes, THROUGHPUT_TARGET / 1e6, "1 GB/s")
    _frame(axes, "A large result to a client beside the server, MB/s", ticks=True)
    _legend(axes)


def _mark(axes: Any, value: float, text: str) -> None:
    """A vertical line that says what is aimed at."""
    axes.axvline(value, color=LIMIT, linewidth=1, linestyle="--")
    axes.annotate(
        text, (value, 1), xycoords=("data", "axes fraction"), xytext=(4, -4), textcoords="offset points",
        color=LIMIT, fontsize=8,
    )  # fmt: skip


def _legend(axes: Any) -> None:
    axes.legend(
        frameon=False, fontsize=8, labelcolor=NEUTRAL, ncols=4, loc="upper left", bbox_to_anchor=(-0.02, -0.07),
        handlelength=1, handleheight=1, columnspacing=1.2,
    )  # fmt: skip


def _frame(axes: Any, title: str, ticks: bool = False) -> None:
    axes.set_title(title, color=NEUTRAL, fontsize=10, loc="left")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=NEUTRAL, labelsize=8, left=False, bottom=False, labelbottom=ticks)
    if ticks:
        axes.grid(axis="x", color=NEUTRAL, alpha=0.2)


def _of(rows: Sequence[Row], what: str) -> list[Row]:
    return [row for row in rows if row["what"] == what]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.1f} s"


def publish(document: dict[str, Any]) -> None:
    """Put the table into docs/performance.md and the picture beside it."""
    filled, count = MARKERS.subn(lambda found: f"{found[1]}{table(document)}\n{found[2]}", DOCUMENT.read_text())
    if count != 1:
        raise ValueError(
            f"{DOCUMENT} has {count} pairs of markers <!-- bench:load --> and <!-- /bench -->; must be one"
        )
    DOCUMENT.write_text(filled)
    plot(document, PLOT)


if __name__ == "__main__":
    publish(json.loads((ROOT / "bench" / "results" / "load.json").read_text()))
