"""Turns bench/results into the tables of README.md and of pages of docs/, plots and a page."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dev.bench.placements import (
    bucket_of,
    card_table,
    cpu_sentence,
    cpu_tables,
    form,
    loading_tables,
    memory_tables,
    profile_tables,
    start_tables,
)
from dev.quality import plots as quality_plots
from dev.quality import tables as quality_tables

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "speed.png"
PAGE = ROOT / "docs" / "speed.html"

MEMORY = ROOT / "docs" / "memory.md"
QUALITY = ROOT / "docs" / "quality.md"
CONCEPTS = ROOT / "docs" / "concepts.md"


SUMMARY_STEPS = 50
"""Of whole generations in README's table."""

Row = dict[str, Any]

COLOURS = {
    "diffusers bf16": "#9aa0a6",
    "diffusers-compiled bf16": "#6f777f",
    "eager bf16": "#7fb2e5",
    "eager bf16 in pairs": "#b9d4ef",
    "inductor bf16": "#2f7fd1",
    "eager fp8": "#f0b07a",
    "eager fp8 in pairs": "#f7d3b5",
    "inductor fp8": "#d9762b",
}
NEUTRAL = "#7a8088"
"""Legible on white and on black."""


@dataclass(frozen=True)
class Result:
    """One file of measurements."""

    header: dict[str, Any]
    steps: list[Row]
    """Guided steps that were measured."""
    generations: list[Row]
    """Whole generations."""
    failures: list[Row]

    @property
    def title(self) -> str:
        """The card and the model."""
        return f"{self.header['gpu'] or self.header['cpu']}, {self.steps[0]['model']}"

    @property
    def facts(self) -> str:
        """What the numbers depend on, in one line."""
        known = self.header
        matmul = f"{known['matmul_size']}³ bf16 product {known['matmul_tflops']:.0f} TFLOP/s"
        software = f"driver {known['driver']}, torch {known['torch']}, cuDNN {known['cudnn']}"
        return f"{software}; {matmul}; commit {known['commit']}, {known['date'][:10]}"


def load(folder: Path = RESULTS, files: str = "*-speed.json") -> list[Result]:
    """Read every file that holds steps of a model of published shape; the tiny one's times say nothing of those.

    Args:
        folder: Where they are.
        files: Which.
    """
    results = []
    for file in sorted(folder.glob(files)):
        document = json.loads(file.read_text())
        rows = [row for row in document["rows"] if not row["model"].startswith("builtin:")]
        fine = [row for row in rows if "error" not in row]
        steps = [row for row in fine if row["what"] == "step"]
        generations = [row for row in fine if row["what"] == "generation"]
        if steps:
            results.append(Result(document["header"], steps, generations, [row for row in rows if "error" in row]))
    return results


def markdown(results: Sequence[Result]) -> str:
    """The tables of all files, or nothing."""
    return "\n".join(_section(result) for result in results)


def fill(text: str, tables: str, name: str = "speed") -> str:
    """Put `tables` between the markers of that name in a document.

    Raises:
        ValueError: it has no such markers.
    """
    markers = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench -->)", re.DOTALL)
    filled, count = markers.subn(lambda found: f"{found[1]}{tables}{found[2]}", text)
    if count != 1:
        raise ValueError(f"{count} pairs of markers <!-- bench:{name} --> and <!-- /bench -->; must be one")
    return filled


def summary(results: Sequence[Result]) -> str:
    """README's table: what stock diffusers takes in each bucket, and what we do."""
    lines = []
    for result in results:
        rows = {(bucket_of(row), _path(row)): row for row in result.steps}
        whole = {(bucket_of(row), row["precision"]): row for row in result.generations if row["steps"] == SUMMARY_STEPS}
        lines += [f"**{result.title}** ({result.facts})", ""]
        lines += ["| ms a step | diffusers | its blocks compiled | bf16 | fp8 | 50 steps, bf16 / fp8 |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for name in _by_bucket(result.steps):
            paths = ("diffusers bf16", "diffusers-compiled bf16", "inductor bf16", "inductor fp8")
            cells = [_multiple(rows.get((name, path))) for path in paths]
            both = " / ".join(_seconds(whole.get((name, precision))) for precision in ("bf16", "fp8"))
            lines.append(f"| {name} | {' | '.join(cells)} | {both} |")
        lines.append("")
    return "\n".join(lines)


def _multiple(row: Row | None) -> str:
    if row is None:
        return ""
    ratio = "" if row["ratio"] == 1 else f" ({row['ratio']:.2f}×)"
    return f"{row['ms_per_step']:.0f}{ratio}"


def _section(result: Result) -> str:
    lines = [f"**{result.title}** ({result.facts})", "", *_steps(result), ""]
    if result.generations:
        lines += [*_generations(result), ""]
    lines += [f"Failed: {bucket_of(row)} {_path(row)}: {row['error']}\n" for row in result.failures]
    return "\n".join(lines)


def _steps(result: Result) -> list[str]:
    numbers = ("ms a step", "× diffusers", "TFLOP/s", "of matmul", "peak GiB", "relative L2", "compile s")
    lines = [f"| bucket | path | {' | '.join(numbers)} | attention |", f"|---|---|{'---:|' * len(numbers)}---|"]
    for rows in _by_bucket(result.steps).values():
        best = min(row["ms_per_step"] for row in rows)
        for row in rows:
            ms = f"{row['ms_per_step']:.0f}"
            cells = [
                bucket_of(row),
                _path(row),
                f"**{ms}**" if row["ms_per_step"] == best else ms,
                form(row["ratio"], "{:.2f}"),
                form(row["tflops"], "{:.0f}"),
                form(row["matmul_share"], "{:.0%}"),
                form(row["peak_gib"], "{:.1f}"),
                form(row["relative_l2"], "{:.3f}"),
                form(row["compile_cold_s"], "{:.0f}"),
                row["attention"],
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _generations(result: Result) -> list[str]:
    counts = sorted({row["steps"] for row in result.generations})
    lines = [
        f"| bucket | path | {' | '.join(f'{count} steps' for count in counts)} | of them image encode | and decode |",
        f"|---|---|{'---:|' * (len(counts) + 2)}",
    ]
    for rows in _by_bucket(result.generations).values():
        for path in dict.fromkeys(map(_path, rows)):
            of_path = {row["steps"]: row for row in rows if _path(row) == path}
            phases = next(iter(of_path.values()))["phases"]
            cells = [bucket_of(rows[0]), path, *(_seconds(of_path.get(count)) for count in counts)]
            cells += [f"{phases[name]:.1f} s" for name in ("IMAGE_ENCODE", "DECODE")]
            lines.append(f"| {' | '.join(cells)} |")
    if any(row["denoise"] == "computed" for row in result.generations):
        lines += ["", "≈: denoising is computed from the median step; everything else was run."]
    return lines


def _seconds(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{'' if row['denoise'] == 'run' else '≈ '}{row['seconds']:.1f} s"


def _path(row: Row) -> str:
    paired = row["cfg"] == "batch of 2" and not row["backend"].startswith("diffusers")
    return f"{row['backend']} {row['precision']}" + (" in pairs" if paired else "")


def _by_bucket(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {name: [row for row in rows if bucket_of(row) == name] for name in dict.fromkeys(map(bucket_of, rows))}


def plot(results: Sequence[Result], file: Path = PLOT) -> None:
    """Draw milliseconds a step: a row for each card, a column for each bucket, on nothing, for any background."""
    columns = max(len(_by_bucket(result.steps)) for result in results)
    bars = max(len(rows) for result in results for rows in _by_bucket(result.steps).values())
    height = len(results) * (0.9 + 0.34 * bars)
    figure = Figure(figsize=(1.4 + 3.2 * columns, height), layout="constrained")
    grid = figure.subplots(len(results), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for result, line in zip(results, grid, strict=True):
        names: list[str] = []
        for (name, rows), axes in zip(_by_bucket(result.steps).items(), line, strict=False):
            before, names = names, list(map(_path, rows))
            _bars(axes, rows, labelled=names != before)
            axes.set_title(f"{name}, ms a step", color=NEUTRAL, fontsize=9)
        line[0].text(0, 1.22, result.title, transform=line[0].transAxes, color=NEUTRAL, fontsize=10, weight="bold")
    figure.savefig(file, dpi=160, transparent=True, metadata={"Software": None})


def _bars(axes: Any, rows: Sequence[Row], labelled: bool) -> None:
    axes.set_axis_on()
    names = [_path(row) for row in rows]
    drawn = axes.barh(names, [row["ms_per_step"] for row in rows], color=[COLOURS.get(name, NEUTRAL) for name in names])
    axes.bar_label(drawn, fmt="%.0f", padding=3, color=NEUTRAL, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=NEUTRAL, labelsize=8, bottom=False, labelbottom=False, left=False, labelleft=labelled)


STYLE = """\
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.5rem }
td { padding: .15rem .6rem .15rem 0; white-space: nowrap }
td:last-child { width: 100% }
span { display: inline-block; height: .9em; margin-right: .5em; border-radius: 2px; vertical-align: -.05em }
p { opacity: .7 }"""


def page(results: Sequence[Result]) -> str:
    """The same as a page that needs nothing else and follows the reader's light or dark."""
    parts = []
    for result in results:
        parts.append(f"<h2>{html.escape(result.title)}</h2>\n<p>{html.escape(result.facts)}</p>")
        for name, rows in _by_bucket(result.steps).items():
            longest = max(row["ms_per_step"] for row in rows)
            lines = [_bar(row, row["ms_per_step"] / longest) for row in rows]
            parts.append(f"<h3>{name}, ms a step</h3>\n<table>\n" + "\n".join(lines) + "\n</table>")
    head = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Speed</title>\n<style>\n{STYLE}\n</style>'
    )
    return f"{head}\n<h1>Speed</h1>\n" + "\n".join(parts) + "\n</html>\n"


def _bar(row: Row, share: float) -> str:
    colour = COLOURS.get(_path(row), NEUTRAL)
    bar = f'<span style="width:{70 * share:.1f}%;background:{colour}"></span>{row["ms_per_step"]:.0f}'
    return f"<tr><td>{html.escape(_path(row))}</td><td>{bar}</td></tr>"


def documents() -> dict[Path, dict[str, str]]:
    """What belongs between which markers of which document."""
    results = load()
    return {
        README: {
            "summary": summary(results),
            "profiles": profile_tables(),
            "cards": card_table(),
            "demo": f"{quality_tables.demo_sentence(RESULTS / 'quality.json')}\n{cpu_sentence()}",
        },
        PERFORMANCE: {
            "speed": markdown(results),
            "tensorrt": markdown(load(files="*-speed-tensorrt.json")),
            "start": start_tables(),
            "start-tensorrt": start_tables(files="*-start-tensorrt.json"),
            "cpu": cpu_tables(),
        },
        CONCEPTS: {"profiles": profile_tables()},
        MEMORY: {"memory": memory_tables(), "loading": loading_tables()},
        QUALITY: {"quality": quality_tables.markdown(RESULTS / "quality.json")},
    }


def main() -> None:
    for document, parts in documents().items():
        text = document.read_text()
        for name, tables in parts.items():
            text = fill(text, tables, name)
        document.write_text(text)
        print(f"filled {document.relative_to(ROOT)}")
    if results := load():
        plot(results)
        PAGE.write_text(page(results))
    if (RESULTS / "quality.json").exists():
        quality_plots.draw(quality_tables.Report.read(RESULTS / "quality.json"), QUALITY.with_suffix(".png"))


if __name__ == "__main__":
    main()
