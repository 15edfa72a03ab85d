"""The tables of placements, of starts and of profiles, from bench/results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"

NOT_MEASURED = "Not measured yet: `python dev/bench/memory.py` on a card and `make bench-report` fill this in.\n"


def published(folder: Path, files: str) -> Iterator[tuple[Row, list[Row]]]:
    """Header and rows of each file that has rows of a model of published shape; others' are left out."""
    for file in sorted(folder.glob(files)):
        document = json.loads(file.read_text())
        if rows := [row for row in document["rows"] if not row["model"].startswith("builtin:")]:
            yield document["header"], rows


def bucket_of(row: Row) -> str:
    """Its shape, as it is written everywhere."""
    return f"{row['bucket']}x{row['frames']}"


def form(value: float | None, pattern: str) -> str:
    """A number, or nothing where there is none."""
    return "" if value is None else pattern.format(value)


def profile_tables(folder: Path = RESULTS) -> str:
    """Whole videos by each profile, and what diffusers' own pipeline took in the same run."""
    lines = []
    for file in sorted(folder.glob("*-profiles.json")):
        document = json.loads(file.read_text())
        videos = [row for row in document["rows"] if row["what"] == "generation"]
        stock = next((row for row in videos if row["backend"] == "diffusers"), None)
        rows = [row for row in videos if row.get("profile")]
        if stock and rows:
            known = document["header"]
            lines += [f"**{known['gpu'] or known['cpu']}, {stock['model']}, {bucket_of(stock)}** "
                      f"(torch {known['torch']}; commit {known['commit']}, {known['date'][:10]})", ""]  # fmt: skip
            lines += [
                "| | precision | steps | predictions | seconds | times as fast |",
                "|---|---|---:|---:|---:|---:|",
            ]
            for row in (stock, *rows):
                name = f"`{row['profile']}`" if row is not stock else "diffusers, eager"
                cells = [
                    name,
                    row.get("precision", "bf16"),
                    str(row["steps"]),
                    str(row["predictions"]),
                    f"{row['seconds']:.1f}",
                ]
                lines.append(f"| {' | '.join(cells)} | {stock['seconds'] / row['seconds']:.1f} |")
            lines.append("")
    return "\n".join(lines) or "Not measured yet: `dev/bench/start.py --what profiles` on a card fills this in.\n"


PHASES = ("image_encode", "denoise", "decode")
"""Of a video, in the table of CPUs."""


def start_tables(folder: Path = RESULTS, files: str = "*-start.json") -> str:
    """Seconds from the command to the first healthy answer, for each card that was measured."""
    lines = []
    for file in sorted(folder.glob(files)):
        document = json.loads(file.read_text())
        rows = [row for row in document["rows"] if row["what"] == "start" and not row["model"].startswith("builtin:")]
        rows = [row for row in rows if row["buckets"] == rows[0]["buckets"]]
        if rows:
            known = document["header"]
            title = f"**{known['gpu']}, {rows[0]['model']}, {rows[0]['buckets'].replace(',', ', ')}**"
            lines += [f"{title} (torch {known['torch']}; commit {known['commit']}, {known['date'][:10]})", ""]
            lines += ["| caches | backend | precision | ready after | graphs found | made |"]
            lines += ["|---|---|---|---:|---:|---:|"]
            for row in rows:
                cells = [
                    row["cache"],
                    row["backend"],
                    row.get("precision", "bf16"),
                    f"{row['seconds']:.0f} s",
                    str(row["found"]),
                    str(row["made"]),
                ]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


def cpu_tables(folder: Path = RESULTS) -> str:
    """Start and videos on a CPU, before torch's slow ways were left and now."""
    files = [folder / "cpu-before.json", folder / "cpu.json"]
    if not all(file.is_file() for file in files):
        return ""
    before, now = (json.loads(file.read_text()) for file in files)
    lines = [f"**{now['header']['cpu']}, {now['header']['model']}** (torch {now['header']['versions']['torch']})", ""]
    lines += ["| commit | what | s | CPU s | image encode | denoise | decode |", "|---|---|---:|---:|---:|---:|---:|"]
    for document in (before, now):
        for row in document["rows"]:
            if row.get("number", 1) > 1:
                continue
            phases = [row["phases"][f"{name}_seconds"] for name in PHASES] if "phases" in row else []
            cells = [document["header"]["commit"], row.get("bucket", "start")]
            cells += [f"{value:.1f}" for value in (row["seconds"], row["cpu_seconds"], *phases)]
            lines.append(f"| {' | '.join([*cells, *[''] * (3 - len(phases))])} |")
    return "\n".join([*lines, ""])


def cpu_sentence(folder: Path = RESULTS) -> str:
    """README's sentence on what the built-in model takes on a CPU."""
    file = folder / "cpu.json"
    if not file.is_file():
        return ""
    document = json.loads(file.read_text())
    videos = {row["bucket"]: row for row in document["rows"] if row["what"] == "video"}
    seconds = " and ".join(f"{row['seconds']:.0f} s at {name.rpartition('x')[0]}" for name, row in videos.items())
    cores = " and ".join(f"{row['cpu_seconds']:.0f}" for row in videos.values())
    return (
        f"A video of {document['header']['steps']} steps takes {seconds} where nothing else runs "
        f"({document['header']['cpu']}: {cores} seconds of CPU time); count on several times that where the cores are "
        "older or shared. `--profile draft` takes a quarter of the steps' time.\n"
    )


def memory_tables(folder: Path = RESULTS) -> str:
    """What fits which card, as upstream has it, then every row; for each card that was measured."""
    return "\n".join(_memory_section(*found) for found in published(folder, "*-memory.json")) or NOT_MEASURED


def card_table(folder: Path = RESULTS) -> str:
    """What fits which card, as upstream has it; for each card that was measured."""
    parts = []
    for header, rows in published(folder, "*-memory.json"):
        fine = [row for row in rows if "error" not in row]
        if fine:
            parts.append("\n".join([*_cards(fine, header["gpu"] or header["cpu"]), ""]))
    return "\n".join(parts) or NOT_MEASURED


def loading_tables(folder: Path = RESULTS) -> str:
    """How a folder was loaded, for each card that was measured."""
    lines = []
    for known, rows in published(folder, "*-loading.json"):
        size = f"{rows[0]['folder_gib']:.1f} GiB, the largest component {rows[0]['largest_gib']:.1f}"
        lines += [f"**{known['gpu'] or known['cpu']}, {rows[0]['model']}: {size}** "
                  f"(torch {known['torch']}; commit {known['commit']}, {known['date'][:10]})", ""]  # fmt: skip
        lines += ["| placement | files come from | files read, no more | loaded | weights placed | host peak GiB |"]
        lines += ["|---|---|---:|---:|---:|---:|"]
        for row in rows:
            seconds = [f"{row[name]:.1f} s" for name in ("plain_read_seconds", "load_seconds", "place_seconds")]
            source = "page cache" if row["page_cache"] else "disk"
            cells = [row["placement"], source, *seconds, f"{row['host_peak_gib']:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cards(rows: Sequence[Row], measured_on: str) -> list[str]:
    """A line for each memory; seconds are those of the card that the memory was cut from, and its columns say so."""
    buckets = list(dict.fromkeys(bucket_of(row) for row in rows))
    named = [f"{bucket}, seconds of {measured_on}" for bucket in buckets]
    lines = [f"| memory | {' | '.join(named)} |", f"|---|{'---|' * len(buckets)}"]
    for cap in sorted({row["cap_gib"] for row in rows if row["cap_gib"]}):
        best = [
            min(found, key=lambda row: (row["vae_tiled"], not row["equal_to_full"], row["seconds"]), default=None)
            for found in ([row for row in rows if row["cap_gib"] == cap and bucket_of(row) == name] for name in buckets)
        ]
        lines.append(f"| {cap:g} GiB | {' | '.join(_best(row) for row in best)} |")
    return lines


def _memory_section(header: dict[str, Any], rows: Sequence[Row]) -> str:
    fine = [row for row in rows if "error" not in row]
    title = f"**{header['gpu'] or header['cpu']}, {rows[0]['model']}**"
    facts = f"driver {header['driver']}, torch {header['torch']}; commit {header['commit']}, {header['date'][:10]}"
    buckets = list(dict.fromkeys(bucket_of(row) for row in fine))
    lines = [f"{title} ({facts})", "", *_cards(fine, header["gpu"] or header["cpu"])]
    numbers = ("peak GiB", "host GiB", "seconds", "× full", "equal to full")
    lines += [
        "",
        f"| card | bucket | placement | precision | {' | '.join(numbers)} |",
        f"|---|---|---|---|{'---:|' * 5}",
    ]
    for row in sorted(fine, key=lambda row: (buckets.index(bucket_of(row)), -(row["cap_gib"] or 999))):
        cells = [
            _card(row),
            bucket_of(row),
            row["placement"] + (", VAE tiled" if row["vae_tiled"] else ""),
            row["precision"],
            form(row["peak_gib"], "{:.1f}"),
            form(row["host_peak_gib"], "{:.1f}"),
            f"{row['seconds']:.1f}",
            form(row["ratio_to_full"], "{:.2f}"),
            "yes" if row["equal_to_full"] else f"no{form(row['relative_l2'], ', {:.3f} apart')}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [row for row in rows if "error" in row]
    lines += ["", *(f"Failed: {_card(row)}, {bucket_of(row)} {row['placement']}: {row['error']}\n" for row in failed)]
    return "\n".join(lines)


def _card(row: Row) -> str:
    return "no cap" if row["cap_gib"] is None else f"{row['cap_gib']:g} GiB"


def _best(row: Row | None) -> str:
    if row is None:
        return ""
    tiled = ", VAE tiled" if row["vae_tiled"] else ""
    return f"{row['placement']}{tiled}: {row['seconds']:.0f} s, {row['peak_gib']:.1f} GiB"
