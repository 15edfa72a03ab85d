"""Prints a benchmark's rows as tables for people."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]
"""A heading, and what stands under it."""

FILE_WIDTH = 150
"""Characters in a line where the output is no terminal."""


def show(rows: Sequence[Row]) -> None:
    """Print steps and whole generations by bucket, then why some failed."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for what, title, columns in (("step", "A guided step", STEP), ("generation", "Whole generations", GENERATION)):
        chosen = [row for row in rows if row["what"] == what and "error" not in row]
        if chosen:
            console.print(_table(title, columns, chosen))
    for row in rows:
        if "error" in row:
            console.print(Text(f"failed: {_bucket(row)} {_path(row)} ({row['what']}): {row['error']}", "red"))


def _table(title: str, columns: Iterable[Column], rows: Sequence[Row]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading, _ in columns:
        table.add_column(heading, justify="left" if heading in _WORDS else "right", no_wrap=heading != "phases")
    for bucket in dict.fromkeys((row["bucket"], row["frames"]) for row in rows):
        for row in rows:
            if (row["bucket"], row["frames"]) == bucket:
                table.add_row(*(text(row) for _, text in columns))
        table.add_section()
    return table


def _number(name: str, form: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(name) is None else form.format(row[name])


def _bucket(row: Row) -> str:
    return f"{row['bucket']}x{row['frames']}"


def _path(row: Row) -> str:
    return f"{row['backend']} {row['precision']}"


def _phases(row: Row) -> str:
    seconds = (f"{name.lower().replace('_', ' ')} {value:.2f}" for name, value in row["phases"].items())
    return ", ".join(seconds) + ("" if row["denoise"] == "run" else " (computed from one step)")


_WHICH: tuple[Column, ...] = (("bucket", _bucket), ("path", _path))
STEP: tuple[Column, ...] = (
    *_WHICH,
    ("ms", _number("ms_per_step", "{:.1f}")),
    ("min", _number("ms_min", "{:.1f}")),
    ("max", _number("ms_max", "{:.1f}")),
    ("x stock", _number("ratio", "{:.2f}")),
    ("TFLOP/s", _number("tflops", "{:.4g}")),
    ("of matmul", _number("matmul_share", "{:.0%}")),
    ("peak GiB", _number("peak_gib", "{:.1f}")),
    ("relative L2", _number("relative_l2", "{:.4f}")),
    ("cold s", _number("compile_cold_s", "{:.1f}")),
    ("warm s", _number("compile_warm_s", "{:.1f}")),
    ("attention", lambda row: str(row["attention"])),
)
GENERATION: tuple[Column, ...] = (
    *_WHICH,
    ("steps", _number("steps", "{}")),
    ("seconds", _number("seconds", "{:.1f}")),
    ("phases", _phases),
)
_WORDS = ("bucket", "path", "attention", "phases")
"""Headings of columns that hold no numbers."""
