"""The command `easyanim-server tune` as a whole: look, measure, write, show."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from easyanim_server.tune import report as tunereport
from easyanim_server.tune import tables as tunetables
from easyanim_server.tune.measure import start_picture
from easyanim_server.tune.plan import TunePlan
from easyanim_server.tune.tables import Table, Tables
from easyanim_server.tune.tuner import Tuned, Tuner

__all__ = ["TunePlan", "run"]

FILE_WIDTH = 150
"""Characters in a line where the output is no terminal."""


def run(plan: TunePlan, out: Path, retry: bool, say: Callable[[str], None]) -> Tuned:
    """Carry a plan out and write ``results.jsonl``, ``tuned.json``, ``tables.md``, ``report.html`` and ``videos``.

    Args:
        plan: What to measure.
        out: The folder for all of it. What an earlier run measured there on the same machine is kept.
        retry: Whether to measure again what failed.
        say: Takes lines for people.

    Raises:
        ConfigurationError: a setting is wrong, or nothing could be measured.
        UnsupportedModel: there is no such model.
    """
    start_picture(plan.image, plan.compared)  # a wrong file is refused before anything is measured
    machine = plan.look()
    tuned = asyncio.run(Tuner(plan, machine, out, say, retry).run())
    tables = Tables(plan, machine, tuned, out)
    (out / "tables.md").write_text(tunetables.markdown(tables.all), encoding="utf-8")
    (out / "report.html").write_text(tunereport.page(tables), encoding="utf-8")
    _show(tables.all)
    say(f"{tuned.decision.candidate.label}: {tuned.decision.reason}")
    say(f"{tuned.measured} measured now, {len(tuned.rows)} in all; not measured: {len(tuned.left_out)}")
    say(f"wrote {out / 'report.html'} and {out / 'tuned.json'}; serve with --tuned {out / 'tuned.json'}")
    return tuned


def _show(tables: Sequence[Table]) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    for table in tables:
        shown = RichTable(title=table.heading, box=box.SIMPLE_HEAD, title_justify="left")
        for name in table.columns:
            shown.add_column(name, overflow="fold")
        for line in table.lines:
            shown.add_row(*(Text(cell, "bold" if line.best else "") for cell in line.cells))
        console.print(shown)
