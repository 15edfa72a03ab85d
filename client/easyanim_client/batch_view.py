"""Shows a batch while it runs: on a terminal a bar for all and one for each running job, elsewhere a line a job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as ProgressBar

from easyanim_client.batch import View
from easyanim_client.batch_jobs import BatchJob
from easyanim_client.errors import RetryLater
from easyanim_client.render import event_detail, event_title, restart_line
from easyanim_client.results import Accepted, Event, Progress, Queued, Restarted

NAME_CHARS = 24
"""Longest name of a job on a terminal."""


class BatchProgress:
    """Implements `batch.View`."""

    def __init__(self, bars: ProgressBar, console: Console, total: int) -> None:
        self._bars, self._console, self._total = bars, console, total
        self._all = bars.add_task("all jobs", total=total, detail="")
        self._rows: dict[str, TaskID] = {}
        self._ended = self._failed = 0

    def started(self, job: BatchJob) -> None:
        """Show a bar for it."""
        if job.id not in self._rows:
            self._rows[job.id] = self._bars.add_task(_short(job.id), total=None, detail="sending")

    def event(self, job: BatchJob, event: Event) -> None:
        """Move its bar; say what is wrong with its prompt."""
        row = self._rows[job.id]
        if isinstance(event, Accepted):
            for item in event.prompt_warnings:
                self._say(f"{job.id}: {item.rule}: {item.message}")
        elif isinstance(event, Progress):
            detail = f"{event_title(event)} {event_detail(event)}"
            self._bars.update(row, total=event.total, completed=event.completed, detail=detail)
        elif isinstance(event, Queued):
            self._bars.update(row, detail=event_title(event))
        elif isinstance(event, Restarted):
            self._bars.update(row, total=None, completed=0)
            self._say(f"{job.id}: {restart_line(event)}")

    def waits(self, job: BatchJob, seconds: float, error: RetryLater) -> None:
        """Say why and how long."""
        self._bars.update(self._rows[job.id], detail=f"tries again in {seconds:g} s")
        if not self._console.is_terminal:
            self._say(f"{job.id}: tries again in {seconds:g} s: {error}")

    def ended(self, job: BatchJob, row: Mapping[str, Any]) -> None:
        """Take its bar away and leave a line."""
        self._bars.remove_task(self._rows.pop(job.id))
        self._ended += 1
        failed = row["status"] != "done"
        self._failed += failed
        self._bars.update(self._all, completed=self._ended, detail=f"{self._failed} failed" if self._failed else "")
        what = f"failed: {row['error']['message']}" if failed else f"{row['path']}, {row['seconds']:.1f} s"
        self._say(f"[{self._ended}/{self._total}] {job.id}: {what}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Silent:
    """Implements `batch.View`; shows nothing."""

    def started(self, job: BatchJob) -> None:
        """Show nothing."""

    def event(self, job: BatchJob, event: Event) -> None:
        """Show nothing."""

    def waits(self, job: BatchJob, seconds: float, error: RetryLater) -> None:
        """Show nothing."""

    def ended(self, job: BatchJob, row: Mapping[str, Any]) -> None:
        """Show nothing."""


class Rows(Silent):
    """Implements `batch.View`; prints the rows of the results as JSON lines on stdout."""

    def ended(self, job: BatchJob, row: Mapping[str, Any]) -> None:
        """Print its row."""
        print(json.dumps(row, ensure_ascii=False), flush=True)


@contextmanager
def batch_progress(console: Console, total: int) -> Iterator[View]:
    """Bars that live as long as the context.

    Args:
        console: Where to; only a terminal gets bars.
        total: Jobs that will be run.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TextColumn("{task.fields[detail]}"))  # fmt: skip
    bars = ProgressBar(*columns, console=console, transient=True)
    with bars if console.is_terminal else nullcontext():  # bars that were never started draw nothing
        yield BatchProgress(bars, console, total)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else name[: NAME_CHARS - 1] + "…"
